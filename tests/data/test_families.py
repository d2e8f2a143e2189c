"""Data configurations of each family that users have, through all stages of the data, against weaver-core on the same files."""

import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from weaver_tasks import reweight, stage_inputs, standardize
from weaver_tasks.base.files import read_json
from weaver_tasks.data.configuration import fingerprints, load_data_configuration
from weaver_tasks.data.loading.collate import InputAssembler, PackedPieces
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.statistics.weights import event_weights

EVENTS = 1200
AK4_CLASSES = {  # hadrons with b and c, hadron and parton flavor, momentum of the generated jet
    "label_b": (1, 0, 5, 5, 30), "label_bb": (2, 0, 5, 5, 30), "label_c": (0, 1, 4, 4, 30),
    "label_uds": (0, 0, 0, 1, 30), "label_g": (0, 0, 0, 21, 30), "label_pu": (0, 0, 0, 1, -1),
}  # fmt: skip


def made_up(branches, generator):
    """Branches of jets that do not exist: lists for particles and vertices, numbers for jets, each jet of one class."""
    counts = {prefix: generator.integers(0, most, EVENTS) for prefix, most in (("pfcand_", 70), ("sv_", 8), ("part_", 150))}
    classes = np.array(list(AK4_CLASSES.values()))[generator.integers(0, len(AK4_CLASSES), EVENTS)]
    truth = ["jet_nBHadrons", "jet_nCHadrons", "jet_hadronFlavour", "jet_partonFlavour", "jet_genjet_pt"]
    table = {}
    for name in branches:
        prefix = next((prefix for prefix in counts if name.startswith(prefix)), None)
        size = counts[prefix].sum() if prefix else EVENTS
        if name in truth:
            values = classes[:, truth.index(name)].astype("int32" if name != "jet_genjet_pt" else "float32")
        elif any(word in name for word in ("label", "event_no", "charge", "_is", "ntracks", "n_parts")):
            values = generator.integers(0, 2, size).astype("int32")
        elif "eta" in name or "phi" in name or "_d" in name:
            values = generator.normal(0, 0.8, size).astype("float32")
        else:
            values = generator.lognormal(3.5 if name.startswith("jet") else 1, 0.5, size).astype("float32")
        table[name] = ak.unflatten(values, counts[prefix]) if prefix else values
    return table


@pytest.fixture
def family(request, tmp_path, repository, jets):
    """(data configuration, training files) of a shipped configuration; its vertices and particles differ in number."""
    name, automatic = request.param
    path = tmp_path / "data.yaml"
    path.write_text((repository / "config" / "data" / f"{name}.yaml").read_text())
    if automatic:
        document = yaml.safe_load(path.read_text())
        document["preprocess"] = {"method": "auto", "data_fraction": 0.7}
        for group in document["inputs"].values():
            group["vars"] = [v if v[1] is None else v[0] for v in group["vars"]]
    path = tmp_path / "data.yaml"
    path.write_text(
        yaml.safe_dump(document, sort_keys=False) if automatic else (repository / "config" / "data" / f"{name}.yaml").read_text()
    )
    if name.startswith("jetclass"):
        return path, sorted((jets / "train").glob("*.root"))
    configuration, generator = load_data_configuration(path), np.random.default_rng(4)
    branches = {*fingerprints.staging(configuration, "train")["branches"], *fingerprints.staging(configuration, "test")["branches"]}
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    for file in files:
        columns = made_up(branches, generator)
        with uproot.recreate(file) as made:
            tree = made.mktree("tree", {key: ak.type(ak.Array(value)).content for key, value in columns.items()})
            tree.extend(columns)
    return path, files


def stages(folder, data_config, files, split):
    """Run the stages as their rules do: -> (auto configuration, records)."""
    records = [folder / split / f"{file.stem}.json" for file in files]
    options = ["--data-config", data_config, "--split", split, "--group", "all", "--sources", *files, "--records", *records]
    options += ["--staged", *(folder / split / f"{file.stem}.arrow" for file in files)]
    stage_inputs.main([str(option) for option in options])
    inputs, auto, standardization = folder / f"{split}.json", folder / "auto.yaml", folder / "standardization.json"
    stage_inputs.main(["--gather", *map(str, records), "--output", str(inputs)])
    if split == "train":
        common = ["--data-config", str(data_config), "--inputs", str(inputs)]
        standardize.main([*common, "--output", str(standardization)])
        reweight.main([*common, "--standardization", str(standardization), "--output", str(folder / "r.json"), "--auto-config", str(auto)])
    return auto, read_json(inputs)["files"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        *(("jetclass_full", True), ("jetclass_kin", False), ("jetclass_kinpid", True)),
        *(("quark_gluon", True), ("top_landscape", False), ("ak4_flavor", False), ("ak4_flavor", True)),
    ],
    indirect=True,
    ids=lambda family: f"{family[0]}-{'auto' if family[1] else 'manual'}",
)
def test_a_family_gives_what_weaver_gives(family, tmp_path, monkeypatch):
    weaver = pytest.importorskip("weaver.utils.data.preprocess")
    from weaver.utils.data.config import DataConfig
    from weaver.utils.data.fileio import _read_files
    from weaver.utils.dataset import _finalize_inputs

    monkeypatch.setattr("time.sleep", lambda _: None)
    data_config, files = family
    paths = [str(file) for file in files]
    auto, _ = stages(tmp_path, data_config, files, "train")
    ours = load_data_configuration(auto)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        theirs = DataConfig.load(str(data_config))
        if theirs._missing_standardization_info:
            theirs = weaver.AutoStandardizer(paths, theirs).produce()
        if theirs.weight_name and not theirs.use_precomputed_weights:
            theirs = weaver.WeightMaker(paths, theirs).produce()
    for name, facts in theirs.preprocess_params.items():
        assert ours.preprocess_params[name]["center"] == (None if facts["center"] is None else pytest.approx(facts["center"], rel=1e-5))
        assert ours.preprocess_params[name]["scale"] == pytest.approx(facts["scale"], rel=1e-5)
    if ours.weights:
        for name in ours.weights.classes:
            assert_allclose(ours.weights.histograms[name], theirs.reweight_hists[name], rtol=1e-5, atol=1e-8)

    theirs = DataConfig.load(str(auto))
    for split in ("train", "test"):
        _, records = stages(tmp_path, auto, files, split)
        blocks = [open_source(record, ours).read(0, record["entries"]) for record in records]
        training = split == "train"
        with np.errstate(all="ignore"):
            table = _read_files(paths, theirs.train_load_branches | theirs.test_load_branches)
            table["aux_training_"] = training
            table = weaver._apply_selection(table, theirs.selection if training else theirs.test_time_selection, funcs=theirs.var_funcs)
            table = weaver._build_new_variables(table, theirs.train_var_funcs if training else theirs.test_var_funcs)
            expected = _finalize_inputs(table, theirs)
            weights = weaver._build_weights(table, theirs) if training and ours.weights else None
        assert sum(map(len, blocks)) == len(table) > 100
        assembler = InputAssembler(ours, batch_size=len(table))
        rows = np.concatenate([np.arange(len(block)) for block in blocks])
        pieces = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
        columns = {name: PackedPieces(blocks, name) for name in assembler.columns}
        for name, array in assembler.assemble([(columns, pieces, rows)]).items():
            assert_allclose(array, expected[f"_{name}"], rtol=1e-6, atol=1e-6, err_msg=name)
        plain = {name: np.concatenate([np.asarray(block.plain[name]) for block in blocks]) for name in blocks[0].plain}
        assert_array_equal(plain["_label_"], expected["_label_"])
        if weights is not None:
            assert_allclose(event_weights(ours, plain), weights, rtol=1e-6, atol=1e-9)
            assert (weights > 0).any()
        for name in ours.observers if not training else ():
            assert_array_equal(plain[name], ak.to_numpy(expected[name]))
