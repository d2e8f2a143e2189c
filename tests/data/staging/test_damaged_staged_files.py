"""A damaged staged file gives the right numbers or is refused in one line, and "delete it and run again" then works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import yaml

from weaver_tasks.base.errors import InputFileError, WeaverTasksError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import Block, Packed
from weaver_tasks.data.loading.loader import EpochLoader
from weaver_tasks.data.staging.arrow_file import StagedFile, StagedWriter
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.stage import Staging, stage_file
from weaver_tasks.settings.stage import stage_settings

DOCUMENT = {
    "treename": "tree",
    "new_variables": {"mask": "ak.ones_like(part_energy)"},
    "preprocess": {"method": "manual"},
    "inputs": {
        "particles": {"length": 40, "vars": [["part_px", 0, 0.1], ["part_py", None], ["part_d0val", None]]},
        "mask": {"length": 40, "vars": [["mask", None]]},
        "jet": {"length": None, "vars": [["jet_pt", 500, 0.01], ["jet_eta", None]]},
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
    "monitor_variables": ["jet_phi"],
}
SETTINGS = stage_settings({"data": {"train_val_split": 0.9}, "loading": {"fetch_step": 0.5}, "training": {"batch_size": 32}})


class Staged:
    """Two staged files, and what the loader makes of them."""

    def __init__(self, folder: Path, jets: Path) -> None:
        (folder / "data.yaml").write_text(yaml.safe_dump(DOCUMENT, sort_keys=False))
        self.configuration = load_data_configuration(folder / "data.yaml")
        staging = Staging(configuration=self.configuration, split="train", mode="columnar")
        self.paths = [folder / "staged" / f"{name}.arrow" for name in ("HToBB", "ZJetsToNuNu")]
        sources = [str(jets / "train" / f"{path.stem}.root") for path in self.paths]
        records = [stage_file(source, path, staging, group="all") for source, path in zip(sources, self.paths, strict=True)]
        self.manifest = json.loads(json.dumps(make_manifest(records, on_bad_file="fail", max_bad_fraction=0)))

    def batches(self) -> list[bytes]:
        """The bytes of everything that an epoch serves."""
        served = []
        for batch in EpochLoader(self.manifest, self.configuration, SETTINGS, split="train", seed=1, epoch=0, threads=0):
            arrays = [*batch.inputs.values(), *batch.labels.values(), *batch.observers.values(), batch.entry]
            served.append(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
        return served


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, jets: Path) -> Staged:
    return Staged(tmp_path_factory.mktemp("damaged"), jets)


@pytest.fixture(scope="module")
def expected(staged: Staged) -> list[bytes]:
    return staged.batches()


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """A file with a bit flipped, a page zeroed, or cut."""
    kind = generator.choice(["bit", "bit", "bit", "head", "tail", "page", "cut"])
    changed = bytearray(content)
    if kind in ("bit", "head", "tail"):
        # Metadata are at both ends.
        first, last = {"bit": (0, len(content)), "head": (0, 4096), "tail": (len(content) - 4096, len(content))}[kind]
        changed[generator.integers(first, last)] ^= 1 << int(generator.integers(8))
    elif kind == "page":
        page = int(generator.integers(len(content) // 4096)) * 4096
        changed[page : page + 4096] = bytes(len(changed[page : page + 4096]))
    else:
        del changed[int(generator.integers(len(content))) :]
    return bytes(changed)


def try_damages(staged: Staged, expected: list[bytes], seed: int, count: int) -> dict[str, int]:
    """Damage files again and again, and count what came of it."""
    generator = np.random.default_rng(seed)
    outcome = {"right": 0, "refused": 0}
    path = staged.paths[0]
    content = path.read_bytes()
    try:
        for number in range(count):
            # A file of its own each time: a map of one that shrinks must not be read.
            path.unlink()
            path.write_bytes(damaged(content, generator))
            try:
                assert staged.batches() == expected, f"damage {number} of seed {seed}: other numbers, and no word of it"
                outcome["right"] += 1
            except InputFileError as error:
                message = str(error)
                assert str(path) in message, message
                assert "Delete it and run again" in message, message
                assert "\n" not in message
                outcome["refused"] += 1
    finally:
        path.unlink()
        path.write_bytes(content)
    return outcome


PROGRAM = """
import json, sys
from pathlib import Path
from test_damaged_staged_files import Staged, try_damages
folder, jets, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
staged = Staged(folder, jets)
print(json.dumps(try_damages(staged, staged.batches(), seed, count)))
"""


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 60), *(pytest.param(seed, 250, marks=pytest.mark.slow) for seed in (2, 3, 4))]
)  # fmt: skip
def test_no_damage_passes_for_a_result(tmp_path: Path, jets: Path, seed: int, count: int) -> None:
    """In a process of its own, which may crash."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(jets), str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    print(outcome)
    assert sum(outcome.values()) == count
    assert outcome["refused"] > count // 3


def with_changed_bytes(path: Path, array: np.ndarray, place: int, value: Any) -> None:
    """Write a value over an element of a column, where it lies in the file (for the last time)."""
    content = bytearray(path.read_bytes())
    at = content.rfind(array.tobytes())
    assert at > 0
    item = at + place * array.itemsize
    content[item : item + array.itemsize] = np.array([value], dtype=array.dtype).tobytes()
    path.unlink()
    path.write_bytes(bytes(content))


def test_a_value_is_refused_by_file_and_column_and_the_remedy_works(staged: Staged, expected: list[bytes]) -> None:
    path = staged.paths[1]
    block = StagedFile(path).block(0, 40)
    values = block.packed["particles"].own_values().reshape(-1).copy()
    del block
    with_changed_bytes(path, values, 7, 12345.0)
    with pytest.raises(InputFileError, match=r"ZJetsToNuNu\.arrow: is damaged: column 'particles' is not what was written"):
        staged.batches()
    path.unlink()
    assert staged.batches() == expected
    assert staged.batches() == expected


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("value", [-5, 10**12, 3])
def test_offsets_are_refused_by_file_and_column(staged: Staged, expected: list[bytes], checksums: bool, value: int) -> None:
    path, column = staged.paths[0], "mask"
    content = path.read_bytes()
    try:
        if not checksums:
            as_written_by_older_versions(path)
        offsets = StagedFile(path).unchecked_block(0, 50).packed[column].offsets
        assert offsets is not None
        with_changed_bytes(path, offsets.copy(), 20, value)
        assert StagedFile(path).unchecked_block(0, 50).packed[column].offsets[20] == value
        with pytest.raises(InputFileError, match=rf"HToBB\.arrow: is damaged: column '{column}' .*Delete it and run again"):
            staged.batches()
        path.unlink()
        assert staged.batches() == expected
    finally:
        path.write_bytes(content)


def as_written_by_older_versions(path: Path, **changed: pa.Array) -> None:
    """Write a staged file without what says how its columns were."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    facts = json.loads(table.schema.metadata[b"weaver_tasks"])
    del facts["columns"]
    table = table.replace_schema_metadata({b"weaver_tasks": json.dumps(facts)}).combine_chunks()
    path.unlink()
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def test_files_of_older_versions_are_taken(staged: Staged, expected: list[bytes]) -> None:
    path = staged.paths[0]
    content = path.read_bytes()
    try:
        as_written_by_older_versions(path)
        assert b"weaver_tasks.digest" not in path.read_bytes()
        assert staged.batches() == expected
    finally:
        path.write_bytes(content)


def test_the_rows_of_a_file_are_consistent(tmp_path: Path) -> None:
    def write(entries: np.ndarray) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.arrow"
        packed = {"jet": Packed(np.ones((len(entries), 1), dtype=np.float32), None)}
        with StagedWriter(path, variables={"jet": ("pt",)}, metadata={}) as writer:
            writer.append(Block(entries=entries, packed=packed))
        return path

    assert len(StagedFile(write(np.array([0, 2, 5]))).entries) == 3
    with pytest.raises(InputFileError, match="column '_entry_' does not rise"):
        StagedFile(write(np.array([0, 5, 2])))


@pytest.mark.parametrize("counts", [[3, -1, 2], [-2, 6, 0]])
def test_offsets_that_fall_are_not_staged(tmp_path: Path, counts: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    bad = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(np.arange(4.0))))
    values = np.ones((4, 1), dtype=np.float32)
    for block in (
        Block(entries=np.arange(3), packed={"particles": Packed(values, offsets)}),
        Block(entries=np.arange(3), packed={"particles": Packed(values, np.array([0, 1, 2, 4]))}, plain={"particles_too": bad}),
    ):
        with (
            pytest.raises(WeaverTasksError, match="'particles"),
            StagedWriter(tmp_path / "x.arrow", variables={"particles": ("px",)}, metadata={}) as writer,
        ):
            writer.append(block)
        assert list(tmp_path.iterdir()) == []
