import os
import signal
import subprocess
import sys
import textwrap

import awkward as ak
import numpy as np
import pandas as pd
import pytest
import uproot

from weaver_tasks.base.errors import ResultError, WeaverTasksError
from weaver_tasks.results.predictions.tables import open_table, read_table, table_metadata, table_names


def columns(start, count):
    """Columns of every kind that observers come in."""
    numbers = np.arange(start, start + count)
    counts = numbers % 3
    return {
        "label_QCD": numbers % 2 == 0,
        "score_label_QCD": (numbers / 7).astype(np.float32),
        "_label_": numbers.astype(np.int64),
        "run": numbers.astype(np.int32),
        "event": numbers.astype(np.uint64),
        "jet_pt": ak.Array(numbers.astype(np.float64)),
        "genres": np.stack([numbers, -numbers], axis=1).astype(np.int16),
        "part_px": ak.unflatten(np.repeat(numbers, counts).astype(np.float32), counts),
        "part_good": ak.unflatten(np.repeat(numbers, counts) > 3, counts),
        "process": ak.Array([f"p{number}" for number in range(start, start + count + 1)])[:count],
    }


def write(path, *sizes, extra=None):
    start = 0
    with open_table(path, {"digest": "d1"}) as table:
        for size in sizes:
            table.write({**columns(start, size), **(extra(start, size) if extra else {})})
            start += size


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_every_type_comes_back(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write(path, 0, 5, 100, 0, 1)
    expected = columns(0, 106)
    assert table_names(path) == list(expected)
    assert table_metadata(path) == {"digest": "d1"}
    chunks = list(read_table(path, list(expected), step=40))
    assert [len(chunk["run"]) for chunk in chunks] == [40, 40, 26]
    for name, column in expected.items():
        found = [chunk[name] for chunk in chunks]
        if isinstance(column, np.ndarray):
            assert found[0].dtype == column.dtype
            np.testing.assert_array_equal(np.concatenate(found), column)
        else:
            assert ak.to_list(ak.concatenate(found)) == ak.to_list(column)


def test_root_file_as_others_read_it(tmp_path):
    path = tmp_path / "table.root"
    write(path, 106)
    with uproot.open(path) as file:
        assert file.file.compression == uproot.LZ4(4)
        tree = file["Events"]
        assert tree.num_entries == 106
        types = tree.typenames()
        assert types["label_QCD"] == "bool"
        assert types["score_label_QCD"] == "float"
        assert types["_label_"] == "int64_t"
        assert types["part_px"] == "float[]"
        np.testing.assert_array_equal(tree["event"].array(library="np"), np.arange(106))


def test_parquet_file_as_others_read_it(tmp_path):
    path = tmp_path / "table.parquet"
    write(path, 3, 3)
    frame = pd.read_parquet(path)
    assert frame["_label_"].tolist() == list(range(6))
    assert frame["part_px"][5].tolist() == [5, 5]
    array = ak.from_parquet(path)
    assert str(array.type) == (
        "6 * {label_QCD: bool, score_label_QCD: float32, _label_: int64, run: int32, event: uint64, jet_pt: float64, "
        "genres: 2 * int16, part_px: var * float32, part_good: var * bool, process: string}"
    )


@pytest.mark.parametrize("entries", [0, 1, 65535, 65536, 65537, 1048577])
def test_number_of_entries_is_exact(tmp_path, entries):
    """weaver-core's writer loses the last entry when entries mod 1048576 is 1."""
    path = tmp_path / "table.root"
    with open_table(path, {}) as table:
        table.write({"n": np.empty(0, np.int64)})
        for start in range(0, entries, 100_000):
            table.write({"n": np.arange(start, min(start + 100_000, entries))})
    with uproot.open(path) as file:
        np.testing.assert_array_equal(file["Events"]["n"].array(library="np"), np.arange(entries))


def test_more_than_two_dimensions_go_to_parquet_too(tmp_path):
    def extra(start, size):
        numbers = np.arange(start, start + size)
        return {
            "tensor": np.broadcast_to(numbers[:, None, None], (size, 2, 3)).astype(np.float32),
            "doubly": ak.Array([[[int(n)] * (n % 2), [1]] for n in numbers]),
        }

    path = tmp_path / "table.root"
    write(path, 4, 4, extra=extra)
    assert "tensor" in table_names(path)
    assert "doubly" not in table_names(path)
    beside = tmp_path / "table.parquet"
    assert table_names(beside) == [*columns(0, 1), "tensor", "doubly"]
    [chunk] = read_table(beside, ["doubly", "tensor"])
    assert ak.to_list(chunk["doubly"])[3] == [[3], [1]]
    assert chunk["tensor"].shape == (8, 2, 3)


def test_two_dimensions_stay_in_root(tmp_path):
    write(tmp_path / "table.root", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["table.root"]


def fail_after(path, count):
    with open_table(path, {}) as table:
        table.write(columns(0, count))
        raise RuntimeError("the model failed")


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_failed_writer_leaves_nothing(tmp_path, suffix):
    with pytest.raises(RuntimeError, match="model"):
        fail_after(tmp_path / f"table{suffix}", 10)
    assert list(tmp_path.iterdir()) == []


def test_failed_writer_keeps_the_old_table(tmp_path):
    path = tmp_path / "table.root"
    write(path, 10)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="model"):
        fail_after(path, 20)
    assert path.read_bytes() == before


KILLED = """
import sys, time
import numpy as np
from weaver_tasks.results.predictions.tables import open_table
with open_table(sys.argv[1], {}) as table:
    for _ in range(1000000):
        table.write({"x": np.zeros(70000, np.float32)})
        print("written", flush=True)
"""


def test_killed_writer_leaves_no_table(tmp_path):
    path = tmp_path / "table.root"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()


FULL = """
import resource, sys
import numpy as np
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.results.predictions.tables import open_table
generator = np.random.default_rng(1)
{limit}
try:
    with open_table(sys.argv[1], {{}}) as table:
        for _ in range(50):
            table.write({{"x": generator.random(70000)}})
except (WeaverTasksError, OSError) as error:
    print(type(error).__name__, error)
"""


def test_full_disk_is_told_and_leaves_no_table(tmp_path):
    """A disk of 2 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = textwrap.dedent(FULL.format(limit=""))
    command = f"mount -t tmpfs -o size=2m none {disk} && {sys.executable} -c '{script}' {disk}/table.root && ls -A {disk}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command.replace('"', '"')], capture_output=True, text=True, check=False)
    if "WeaverTasksError" not in done.stdout and done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:100]}")
    assert done.stdout.startswith(f"WeaverTasksError {disk}/table.root: cannot be written (No space left on device).")
    assert len(done.stdout.splitlines()) == 1


def test_file_size_limit_leaves_no_table(tmp_path):
    script = FULL.format(limit="resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "table.root")], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeaverTasksError, match=r"table\.root: cannot be written"):
        write(tmp_path / "file" / "table.root", 1)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(WeaverTasksError, match="cannot be written"):
            write(tmp_path / "locked" / "table.root", 1)


def test_wrong_suffix_and_nothing_written(tmp_path):
    with pytest.raises(ResultError, match=r"ends in \.root or \.parquet"), open_table(tmp_path / "table.csv", {}):
        pass
    with pytest.raises(ResultError, match="nothing to write"), open_table(tmp_path / "table.root", {}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_missing_and_damaged_tables_are_told(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    with pytest.raises(ResultError, match="no such file"):
        table_names(path)
    path.write_bytes(b"")
    with pytest.raises(ResultError, match=f"table\\{suffix}: "):
        table_names(path)
    path.write_bytes(b"root is not what this file is, though it is long enough to be looked at" * 10)
    with pytest.raises(ResultError, match=f"table\\{suffix}: "):
        table_names(path)
    write(path, 3)
    with pytest.raises(ResultError, match="no column 'score_label_Hbb'"):
        list(read_table(path, ["score_label_Hbb"]))


def test_root_file_without_the_tree(tmp_path):
    path = tmp_path / "table.root"
    with uproot.recreate(path) as file:
        file.mktree("tree", {"x": np.float32})
    with pytest.raises(ResultError, match="no tree 'Events'"):
        table_names(path)


def test_tables_of_other_programs_have_no_metadata(tmp_path):
    path = tmp_path / "table.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": np.float32})
    assert table_metadata(path) == {}
