"""The staged file: exact, mapped without copies, readable by numpy, awkward and pyarrow."""

import json

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.data.events.block import Block, Packed
from weaver_tasks.data.staging.arrow_file import StagedFile, StagedWriter

GENERATOR = np.random.default_rng(3)
VARIABLES = {"particles": ("px", "py", "pz"), "jet": ("pt", "mass")}


def make_block(first: int, counts: list[int]) -> Block:
    events, particles = len(counts), sum(counts)
    counts = np.array(counts, dtype=np.int64)
    return Block(
        entries=first + 2 * np.arange(events),
        packed={
            "particles": Packed(GENERATOR.normal(size=(particles, 3)).astype(np.float32), np.concatenate([[0], np.cumsum(counts)])),
            "jet": Packed(GENERATOR.normal(size=(events, 2)).astype(np.float32), None),
        },
        plain={
            "_label_": GENERATOR.integers(-1, 5, events),
            "flag": GENERATOR.random(events) < 0.5,
            "small": GENERATOR.integers(0, 200, events).astype(np.uint8),
            "weight": GENERATOR.random(events).astype(np.float32),
            "matrix": GENERATOR.random((events, 2, 3)),
            "hits": ak.unflatten(GENERATOR.integers(0, 9, particles), counts),
            "vertices": ak.unflatten(ak.unflatten(np.arange(2.0 * particles), np.full(particles, 2)), counts),
            # One more than wanted, so that an empty array has its type too.
            "name": ak.Array([f"jet {number} µ" * (number % 3) for number in range(events + 1)])[:-1],
            "names": ak.Array([["a"] * (number % 2) + ["bcd"] for number in range(events + 1)])[:-1],
        },
    )


BLOCKS = [make_block(5, [3, 0, 1, 4]), make_block(100, []), make_block(200, [0, 0]), make_block(300, [7, 2, 5])]
PARTS = [BLOCKS[0], BLOCKS[2], BLOCKS[3]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("staged") / "folder" / "jets.arrow"
    with StagedWriter(path, variables=VARIABLES, metadata={"source": "jets.root", "entries": 400}) as writer:
        for block in BLOCKS:
            writer.append(block)
    return path


def whole(name):
    return ak.concatenate([ak.Array(block.plain[name]) for block in PARTS])


def test_columns_come_back_exactly(path):
    file = StagedFile(path)
    block = file.block(0, len(file.entries))
    assert_array_equal(block.entries, np.concatenate([part.entries for part in PARTS]))
    particles = block.packed["particles"]
    assert_array_equal(particles.values, np.concatenate([part.packed["particles"].values for part in PARTS]))
    assert_array_equal(np.diff(particles.offsets), [3, 0, 1, 4, 0, 0, 7, 2, 5])
    assert_array_equal(block.packed["jet"].values, np.concatenate([part.packed["jet"].values for part in PARTS]))
    assert block.packed["jet"].offsets is None
    for name, array in block.plain.items():
        assert ak.to_list(array) == whole(name).to_list(), name
        expected = BLOCKS[0].plain[name]
        assert isinstance(array, np.ndarray) == isinstance(expected, np.ndarray), name
        if isinstance(expected, np.ndarray):
            assert array.dtype == expected.dtype, name


def test_nothing_is_copied(path):
    file = StagedFile(path)
    block = file.block(1, 9)
    arrays = [block.entries, block.packed["jet"].values, block.packed["particles"].values, block.packed["particles"].offsets]
    arrays += [array for array in block.plain.values() if isinstance(array, np.ndarray)]
    for array in arrays:
        assert not array.flags.owndata
        assert not array.flags.writeable, "memory of the mapped file cannot be written"
    again = StagedFile(path).block(1, 9)
    assert np.shares_memory(block.packed["particles"].values, file.block(0, 2).packed["particles"].values)
    assert not np.shares_memory(block.packed["jet"].values, again.packed["jet"].values)


def test_rows_of_entries_and_ranges_of_rows(path):
    file = StagedFile(path)
    assert [file.rows(*entries) for entries in ((0, 400), (5, 6), (6, 7), (7, 301), (305, 400))] == [(0, 9), (0, 1), (1, 1), (1, 7), (9, 9)]
    block = file.block(2, 7, ("particles", "hits", "_label_", "not there"))
    assert set(block.packed) == {"particles"}
    assert set(block.plain) == {"hits", "_label_"}
    particles = block.packed["particles"]
    assert_array_equal(particles.own_values(), np.concatenate([p.packed["particles"].values for p in PARTS])[3:15])
    assert particles.offsets[0] == 3
    assert ak.to_list(block.plain["hits"]) == whole("hits")[2:7].to_list()
    assert len(file.block(4, 4)) == 0


def test_other_programs_read_it(path):
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert str(table.schema.field("particles").type) == "large_list<item: fixed_size_list<item: float>[3]>"
    table.validate(full=True)
    assert ak.from_arrow(table)["hits"].to_list() == whole("hits").to_list()
    assert table.column("name").to_pylist() == whole("name").to_list()
    facts = json.loads(table.schema.metadata[b"weaver_tasks"])
    assert facts["variables"] == {name: list(variables) for name, variables in VARIABLES.items()}
    assert facts["source"] == "jets.root"


def test_a_file_without_rows(tmp_path):
    path = tmp_path / "none.arrow"
    with StagedWriter(path, variables=VARIABLES, metadata={}) as writer:
        writer.append(make_block(0, []))
    block = StagedFile(path).block(0, 0)
    assert block.packed["particles"].values.shape == (0, 3)
    assert_array_equal(block.packed["particles"].offsets, [0])
    assert block.plain["matrix"].shape == (0, 2, 3)
    assert ak.to_list(block.plain["names"]) == []


def test_a_failed_writer_leaves_nothing(tmp_path):
    def write():
        with StagedWriter(tmp_path / "a.arrow", variables=VARIABLES, metadata={}) as writer:
            writer.append(BLOCKS[0])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write()
    assert list(tmp_path.iterdir()) == []


def write_plain(path, *arrays):
    with StagedWriter(path, variables={}, metadata={}) as writer:
        for array in arrays:
            writer.append(Block(entries=np.arange(len(array)), plain={"odd": array}))


@pytest.mark.parametrize("wrong", [ak.Array([{"x": 1}]), ak.Array([1, "a"]), np.array([1j])], ids=["record", "mixture", "complex"])
def test_what_is_no_number_nor_text_is_refused(tmp_path, wrong):
    with pytest.raises(DataConfigError, match="variable 'odd'"):
        write_plain(tmp_path / "a.arrow", wrong)
    assert list(tmp_path.iterdir()) == []


def test_dimensions_that_change_within_a_file_are_refused(tmp_path):
    with pytest.raises(InputFileError, match="'odd' changes its dimensions"):
        write_plain(tmp_path / "a.arrow", ak.Array([[1.0]]), np.array([1.0]))


@pytest.mark.parametrize("content", [b"", b"no arrow at all", None])
def test_other_files_are_refused(tmp_path, path, content):
    other = tmp_path / "b.arrow"
    other.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(InputFileError, match=r"b\.arrow: not a staged file"):
        StagedFile(other)


def test_numbers_that_need_a_wider_type_later(tmp_path):
    """NaN may come to stand among whole numbers."""
    blocks = [np.array([1, 2], dtype="i4"), np.array([np.nan, 2.5]), np.array([3], dtype="i2")]
    with StagedWriter(tmp_path / "a.arrow", variables={}, metadata={}) as writer:
        for number, values in enumerate(blocks):
            writer.append(Block(entries=np.arange(len(values)) + 10 * number, plain={"x": values}))
    (column,) = StagedFile(tmp_path / "a.arrow").block(0, 5).plain.values()
    assert column.dtype == np.float64
    assert_array_equal(column, [1, 2, np.nan, 2.5, 3])
