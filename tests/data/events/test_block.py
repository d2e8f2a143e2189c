"""Which columns there are, and the transformation from branches to blocks, on real jets against plain numpy."""

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.configuration.uses import describe_use
from weaver_tasks.data.events.block import ABSENT, PackedColumn, StagingOptions, join, packed_columns, plain_columns
from weaver_tasks.data.events.reading import transformed_blocks
from weaver_tasks.data.events.transform import changes_each_epoch, plan_transformation
from weaver_tasks.settings.stage import stage_settings


@pytest.fixture
def configure(tmp_path):
    """A function that makes a data configuration of some sections."""

    def make(**sections):
        document = {
            "inputs": {"particles": {"length": 128, "vars": ["part_px", "part_pt"]}, "jets": {"length": None, "vars": ["jet_pt"]}},
            "new_variables": {"part_pt": "np.hypot(part_px, part_py)"},
            "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
            **sections,
        }
        path = tmp_path / "data.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}, sort_keys=False))
        return load_data_configuration(path)

    return make


@pytest.fixture(scope="session")
def hbb(jets):
    return str(jets / "train" / "HToBB.root")


@pytest.fixture(scope="session")
def tree(hbb):
    with uproot.open(hbb) as file:
        return file["tree"].arrays()


def block_of(configuration, path, *, split="train", options=None, columns=None, training=False, seed=(), first=0, last=None):
    transformation = plan_transformation(configuration, split, options or StagingOptions(), columns=columns)
    return join(list(transformed_blocks(path, transformation, first, last, training=training, seed=seed)))


# Which columns


def test_groups_that_share_variables_lie_together(configure):
    groups = {
        "a": {"length": 8, "vars": ["x", "y"]},
        "flat": {"length": None, "vars": ["p"]},
        "b": {"length": 8, "vars": ["z"]},
        "alone": {"length": 4, "vars": ["m"]},
        "c": {"length": 8, "vars": ["w", "z", "y"]},
        "also_flat": {"length": None, "vars": ["q", "p"]},
    }
    columns = packed_columns(configure(inputs=groups, new_variables=None))
    assert columns == (
        PackedColumn(name="a", variables=("x", "y", "z", "w"), jagged=True),
        PackedColumn(name="flat", variables=("p", "q"), jagged=False),
        PackedColumn(name="alone", variables=("m",), jagged=True),
    )


def test_plain_columns_of_each_split(configure):
    weights = {
        "use_precomputed_weights": False,
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [0, 1], "jet_eta": [0, 1]},
        "reweight_classes": ["label_QCD", "label_Hbb"],
        "reweight_basewgt": "jet_pt * 2",
    }
    configuration = configure(weights=weights, observers=["jet_phi"], bucketing={"var": "npart", "bins": [0, 50, 100]})
    extra = {"train": "jet_pt > 1", "val": "jet_pt > 2", "test": "jet_pt > 3"}
    options = StagingOptions(extra_selection=extra, fold_variable="event", validation_from_training=True)
    weighed = ("_label_", "jet_pt", "jet_eta", "label_QCD", "label_Hbb", "_basewgt_", "npart", "event")
    both = ("_extra_selection_train_", "_extra_selection_val_")
    assert plain_columns(configuration, "train", options) == (*weighed[:-1], *both, "event")
    assert plain_columns(configuration, "val", options) == weighed
    assert plain_columns(configuration, "test", options) == ("_label_", "jet_phi", "event")
    apart = StagingOptions(extra_selection=extra)
    assert plain_columns(configuration, "train", apart) == (*weighed[:-1], both[0])


def test_options_survive_the_list_of_inputs():
    given = {
        "data": {"extra_selection": {"train": "a > 1", "val": None, "test": ""}},
        "cross_validation": {"variable": "event", "folds": 5},
        "validation_from_training": True,
    }
    options = StagingOptions.from_settings(stage_settings(given))
    assert options == StagingOptions(extra_selection={"train": "a > 1"}, fold_variable="event", validation_from_training=True)
    assert StagingOptions.from_manifest({"options": options.as_dict()}) == options


# The transformation


def test_values_are_those_of_the_file(configure, hbb, tree):
    block = block_of(configure(selection="(jet_pt > 600) & (part_count > 30)", new_variables={
        "part_count": "ak.num(part_pt)", "part_pt": "np.hypot(part_px, part_py)",
    }), hbb)  # fmt: skip
    kept = ak.to_numpy((tree["jet_pt"] > 600) & (ak.num(tree["part_px"]) > 30))
    assert 0 < kept.sum() < len(kept)
    assert_array_equal(block.entries, np.flatnonzero(kept))
    particles = block.packed["particles"]
    assert_array_equal(np.diff(particles.offsets), ak.num(tree["part_px"])[kept])
    px, py = (ak.to_numpy(ak.flatten(tree[name][kept])) for name in ("part_px", "part_py"))
    assert_array_equal(particles.values, np.stack([px, np.hypot(px, py)], axis=1))
    assert_array_equal(block.packed["jets"].values[:, 0], ak.to_numpy(tree["jet_pt"][kept]))
    assert_array_equal(block.plain["_label_"], np.ones(kept.sum()))


def test_blocks_of_any_size_are_the_same(configure, hbb, monkeypatch):
    configuration = configure(selection="jet_pt > 600", monitor_variables=["jet_eta"])
    whole = block_of(configuration, hbb)
    monkeypatch.setattr("weaver_tasks.data.events.reading.STEP_BYTES", 5_000)
    transformation = plan_transformation(configuration, "train", StagingOptions())
    parts = list(transformed_blocks(hbb, transformation, 0, None))
    assert len(parts) > 3
    joined = join(parts)
    assert_array_equal(joined.entries, whole.entries)
    for name, packed in whole.packed.items():
        assert_array_equal(joined.packed[name].values, packed.values)
        assert_array_equal(joined.packed[name].offsets, packed.offsets)
    assert_array_equal(joined.plain["jet_eta"], whole.plain["jet_eta"])


def test_only_the_columns_asked_for(configure, hbb):
    block = block_of(configure(), hbb, columns=["jets", "_label_", "none such"])
    assert (set(block.packed), set(block.plain)) == ({"jets"}, {"_label_"})


def test_the_test_has_its_own_selection_and_observers(configure, hbb, tree):
    configuration = configure(selection="jet_pt > 600", test_time_selection="jet_pt > 700", observers=["jet_phi", "part_charge"])
    extra = StagingOptions(extra_selection={"test": "jet_eta > 0 # forward"})
    block = block_of(configuration, hbb, split="test", options=extra)
    kept = ak.to_numpy((tree["jet_pt"] > 700) & (tree["jet_eta"] > 0))
    assert_array_equal(block.entries, np.flatnonzero(kept))
    assert_array_equal(block.plain["jet_phi"], tree["jet_phi"][kept])
    assert block.plain["part_charge"].to_list() == tree["part_charge"][kept].to_list()


def test_extra_selections_of_training_files_are_columns(configure, hbb, tree):
    options = StagingOptions(extra_selection={"train": "jet_pt > 650", "val": "jet_eta > 0"}, validation_from_training=True)
    block = block_of(configure(selection="jet_pt > 600"), hbb, options=options)
    kept = tree[tree["jet_pt"] > 600]
    assert_array_equal(block.plain["_extra_selection_train_"], kept["jet_pt"] > 650)
    assert_array_equal(block.plain["_extra_selection_val_"], kept["jet_eta"] > 0)
    assert block.plain["_extra_selection_val_"].dtype == bool
    own = block_of(configure(selection="jet_pt > 600"), hbb, split="val", options=StagingOptions(extra_selection={"val": "jet_eta > 0"}))
    assert_array_equal(own.entries, np.flatnonzero((tree["jet_pt"] > 600) & (tree["jet_eta"] > 0)))


def test_custom_labels_weights_and_definitions_in_any_order(configure, hbb, tree):
    configuration = configure(
        labels={"type": "custom", "value": {"mass": "twice / 2", "origin": "_pad(part_charge, 3, value=-9)"}},
        new_variables={"part_pt": "np.hypot(part_px, part_py)", "twice": "once * 2", "once": "jet_sdmass"},
        weights={"use_precomputed_weights": True, "weight_branches": ["jet_tau1", "1 + jet_tau2"]},
    )
    block = block_of(configuration, hbb)
    assert_allclose(block.plain["mass"], tree["jet_sdmass"])
    assert block.plain["origin"].shape == (250, 3)
    assert_array_equal(block.plain["origin"][:, 0], tree["part_charge"][:, 0])
    assert_allclose(block.plain["_weight_"], tree["jet_tau1"] * (1 + tree["jet_tau2"]), rtol=1e-6)


def test_flat_and_regular_variables_in_padded_groups(configure, hbb, tree):
    groups = {"jets": {"length": 1, "vars": ["jet_pt", "jet_eta"]}, "leading": {"length": 4, "vars": ["first"]}}
    block = block_of(configure(inputs=groups, new_variables={"first": "_pad(part_px, 2)"}), hbb)
    assert_array_equal(block.packed["jets"].offsets, np.arange(251))
    assert_array_equal(block.packed["jets"].values[:, 1], tree["jet_eta"])
    assert_array_equal(np.diff(block.packed["leading"].offsets), np.full(250, 2))


def test_who_uses_a_missing_branch_is_told(configure):
    groups = {"x": {"length": 9, "vars": ["part_pt", "part_ptlog"]}}
    new = {"part_pt": "np.hypot(part_px, part_pyy)", "part_pt_log": "np.log(part_pt)"}
    weights = {"use_precomputed_weights": True, "weight_branches": ["jet_weight + 1"]}
    configuration = configure(inputs=groups, new_variables=new, weights=weights, selection="jet_weight > 0  # all")
    assert "data.yaml: new_variables.part_pt uses it." in describe_use(configuration, "part_pyy")
    assert describe_use(configuration, "part_ptlog").endswith("inputs.x uses it. Did you mean: part_pt_log, of new_variables?")
    assert describe_use(configuration, "jet_weight").endswith("data.yaml: selection, weights.weight_branches use it.")


def test_lists_of_different_lengths_in_one_group(configure, hbb, tree):
    groups = {"x": {"length": 9, "vars": ["part_px", "charged", "jet_pt", "odd"]}}
    new = {"charged": "part_py[part_charge != 0]", "odd": "part_d0val[:, :2] / 0"}
    packed = block_of(configure(inputs=groups, new_variables=new), hbb).packed["x"]
    assert_array_equal(np.diff(packed.offsets), ak.num(tree["part_px"]))
    absent = packed.values.view(np.uint32) == ABSENT
    charged = tree["part_py"][tree["part_charge"] != 0]
    assert_array_equal(packed.values[~absent[:, 1], 1], ak.flatten(charged))
    assert_array_equal(packed.values[~absent[:, 2], 2], tree["jet_pt"])
    assert absent[:, 1].sum() == len(packed.values) - len(ak.flatten(charged))
    # What is absent is not finite, but no bad value.
    with np.errstate(all="ignore"):
        wrong = (~np.isfinite(ak.to_numpy(ak.flatten(tree["part_d0val"][:, :2] / 0)))).sum()
    assert_array_equal(packed.not_finite(), [0, 0, 0, wrong])
    assert wrong > 0


def test_numbers_beyond_float32_become_infinite(configure, hbb):
    block = block_of(
        configure(inputs={"jets": {"length": None, "vars": ["huge"]}}, new_variables={"huge": "np.float64(jet_pt) * 1e300"}), hbb
    )
    assert np.isposinf(block.packed["jets"].values).all()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"inputs": {"x": {"length": None, "vars": ["part_px"]}}}, "'part_px' is of type var .* the group has no length"),
        ({"selection": "part_px > 0"}, "selection gives .* one truth value per event"),
        ({"labels": {"type": "simple", "value": ["label_Hbb", "part_px > 0"]}}, "labels.value: part_px > 0: gives .* one number per event"),
        (
            {"weights": {"reweight_method": "flat", "reweight_vars": {"part_px": [0, 1]}, "reweight_classes": ["label_Hbb"]}},
            "weights.part_px: gives var \\* float32 where one number per event is required",
        ),
        (
            {"weights": {"use_precomputed_weights": True, "weight_branches": ["part_px"]}},
            "weights.weight_branches: gives var \\* .* where one number per event is required",
        ),
        ({"new_variables": {"part_pt": "part_px[:7]"}}, "new_variables.part_pt .* gives 7 values for 250 events"),
        ({"new_variables": {"part_pt": "part_px[..., None]"}}, "'part_pt' is of type .*must be one number per particle"),
        ({"labels": {"type": "simple", "value": ["label_QCD", "label_Hcc"]}}, r"entry 0 belongs to no class .* and so do 249 more"),
        (
            {"labels": {"type": "simple", "value": ["label_Hbb", "also"]}, "new_variables": {"part_pt": "part_px", "also": "jet_pt > 900"}},
            r"belongs to 2 classes of labels.value \(label_Hbb, also\)",
        ),
    ],
)
def test_what_does_not_fit_is_told(configure, hbb, sections, message):
    with pytest.raises(DataConfigError, match=message):
        block_of(configure(**sections), hbb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jet_pt >", r"data\.extra_selection\.train: "),
        ("part_px > 0", r"data\.extra_selection gives .* one truth value per event"),
        ("jet_pt > part_px[:, :0].no_such", r"data\.extra_selection"),
    ],
)
def test_mistakes_in_extra_selections_name_their_key(configure, hbb, text, message):
    with pytest.raises(DataConfigError, match=message):
        block_of(configure(), hbb, options=StagingOptions(extra_selection={"train": text}))


def test_labels_matter_only_for_events_that_are_used(configure, hbb):
    labels = {"type": "simple", "value": ["early", "label_Hbb & (jet_pt < 600)"]}
    configuration = configure(labels=labels, new_variables={"part_pt": "part_px", "early": "jet_pt > 800"})
    block = block_of(configuration, hbb, split="test")
    assert set(block.plain["_label_"]) == {-1, 0, 1}
    with pytest.raises(DataConfigError, match="belongs to no class"):
        block_of(configuration, hbb)
    options = StagingOptions(extra_selection={"train": "(jet_pt > 800) | (jet_pt < 600)"})
    used = block_of(configuration, hbb, options=options)
    assert (used.plain["_label_"] == -1).any()
    assert (used.plain["_label_"] >= 0)[used.plain["_extra_selection_train_"]].all()


def test_expressions_that_change_each_epoch(configure, hbb):
    configuration = configure(
        inputs={"jets": {"length": None, "vars": ["smeared", "jet_eta"]}},
        new_variables={"noise": "np.random.normal(0, 1, len(jet_pt))", "smeared": "jet_pt + noise * aux_training_"},
    )
    options = StagingOptions()
    assert changes_each_epoch(configuration, "train", options) == {"noise", "smeared"}
    assert changes_each_epoch(configure(), "train", options) == set()
    values = [
        block_of(configuration, hbb, training=training, seed=seed).packed["jets"].values
        for training, seed in ((True, (1,)), (True, (1,)), (True, (2,)), (False, (1,)))
    ]
    assert_array_equal(values[0], values[1])
    assert (values[0][:, 0] != values[2][:, 0]).all()
    assert_array_equal(values[0][:, 1], values[3][:, 1])
    with uproot.open(hbb) as file:
        assert_array_equal(values[3][:, 0], file["tree"]["jet_pt"].array())


def test_random_numbers_do_not_depend_on_what_else_is_read(configure, hbb, monkeypatch):
    configuration = configure(
        inputs={"jets": {"length": None, "vars": ["noise"]}, "particles": {"length": 8, "vars": ["part_px", "part_py"]}},
        new_variables={"noise": "np.random.normal(0, 1, len(jet_pt))"},
    )
    monkeypatch.setattr("weaver_tasks.data.events.reading.STEP_BYTES", 5_000)
    monkeypatch.setattr("weaver_tasks.data.events.reading.RANDOM_STEP", 60)
    values = [block_of(configuration, hbb, columns=columns, seed=(4,)).packed["jets"].values for columns in (None, ["jets"])]
    assert_array_equal(*values)
    assert len(np.unique(values[0])) == 250
