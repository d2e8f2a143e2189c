"""Two hundred ways to damage a ROOT file: each is refused by name or read right, and none is read wrong where a checksum is known."""

import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions, join
from weaver_tasks.data.events.reading import transformed_blocks
from weaver_tasks.data.events.transform import plan_transformation
from weaver_tasks.data.staging.source_checksums import StoredChecksum
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.staging.stage import Staging, stage_file

DAMAGES = 200
_METADATA = 40_000
"""Bytes at the end of the file: the description of the tree, where a flipped bit leads farthest astray."""


def damaged(number: int, content: bytes, other: bytes) -> bytes:
    rng = np.random.default_rng(number)
    match number % 4:
        case 0:
            return content[: rng.integers(0, len(content))]
        case 1 | 2:
            changed = bytearray(content)
            first = 0 if number % 4 == 1 else len(content) - _METADATA
            for place in rng.integers(first, len(content), rng.integers(1, 5)):
                changed[place] ^= 1 << rng.integers(0, 8)
            return bytes(changed)
        case _:
            # A piece of another file, as from a mixed-up transfer; the whole of it in every tenth case.
            if number % 40 == 3:
                return other
            first, length = rng.integers(0, len(content) - 1000), rng.integers(16, 1000)
            return content[:first] + other[first + 7 : first + 7 + length] + content[first + length :]


@pytest.fixture
def configuration(repository):
    return load_data_configuration(repository / "config" / "data" / "demo.yaml")


def check(numbers, jets, configuration, folder):
    original = jets / "train" / "HToBB.root"
    content, other = original.read_bytes(), (jets / "train" / "TTBar.root").read_bytes()
    path = folder / "jets.root"
    recorded = {str(path): StoredChecksum(file_checksum(original), "delete it")}
    trusting = Staging(configuration=configuration, split="train", mode="columnar", recorded=recorded)
    transformation = plan_transformation(configuration, "train", StagingOptions())
    outcomes = {"read": 0, "refused": 0}
    for number in numbers:
        path.write_bytes(damaged(number, content, other))
        start = time.monotonic()
        record = stage_file(str(path), folder / "jets.arrow", trusting, group="g")
        assert str(path) in record["bad"], number
        # Without a checksum: whatever else the libraries raise would end this test.
        problem = None
        try:
            join(list(transformed_blocks(str(path), transformation, 0, None)))
        except WeaverTasksError as error:
            problem = str(error)
        assert problem is None or str(path) in problem, number
        outcomes["read" if problem is None else "refused"] += 1
        assert time.monotonic() - start < 60, number
    return outcomes


def test_some_damages(jets, configuration, tmp_path):
    assert check(range(8), jets, configuration, tmp_path)["refused"] >= 4


@pytest.mark.slow
def test_two_hundred_damages(jets, configuration, tmp_path):
    outcomes = check(range(DAMAGES), jets, configuration, tmp_path)
    assert outcomes["refused"] > DAMAGES / 2


def test_the_undamaged_file_passes(jets, configuration, tmp_path):
    original = jets / "train" / "HToBB.root"
    recorded = {str(original): StoredChecksum(file_checksum(original), "delete it")}
    staging = Staging(configuration=configuration, split="train", mode="columnar", recorded=recorded)
    record = stage_file(str(original), tmp_path / "jets.arrow", staging, group="g")
    assert record["bad"] is None
    block = open_source(record, configuration).read(0, 250)
    transformation = plan_transformation(configuration, "train", StagingOptions())
    expected = join(list(transformed_blocks(str(original), transformation, 0, None)))
    assert_array_equal(block.packed["pf_vectors"].own_values(), expected.packed["pf_vectors"].own_values())
