"""The whole chain through Snakemake, on real jets: what it makes, what reruns, what survives a kill."""

import contextlib
import copy
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import rocrate
import torch
import uproot
from rocrate.rocrate import ROCrate

from weaver_tasks import lineage, reproduce
from weaver_tasks.base.digests import file_checksum
from weaver_tasks.records.read import Run as RecordedRun
from workflow_run import CLASSES, Run, same

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, repository, jets) -> Run:
    """A finished run. Tests that change it put it back, or only look at what would run."""
    run = Run(tmp_path_factory.mktemp("finished"), repository, jets)
    run.snakemake()
    return run


def test_the_chain_leaves_every_artefact(finished):
    expected = """files.json inputs.json standardization.json reweighting.json reweighting.png data_config.auto.yaml
        staged/train/QCD/ZJetsToNuNu.arrow checkpoints/init_state.pt checkpoints/init_optimizer.pt
        checkpoints/net_epoch-2_state.pt checkpoints/net_epoch-2_optimizer.pt metrics/train_epoch-2.json metrics/val_epoch-2.json
        best_epoch.json checkpoints/net_best_epoch_state.pt checkpoints/net_best_epoch_optimizer.pt predictions/all.root
        evaluation/metrics.json evaluation/roc.png evaluation/confusion.png evaluation/scores.png evaluation/training.png
        export/model.onnx export/preprocess.json export/parity.json provenance/ro-crate-metadata.json"""
    assert [name for name in expected.split() if not (finished.results / name).exists()] == []


BROWSER = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
BROWSERS_OWN = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gvt1)\.com/")  # what Chromium itself asks for at its start


def seen_in_a_browser(page: Path, profile: Path) -> tuple[str, set[str]]:
    """The page as Chromium made it, its scripts run, and the addresses in the network that it asked for."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to look at the report with: apt-get install chromium")
    log = profile / "net.json"
    options = [*BROWSER.split(), f"--user-data-dir={profile}", f"--log-net-log={log}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    addresses = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    return done.stdout.partition('<div id="app">')[2].partition("<script")[0], {url for url in addresses if not BROWSERS_OWN.match(url)}


@pytest.mark.slow
def test_the_report_opens_on_the_results_without_any_network(finished, tmp_path):
    page = finished.folder / "report.html"
    finished.snakemake("--report", str(page))
    shown, asked = seen_in_a_browser(page, tmp_path)
    assert asked == set()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown))
    metrics = json.loads((finished.results / "evaluation" / "metrics.json").read_text())
    best = json.loads((finished.results / "best_epoch.json").read_text())
    assert f"Test accuracy {metrics['accuracy']:.4f} ± {metrics['accuracy_error']:.4f}" in text
    assert f"Best epoch {best['epoch']} (validation accuracy {best['value']:.4f})" in text
    assert "test all 3 300 300" in text
    assert "Data configuration data.yaml" in text
    for chapter in ("1 Data", "2 Training", "3 Results"):
        assert chapter in text


def test_predictions_are_in_the_order_of_the_source_files(finished, jets):
    source = []
    for process in CLASSES.values():
        with uproot.open(jets / "test" / f"{process}.root") as file:
            source += file["tree"]["jet_pt"].array(library="np").tolist()
    with uproot.open(finished.results / "predictions" / "all.root") as file:
        events = file["Events"]
        assert events["jet_pt"].array(library="np").tolist() == source
        scores = [events[f"score_label_{name}"].array(library="np") for name in CLASSES]
    assert abs(sum(scores) - 1).max() < 1e-5


def test_a_finished_run_has_nothing_to_do(finished):
    assert finished.planned() == {}


def test_the_exported_model_agrees(finished):
    parity = json.loads((finished.results / "export/parity.json").read_text())
    assert parity["max_abs_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("change", "reruns", "keeps"),
    [
        ("comment", set(), {"stage_inputs", "train_epoch"}),
        ("performance", set(), {"train_epoch"}),
        ("metric", {"select_best_epoch", "predict", "evaluate", "export_onnx"}, {"train_epoch", "validate_epoch", "stage_inputs"}),
        ("network", {"init_model", "train_epoch", "select_best_epoch"}, {"stage_inputs", "standardize", "reweight"}),
        ("learning rate", {"init_model", "train_epoch"}, {"stage_inputs", "standardize", "reweight"}),
        ("selection", {"stage_inputs", "standardize", "train_epoch"}, set()),
        ("observers", {"stage_inputs", "predict"}, {"standardize", "train_epoch"}),
        ("more epochs", {"train_epoch", "select_best_epoch"}, {"stage_inputs", "init_model"}),
    ],
)
def test_exactly_what_would_give_another_result_reruns(finished, change, reruns, keeps):
    config, data = copy.deepcopy((finished.config, finished.data))
    try:
        if change == "comment":
            finished.head = "# a comment\n\n"
        elif change == "performance":
            finished.config["loading"] = {"num_workers": 2, "prefetch": 2}
        elif change == "metric":
            finished.config["validation"] = {"metric": "loss"}
        elif change == "network":
            finished.config["network"]["options"] = {"Phi_sizes": [8, 8], "F_sizes": [8]}
        elif change == "learning rate":
            finished.config["training"]["lr"] = 0.001
        elif change == "selection":
            finished.data["selection"] = "jet_pt > 550"
        elif change == "observers":
            finished.data["observers"] = ["jet_pt"]
        elif change == "more epochs":
            finished.config["training"]["epochs"] = 5
        planned = finished.planned()
    finally:
        finished.config, finished.data = config, data
        finished.head = ""
        finished.write()
    assert reruns <= planned.keys()
    assert not keeps & (planned.keys() - reruns)
    if change == "more epochs":
        assert planned["train_epoch"] == 2
    if not reruns:
        # The record of the run holds the whole configuration.
        assert planned.keys() <= ({"provenance"} if change == "performance" else set())


# Of Snakemake, of watching, and what the record of the run itself is made of.
NOT_RESULTS = re.compile(
    r"logs/|benchmarks/|provenance/|\.settings/|\.workflow|files\.json$|ro-crate-metadata\.json$|checkpoints/\.(journal/|lock)"
)


def test_every_file_of_a_run_is_the_output_of_one_task(finished):
    run = RecordedRun(finished.results)
    made = Counter(path for task in run.tasks for path in task.outputs)
    there = {str(path) for path in finished.results.rglob("*") if path.is_file()}
    results = {path for path in there if not NOT_RESULTS.match(str(Path(path).relative_to(finished.results)))}
    assert results == made.keys()
    assert set(made.values()) == {1}
    for task in run.tasks:
        for path, checksum in task.inputs.items():
            assert path in made or not Path(path).is_relative_to(finished.results), (task.name, path)
            assert checksum == file_checksum(path), (task.name, path)
    assert {"seed", "device", "host", "processor", "user"} <= run.tasks[0].content.keys()
    trained = {task.name: task for task in run.tasks}["train_epoch/epoch-1"]
    names = {os.path.basename(path) for path in trained.inputs}
    assert names == {
        "net_epoch-0_state.pt",
        "net_epoch-0_optimizer.pt",
        "train_epoch-0.json",
        "fitting.json",
        "data_config.auto.yaml",
        "pfn.py",
    }


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another file in the place of one, which comes back with its time and its links."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    try:
        yield path
    finally:
        kept.replace(path)


@pytest.mark.parametrize("name", ["staged/test/all/HToBB.arrow", "checkpoints/net_epoch-1_state.pt", "predictions/all.root"])
def test_a_changed_byte_of_a_run_is_found_and_named(finished, capsys, name):
    content = (finished.results / name).read_bytes()
    with replaced(finished.results / name) as path:
        path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
        with pytest.raises(SystemExit) as ended:
            lineage.main([str(finished.results / "export" / "model.onnx" if "epoch" in name else finished.results), "--verify"])
    assert ended.value.code == 2
    assert [line.endswith(name) for line in capsys.readouterr().out.splitlines() if line.startswith("DIFFERS")] == [True]


def test_an_epoch_is_reproduced_and_a_difference_is_named(finished, capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce.main([str(finished.results), "--epoch", "1"])
    assert ended.value.code == 0
    assert "equal    train_epoch/epoch-1" in capsys.readouterr().out
    weights = finished.state("net_epoch-1")
    name, values = next((name, values) for name, values in weights.items() if values.is_floating_point() and values.numel() > 1)
    values.reshape(-1)[0] += 0.25
    with replaced(finished.results / "checkpoints" / "net_epoch-1_state.pt") as path:
        torch.save(weights, path)
        with pytest.raises(SystemExit) as ended:
            reproduce.main([str(finished.results), "--epoch", "1"])
    assert ended.value.code == 1
    assert f"'{name}': by 0.25 at most, in 1 of" in capsys.readouterr().out


@pytest.mark.slow
def test_every_task_of_a_run_is_reproduced(finished, capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce.main([str(finished.results), "--all", "--json"])
    assert ended.value.code == 0
    reruns = json.loads(capsys.readouterr().out)
    assert {rerun["name"].partition("/")[0] for rerun in reruns} == {task.stage for task in RecordedRun(finished.results).tasks}
    assert [rerun["environment"] for rerun in reruns if rerun["environment"]] == []


def test_the_crate_names_every_input_output_rule_and_parameter(finished):
    crate = ROCrate(finished.results)
    tasks = RecordedRun(finished.results).tasks
    files = {path for task in tasks for path in (*task.inputs, *task.outputs)}
    inside = {str(Path(path).relative_to(finished.results)) for path in files if Path(path).is_relative_to(finished.results)}
    outside = {Path(path).as_uri() for path in files if not Path(path).is_relative_to(finished.results)}
    assert {*inside, *outside} <= {part.id for part in crate.root_dataset["hasPart"]}
    assert {step["name"] for step in crate.mainEntity["step"]} == {task.stage for task in tasks}
    parameters = {parameter["name"] for parameter in crate.mainEntity["input"]}
    assert parameters >= {"run", "seed", "training.epochs", "training.optimizer.name", "network.options.Phi_sizes", "data.train.QCD"}
    assert parameters >= {"sources", "network", "data-config"}
    assert {"export/model.onnx", "predictions/<group>.root", "checkpoints/net_epoch-<n>_state.pt"} <= {
        parameter["name"] for parameter in crate.mainEntity["output"]
    }


@pytest.mark.slow
def test_the_crate_passes_the_validator(finished, tmp_path, repository):
    python = repository / ".venv-crate" / "bin" / "python"
    if not python.exists():
        pytest.skip("`make validate-crate` installs roc-validator")
    context = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"

    def validated(run: Path) -> subprocess.CompletedProcess:
        return subprocess.run([python, repository / ".ci" / "validate_crate.py", run, context], capture_output=True, text=True)

    done = validated(finished.results)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"of (\d+) checks", done.stdout)[1]) > 80
    broken = tmp_path / "broken"
    shutil.copytree(finished.results, broken)
    document = json.loads((broken / "ro-crate-metadata.json").read_text())
    for entity in document["@graph"]:
        if entity["@type"] == "ControlAction":
            del entity["instrument"]
    # It is a link of the one in provenance/.
    (broken / "ro-crate-metadata.json").unlink()
    (broken / "ro-crate-metadata.json").write_text(json.dumps(document))
    done = validated(broken)
    assert done.returncode == 1
    assert "A ControlAction must reference a HowToStep" in done.stdout


def finished_epochs(run: Run) -> set[tuple[Path, str]]:
    """The epochs that the journal says are finished, each with its metrics, which tell the seconds that its training took."""
    return {(path, path.read_text()) for path in run.results.glob("checkpoints/.journal/*/metrics.json")}


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(finished, tmp_path, repository, jets):
    """SIGKILL of Snakemake at random moments, once and again: no finished epoch is trained twice."""
    run = Run(tmp_path, repository, jets)
    dice, seen = random.Random(1), set()
    for _ in range(3):
        process = subprocess.Popen(
            run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True
        )
        while finished_epochs(run) == seen and process.poll() is None:
            time.sleep(0.05)
        time.sleep(dice.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen <= finished_epochs(run)
        seen = finished_epochs(run)
    run.snakemake()
    assert seen <= finished_epochs(run)
    assert len(finished_epochs(run)) == 3
    for epoch in range(3):
        assert same(run.state(f"net_epoch-{epoch}"), finished.state(f"net_epoch-{epoch}"))
    assert (run.results / "best_epoch.json").read_text() == (finished.results / "best_epoch.json").read_text()


@pytest.mark.slow
def test_an_interrupted_run_continues_to_the_same_bits(finished, tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    process = subprocess.Popen(run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True)
    while not (run.results / "checkpoints/net_epoch-0_state.pt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1.5)
    # Ctrl-C reaches the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    run.snakemake()
    for epoch in range(3):
        assert same(run.state(f"net_epoch-{epoch}"), finished.state(f"net_epoch-{epoch}"))


@pytest.mark.slow
def test_epochs_of_one_job_are_those_of_several(finished, tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.config["training"]["epochs_per_job"] = 2
    run.snakemake("--until", "select_best_epoch")
    assert run.trained() == finished.trained()
    for epoch in range(3):
        assert same(run.state(f"net_epoch-{epoch}"), finished.state(f"net_epoch-{epoch}"))
    tasks = {path.stem for path in (run.results / "provenance/tasks/validate_epoch").iterdir()}
    assert tasks == {"epoch-0-to-1", "epoch-2"}
    assert (run.results / "best_epoch.json").read_bytes() == (finished.results / "best_epoch.json").read_bytes()


@pytest.mark.slow
def test_statistics_by_several_jobs_are_those_of_one(finished, tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.config["statistics"] = {"files_per_job": 1}
    made = "results/small/data_config.auto.yaml"
    run.snakemake("--until", "gather_fitting_inputs")
    staged = run.results / "staged/train/Hbb/HToBB.arrow"
    content = staged.read_bytes()
    staged.write_bytes(b"damaged")
    assert "HToBB.arrow: not a staged file" in run.snakemake("--keep-going", "--until", "statistics_part", code=1)
    staged.write_bytes(content)
    # The two parts that did not fail are kept, of the first pass of each.
    planned = run.planned(made)
    assert "stage_inputs" not in planned
    assert planned["statistics_part"] == (3 * 2 - 2) + (3 - 2)  # of standardize and of reweight
    run.snakemake(made)
    for name in ("standardization.json", "reweighting.json", "data_config.auto.yaml"):
        assert (run.results / name).read_bytes() == (finished.results / name).read_bytes()
    assert run.planned(made) == {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["columnar", "none"])
def test_an_input_file_that_has_changed_is_told_until_it_is_accepted(tmp_path, repository, jets, mode):
    run = Run(tmp_path, repository, jets)
    source = tmp_path / "QCD.root"
    source.write_bytes((jets / "train" / "ZJetsToNuNu.root").read_bytes())
    run.config["data"]["train"]["QCD"] = "QCD.root"
    run.config["staging"] = {"mode": mode}
    run.snakemake("--until", "gather_fitting_inputs")
    known = run.results / "staged/train/QCD/QCD.sha256"
    assert subprocess.run(["sha256sum", "--check", "--quiet", known], cwd=tmp_path).returncode == 0
    source.write_bytes((jets / "test" / "ZJetsToNuNu.root").read_bytes())
    for _ in range(2):
        output = run.snakemake("--until", "gather_fitting_inputs", code=1)
        (error,) = {line for line in output.splitlines() if line.startswith("ERROR: ")}
        assert "1 of 3 input files cannot be used: QCD.root: its SHA-256 is" in error
        assert f"delete {known.relative_to(tmp_path)} and run again" in error
    known.unlink()
    run.snakemake("--until", "gather_fitting_inputs")
    listed = json.loads((run.results / "staged/fitting.json").read_text())["files"]
    assert [file["entries"] for file in listed if file["group"] == "QCD"] == [100]


def test_the_command_of_a_job_runs_by_hand(finished, tmp_path):
    printed = finished.snakemake("--dry-run", "--printshellcmds", "--forcerun", "standardize")
    (command,) = {line.partition("command: ")[2] for line in printed.splitlines() if "-m weaver_tasks.standardize" in line}
    assert len(command) < 800
    words = shlex.split(command)
    options = {word: index for index, word in enumerate(words)}
    for option in ("--output", "--plot", "--record", "--log-file"):
        words[options[option] + 1] = str(tmp_path / Path(words[options[option] + 1]).name)
    done = subprocess.run(words, cwd=finished.folder, capture_output=True, text=True, env=package_path(finished.repository))
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "standardization.json").read_text())
    assert made == json.loads((finished.results / "standardization.json").read_text())
    record = json.loads((tmp_path / "standardize.json").read_text())
    assert record["settings"] == json.loads((finished.results / "provenance/tasks/standardize/standardize.json").read_text())["settings"]


def package_path(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))}


def test_what_shows_commands_writes_no_settings(tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    for options in (["--dry-run", "--printshellcmds"], ["--summary"], ["--detailed-summary"], ["--list-rules"]):
        run.snakemake(*options)
        assert not (tmp_path / "results").exists(), options


def test_settings_that_were_edited_are_not_used(tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.snakemake("--until", "gather_fitting_inputs")
    (file,) = (run.results / ".settings").glob("gather_fitting_inputs-*.json")
    text = file.read_text()
    file.write_text(text.replace("fail", "skip"))
    assert file.read_text() != text
    assert run.planned("--until", "gather_fitting_inputs") == {}
    run.snakemake("--until", "gather_fitting_inputs", "--forcerun", "gather_fitting_inputs")
    assert file.read_text() == text


def test_lint_finds_what_the_architecture_explains(finished):
    """Every rule runs in Snakemake's own environment; the log of the quick check is that of the run that it makes."""
    found = set()
    for line in finished.snakemake("--lint", code=1).splitlines():
        if line.startswith("Lints for "):
            place = line.removeprefix("Lints for ").partition(" (")[0]
        elif line.startswith("    * "):
            found.add((place, line.strip("* :")))
    environment = "Specify a conda environment or container for each rule."
    assert ("rule train_epoch", environment) in found
    assert {(place, title) for place, title in found if title != environment} == {("rule quick_check", "No log directive defined")}


def mistakes() -> dict:
    return {
        "wrong path": lambda run: run.config["data"]["train"].update(QCD="nowhere/x.root"),
        "empty glob": lambda run: run.config["data"]["train"].update(QCD="nowhere/*.root"),
        "misspelt key": lambda run: run.config["training"].update(epoch=3),
        "misspelt key of the data configuration": lambda run: run.data.update(selektion="jet_pt > 500"),
        "missing network": lambda run: run.config["network"].update(config="nowhere.py"),
        "missing branch": lambda run: run.data["new_variables"].update(part_pt="np.hypot(part_px, part_pyy)"),
        "truncated file": truncate,
        "no class matching": lambda run: run.data["labels"].update(value=["label_QCD", "label_Hbb", "label_Zqq"]),
    }


def truncate(run: Run) -> None:
    whole = Path(run.config["data"]["train"]["QCD"])
    cut = run.folder / "cut.root"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    run.config["data"]["train"]["QCD"] = str(cut)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("wrong path", ["data.train.QCD", "nowhere/x.root"]),
        ("empty glob", ["data.train.QCD", "nowhere/*.root", "no file"]),
        ("misspelt key", ["training.epoch", "Did you mean: epochs"]),
        ("misspelt key of the data configuration", ["data.yaml", "selektion", "selection"]),
        ("missing network", ["network.config", "nowhere.py"]),
        ("missing branch", ["part_pyy", "part_py", ".root"]),
        ("truncated file", ["cut.root"]),
        ("no class matching", ["label"]),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, repository, jets, mistake, words):
    run = Run(tmp_path, repository, jets)
    mistakes()[mistake](run)
    done = subprocess.run(run.command("--until", "gather_fitting_inputs"), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR: ")]
    assert errors, done.stderr
    for word in words:
        assert word in errors[0], errors[0]
    assert "Traceback" not in done.stderr
    assert not list(run.folder.glob("results/**/.*.arrow"))
    assert not (run.results / "staged" / "fitting.json").exists()
    # Snakemake's own report is not the last word.
    assert done.stderr.rstrip().splitlines()[-1] == errors[-1]


def test_a_mistake_in_the_configuration_is_one_line_and_exit_code_2(tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.config["training"]["epoch"] = 3
    done = subprocess.run(run.command("--quiet", "all"), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert told == ["ERROR: config.yaml: unknown key 'training.epoch'. Did you mean: epochs?"]


def test_a_trained_model_predicts_without_training(finished, tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.config["prediction"] = {"model": str(finished.results / "checkpoints/net_best_epoch_state.pt")}
    run.config["data"]["config"] = str(finished.results / "data_config.auto.yaml")
    assert run.planned()["stage_inputs"] == 3  # of the test: files to train on are not read
    run.config["data"]["train"] = {}
    run.snakemake()
    assert not (run.results / "checkpoints").exists()
    with uproot.open(run.results / "predictions/all.root") as ours, uproot.open(finished.results / "predictions/all.root") as theirs:
        for name in CLASSES:
            branch = f"score_label_{name}"
            assert abs(ours["Events"][branch].array(library="np") - theirs["Events"][branch].array(library="np")).max() < 1e-6


def test_strings_of_the_command_line_are_typed_and_files_merge(finished):
    (finished.folder / "more.yaml").write_text("training: {epochs: 4}\n")
    assert finished.planned("--configfile", str(finished.folder / "config.yaml"), str(finished.folder / "more.yaml"))["train_epoch"] == 1
    assert finished.planned("--config", "training={epochs: 5}")["train_epoch"] == 2


@pytest.mark.slow
def test_a_job_of_several_files_stages_only_what_is_new(tmp_path, repository, jets):
    run = Run(tmp_path, repository, jets)
    run.config["data"]["train"] = {"all": "jets/*.root"}
    run.config["staging"] = {"files_per_job": 2}
    (tmp_path / "jets").mkdir()
    for name in ("ZJetsToNuNu", "HToBB", "TTBarLep"):
        shutil.copy(jets / "train" / f"{name}.root", tmp_path / "jets")
    manifest = "results/small/staged/fitting.json"
    run.snakemake(manifest)
    before = json.loads((run.folder / manifest).read_text())
    # It comes first, and shifts all others.
    shutil.copy(jets / "test" / "HToBB.root", tmp_path / "jets" / "A.root")
    run.config["data"]["train"] = {"all": "jets/[A-Z]*.root"}
    run.snakemake(manifest)
    after = json.loads((run.folder / manifest).read_text())
    assert after["files"][1:] == before["files"]
    tasks = run.results / "provenance/tasks/stage_inputs/train/all"
    found = [json.loads((tasks / f"files-{job}.json").read_text())["staged_before"] for job in ("0-to-1", "2-to-3")]
    assert found == [["jets/HToBB.root"], ["jets/TTBarLep.root", "jets/ZJetsToNuNu.root"]]
    # A record that is gone is told, and made by the next run.
    (run.results / "staged/train/all/HToBB.json").unlink()
    output = run.snakemake(manifest, "--forcerun", "gather_fitting_inputs", code=1)
    assert "HToBB.json: is missing, though its file was staged (1 of 4). Run again to make it." in output
    run.snakemake(manifest)
    assert json.loads((run.folder / manifest).read_text()) == after
