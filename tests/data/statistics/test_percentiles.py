"""Exact percentiles, against numpy and against weaver's own standardization."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import packed_columns
from weaver_tasks.data.statistics.percentiles import RefinedCounts, ValueCounts, coarse_histogram, leading_entries
from weaver_tasks.data.statistics.standardization import describe_variables

GENERATOR = np.random.default_rng(5)


def percentiles(parts, wanted=(16.0, 50.0, 84.0)):
    """Of (P, k) arrays: each is counted alone, and the counts are merged."""
    names = tuple(f"v{place}" for place in range(parts[0].shape[1]))
    coarse = ValueCounts(names)
    for part in parts:
        own = ValueCounts(names)
        own.add(part)
        coarse.add_arrays(own.arrays())
    refined = RefinedCounts(coarse, wanted)
    for part in parts:
        own = RefinedCounts(coarse, wanted)
        own.add(part)
        refined.add_arrays(own.arrays())
    return coarse, np.array(refined.percentiles())


@pytest.mark.parametrize(
    "values",
    [
        GENERATOR.normal(size=10_001),
        GENERATOR.normal(size=10_000) * 1e-3 + 500,
        -np.exp(GENERATOR.normal(size=4_321) * 20),
        GENERATOR.integers(-3, 4, 2_000),
        np.array([7.25]),
        np.array([-1.0, 1.0]),
        np.zeros(100),
        np.array([-0.0, 0.0, -1e-45, 1e-45, 3e38, -3e38]),
    ],
    ids=["normal", "narrow", "negative", "integers", "one", "two", "zeros", "extremes"],
)
def test_percentiles_are_numpys(values):
    values = values.astype(np.float32)
    _, found = percentiles([part[:, None] for part in np.array_split(values, 3) if len(part)], (0, 2.5, 16, 50, 84, 100))
    assert_allclose(found[0], np.percentile(values.astype(np.float64), [0, 2.5, 16, 50, 84, 100]), rtol=1e-15, atol=0)


def test_variables_are_counted_apart_and_nan_as_zero():
    values = GENERATOR.normal(size=(5_000, 3)).astype(np.float32)
    values[::7, 1] = np.nan
    values[::11, 2] = np.inf
    values[:5, 2] = -np.inf
    coarse, found = percentiles([values[:123], values[123:]])
    expected = np.percentile(np.where(np.isnan(values), 0, values).astype(np.float64), [16, 50, 84], axis=0).T
    assert_allclose(found, expected, rtol=1e-15)
    assert_array_equal(coarse.not_a_number, [0, np.isnan(values[:, 1]).sum(), 0])
    assert_array_equal(coarse.infinite, [0, 0, np.isinf(values[:, 2]).sum()])
    assert_array_equal(coarse.total, [5_000] * 3)


def test_no_values_have_no_percentiles():
    coarse = ValueCounts(("a", "b"))
    assert RefinedCounts(coarse).percentiles() == [[], []]


def test_the_histogram_for_the_plot_holds_the_values():
    values = GENERATOR.normal(size=20_000).astype(np.float32) * 50 + 700
    coarse = ValueCounts(("pt",))
    coarse.add(values[:, None])
    edges, contents = coarse_histogram(coarse.counts[0], bins=20)
    # The bins of the counts are up to 4 wide here, those of the histogram 13.
    expected, _ = np.histogram(values, edges)
    assert_allclose(contents, expected, atol=0.1 * expected.max())
    assert 0.985 * len(values) < contents.sum() <= len(values)


def test_the_histogram_of_one_value_and_of_none():
    coarse = ValueCounts(("mask", "nothing"))
    coarse.add(np.array([[1, np.inf]] * 9, dtype=np.float32))
    edges, contents = coarse_histogram(coarse.counts[0])
    assert edges[0] < 1 < edges[-1]
    assert_array_equal(contents, [9])
    assert coarse_histogram(coarse.counts[1])[1].sum() == 0


@pytest.mark.parametrize(("entries", "fraction", "leading"), [(250, 0.1, 25), (3, 0.1, 1), (999, 0.5, 499), (10, 1.0, 10), (0, 0.5, 0)])
def test_the_leading_entries_are_weavers(entries, fraction, leading):
    assert leading_entries(entries, fraction) == leading


CONFIGURATION = """
selection: jet_pt > 520
new_variables:
  part_pt_log: np.log(np.hypot(part_px, part_py))
  odd: np.where(part_charge > 0, np.nan, part_deta)
preprocess: {method: auto, data_fraction: 0.4}
inputs:
  features: {length: 64, vars: [part_pt_log, part_d0val, part_isPhoton, odd, [part_dzval, 0, 1]]}
  jets: {length: null, vars: [jet_pt, jet_sdmass]}
labels: {type: simple, value: [label_Hbb, label_Tbqq, label_QCD]}
"""


def test_center_and_scale_are_weavers(tmp_path, jets, staged, monkeypatch):
    preprocess = pytest.importorskip("weaver.utils.data.preprocess")
    from weaver.utils.data.config import DataConfig

    monkeypatch.setattr("time.sleep", lambda _: None)
    path = tmp_path / "data.yaml"
    path.write_text(CONFIGURATION)
    files = [jets / "train" / f"{name}.root" for name in ("HToBB", "TTBar", "ZJetsToNuNu")]
    theirs = preprocess.AutoStandardizer([str(file) for file in files], DataConfig.load(str(path))).produce().preprocess_params

    configuration, sources = load_data_configuration(path), staged(path, files)
    columns = packed_columns(configuration)
    coarse = {column.name: ValueCounts(column.variables) for column in columns}

    def blocks():
        for source in sources:
            yield source.read(0, leading_entries(source.entries, 0.4))

    for block in blocks():
        for name, counts in coarse.items():
            counts.add(block.packed[name].own_values())
    refined = {name: RefinedCounts(counts) for name, counts in coarse.items()}
    for block in blocks():
        for name, counts in refined.items():
            counts.add(block.packed[name].own_values())
    ours = describe_variables(configuration, coarse, refined)
    assert set(ours) == {"part_pt_log", "part_d0val", "part_isPhoton", "odd", "part_dzval", "jet_pt", "jet_sdmass"}
    for name, facts in ours.items():
        assert facts["center"] == pytest.approx(theirs[name]["center"], rel=1e-6, abs=1e-7), name
        assert facts["scale"] == pytest.approx(theirs[name]["scale"], rel=1e-6), name
    assert ours["odd"]["not_a_number"] > 0
    assert ours["part_isPhoton"]["scale"] == 1


def configuration_of(tmp_path: Path, variables: str):
    path = tmp_path / "data.yaml"
    labels = "{type: simple, value: [a, b]}"
    path.write_text(f"preprocess: {{method: auto}}\ninputs: {{x: {{length: 4, vars: {variables}}}}}\nlabels: {labels}\n")
    return load_data_configuration(path)


def describe(configuration, values):
    coarse = ValueCounts(packed_columns(configuration)[0].variables)
    coarse.add(values)
    refined = RefinedCounts(coarse)
    refined.add(values)
    return describe_variables(configuration, {"x": coarse}, {"x": refined})


def test_a_mask_is_left_alone_and_given_centers_stay(tmp_path):
    configuration = configuration_of(tmp_path, "[particle_mask, [energy, 2, 3], [mass, null], pt]")
    facts = describe(configuration, np.tile(np.array([[1, 5, 5, 7]], dtype=np.float32), (9, 1)))
    assert [facts[name]["center"] for name in ("particle_mask", "energy", "mass", "pt")] == [None, 2, None, 7]
    assert [facts[name]["scale"] for name in ("energy", "pt")] == [3, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 1), np.inf, dtype=np.float32), "8 of 8 values of 'pt' are infinite"),
        (np.zeros((0, 1), dtype=np.float32), "'pt' has no values"),
    ],
)
def test_what_cannot_be_standardized_is_refused(tmp_path, values, message):
    with pytest.raises(DataConfigError, match=message):
        describe(configuration_of(tmp_path, "[pt]"), values)
