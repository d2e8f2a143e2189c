"""The inputs of a batch are those that weaver-core makes of the same jets."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from weaver_tasks.data.configuration import DataConfiguration, dump_auto, load_data_configuration
from weaver_tasks.data.events.block import Block, Packed, StagingOptions, join
from weaver_tasks.data.events.reading import transformed_blocks
from weaver_tasks.data.events.transform import plan_transformation
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.collate import InputAssembler, PackedPieces
from weaver_tasks.data.statistics.standardization import describe_variables, next_pass

DOCUMENT: dict[str, Any] = {
    "new_variables": {
        "part_mask": "ak.ones_like(part_energy)",
        "part_pt_log": "np.log(np.hypot(part_px, part_py))",
        # Infinite for neutral particles, and not a number for some.
        "part_odd": "np.log(part_d0val)",
        "part_strange": "1 / part_charge",
        "jet_odd": "np.log(jet_eta)",
        "jet_strange": "1 / (jet_nparticles - 40)",
    },
    "preprocess": {"method": "manual"},
    "inputs": {
        "points": {"length": 30, "pad_mode": "wrap", "vars": [["part_deta", None], ["part_dphi", None]]},
        "features": {
            "length": 60,
            "pad_mode": "constant",
            "vars": [["part_pt_log", 1.7, 0.7, -0.5, 0.8, -7], ["part_odd", -3.0, 0.5], ["part_strange", None],
                     ["part_energy", None, 1, -5, 5, 2]],
        },
        "wrapped": {"length": 50, "pad_mode": "wrap", "vars": [["part_px", 1.0, 0.1], ["part_py", None]]},
        "mask": {"length": 60, "pad_mode": "constant", "vars": [["part_mask", None]]},
        "jet": {"length": None, "vars": [["jet_pt", 500, 0.01, -5, 5], ["jet_odd", None], ["jet_strange", None],
                                           ["jet_tau1", 0.1, 2, 0, 0.1]]},
        "mass": {"length": None, "vars": [["jet_sdmass", 90, 0.1]]},
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> DataConfiguration:
    path = tmp_path_factory.mktemp("assembly") / "data.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT, sort_keys=False))
    return load_data_configuration(path)


@pytest.fixture(scope="module")
def files(jets: Path) -> list[str]:
    return [str(jets / "test" / f"{process}.root") for process in ("ZJetsToNuNu", "HToBB")]


@pytest.fixture(scope="module")
def blocks(configuration: DataConfiguration, files: list[str]) -> list[Block]:
    transformation = plan_transformation(configuration, "test", StagingOptions())
    with np.errstate(all="ignore"):
        made = [join(list(transformed_blocks(path, transformation, 0, None))) for path in files]
    # Some empty jets, which the files have none of.
    return [_without_particles(made[0], events=slice(3, 6)), made[1]]


def _without_particles(block: Block, *, events: slice) -> Block:
    packed = dict(block.packed)
    for name, column in packed.items():
        if column.offsets is not None:
            counts = np.diff(column.offsets)
            keep = np.ones(len(column.values), dtype=bool)
            keep[column.offsets[events.start] : column.offsets[events.stop]] = False
            counts[events] = 0
            packed[name] = Packed(column.values[keep], np.concatenate([[0], np.cumsum(counts)]))
    return Block(entries=block.entries, packed=packed, plain=block.plain)


def assembled(
    configuration: DataConfiguration, blocks: list[Block], pieces: np.ndarray, rows: np.ndarray, **options: Any
) -> dict[str, np.ndarray]:
    assembler = InputAssembler(configuration, batch_size=len(rows), **options)
    columns = {name: PackedPieces(blocks, name) for name in assembler.columns}
    half = len(rows) // 2
    return assembler.assemble([(columns, pieces[:half], rows[:half]), (columns, pieces[half:], rows[half:])])


@pytest.fixture(scope="module")
def expected(configuration: DataConfiguration, blocks: list[Block]) -> dict[str, np.ndarray]:
    """What weaver-core makes of the events of both files, in the order of the files."""
    dataset = pytest.importorskip("weaver.utils.dataset")
    config = pytest.importorskip("weaver.utils.data.config")
    import awkward as ak

    theirs = config.DataConfig.load(str(configuration.path))
    columns: dict[str, Any] = {"_label_": np.zeros(sum(map(len, blocks)), dtype=int)}
    for name in blocks[0].packed:
        for place, variable in enumerate(_variables(configuration, name)):
            values = np.concatenate([block.packed[name].values[:, place] for block in blocks])
            if blocks[0].packed[name].offsets is not None:
                counts = np.concatenate([np.diff(block.packed[name].offsets) for block in blocks])
                values = ak.unflatten(values, counts)
            columns[variable] = values
    table = ak.Array({name: columns[name] for name in columns})
    with np.errstate(all="ignore"):
        made = dataset._finalize_inputs(table, theirs)
    return {name[1:]: array for name, array in made.items() if name[1:] in theirs.input_names}


def _variables(configuration: DataConfiguration, column: str) -> tuple[str, ...]:
    from weaver_tasks.data.events.block import packed_columns

    return next(packed.variables for packed in packed_columns(configuration) if packed.name == column)


def test_inputs_equal_weavers(configuration: DataConfiguration, blocks: list[Block], expected: dict[str, np.ndarray]) -> None:
    counts = [len(block) for block in blocks]
    order = np.random.default_rng(1).permutation(sum(counts))
    pieces = np.repeat([0, 1], counts)[order]
    rows = np.concatenate([np.arange(count) for count in counts])[order]
    inputs = assembled(configuration, blocks, pieces, rows)
    assert list(inputs) == [group.name for group in configuration.inputs]
    assert inputs["points"].shape == (sum(counts), 2, 30)
    assert inputs["jet"].shape == (sum(counts), 4)
    assert inputs["mass"].shape == (sum(counts),)
    for name, array in inputs.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name][order], rtol=1e-6, atol=1e-6, err_msg=name)
    assert np.isinf(inputs["features"][:, 2]).any(), "infinities stay without a center"
    assert (inputs["jet"] == np.finfo(np.float32).max).any(), "in flat groups they become the largest float"
    assert not any(np.isnan(array).any() for array in inputs.values())


UNEQUAL: dict[str, Any] = {
    "new_variables": {
        "charged": "part_py[part_charge != 0]",
        "few": "part_d0val[:, :3]",
        "odd": "np.log(part_dzval[part_d0val > 0])",
        "negative": "part_pz[part_charge < 0]",
        "some": "part_deta[:, :20]",
    },
    "preprocess": {"method": "auto", "data_fraction": 0.6},
    "inputs": {
        "constant": {"length": 24, "pad_mode": "constant", "vars": ["part_px", ["charged", "auto", 1, -5, 5, 3], "few", "jet_pt", "odd"]},
        "wrapped": {"length": 30, "pad_mode": "wrap", "vars": ["part_energy", "negative", "some"]},
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
}


def test_lists_of_different_lengths_in_one_group_as_in_weaver(tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = pytest.importorskip("weaver.utils.data.preprocess")
    from weaver.utils.data.config import DataConfig
    from weaver.utils.data.fileio import _read_files
    from weaver.utils.dataset import _finalize_inputs

    monkeypatch.setattr("time.sleep", lambda _: None)
    path, auto = tmp_path / "data.yaml", tmp_path / "auto.yaml"
    path.write_text(yaml.safe_dump(UNEQUAL, sort_keys=False))
    configuration = load_data_configuration(path)
    transformation = plan_transformation(configuration, "test", StagingOptions())
    with np.errstate(all="ignore"):
        blocks = [join(list(transformed_blocks(file, transformation, 0, None))) for file in files]

        sums: list[Any] = []
        while (counted := next_pass(configuration, sums)) is not None:
            for file in files:
                counted.add(join(list(transformed_blocks(file, transformation, 0, 60))))
            sums.append(counted)
        standardization = describe_variables(configuration, sums[0].counts, sums[1].counts)
        standardized = preprocess.AutoStandardizer(files, DataConfig.load(str(path))).produce().preprocess_params
    for name, facts in standardization.items():
        assert facts["center"] == pytest.approx(standardized[name]["center"], rel=1e-6, abs=1e-7), name
        assert facts["scale"] == pytest.approx(standardized[name]["scale"], rel=1e-6), name

    auto.write_text(dump_auto(configuration, standardization, None))
    theirs = DataConfig.load(str(auto))
    with np.errstate(all="ignore"):
        table = _read_files(files, theirs.test_load_branches)
        preprocess._build_new_variables(table, theirs.test_var_funcs)
        expected = _finalize_inputs(table, theirs)
    pieces, rows = np.repeat([0, 1], [len(block) for block in blocks]), np.concatenate([np.arange(len(block)) for block in blocks])
    for name, array in assembled(load_data_configuration(auto), blocks, pieces, rows).items():
        np.testing.assert_allclose(array, expected[f"_{name}"], rtol=1e-6, atol=1e-6, err_msg=name)


def test_an_empty_event_is_padding(configuration: DataConfiguration, blocks: list[Block]) -> None:
    inputs = assembled(configuration, blocks, np.zeros(2, dtype=int), np.array([4, 5]))
    assert (inputs["points"] == 0).all()
    assert (inputs["features"][:, 0] == -7).all()
    assert (inputs["features"][:, 3] == 2).all()
    assert (inputs["mask"] == 0).all()


def test_trimming_cuts_padding_only(configuration: DataConfiguration, blocks: list[Block]) -> None:
    counts = np.diff(blocks[0].packed["features"].offsets)
    rows = np.argsort(counts)[5:15]
    full = assembled(configuration, blocks, np.zeros(10, dtype=int), rows)
    trimmed = assembled(configuration, blocks, np.zeros(10, dtype=int), rows, trim=True)
    longest = int(full["mask"].sum(axis=2).max())
    assert longest < 60
    assert trimmed["mask"].shape == (10, 1, longest)
    for name, array in trimmed.items():
        np.testing.assert_array_equal(array, full[name][..., : array.shape[-1]])
    empty = assembled(configuration, blocks, np.zeros(2, dtype=int), np.array([4, 5]), trim=True)
    assert empty["mask"].shape == (2, 1, 1)


def test_memory_is_used_again_but_never_while_a_view_of_it_is_held() -> None:
    made = []

    def allocate(size: int, dtype: Any) -> np.ndarray:
        made.append(size)
        return np.empty(size, dtype=dtype)

    pool = BufferPool(allocate)
    first = pool.array(12, (2, 3, 2))
    first[:] = 1
    view = first[1, :, 0]
    address = first.ctypes.data
    del first
    gc.collect()
    second = pool.array(12, (2, 6))
    assert second.ctypes.data != address
    second[:] = 2
    assert (view == 1).all()
    del view
    third = pool.array(12, (1, 6))
    assert third.ctypes.data == address
    assert len(made) == 2
    del third
    gc.collect()
    larger = pool.array(200, (200,))
    assert larger.ctypes.data != address
    assert len(made) == 3, "a buffer is used again for arrays of its own capacity only"
    assert address % 64 == 0, "vectors shall not lie across cache lines"


def test_a_tensor_holds_the_memory() -> None:
    torch = pytest.importorskip("torch")
    pool = BufferPool()
    tensor = torch.from_numpy(pool.array(6, (2, 3))).fill_(5)[:1]
    other = pool.array(6, (2, 3))
    other[:] = 0
    assert (tensor == 5).all()


@pytest.mark.parametrize("length", [1, 7, 16, 31, 48])
@pytest.mark.parametrize("width", [1, 3, 4, 7])
@pytest.mark.parametrize("mode", ["wrap", "constant"])
def test_every_number_of_particles_and_variables(tmp_path: Path, length: int, width: int, mode: str) -> None:
    """To the last bit what the definition gives, for lines shorter and longer than a vector."""
    names = [f"x{number}" for number in range(width)]
    variables = [[name, None] if number % 3 == 1 else [name, 0.3, 1.7, -1.5, 0.9, 4] for number, name in enumerate(names)]
    groups = {"all": variables, "some": [variables[-1], variables[0]]}
    document = {
        "preprocess": {"method": "manual"},
        "inputs": {name: {"length": length, "pad_mode": mode, "vars": group} for name, group in groups.items()},
        "labels": {"type": "simple", "value": ["a", "b"]},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(document))
    configuration = load_data_configuration(tmp_path / "data.yaml")
    counts = np.arange(60)
    values = np.random.default_rng(1).normal(size=(counts.sum(), width)).astype(np.float32)
    values[::7, 0], values[::11, -1] = np.nan, -np.inf
    offsets = np.concatenate([[0], np.cumsum(counts)])
    block = Block(entries=counts, packed={"all": Packed(values, offsets)})
    order = np.random.default_rng(2).permutation(len(counts))
    inputs = assembled(configuration, [block], np.zeros_like(order), order)
    for name, group in groups.items():
        for place, (variable, center, *parameters) in enumerate(group):
            for event, line in zip(order, inputs[name][:, place], strict=True):
                x = values[offsets[event] : offsets[event + 1], names.index(variable)]
                if center is not None:
                    scale, low, high, _ = np.float32(parameters)
                    x = np.clip((x - np.float32(center)) * scale, low, high)
                padding = 0 if mode == "wrap" or not parameters else parameters[3]
                filled = np.resize(x, length) if mode == "wrap" and len(x) else np.append(x, np.full(length, padding))[:length]
                np.testing.assert_array_equal(line, np.where(np.isnan(filled), 0, filled), err_msg=f"{name} {variable} {event}")
