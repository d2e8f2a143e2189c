"""The lineage of a run, read back by the RO-Crate library."""

import json
import shutil

import pytest
from rocrate.rocrate import ROCrate

import result_run
from weaver_tasks import provenance, summary
from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import ResultError

SETTINGS = {"run": "demo", "seed": 1, "training": {"lr": 0.02, "scheduler": {"name": "none"}}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = result_run.ResultRun(tmp_path_factory.mktemp("provenance") / "demo")
    run.predict("TTBar")
    run.export()
    gather(run)
    return run


def gather(run):
    output = run.folder / "provenance" / "ro-crate-metadata.json"
    provenance.main([*options(run.folder), "--settings", json.dumps(SETTINGS)])
    return output


def options(folder):
    output = folder / "provenance" / "ro-crate-metadata.json"
    return ["--run-dir", str(folder), "--workflow", str(result_run.REPOSITORY / "workflow"), "--output", str(output)]


def test_crate_tells_what_made_each_file(run):
    crate = ROCrate(run.folder)
    assert crate.name == "weaver-tasks run demo"
    model = crate.get("export/model.onnx")
    assert model["sha256"] == file_checksum(run.folder / "export" / "model.onnx")
    makers = [entity for entity in crate.get_entities() if entity.type == "CreateAction" and model in (entity.get("result") or [])]
    task = next(entity for entity in makers if entity.id.startswith("#task"))
    assert task["instrument"]["name"] == "weaver_tasks.export_onnx"
    assert crate.get("net_best_epoch_state.pt") in task["object"]
    assert task["startTime"] < task["endTime"]
    assert "export_onnx" in task["name"]
    environment = {fact["name"]: fact["value"] for fact in task["environment"]}
    assert environment["python"].startswith("3.")
    assert environment["device"] == "cpu"
    assert environment.keys() >= {"torch", "host", "processor", "code", "modules"}
    settings = {fact["name"]: fact["value"] for fact in task["object"] if fact.type == "PropertyValue"}
    assert settings["export.opset"] == "15"


def test_crate_declares_its_profiles_and_its_workflow(run):
    crate = ROCrate(run.folder)
    assert "https://w3id.org/ro/wfrun/provenance/0.5" in [profile.id for profile in crate.root_dataset["conformsTo"]]
    assert crate.mainEntity.id == "provenance/workflow/Snakefile"
    assert (run.folder / crate.mainEntity.id).read_text() == (result_run.REPOSITORY / "workflow" / "Snakefile").read_text()
    assert crate.mainEntity["programmingLanguage"]["name"] == "Snakemake"
    parameters = {parameter["name"]: parameter for parameter in crate.mainEntity["input"]}
    assert parameters["training.scheduler.name"]["workExample"]["value"] == "none"
    assert parameters["training.lr"]["workExample"]["value"] == "0.02"
    assert parameters["network.py"]["workExample"].id == "network.py"
    assert crate.get("network.py")["exampleOfWork"]
    assert {step["name"] for step in crate.mainEntity["step"]} == {"predict", "export_onnx"}
    whole = crate.get("#run")
    assert crate.get("predictions/TTBar.root") in whole["result"]
    assert crate.get("net_best_epoch_state.pt") in whole["object"]
    assert crate.get("predictions/TTBar.root") not in whole["object"]
    assert crate.get("provenance/config.json")["description"] == "The resolved configuration of the run."


def test_every_reference_has_its_entity(run):
    document = json.loads((run.folder / "provenance" / "ro-crate-metadata.json").read_text())
    known = {entity["@id"] for entity in document["@graph"]}
    assert len(known) == len(document["@graph"])

    def references(value):
        if isinstance(value, dict):
            if set(value) == {"@id"}:
                yield value["@id"]
            for part in value.values():
                yield from references(part)
        elif isinstance(value, list):
            for part in value:
                yield from references(part)

    dangling = {name for entity in document["@graph"] for name in references(entity)} - known
    assert all(name.startswith(("https://w3id.org/", "https://bioschemas.org/profiles/")) for name in dangling)
    files = [entity for entity in document["@graph"] if entity["@type"] == "File"]
    assert all(entity["@id"].startswith("file:") or (run.folder / entity["@id"]).exists() for entity in files)


def test_same_records_give_the_same_crate(run):
    before = (run.folder / "ro-crate-metadata.json").read_bytes()
    assert gather(run).read_bytes() == before


def test_environments_are_told_once_with_the_stages_that_ran_in_them(run):
    document = json.loads((run.folder / "provenance" / "environments.json").read_text())
    assert len(document["code_versions"]) == 1
    assert [environment["tasks"] for environment in document["environments"]] == [{"export_onnx": 1, "predict": 1}]
    assert document["environments"][0]["packages"]["torch"] != "not installed"


def test_what_was_removed_is_told_and_no_part_of_the_crate(run, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(run.folder, folder)
    for path in (folder / "provenance" / "tasks").iterdir():
        path.write_text(path.read_text().replace(str(run.folder), str(folder)))
    (folder / "predictions" / "TTBar.root").unlink()
    provenance.main([*options(folder), "--settings", json.dumps(SETTINGS)])
    crate = ROCrate(folder)
    gone = crate.get("#removed/predictions/TTBar.root")
    assert "removed since" in gone["description"]
    assert gone not in crate.root_dataset["hasPart"]
    assert gone in crate.get("#run")["result"]


def test_mixture_of_versions_is_told(tmp_path, run, caplog):
    folder = tmp_path / "run" / "provenance" / "tasks"
    folder.mkdir(parents=True)
    records = sorted((run.folder / "provenance" / "tasks").iterdir())
    for number, path in enumerate(records):
        record = json.loads(path.read_text())
        record["code"]["package"] = f"digest{number}"
        (folder / path.name).write_text(json.dumps(record))
    log = tmp_path / "log"
    provenance.main([*options(tmp_path / "run"), "--settings", json.dumps(SETTINGS), "--log-file", str(log)])
    assert f"made by {len(records)} versions of the code" in log.read_text()
    assert f"made by {len(records)} versions" in ROCrate(tmp_path / "run").description


def test_missing_and_damaged_records_are_told(tmp_path):
    with pytest.raises(ResultError, match="no task records"):
        provenance.read_records(tmp_path)
    (tmp_path / "a.json").write_text('{"stage": "predict"}')
    with pytest.raises(ResultError, match=r"a\.json: not a task record \('digest' is missing\)"):
        provenance.read_records(tmp_path)


def test_summary_wants_a_finished_run(run, capsys):
    with pytest.raises(ResultError, match=r"evaluation/metrics\.json is missing"):
        summary.main([str(run.folder)])
    with pytest.raises(ResultError, match=r"no such run\. There are demo\."):
        summary.main([str(run.folder.parent / "other")])
    metrics = {"task": "classification", "accuracy": 0.5678, "accuracy_error": 0.01, "auc": 0.91, "entries": 1000}
    (run.folder / "evaluation").mkdir()
    (run.folder / "evaluation" / "metrics.json").write_text(
        json.dumps({**metrics, "best_epoch": {"epoch": 7, "metric": "accuracy", "value": 0.6}})
    )
    summary.main([str(run.folder)])
    shown = capsys.readouterr().out
    assert "versions of the code" not in shown
    for expected in ("0.5678 ± 0.0100", "0.9100", "7 (validation accuracy 0.6000)", "export/model.onnx", "ONNX against PyTorch"):
        assert expected in shown.replace("\n", "")
