"""The stage as its rule calls it, against numpy on the same files."""

import json

import numpy as np
import pytest
import uproot

from weaver_tasks import stage_inputs, standardize
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import read_json

CONFIGURATION = """
selection: jet_pt > 550
preprocess: {method: auto, data_fraction: FRACTION}
inputs:
  particles: {length: 32, vars: [part_deta, part_charge, [part_px, null], [part_py, 1, 2]]}
  jets: {length: null, vars: [jet_pt]}
labels: {type: simple, value: [label_Hbb, label_Tbqq]}
"""


@pytest.fixture
def standardized(tmp_path, jets):
    """A function that stages two training files and a test file, and standardizes: -> (standardization.json, plots)."""

    def run(*, fraction=0.3, mode="columnar", extra_selection=None, plot=False):
        data_config = tmp_path / "data.yaml"
        data_config.write_text(CONFIGURATION.replace("FRACTION", str(fraction)))
        records = []
        for split, name in (("train", "HToBB"), ("train", "TTBar"), ("test", "HToCC")):
            records.append(tmp_path / f"{name}.json")
            settings = {"staging": {"mode": mode}, "data": {"extra_selection": {"train": extra_selection}}}
            options = ["--data-config", data_config, "--split", split, "--group", name, "--sources", jets / split / f"{name}.root"]
            options += ["--records", records[-1], "--settings", json.dumps(settings)]
            options += ["--staged", tmp_path / f"{name}.arrow"] if mode == "columnar" else []
            stage_inputs.main([str(option) for option in options])
        inputs, output, picture = (tmp_path / name for name in ("inputs.json", "standardization.json", "standardization.png"))
        stage_inputs.main(["--gather", *map(str, records), "--output", str(inputs)])
        options = ["--data-config", data_config, "--inputs", inputs, "--output", output, *(["--plot", picture] if plot else [])]
        standardize.main([str(option) for option in options])
        return read_json(output), (picture, picture.with_suffix(".pdf"))

    return run


def values_of(jets, name, fraction):
    """What numpy sees: the selected ones among the leading entries of each training file."""
    found, events = [], 0
    for process in ("HToBB", "TTBar"):
        with uproot.open(jets / "train" / f"{process}.root") as file:
            tree = file["tree"].arrays([name, "jet_pt"], entry_stop=int(fraction * 250))
        tree = tree[tree["jet_pt"] > 550]
        events += len(tree)
        found.append(np.ravel(np.asarray(np.concatenate([np.atleast_1d(np.asarray(x)) for x in tree[name]]))))
    return np.concatenate(found).astype(np.float64), events


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_percentiles_of_the_leading_entries(standardized, jets, fraction):
    result, plots = standardized(fraction=fraction, plot=fraction == 1)
    for name in ("part_deta", "part_charge", "jet_pt"):
        values, events = values_of(jets, name, fraction)
        low, middle, high = np.percentile(values, [16, 50, 84])
        facts = result["variables"][name]
        assert facts["values"] == len(values)
        assert facts["center"] == pytest.approx(middle, rel=1e-6)
        assert facts["scale"] == pytest.approx(1 / max(high - middle, middle - low), rel=1e-6)
        assert facts["percentiles"] == pytest.approx({"16": low, "50": middle, "84": high}, rel=1e-6)
        assert result["entries"] == events
    assert [result["variables"][name]["center"] for name in ("part_px", "part_py")] == [None, 1]
    assert [plot.exists() and plot.stat().st_size > 5000 for plot in plots] == [fraction == 1] * 2


def test_neither_mode_nor_extra_selection_changes_it(standardized):
    columnar, _ = standardized()
    none, _ = standardized(mode="none")
    assert none == columnar
    extra, _ = standardized(extra_selection="jet_pt > 700")
    assert extra == columnar


def test_a_missing_list_of_inputs_is_told(tmp_path, repository):
    options = ["--data-config", repository / "config/data/demo.yaml", "--inputs", tmp_path / "no.json", "--output", tmp_path / "o.json"]
    with pytest.raises(WeaverTasksError, match=r"no\.json: no such file"):
        standardize.main([str(option) for option in options])
