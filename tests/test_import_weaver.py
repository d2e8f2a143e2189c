"""Weaver command lines as config.yaml: the public ones, every option, every conversion of numbers, every refusal."""

import glob
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.import_weaver.main import import_command, main
from weaver_tasks.import_weaver.options import OPTIONS, option_table, parse_options
from weaver_tasks.plan import make_plan
from weaver_tasks.settings.reading import names_as_written, quoted_as_text, read_config, resolve_config, resolved_before

PROCESSES = ("HToBB", "HToCC", "HToGG", "HToWW2Q1L", "HToWW4Q", "TTBar", "TTBarLep", "WToQQ", "ZToQQ", "ZJetsToNuNu")
JETCLASS_DATA = (
    "--data-train "
    + " ".join(f"'{name}:./datasets/JetClass/Pythia/train_100M/{name}_*.root'" for name in PROCESSES)
    + " --data-val './datasets/JetClass/Pythia/val_5M/*.root' --data-test "
    + " ".join(f"'{name}:./datasets/JetClass/Pythia/test_20M/{name}_*.root'" for name in PROCESSES)
)


def jetclass(model: str, network: str, batch: str, *, ranks: int = 1) -> str:
    """train_JetClass.sh MODEL full of jet-universe/particle_transformer, expanded."""
    start = f"torchrun --standalone --nnodes=1 --nproc_per_node={ranks} /opt/bin/weaver --backend nccl" if ranks > 1 else "weaver"
    return (
        f"{start} {JETCLASS_DATA} --data-config data/JetClass/JetClass_full.yaml --network-config networks/{network}"
        f" --model-prefix training/JetClass/Pythia/full/{model}/{{auto}}/net --num-workers 2 --fetch-step 0.01 {batch}"
        f" --samples-per-epoch {10000 * 1024 // ranks} --samples-per-epoch-val 1280000 --num-epochs 50 --gpus 0 --optimizer ranger"
        f" --log logs/JetClass_Pythia_full_{model}_{{auto}}.log --predict-output pred.root --tensorboard JetClass_Pythia_full_{model}"
    )


def quark_gluon(model: str, network: str, lr: str, extra: str = "") -> str:
    """train_QuarkGluon.sh MODEL kinpid, expanded."""
    return (
        "weaver --data-train './datasets/QuarkGluon/train_file_*.parquet' --data-test './datasets/QuarkGluon/test_file_*.parquet'"
        f" --data-config data/QuarkGluon/qg_kinpid.yaml --network-config networks/{network}"
        f" --model-prefix training/QuarkGluon/{model}/{{auto}}/net --num-workers 1 --fetch-step 1 --in-memory --train-val-split 0.8889"
        " --batch-size 512 --samples-per-epoch 1600000 --samples-per-epoch-val 200000 --num-epochs 20 --gpus 0"
        f" --start-lr {lr} --optimizer ranger --log logs/QuarkGluon_{model}_{{auto}}.log --predict-output pred.root"
        f" --tensorboard QuarkGluon_kinpid_{model} {extra}"
    )


def top_landscape(model: str, network: str, lr: str, extra: str = "") -> str:
    """train_TopLandscape.sh MODEL, expanded."""
    return (
        "weaver --data-train ./datasets/TopLandscape/train_file.parquet --data-val ./datasets/TopLandscape/val_file.parquet"
        " --data-test ./datasets/TopLandscape/test_file.parquet --data-config data/TopLandscape/top_kin.yaml"
        f" --model-prefix training/TopLandscape/{model}/{{auto}}/net --num-workers 1 --fetch-step 1 --in-memory --batch-size 512"
        f" --samples-per-epoch {2400 * 512} --samples-per-epoch-val {800 * 512} --num-epochs 20 --gpus 0 --start-lr {lr}"
        f" --optimizer ranger --log logs/TopLandscape_{model}_{{auto}}.log --predict-output pred.root"
        f" --tensorboard TopLandscape_kin_{model} --network-config networks/{network} {extra}"
    )


def cms_ak4(ranks: int) -> str:
    """train_CMSAK4.sh ParT, expanded, with some of its groups."""
    start = f"torchrun --standalone --nnodes=1 --nproc_per_node={ranks} /opt/bin/weaver --backend nccl" if ranks > 1 else "weaver"
    groups = ("BulkGravitonToHHTo4Q_part1", "TTToSemiLeptonic_mtop171p5", "QCD_Pt_30to50_TuneCP5_13TeV_pythia8")
    files = " ".join(f"'{name}:./datasets/CMSAK4/{name}/*/*/*/output_*.root'" for name in groups)
    return (
        f"{start} --data-train {files} --data-config data/CMSAK4_ParT.yaml --network-config networks/CMSAK4_ParT.py --use-amp"
        " --model-prefix training/CMSAK4/ParT/{auto}/net --num-workers 4 --fetch-step 0.01 --batch-size 512 --start-lr 1e-3"
        f" --samples-per-epoch {10000 * 1024 // ranks} --samples-per-epoch-val 1280000 --num-epochs 50 --gpus 0"
        " --optimizer ranger --log logs/CMSAK4_ParT_{auto}.log --predict-output pred.root --tensorboard CMSAK4_ParT"
    )


FINE_TUNED = "--use-amp --optimizer-option weight_decay 0.01 --optimizer-option lr_mult '(\"fc.*\",50)' --lr-scheduler none"
PUBLIC = {
    "JetClass ParT": jetclass("ParT", "example_ParticleTransformer.py --use-amp", "--batch-size 512 --start-lr 1e-3"),
    "JetClass PN": jetclass("PN", "example_ParticleNet.py", "--batch-size 512 --start-lr 1e-2"),
    "JetClass PFN": jetclass("PFN", "example_PFN.py", "--batch-size 4096 --start-lr 2e-2"),
    "JetClass PCNN": jetclass("PCNN", "example_PCNN.py", "--batch-size 4096 --start-lr 2e-2"),
    "JetClass PN on 4": jetclass("PN", "example_ParticleNet.py", "--batch-size 512 --start-lr 1e-2", ranks=4),
    "QuarkGluon ParT": quark_gluon(
        "ParT", "example_ParticleTransformer.py --use-amp --optimizer-option weight_decay 0.01", "1e-3"
    ),
    "QuarkGluon ParT fine-tuned": quark_gluon(
        "ParT-FineTune", f"example_ParticleTransformer_finetune.py {FINE_TUNED}", "1e-4", "--load-model-weights models/ParT_kinpid.pt"
    ),
    "QuarkGluon PFN": quark_gluon("PFN", "example_PFN.py", "2e-2", "--batch-size 4096"),
    "TopLandscape PN": top_landscape("PN", "example_ParticleNet.py", "1e-2"),
    "TopLandscape PN fine-tuned": top_landscape(
        "PN-FineTune",
        "example_ParticleNet_finetune.py",
        "1e-3",
        "--optimizer-option lr_mult '(\"fc_out.*\",50)' --lr-scheduler none --load-model-weights models/ParticleNet_kin.pt",
    ),
    "CMSAK4 ParT": cms_ak4(1),
    "CMSAK4 ParT on 4": cms_ak4(4),
}  # fmt: skip
SHORT = "weaver -i 'a:x/*.root' -c d.yaml -n n.py "


def imported(command: str) -> dict:
    """The resolved configuration of a command."""
    made = import_command(shlex.split(command))
    assert made.todos == []
    return resolve_config(quoted_as_text(yaml.safe_load(made.text), made.text))


def notes(command: str) -> dict[str, str]:
    return dict(import_command(shlex.split(command)).notes)


def training(options: str, start: str = SHORT) -> dict:
    return imported(start + options)["training"]


# The shipped counterparts of what the public scripts name.
CONFIGURATIONS = {
    "JetClass_full": "data/jetclass_full.yaml", "qg_kinpid": "data/quark_gluon.yaml", "top_kin": "data/top_landscape.yaml",
    "CMSAK4_ParT.yaml": "data/ak4_flavor.yaml", "CMSAK4_ParT.py": "networks/particle_transformer_tagger.py",
    "example_ParticleTransformer": "networks/particle_transformer.py", "example_ParticleNet": "networks/particle_net.py",
    "example_PFN": "networks/pfn.py", "example_PCNN": "networks/pcnn.py",
}  # fmt: skip


def laid_out(folder: Path, config: dict, repository: Path) -> None:
    """Put files where the configuration expects them: data and weights, which planning does not read, empty; configurations real."""
    patterns = [config["network"]["load_weights"]] if config["network"]["load_weights"] else []
    for split in ("train", "val", "test"):
        files = config["data"][split] or {}
        patterns += files.values() if isinstance(files, dict) else [files]
    for pattern in patterns:
        path = folder / pattern.replace("*", "0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for target in (config["data"]["config"], config["network"]["config"]):
        source = next(ours for theirs, ours in CONFIGURATIONS.items() if theirs in target)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / "config" / source, folder / target)


@pytest.mark.parametrize("command", PUBLIC.values(), ids=PUBLIC)
def test_public_command_lines_give_configurations_that_can_be_planned(command, tmp_path, monkeypatch, repository):
    config = imported(command)
    laid_out(tmp_path, config, repository)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(config, where="config.yaml")
    assert len(plan.files_of("train")) == (len(config["data"]["train"]) if isinstance(config["data"]["train"], dict) else 1)
    assert len(plan.blocks()) == config["training"]["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("command", PUBLIC.values(), ids=PUBLIC)
def test_public_command_lines_run_to_a_dry_run(command, tmp_path, repository):
    main(["--output", str(tmp_path / "config.yaml"), "--", *shlex.split(command)])
    config = imported(command)
    laid_out(tmp_path, config, repository)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile"), "--configfile", "config.yaml",
         "--cores", "4", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    jobs = dict(line.split() for line in said.rpartition("Job stats:")[2].splitlines() if re.fullmatch(r"\w+ +\d+", line))
    counts = {stage: int(jobs.get(stage, 0)) for stage in ("train_epoch", "validate_epoch", "stage_inputs", "predict", "export_onnx")}
    files = [config["data"][split] or {} for split in ("train", "val", "test")]
    groups = [len(entry) if isinstance(entry, dict) else 1 for entry in files]
    epochs = config["training"]["epochs"]
    expected = {"train_epoch": epochs, "validate_epoch": epochs, "stage_inputs": sum(groups), "predict": groups[2], "export_onnx": 1}
    assert counts == expected
    assert "discouraged" not in said


def test_the_jetclass_script():
    config = imported(PUBLIC["JetClass ParT"])
    assert re.fullmatch("JetClass-Pythia-full-ParT-[0-9a-f]{6}", config["run"])
    assert list(config["data"]["train"]) == list(PROCESSES)
    assert config["data"]["train"]["HToBB"] == "./datasets/JetClass/Pythia/train_100M/HToBB_*.root"
    assert config["data"]["val"] == "./datasets/JetClass/Pythia/val_5M/*.root"
    assert config["data"]["test"]["TTBar"] == "./datasets/JetClass/Pythia/test_20M/TTBar_*.root"
    assert config["data"]["config"] == "data/JetClass/JetClass_full.yaml"
    assert config["network"] | {"config": "networks/example_ParticleTransformer.py"} == config["network"]
    expected = {
        "epochs": 50, "batch_size": 512, "samples_per_epoch": 10_240_000, "samples_per_epoch_val": 1_280_000, "lr": 1e-3, "amp": "bf16",
        "ranks": 1, "device": "auto", "tensorboard": True,
    }  # fmt: skip
    assert config["training"] | expected == config["training"]
    assert config["loading"]["num_workers"] == 2
    assert config["prediction"] | {"format": "root", "model": None, "ranks": 1} == config["prediction"]


def test_samples_are_per_rank_in_weaver_and_over_all_ranks_here():
    one, four = imported(PUBLIC["CMSAK4 ParT"])["training"], imported(PUBLIC["CMSAK4 ParT on 4"])["training"]
    assert (four["ranks"], four["device"], four["batch_size"]) == (4, "cuda", 512)
    assert four["samples_per_epoch"] == one["samples_per_epoch"] == 10_240_000
    assert four["samples_per_epoch_val"] == 4 * one["samples_per_epoch_val"]


def test_the_fine_tuning_scripts():
    config = imported(PUBLIC["QuarkGluon ParT fine-tuned"])
    assert config["network"]["load_weights"] == "models/ParT_kinpid.pt"
    assert config["training"]["optimizer"] == {"name": "ranger", "options": {"weight_decay": 0.01, "lr_mult": ["fc.*", 50]}}
    assert config["training"]["scheduler"]["name"] == "none"
    assert config["loading"]["in_memory"]
    assert config["loading"]["fetch_step"] == 1
    assert config["data"]["train_val_split"] == 0.8889
    # The last of two --batch-size counts.
    assert imported(PUBLIC["QuarkGluon PFN"])["training"]["batch_size"] == 4096


def test_data_parallel_shares_the_batch():
    config = training("--gpus 0,1,2,3 --batch-size 2048 --samples-per-epoch 1000000 --samples-per-epoch-val 5000 --batch-size-test 1001")
    expected = {"ranks": 4, "device": "cuda", "batch_size": 512, "samples_per_epoch": 1_000_000, "samples_per_epoch_val": 5000}
    assert config | expected == config
    assert config["batch_size_test"] == 251


@pytest.mark.parametrize(
    ("options", "start", "expected"),
    [
        # weaver's default: round(100 x 512 x 0.25 / 256) batches of 256
        ("--steps-per-epoch 100 --batch-size 512 --batch-size-val 256 --train-val-split 0.8", SHORT, {"steps_per_epoch_val": 50}),
        ("--samples-per-epoch 51300 --batch-size 512", SHORT, {"steps_per_epoch_val": 25}),
        ("--steps-per-epoch 100 --batch-size 512 --gpus 0,1", SHORT, {"samples_per_epoch_val": 25 * 512}),
        (
            "--steps-per-epoch 100 --batch-size 512",
            "torchrun --nproc_per_node 2 weaver --backend nccl -i x -c d -n n ",
            {"samples_per_epoch_val": 2 * 25 * 512, "steps_per_epoch": 100},
        ),
        ("--steps-per-epoch 100 --steps-per-epoch-val -1", SHORT, {"steps_per_epoch_val": -1}),
        ("--samples-per-epoch 1280 --samples-per-epoch-val -1", SHORT, {"samples_per_epoch_val": -1}),
        ("--steps-per-epoch-val 7", SHORT, {"steps_per_epoch_val": 7}),
        ("", SHORT, {"steps_per_epoch_val": None, "samples_per_epoch_val": None}),
        # A rank validates whole batches: 5 of 128 in 700.
        (
            "--samples-per-epoch-val 700",
            "torchrun --nproc_per_node 2 weaver --backend nccl -i x -c d -n n ",
            {"samples_per_epoch_val": 1280},
        ),
    ],
)  # fmt: skip
def test_validation_takes_what_weaver_would(options, start, expected):
    config = training(options, start)
    assert config | expected == config


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ("--lr-scheduler flat+cos", 5.0),  # weaver's default, 0.25 of all steps
        ("--lr-scheduler flat+linear --warmup-steps 0.05 --num-epochs 40", 2.0),
        ("--lr-scheduler warmup+cos --warmup-steps 500 --steps-per-epoch 200", 2.5),
        ("--lr-scheduler flat+cos --warmup-steps 10 --samples-per-epoch 1299 --batch-size 128", 1.0),
        ("--lr-scheduler flat+cos --warmup-steps 10 --samples-per-epoch 2560 --batch-size 256 --gpus 0,1", 1.0),
    ],
)
def test_warm_up_is_converted_to_epochs(options, epochs):
    assert training(options)["scheduler"]["warmup"] == pytest.approx(epochs)


@pytest.mark.parametrize(
    ("start", "ranks", "nodes"),
    [
        ("weaver --gpus 0", 1, 1),
        ("python train.py --gpus 0", 1, 1),
        ("python3.11 -u -W ignore -m weaver.train --gpus 0", 1, 1),
        ("--gpus 0", 1, 1),
        ("CUDA_VISIBLE_DEVICES=2,3 nohup torchrun --standalone --nproc-per-node 2 $HOME/bin/weaver --backend nccl", 2, 1),
        ("torchrun --standalone --nproc_per_node=2 -m weaver.train --backend nccl", 2, 1),
        ("torchrun --master_port=99 --nnodes=2 --nproc_per_node=4 --max_restarts=0 --rdzv_id=98 --rdzv_backend=c10d"
         " --rdzv_endpoint=r225n14:29800 ../train.py --backend nccl", 4, 2),
        ("python -m torch.distributed.launch --use_env --nproc_per_node=8 train.py --backend nccl", 8, 1),
    ],
)  # fmt: skip
def test_every_way_of_starting_weaver(start, ranks, nodes):
    config = training(" -i 'a:x/*.root' -c d.yaml -n n.py", start)
    assert (config["ranks"], config["nodes"]) == (ranks, nodes)


def test_variables_before_the_command_are_told():
    assert notes("CUDA_VISIBLE_DEVICES=2,3 " + SHORT)["CUDA_VISIBLE_DEVICES=2,3"] == "set it for Snakemake in the same way"
    assert "CUDA_VISIBLE_DEVICES=1" in notes(SHORT + "--gpus 1")["--gpus"]


def test_files():
    config = imported(
        "weaver -i 'a:x/*.root' 'b:y/1.root' 'a:x2/*.root' root://eos.cern.ch//store/z.root -l 1.root 2.root"
        " -t 'a%10:t/*.root' 'b:root://eos.cern.ch//store/t.root' -c d.yaml -n n.py"
    )["data"]
    assert config["train"] == {"a": ["x/*.root", "x2/*.root"], "b": "y/1.root", "unnamed": "root://eos.cern.ch//store/z.root"}
    assert config["val"] == ["1.root", "2.root"]
    assert config["test"] == {"a": {"files": "t/*.root", "split": 10}, "b": "root://eos.cern.ch//store/t.root"}


def test_every_other_option_has_its_place():
    config = imported(
        SHORT + "--regression-mode --data-config-val v.yaml --data-config-test t.yaml --extra-selection-train 'jet_pt > 300'"
        " --extra-selection-val 'jet_pt > 400' --extra-selection-test '(jet_pt > 500) & ~muon' --data-fraction 0.5 --data-fraction-val 0.25"
        " --file-fraction 0.75 --fetch-by-files --fetch-step 5 --fetch-step-val 2 --data-split-num 3 --no-remake-weights"
        " --tensorboard x --tensorboard-custom-fn fn.py --custom-functions f.py -o a '[(16, (64, 64))]' -o b None -o c \"'text'\""
        " --exclude-model-weights 'fc.*,mod.x' --load-model-weights w.pt:backbone --freeze-model-weights 'a.*,b' --num-epochs 7"
        " --optimizer adamW -p betas '(0.9, 0.99)' --lr-scheduler one-cycle --start-lr 5e-5 --batch-size-test 32 --use-amp --amp-dtype fp16"
        " --compile --compiler-option dynamic False --compile-optimizer --num-workers 3 --prefetch-factor 4"
        " --predict-output p.parquet --onnx-opset 17 --cross-validation 'event_no%5' --auto-clean"
    )
    assert config["data"]["extra_selection"] == {"train": None, "val": None, "test": None}  # weaver drops them in cross-validation
    assert config["cross_validation"] == {"variable": "event_no", "folds": 5}
    data = {
        "config_val": "v.yaml", "config_test": "t.yaml", "custom_functions": "f.py", "data_fraction": 0.5, "data_fraction_val": 0.25,
        "data_fraction_test": 0.5, "file_fraction": 0.75,
    }  # fmt: skip
    assert config["data"] | data == config["data"]
    loading = {"fetch_by_files": True, "fetch_step": 5, "fetch_step_val": 2, "split_num": 3, "num_workers": 3, "prefetch": 12}
    assert config["loading"] | loading == config["loading"]
    assert config["sampling"]["remake_weights"] is False
    network = {
        "options": {"a": [[16, [64, 64]]], "b": None, "c": "text"}, "load_weights": "w.pt:backbone", "exclude_weights": ["fc.*", "mod.x"],
        "freeze_weights": ["a.*", "b"],
    }  # fmt: skip
    assert config["network"] | network == config["network"]
    expected = {
        "task": "regression", "epochs": 7, "optimizer": {"name": "adamW", "options": {"betas": [0.9, 0.99]}}, "lr": 5e-5, "amp": "fp16",
        "batch_size_test": 32, "compile": {"dynamic": False}, "compile_optimizer": True, "keep_checkpoints": "best_and_last",
        "tensorboard": "fn.py",
    }  # fmt: skip
    assert config["training"] | expected == config["training"]
    assert config["training"]["scheduler"]["name"] == "one-cycle"
    assert config["prediction"]["format"] == "parquet"
    assert config["export"]["opset"] == 17


def test_extra_selections_without_folds():
    selections = imported(SHORT + "--extra-selection-train 'jet_pt > 300' --extra-selection-test ''")["data"]["extra_selection"]
    assert selections == {"train": "jet_pt > 300", "val": None, "test": None}


def test_no_gpu_is_the_cpu():
    assert training("--gpus ''")["device"] == "cpu"
    gloo = training("--gpus ''", "torchrun --nproc_per_node 2 weaver --backend gloo -i x -c d -n n ")
    assert (gloo["device"], gloo["ranks"]) == ("cpu", 2)


def test_prediction():
    start = "weaver -t 'a:x/*.root' -c d.yaml -n n.py --gpus 0,1 "
    config = imported(start + "--predict -m training/a/net --batch-size 1000")
    assert config["prediction"]["model"] == "training/a/net_best_epoch_state.pt"
    assert imported(start + "--predict -m training/a/model.onnx --predict-gpus 0,1")["prediction"]["ranks"] == 2
    assert config["data"]["test"] == {"a": "x/*.root"}
    assert config["training"]["ranks"] == 1
    assert imported(start + "--run-mode test -m training/a/model.onnx")["prediction"]["model"] == "training/a/model.onnx"


def test_folds_have_files_of_their_own():
    folds = SHORT + "--cross-validation 'n%5' "
    assert imported(folds + "--load-model-weights 'w_{fold}.pt:mod'")["network"]["load_weights"] == "w_fold{fold}.pt:mod"
    model = imported(folds + "--predict -t y.root -m runs/PFN/net")["prediction"]["model"]
    assert model == "runs/PFN_fold{fold}/net_best_epoch_state.pt"  # weaver's folders


PREDICTION = "weaver --predict -t x.root -c d.yaml -n n.py -m net.pt"


def test_prediction_takes_the_file_that_weaver_resolved_by_its_checksum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text("selection:\n")
    checksum = hashlib.md5(Path("d.yaml").read_bytes()).hexdigest()
    stale, resolved = f"d.{'0123456789abcdef' * 2}.auto.yaml", f"d.{checksum}.auto.yaml"
    Path(stale).touch()
    assert imported(PREDICTION)["data"]["config"] == "d.yaml"
    assert f"{stale}: of another version of d.yaml" in notes(PREDICTION)["--data-config"]
    Path(resolved).touch()
    assert imported(PREDICTION)["data"]["config"] == resolved
    assert imported(PREDICTION.replace("d.yaml", stale))["data"]["config"] == stale


def test_prediction_takes_what_was_trained_here(tmp_path, monkeypatch):
    """A training that was imported and run here has its checkpoints and its data_config.auto.yaml in results/<run>."""
    monkeypatch.chdir(tmp_path)
    command = "-c d.yaml -n n.py -m runs/v2_quad/net"
    run = imported(f"weaver -i x.root {command}")["run"]
    folder = Path("results") / run
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "net_best_epoch_state.pt").touch()
    config = imported(f"weaver --predict -t y.root {command}")
    assert config["run"].startswith(f"{run}-predict-")
    assert config["prediction"]["model"] == f"{folder}/checkpoints/net_best_epoch_state.pt"
    assert (config["data"]["config"], config["data"]["config_test"]) == (f"{folder}/data_config.auto.yaml", "d.yaml")


@pytest.mark.parametrize("also", ["", "-i a.root", "--predict -t b.root"])
def test_an_export_exports_and_stops(also):
    """As weaver does, whatever else is given."""
    config = imported(
        f"weaver -c d.auto.yaml -n n.py -m training/top/net_best_epoch_state.pt --export-onnx model.onnx --onnx-opset 17 {also}"
    )
    assert config["run"] == "top-export"
    assert config["prediction"]["model"] == "training/top/net_best_epoch_state.pt"
    assert config["export"]["opset"] == 17
    assert not config["data"]["train"]
    assert not config["data"]["test"]


def test_a_training_that_weaver_began_is_continued():
    training = imported(SHORT + "--load-epoch 9 -m p/net --num-epochs 30")["training"]
    assert (training["continue_from"], training["epochs"]) == ({"prefix": "p/net", "epoch": 9}, 30)


def test_what_has_no_key_is_told():
    told = notes(
        SHORT + "-t x.root --run-mode train,val --log l.log --lr-finder '1e-6, 1, 100' --print --profile --io-test --copy-inputs --demo"
        " --data-split-val 3 --in-memory-val --warmup-steps 3 --exclude-model-weights a --compiler-option a 1 --predict-gpus 1"
        " --tensorboard comment"
    )
    expected = (
        "--data-test --log-file --lr-finder --print --profile --io-test --copy-inputs --demo --data-split-val --in-memory-val"
        " --warmup-steps --exclude-model-weights --compiler-option --predict-gpus --tensorboard"
    )
    assert set(expected.split()) <= set(told)
    assert re.search("--inputs results/n-[0-9a-f]{6}/inputs.json", told["--io-test"])


@pytest.mark.parametrize(
    ("command", "key", "text"),
    [
        (SHORT + "--load-epoch 3 -m 'p/{auto}/net'", "training.continue_from", "{auto} cannot be filled in"),
        (SHORT + "--load-epoch 19 -m p/net", "these settings", "19 of training.continue_from.*give more"),
        (SHORT + "--no-aux-epoch 6", "--no-aux-epoch 6", "no such option"),
        (SHORT + "--bach-size 6", "--bach-size 6", "Did you mean: --batch-size"),
        (SHORT + "--backend nccl", "training.ranks", "does not say how many ranks"),
        (SHORT + "--run-mode val", "--run-mode val", "has no counterpart"),
        (SHORT + "--steps-per-epoch 1 --samples-per-epoch 1", "training.samples_per_epoch", "are both given"),
        (SHORT + "--samples-per-epoch 100", "training.samples_per_epoch", "less than one batch of 128"),
        (SHORT + "--samples-per-epoch-val 100", "training.samples_per_epoch_val", "less than one batch of 128"),
        (SHORT + "--steps-per-epoch-val 0", "training.steps_per_epoch_val", "validates nothing"),
        (SHORT + "--batch-size 500 --gpus 0,1,2", "training.batch_size", "shared by 3 GPUs.*Give 166 or 167"),
        (SHORT + "--lr-scheduler flat+cos --warmup-steps 500", "training.scheduler.warmup", "add --steps-per-epoch or --samples-per-epoch"),
        (SHORT + "-o name text", "--network-option name text", "Taken as text"),
        (SHORT + "-o name '{1, 2}'", "--network-option name {1, 2}", "lists, and maps"),
        (SHORT + "--cross-validation event_no", "cross_validation", "variable: event_no"),
        (SHORT + "--load-model-weights 'w_{fold}.pt'", "network.load_weights", "there is no --cross-validation"),
        (SHORT + "--lr-finder 1", "--lr-finder '1'", "not three numbers"),
        (SHORT + "--lr-finder 1e-6,1,3", "these settings", "tools.find_lr.steps"),
        (SHORT + "--predict -t y.root", "prediction.model", "is one file"),
        (SHORT + "--predict -t y.root -m a.pt:backbone", "prediction.model", "is one file"),
        (SHORT + "--predict -m a.pt", "data.test", "files to predict"),
        ("weaver -i x -t 'a%b:x' -c d -n n", "--data-test a%b:x", "is not a number of files"),
        ("weaver -i x -n n", "data.config", "--data-config is missing"),
        ("weaver -i x -c n", "network.config", "--network-config is missing"),
        ("weaver -c d -n n", "data.train", "--data-train is missing"),
        ("torchrun --nproc_per_node gpu weaver --backend nccl -i x -c d -n n", "training.ranks", "=gpu: not a number"),
        ("torchrun --nproc_per_node 2 weaver -i x -c d -n n", "training.ranks", "without --backend"),
        ("srun -n 4 weaver -i x -c d -n n", "training.ranks", "srun starts an unknown number of processes"),
    ],
)
def test_what_cannot_be_carried_over_is_a_todo_beside_all_the_rest(command, key, text, tmp_path, capsys):
    made = import_command(shlex.split(command))
    todos = dict(made.todos)
    assert re.search(text, todos[key])
    document = yaml.safe_load(made.text)
    assert set(document) >= {"run", "data", "network"}
    assert "# TODO" in made.text
    if "." in key and not key.startswith("--"):
        section, name = key.rsplit(".", 1)
        for part in section.split("."):
            document = document[part]
        assert document[name] == "TODO"
    with pytest.raises(ConfigError, match=f"written, with {len(todos)} TODO in it"):
        main(["--output", str(tmp_path / "config.yaml"), "--", *shlex.split(command)])
    assert (tmp_path / "config.yaml").read_text() == made.text
    assert f"TODO {key}: " in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--batch-size 500 --gpus 0,1,2", "--steps-per-epoch-val 0", "--backend nccl", "--cross-validation n"])
def test_a_todo_is_no_value_that_a_run_takes(options):
    with pytest.raises(ConfigError, match="TODO"):
        resolve_config(yaml.safe_load(import_command(shlex.split(SHORT + options)).text))


def test_all_options_of_a_fork_are_told_at_once():
    made = import_command(shlex.split(SHORT + "--aux-loss 0.5 --no-ema --seed 42 --train-mode regression --exotic a b"))
    assert [option for option, _ in made.todos] == ["--aux-loss 0.5", "--no-ema", "--exotic a b"]
    document = yaml.safe_load(made.text)
    assert (document["seed"], document["training"]["task"]) == (42, "regression")
    assert [option for option, _ in import_command(shlex.split(SHORT + "--train-mode hybrid")).todos] == ["--train-mode hybrid"]


TEXTS = ("on", "1e-3", "~", "5", "null", "False", "0x1f", "1_000", "it's", "plain")


def test_text_that_looks_like_something_else_stays_text(tmp_path):
    """In the file it is in quotes, which the workflow and the tools respect."""
    options = " ".join(shlex.join(["-o", f"o{place}", repr(text)]) for place, text in enumerate(TEXTS))
    expected = {f"o{place}": text for place, text in enumerate(TEXTS)}
    assert imported(SHORT + options + " -o rate 1e-3 -o switch True -o several \"['on', 2, None]\"")["network"]["options"] == {
        **expected, "rate": 0.001, "switch": True, "several": ["on", 2, None],
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    main(["--output", str(path), "--", *shlex.split(SHORT + options)])
    assert resolve_config(read_config([path]))["network"]["options"] == expected
    seen_by_snakemake = yaml.safe_load(path.read_text())
    assert resolve_config(names_as_written(seen_by_snakemake, files=[path], arguments=()))["network"]["options"] == expected
    resolved = resolve_config(read_config([path]))
    assert resolve_config(resolved_before(resolved)) == resolved
    # Also below a key of a host workflow.
    path.write_text(yaml.safe_dump({"tagger": seen_by_snakemake}, default_style="'"))
    assert resolve_config(names_as_written(seen_by_snakemake, files=[path], arguments=()))["network"]["options"] == expected


def test_help_of_weaver_is_the_table(capsys):
    main(["--", "weaver", "--help"])
    assert option_table() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (SHORT + "--data-f 1", "ambiguous option"),
        (SHORT + "--batch-size many", "invalid int value"),
        (SHORT + "--lr-scheduler cosine", "invalid choice"),
        ("bash train.sh", "starts 'bash train.sh', not weaver"),
        ("python", "not weaver"),
        ("'weaver -i x'", "one quoted word"),
    ],
)
def test_what_is_no_command_of_weaver_is_refused(command, message):
    with pytest.raises(ConfigError, match=message) as refused:
        import_command(shlex.split(command))
    assert "\n" not in str(refused.value)


def test_double_stars_are_one_level_of_folders_as_in_weaver(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("x/1.root", "x/a/2.root", "x/a/b/3.root"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    command = "weaver -i 'a:x/**/*.root' -c d.yaml -n n.py"
    pattern = imported(command)["data"]["train"]["a"]
    assert glob.glob(pattern, recursive=True) == glob.glob("x/**/*.root") == ["x/a/2.root"]
    assert "** as *" in notes(command)["--data-train x/**/*.root"]


def test_what_is_counted_otherwise_is_told():
    assert "0.01 of each file" in notes(SHORT + "--in-memory")["--in-memory"]
    assert "--in-memory" not in notes(SHORT + "--in-memory --fetch-step 1")
    assert "5 files" in notes(SHORT + "--in-memory --fetch-by-files --fetch-step 5")["--in-memory"]
    four = "torchrun --nproc_per_node 4 weaver --backend nccl -i x -c d -n n --gpus "
    assert "4 GPUs" in notes(four + "0")["--gpus"]
    assert "--gpus" not in notes(four + "0,1,2,3")
    assert "validation events" in notes(SHORT)["no --data-test"]
    assert "a-b" in notes("weaver -i 'a b:x' -c d -n n")["--data-train a b:"]


def test_the_finder_of_rates_has_weavers_values():
    assert imported(SHORT + "--lr-finder '5e-7, 1e0, 100'")["tools"]["find_lr"] == {"start": 5e-7, "end": 1.0, "steps": 100}


def test_the_text_is_minimal_ordered_and_commented():
    text = import_command(shlex.split(PUBLIC["CMSAK4 ParT on 4"])).text
    document = yaml.safe_load(text)
    assert list(document) == ["run", "data", "loading", "network", "training"]
    assert list(document["training"]) == [
        "epochs", "batch_size", "samples_per_epoch", "samples_per_epoch_val", "lr", "optimizer", "scheduler", "amp", "device", "ranks",
        "tensorboard",
    ]  # fmt: skip
    assert "samples_per_epoch: 10240000  # weaver: 2560000 in each of 4 ranks" in text
    assert "#   --log-file: every job has its log" in text
    assert "# validation: {reweight: true}" in text


def test_hostile_text_stays_in_comments():
    text = import_command(["weaver", "-i", "x", "-c", "d", "-n", "n", "--tensorboard", "a\nrun: other\u2028seed: 7\x85b: 1\0"]).text
    assert set(yaml.safe_load(text)) == {"run", "data", "network", "training"}
    assert yaml.safe_load(text)["run"].startswith("n-")


def test_the_command(tmp_path, capsys):
    target = tmp_path / "config.yaml"
    command = ["--output", str(target), "--run", "mine", "--", *shlex.split(PUBLIC["JetClass PFN"])]
    main(command)
    assert resolve_config(yaml.safe_load(target.read_text()))["run"] == "mine"
    assert "--log-file: every job has its log" in capsys.readouterr().err
    main(command)  # the same again changes nothing
    other = [*command, "--num-epochs", "7"]
    with pytest.raises(ConfigError, match="exists already"):
        main(other)
    main(["--force", *other])
    assert resolve_config(yaml.safe_load(target.read_text()))["training"]["epochs"] == 7


def test_two_configurations_beside_each_other_have_no_run_in_common(tmp_path):
    """One would train over the other's checkpoints."""
    main(["--output", str(tmp_path / "a.yaml"), "--run", "mine", "--", *shlex.split(SHORT)])
    with pytest.raises(ConfigError, match=r"a.yaml: has run: mine too.*Give --run another"):
        main(["--output", str(tmp_path / "b.yaml"), "--run", "mine", "--", *shlex.split(SHORT + "--num-epochs 3")])
    assert not (tmp_path / "b.yaml").exists()
    # What looks at the same training may be of the same run.
    main(["--output", str(tmp_path / "c.yaml"), "--run", "mine", "--", *shlex.split(SHORT + "--lr-finder 1e-5,1,50")])


DESCRIBE_PARSER = """
import argparse, json
from weaver.train import parser
def kind(action):
    if isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    if isinstance(action, argparse._StoreTrueAction):
        return "flag"
    if isinstance(action, argparse._AppendAction):
        return "pairs"
    if action.nargs == "*":
        return "files"
    return {str: "text", int: "integer", float: "number"}.get(action.type, "names")
actions = [action for action in parser._actions if action.dest != "help"]
print(json.dumps([[action.option_strings, kind(action), action.default, action.choices] for action in actions]))
"""


def test_the_options_are_those_of_weaver():
    pytest.importorskip("weaver")
    done = subprocess.run([sys.executable, "-c", DESCRIBE_PARSER], capture_output=True, text=True, check=True)
    theirs = {tuple(names): facts for names, *facts in json.loads(done.stdout.splitlines()[-1])}
    ours = {}
    for option in OPTIONS:
        names = (*option.names, f"--no-{option.long[2:]}") if option.kind == "switch" else option.names
        default = ",".join(option.default) if option.kind == "names" else list(option.default) if option.default == () else option.default
        ours[names] = [option.kind, default, list(option.choices) if option.choices else None]
    assert ours == theirs


def test_abbreviations_are_argparses():
    options, given, _ = parse_options(["--log", "l", "--steps-per-epoch-v", "3", "--start", "0.1", "--no-use"])
    assert (options.log_file, options.steps_per_epoch_val, options.start_lr, options.use_amp) == ("l", 3, 0.1, False)
    assert given == {"log_file", "steps_per_epoch_val", "start_lr", "use_amp"}


def test_the_documented_table_is_that_of_the_code(repository, capsys):
    main(["--table"])
    assert capsys.readouterr().out == option_table()
    assert option_table() in (repository / "docs" / "for_weaver_users.md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_jetclass_command_runs_to_the_end_on_sample_jets(tmp_path, repository, jets):
    command = PUBLIC["JetClass PFN"]
    for old, new in (
        ("./datasets/JetClass/Pythia/train_100M/", f"{jets}/train/"),
        ("./datasets/JetClass/Pythia/test_20M/", f"{jets}/test/"),
        ("--data-val './datasets/JetClass/Pythia/val_5M/*.root'", ""),
        ("_*.root", ".root"),
        ("data/JetClass/JetClass_full.yaml", str(repository / "config/data/demo.yaml")),
        ("networks/example_PFN.py", str(repository / "config/networks/pfn.py")),
        ("--samples-per-epoch 10240000 --samples-per-epoch-val 1280000 --num-epochs 50",
         "--samples-per-epoch 640 --samples-per-epoch-val 256 --num-epochs 2 --batch-size 64"),
    ):  # fmt: skip
        assert old in command
        command = command.replace(old, new)
    main(["--output", str(tmp_path / "config.yaml"), "--", *shlex.split(command)])
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile"), "--configfile", "config.yaml",
         "--cores", "2"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "results").glob("JetClass-Pythia-full-PFN-*")
    assert (results / "export" / "model.onnx").exists()
    assert (results / "predictions" / "TTBar.root").exists()
    assert json.loads((results / "metrics" / "train_epoch-1.json").read_text())["samples"] == 640
