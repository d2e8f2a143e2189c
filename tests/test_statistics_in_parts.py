"""Standardization and reweighting shared among jobs: to the last bit what one job finds, and parts that do not fit are refused."""

import json
import shutil

import pytest
import yaml

from weaver_tasks import reweight, stage_inputs, standardize
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.plan import Plan
from weaver_tasks.settings.reading import resolve_config

CLASSES = {"label_QCD": "ZJetsToNuNu", "label_Hbb": "HToBB", "label_Tbl": "TTBarLep"}
DOCUMENT = {
    "selection": "jet_sdmass > 20",
    "preprocess": {"method": "auto", "data_fraction": 0.7},
    "inputs": {"particles": {"length": 40, "vars": ["part_deta", "part_dphi"]}, "jets": {"length": None, "vars": ["jet_pt", "jet_energy"]}},
    "labels": {"type": "simple", "value": list(CLASSES)},
    "weights": {
        "use_precomputed_weights": False,
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [500, 560, 640, 800], "jet_sdmass": [30, 80, 130, 200]},
        "reweight_classes": list(CLASSES),
        "reweight_basewgt": "np.exp(-jet_pt / 170) * (1.1 + np.sin(jet_sdmass))",
    },
}


class Stages:
    """The stages over three staged files, in a folder. fold: of cross-validation."""

    def __init__(self, folder, jets, document=DOCUMENT):
        self.folder = folder
        self.data_config = folder / "data.yaml"
        self.data_config.write_text(yaml.safe_dump(document, sort_keys=False))
        self.inputs = folder / "inputs.json"
        names = list(CLASSES.values())
        records = [folder / f"{name}.json" for name in names]
        sources, staged = [jets / "train" / f"{name}.root" for name in names], [folder / f"{name}.arrow" for name in names]
        options = ["--split", "train", "--group", "all", "--records", *records, "--sources", *sources, "--staged", *staged]
        self.run(stage_inputs, *options)
        stage_inputs.main(["--gather", *map(str, records), "--output", str(self.inputs)])

    def run(self, module, *options):
        module.main(["--data-config", str(self.data_config), *map(str, options)])

    def results(self, folder, after=()):
        """The bytes of what both stages write. after: stage -> the sums of its passes."""
        folder.mkdir()
        after = dict(after)
        outputs = [folder / name for name in ("standardization.json", "reweighting.json", "auto.yaml")]
        self.run(standardize, "--inputs", self.inputs, "--output", outputs[0], "--after", *after.get(standardize, []))
        self.run(reweight, "--inputs", self.inputs, "--after", *after.get(reweight, []), "--standardization", outputs[0],
                 "--output", outputs[1], "--auto-config", outputs[2])  # fmt: skip
        return [output.read_bytes() for output in outputs]

    def in_parts(self, module, parts, passes):
        """The gathered sums of the passes, each made in parts."""
        gathered = []
        for index in range(passes):
            folder = self.folder / module.__name__ / f"pass-{index}"
            common = ["--inputs", self.inputs, "--after", *gathered]
            for part, (first, last) in enumerate(parts):
                self.run(module, *common, "--part", first, last, "--sums", folder / f"{part}.npz")
            gathered.append(folder.with_suffix(".npz"))
            self.run(module, *common, "--gather", folder, len(parts), "--sums", gathered[-1])
        return gathered


@pytest.fixture(scope="module")
def stages(tmp_path_factory, jets):
    return Stages(tmp_path_factory.mktemp("stages"), jets)


def test_parts_give_what_one_job_gives(stages, tmp_path):
    whole = stages.results(tmp_path / "whole")
    for parts in ([(0, 1), (1, 2), (2, 3)], [(0, 2), (2, 3)]):
        after = {standardize: stages.in_parts(standardize, parts, 2), reweight: stages.in_parts(reweight, parts, 3)}
        assert stages.results(tmp_path / f"{len(parts)} parts", after) == whole
    # What is not given is made.
    assert stages.results(tmp_path / "some", {stage: sums[:1] for stage, sums in after.items()}) == whole


def test_a_bad_file_among_the_parts_is_left_out(stages, tmp_path, jets):
    own = Stages(tmp_path, jets)
    manifest = json.loads(own.inputs.read_text())
    manifest["files"][1] |= {"bad": "cut", "staged": None}
    own.inputs.write_text(json.dumps(manifest))
    # The class of the bad file has no events left.
    found = own.in_parts(standardize, [(0, 1), (1, 2), (2, 3)], 2)
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    own.run(standardize, "--inputs", own.inputs, "--output", whole)
    own.run(standardize, "--inputs", own.inputs, "--after", *found, "--output", parts)
    assert parts.read_bytes() == whole.read_bytes()


def test_parts_that_do_not_fit_are_refused(stages, tmp_path):
    def gather(*options):
        stages.run(standardize, "--inputs", stages.inputs, *options, "--sums", tmp_path / "all.npz")

    def part(name, first, last, *options):
        stages.run(standardize, "--inputs", stages.inputs, "--part", first, last, *options, "--sums", tmp_path / f"{name}.npz")

    part(0, 0, 1)
    with pytest.raises(WeaverTasksError, match=r"0\.npz: ends at training file 1 of 3"):
        gather("--gather", tmp_path, 1)
    with pytest.raises(WeaverTasksError, match=r"1\.npz: no such file"):
        gather("--gather", tmp_path, 2)
    part(1, 2, 3)
    with pytest.raises(WeaverTasksError, match=r"1\.npz: holds pass 0 over training files 2 to 3"):
        gather("--gather", tmp_path, 2)
    part(1, 1, 3)
    gather("--gather", tmp_path, 2)
    whole = (tmp_path / "all.npz").read_bytes()
    (tmp_path / "1.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeaverTasksError, match=r"1\.npz: damaged .* Delete it"):
        gather("--gather", tmp_path, 2)
    # Sums of other inputs.
    manifest = json.loads(stages.inputs.read_text())
    shutil.copy(stages.inputs, tmp_path / "kept.json")
    try:
        stages.inputs.write_text(json.dumps({**manifest, "digest": "other"}))
        with pytest.raises(WeaverTasksError, match=r"0\.npz: holds pass 0 over training files 0 to 1; others are needed"):
            gather("--gather", tmp_path, 2)
    finally:
        shutil.copy(tmp_path / "kept.json", stages.inputs)
    after = ["--after", tmp_path / "all.npz", tmp_path / "all.npz"]
    with pytest.raises(WeaverTasksError, match=r"all\.npz: holds pass 0"):
        part(0, 0, 1, *after)


@pytest.mark.parametrize("options", [["--sums", "x.npz"], ["--part", "0", "1"], []], ids=["no part", "no sums", "no output"])
def test_options_that_do_not_go_together_are_told(stages, options, capsys):
    with pytest.raises(SystemExit):
        stages.run(standardize, "--inputs", stages.inputs, *options)
    assert ("--sums wants one of --part and --gather" if options else "wanted, unless --sums is given: --output") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "remake", "expected"),
    [
        ({}, True, {"standardize": 2, "reweight": 3}),
        ({"weights": None, "preprocess": {"method": "manual"}}, True, {"standardize": 1, "reweight": 0}),
        ({"weights": {"use_precomputed_weights": True, "weight_branches": ["jet_pt"]}}, True, {"standardize": 2, "reweight": 0}),
        ({"weights": {k: v for k, v in DOCUMENT["weights"].items() if k != "reweight_basewgt"}}, True, {"standardize": 2, "reweight": 1}),
        ({"weights": {**DOCUMENT["weights"], "reweight_hists": {c: [[1, 1, 1]] * 3 for c in CLASSES}}}, False, {"reweight": 1}),
    ],
    ids=["base weights", "manual", "precomputed", "no base weights", "histograms kept"],
)
def test_the_plan_knows_the_passes(tmp_path, jets, sections, remake, expected):
    stages = Stages(tmp_path, jets, {**DOCUMENT, **sections})
    config = {"run": "r", "data": {"config": str(stages.data_config), "train": ["x"]}, "network": {"config": "n.py"}}
    plan = Plan(config=resolve_config({**config, "sampling": {"remake_weights": remake}}), where="c.yaml")
    for stage, passes in expected.items():
        assert plan.passes(stage) == passes
        settings = json.dumps({"sampling": {"remake_weights": remake}})
        module = {"standardize": standardize, "reweight": reweight}[stage]
        gathered: list = []
        for index in range(passes):
            target = tmp_path / f"{stage}-{index}.npz"
            stages.run(module, "--inputs", stages.inputs, "--settings", settings, "--after", *gathered, "--part", 0, 3, "--sums", target)
            gathered.append(target)
        options = ["--settings", settings, "--after", *gathered, "--part", 0, 3, "--sums", tmp_path / "more.npz"]
        with pytest.raises(WeaverTasksError, match="does not exist"):
            stages.run(module, "--inputs", stages.inputs, *options)
