"""The figures of one member, and of several beside each other."""

import numpy as np
import pytest

from weaver_tasks.results.metrics.members import compare_members, members_table
from weaver_tasks.results.predictions.merging import _mean_and_spread


def figures(accuracy: float) -> dict:
    return {"task": "classification", "accuracy": accuracy, "auc": 0.5}


def test_one_member_has_no_spread():
    compared = compare_members({"seed-3": figures(0.75)})
    assert (compared["accuracy"]["mean"], compared["accuracy"]["std"]) == (0.75, None)
    assert "±" not in members_table(compared).partition("seed-3")[2]
    mean, spread = _mean_and_spread([np.array([0.25, 0.5], np.float32)])
    assert mean.tolist() == [0.25, 0.5]
    assert np.isnan(spread).all()


def test_several_members_have_one():
    compared = compare_members({"seed-3": figures(0.5), "seed-4": figures(0.75)})
    assert compared["accuracy"]["std"] == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert "±" in members_table(compared)
