"""A table of weaver command lines of the forms that are in public use, made up, with the keys that they become; each is planned."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from weaver_tasks.import_weaver.main import import_command, main
from weaver_tasks.plan import make_plan

PAIR = "-c flavor.yaml -n pfn.py --data-train 'b:mc/b_*.root' 'c:mc/c_*.root'"
TORCHRUN = "torchrun --standalone --nproc_per_node=4 /opt/bin/weaver --backend nccl"

# Command -> keys of config.yaml. A name that ends in '*' is that with a digest.
LINES: dict[str, dict[str, Any]] = {
    # Trainings.
    f"weaver {PAIR} --data-test 'b:test/b_*.root' --model-prefix training/flavor/{{auto}}/net --num-epochs 30": {
        "run": "flavor-*", "training.epochs": 30, "data.test": {"b": "test/b_*.root"},
    },
    f"weaver {PAIR} --data-test 'b:test/b_*.root' --model-prefix training/flavor/{{auto}}/net --start-lr 1e-3": {
        "run": "flavor-*", "training.lr": 1e-3,
    },
    f"weaver {PAIR} --model-prefix output/v2_quad": {"run": "v2_quad", "data.test": None},
    f"weaver {PAIR} --model-prefix output/v2_theta": {"run": "v2_theta"},
    f"weaver {PAIR} --model-prefix checkpoints/run_3/ --lr-scheduler one-cycle": {"run": "checkpoints-run_3"},
    f"weaver {PAIR} --model-prefix ../trainings/2024/resolved/JetPFN/net": {"run": "2024-resolved-JetPFN"},
    f"weaver {PAIR} --model-prefix /eos/home-x/xy/project/ak8/trainings/2024/resolved/JetPFN/net": {"run": "2024-resolved-JetPFN-*"},
    f"weaver {PAIR} --model-prefix /eos/home-x/xy/project/ak4/trainings/2024/resolved/JetPFN/net": {"run": "2024-resolved-JetPFN-*"},
    f"python train.py {PAIR} --model-prefix a/net --gpus 0,1 --batch-size 1024": {
        "run": "a", "training.ranks": 2, "training.batch_size": 512,
    },
    f"{TORCHRUN} {PAIR} --model-prefix b/net --gpus 0 --samples-per-epoch 10000 --samples-per-epoch-val 2560": {
        "run": "b", "training.ranks": 4, "training.samples_per_epoch": 40000, "training.samples_per_epoch_val": 10240,
    },
    f"CUDA_VISIBLE_DEVICES=1 nohup weaver {PAIR} -m c/net --use-amp --in-memory --fetch-step 1 --steps-per-epoch 10": {
        "run": "c", "training.amp": "bf16", "loading.in_memory": True, "training.steps_per_epoch": 10,
    },
    f"weaver {PAIR} -m tuned/net --load-model-weights old.pt --optimizer-option lr_mult '(\"fc.*\",50)' --lr-scheduler none": {
        "run": "tuned", "network.load_weights": "old.pt", "training.optimizer.options": {"lr_mult": ["fc.*", 50]},
    },
    f"weaver {PAIR} -m d/net --lr-finder '5e-6, 5e0, 200'": {"run": "d", "tools.find_lr.start": 5e-6, "tools.find_lr.end": 5.0},
    f"weaver {PAIR} -m e/net -o layers '(64, 64)' -o name '\"wide\"' --demo": {
        "run": "e", "network.options": {"layers": [64, 64], "name": "wide"}, "data.data_fraction": 0.1,
    },
    # Predictions.
    "weaver --predict -c flavor.yaml -n pfn.py -t 'b:test/b_*.root' -m output/v2_quad_best_epoch_state.pt --predict-output pred.root": {
        "run": "v2_quad-predict-*", "prediction.model": "output/v2_quad_best_epoch_state.pt",
    },
    "weaver --predict -c flavor.yaml -n pfn.py -t 'c:mc/c_*.root' -m output/v2_quad_best_epoch_state.pt --predict-output pred.root": {
        "run": "v2_quad-predict-*", "data.test": {"c": "mc/c_*.root"},
    },
    "weaver --predict -c flavor.yaml -n pfn.py -t 'b:test/b_*.root' -m output/v2_quad --predict-output out/data_2018.parquet": {
        "run": "v2_quad-predict-out-data_2018", "prediction.format": "parquet",
        "prediction.model": "output/v2_quad_best_epoch_state.pt",
    },
    "weaver --predict -c flavor.yaml -n pfn.py -t 'b%2:test/b_*.root' -m output/v2_quad_epoch-7_state.pt": {
        "run": "v2_quad_epoch-7-predict-*", "data.test": {"b": {"files": "test/b_*.root", "split": 2}},
    },
    "weaver --run-mode test -c flavor.yaml -n pfn.py -t test/b_0.root -m exported/tagger.onnx --gpus ''": {
        "run": "exported-tagger-predict-*", "prediction.model": "exported/tagger.onnx", "training.device": "cpu",
    },
    # Exports.
    "weaver -c flavor.yaml -n pfn.py -m output/v2_quad_best_epoch_state.pt --export-onnx tagger.onnx": {
        "run": "v2_quad-export", "prediction.model": "output/v2_quad_best_epoch_state.pt", "data.train": None, "data.test": None,
    },
    # Regression.
    "weaver --regression-mode -c mass.yaml -n pfn.py -i 'mc/b_*.root' -t 'b:test/b_*.root' -m models/particlenet_H_regr": {
        "run": "particlenet_H_regr", "training.task": "regression",
    },
    "weaver --regression-mode -c mass.yaml -n pfn.py -i 'mc/b_*.root' -t 'b:test/b_*.root' -m models/particlenet_a1_regr": {
        "run": "particlenet_a1_regr", "training.task": "regression",
    },
    # Cross-validation.
    f"weaver {PAIR} -t 'b:test/b_*.root' --cross-validation 'event_no%3' -m cv/net": {
        "run": "cv-3-folds", "cross_validation": {"variable": "event_no", "folds": 3},
    },
    f"weaver {PAIR} -m cv/net": {"run": "cv"},
    f"weaver {PAIR} --cross-validation 'event_no%2' -m cv_{{fold}}/fold{{fold}}/net --load-model-weights 'w_{{fold}}.pt'": {
        "run": "cv-2-folds", "network.load_weights": "w_fold{fold}.pt",
    },
    # Forks.
    f"python train.py {PAIR} -m fork/net --train-mode cls --seed 42": {"run": "fork", "seed": 42, "training.task": "classification"},
    "python train.py --train-mode regression -c mass.yaml -n pfn.py -i 'mc/b_*.root' -m fork/mass/net": {
        "run": "fork-mass", "training.task": "regression",
    },
}  # fmt: skip

COMMANDS = list(LINES)


def at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = (document or {}).get(part)
    return document


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_has_the_keys_that_are_expected(command):
    made = import_command(shlex.split(command))
    assert made.todos == []
    document = yaml.safe_load(made.text)
    for key, value in LINES[command].items():
        found = at(document, key)
        if key == "run" and value.endswith("*"):
            assert re.fullmatch(re.escape(value[:-1]) + "[0-9a-f]{6}", found)
        elif key == "training.task" and value == "classification":
            assert found is None, "the default"
        else:
            assert found == value, key


def test_every_command_has_a_run_of_its_own():
    runs = [yaml.safe_load(import_command(shlex.split(command)).text)["run"] for command in COMMANDS]
    assert len(set(runs)) == len(runs)


def test_the_same_command_has_the_same_run():
    command = COMMANDS[0]
    assert import_command(shlex.split(command)).text == import_command(shlex.split(command)).text


def laid_out(folder: Path, command: str, repository: Path) -> None:
    """What the command reads: configurations that can be parsed, and files that only have to be there."""
    inputs = "inputs: {jet_features: {length: 8, vars: [[part_pt, 1, 1, -5, 5, 0]]}}\npreprocess: {method: manual}\n"
    (folder / "flavor.yaml").write_text(f"treename: tree\n{inputs}labels: {{type: simple, value: [is_b, is_c]}}\n")
    (folder / "mass.yaml").write_text(f"treename: tree\n{inputs}labels: {{type: custom, value: {{target: jet_mass}}}}\n")
    shutil.copy(repository / "config" / "networks" / "pfn.py", folder / "pfn.py")
    model = re.search(r"(?:-m|--model-prefix) (\S+)", command)
    names = ["mc/b_0.root", "mc/b_1.root", "mc/c_0.root", "test/b_0.root", "test/b_1.root", "old.pt", "w_fold0.pt", "w_fold1.pt"]
    if "--predict" in command or "--export" in command or "--run-mode" in command:
        name = model[1]
        names.append(name if name.endswith((".pt", ".onnx")) else f"{name}_best_epoch_state.pt")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_is_planned(command, tmp_path, monkeypatch, repository):
    laid_out(tmp_path, command, repository)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(yaml.safe_load(import_command(shlex.split(command)).text), where="config.yaml")
    trains = plan.config["prediction"]["model"] is None
    assert bool(plan.files_of("train")) == trains


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_is_planned_by_snakemake(command, tmp_path, monkeypatch, repository):
    laid_out(tmp_path, command, repository)
    monkeypatch.chdir(tmp_path)
    main(["--output", "config.yaml", "--", *shlex.split(command)])
    target = ["export"] if "--export-onnx" in command else ["find_lr"] if "--lr-finder" in command else []
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile"), "--configfile", "config.yaml",
         "--cores", "4", "--dry-run", *target],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    planned = yaml.safe_load(Path("config.yaml").read_text())
    folds = (planned.get("cross_validation") or {}).get("folds", 1)
    if target == ["export"]:
        assert jobs["export_onnx"] == "1"
        assert not {"train_epoch", "stage_inputs"} & set(jobs)
    elif target:
        assert jobs["find_lr"] == "1"
        assert "train_epoch" not in jobs
    elif "model" in planned.get("prediction", {}):
        assert "predict" in jobs
        assert "train_epoch" not in jobs
    else:
        assert int(jobs["train_epoch"]) == folds * planned["training"]["epochs"]
        assert int(jobs["export_onnx"]) == folds
        assert jobs["provenance"] == "1"
