"""What is padded on the device that trains has the bits of what the loader pads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import ABSENT, Block, Packed
from weaver_tasks.data.loading.collate import InputAssembler, PackedPieces, Unpadded
from weaver_tasks.training.padding import on_device

CPU = torch.device("cpu")
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.3, 0.1, -1e-45, 3.4e38], dtype=np.float32)
VARIABLES = [
    ["a", 0.3, 1.7, -1.5, 0.9, 4.0],
    ["b", None],
    ["c", 0.1, -3.3, 0, 0.7, -2.0],
    ["d", -0.7, 1e30, -1e38, 1e38],
    ["e", 0.3, 1, -0.0, 5, 1],
]
FLAT = [["x", 0.5, 2.0, -1, 1], ["y", None]]


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes configurations: two groups share a column, in another order; a third has a column, and padding, of its own."""
    folder = tmp_path_factory.mktemp("configurations")
    made: dict[tuple[int, str], Any] = {}

    def make(length: int, mode: str) -> Any:
        if (length, mode) not in made:
            other = {"length": length + 3, "pad_mode": "constant" if mode == "wrap" else "wrap", "vars": [["z", 0.2, 2]]}
            document = {
                "preprocess": {"method": "manual"},
                "inputs": {
                    "first": {"length": length, "pad_mode": mode, "vars": VARIABLES[:3]},
                    "flat": {"length": None, "vars": FLAT},
                    "other": other,
                    "second": {"length": length, "pad_mode": mode, "vars": [VARIABLES[4], VARIABLES[1], VARIABLES[3]]},
                },
                "labels": {"type": "simple", "value": ["l", "m"]},
            }
            path = folder / f"{length}_{mode}.yaml"
            path.write_text(yaml.safe_dump(document, sort_keys=False))
            made[length, mode] = load_data_configuration(path)
        return made[length, mode]

    return make


def column(generator: np.random.Generator, rows: list[int], width: int, *, lacking: bool) -> Packed:
    """Values of events with so many particles, some of them odd; of some variables of some events the last are absent."""
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    values = generator.normal(size=(offsets[-1], width)).astype(np.float32)
    odd = generator.random(values.shape) < 0.2
    values[odd] = generator.choice(ODD, odd.sum())
    if lacking and width > 1:
        bits = values.view(np.uint32)
        for begin, end in itertools.pairwise(offsets):
            for variable in generator.choice(width, width - 1, replace=False):
                bits[generator.integers(begin, end + 1) : end, variable] = ABSENT
    return Packed(values, offsets)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].is_contiguous()
        np.testing.assert_array_equal(found[name].numpy().view(np.uint32), array.view(np.uint32), err_msg=name)


@settings(max_examples=100)
@given(
    rows=st.lists(st.integers(0, 45), min_size=1, max_size=12),
    length=st.sampled_from([1, 5, 16, 31]),
    mode=st.sampled_from(["wrap", "constant"]),
    lacking=st.booleans(),
    trim=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_bits_are_those_of_the_loader(
    configurations: Any, rows: list[int], length: int, mode: str, lacking: bool, trim: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    configuration = configurations(length, mode)
    flat = generator.normal(size=(len(rows), 2)).astype(np.float32)
    flat[generator.random(flat.shape) < 0.2] = generator.choice(ODD)
    packed = {
        "first": column(generator, rows, 5, lacking=lacking),
        "flat": Packed(flat, None),
        "other": column(generator, rows[::-1], 1, lacking=False),
    }
    block = Block(entries=np.arange(len(rows)), packed=packed)
    pieces, order = np.zeros(len(rows), dtype=np.int64), generator.permutation(len(rows))
    made = []
    for pad in (True, False):
        assembler = InputAssembler(configuration, batch_size=len(rows) + 2, trim=trim, pad=pad)
        columns = {name: PackedPieces([block], name) for name in assembler.columns}
        cut = len(rows) // 3
        made.append(assembler.assemble([(columns, pieces[:cut], order[:cut]), (columns, pieces[cut:], order[cut:])]))
    expected, unpadded = made
    assert {name for name, content in unpadded.items() if isinstance(content, Unpadded)} == {"first", "other"}
    assert unpadded["first"].nbytes == 4 * 5 * (sum(min(count, length) for count in rows) + len(rows))
    assert_same(on_device(unpadded, CPU), expected)


def test_memory_of_particles_is_used_again_but_not_while_a_batch_is_held(configurations: Any) -> None:
    rows = [3, 0, 40]
    configuration = configurations(16, "constant")
    generator = np.random.default_rng(1)
    packed = {name: column(generator, rows, width, lacking=False) for name, width in (("first", 5), ("other", 1))}
    packed["flat"] = Packed(np.zeros((3, 2), dtype=np.float32), None)
    assembler = InputAssembler(configuration, batch_size=3, pad=False)
    columns = {name: PackedPieces([Block(entries=np.arange(3), packed=packed)], name) for name in assembler.columns}
    segments = [(columns, np.zeros(3, dtype=np.int64), np.arange(3))]
    held = assembler.assemble(segments)["first"]
    values, counts, address = held.values.copy(), held.counts.copy(), held.values.ctypes.data
    other = assembler.assemble([(columns, np.zeros(3, dtype=np.int64), np.array([2, 2, 2]))])["first"]
    assert other.values.ctypes.data != address
    np.testing.assert_array_equal(held.values, values)
    np.testing.assert_array_equal(held.counts, counts)
    del held
    assert assembler.assemble(segments)["first"].values.ctypes.data == address
