"""Readers: real jets in every format give the same arrays; what is wrong with a file is told by name."""

import functools
import http.server
import os
import shutil
import struct
import threading

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from numpy.testing import assert_array_equal

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.readers import open_reader, read_arrays
from weaver_tasks.data.readers.chunks import Steps
from weaver_tasks.data.readers.remote import remote_state
from weaver_tasks.data.staging.source_checksums import source_checksum, source_status
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.staging.stage import Staging, stage_file
from xrootd_server import serving

BRANCHES = ("part_px", "part_isPhoton", "jet_pt", "label_Hbb", "label_Zqq")
NO_MAGIC = {"branch_magic": {}, "file_magic": {}}


@pytest.fixture(scope="module")
def jet_file(request):
    return request.getfixturevalue("jets") / "train" / "HToBB.root"


@pytest.fixture(scope="module")
def expected(jet_file):
    with uproot.open(jet_file) as file:
        return file["tree"].arrays(BRANCHES)


def read(path, branches=BRANCHES, first=0, last=None, tree=None):
    with open_reader(path, tree=tree) as reader:
        return read_arrays(reader, str(path), branches, first, reader.entries if last is None else last, **NO_MAGIC)


def assert_same(arrays, expected):
    for name, array in arrays.items():
        assert array.to_list() == expected[name].to_list(), name
        dtypes = [np.asarray(ak.flatten(values, axis=None)).dtype for values in (array, expected[name])]
        assert dtypes[0] == dtypes[1], name


def write_tuple(path, expected):
    with uproot.recreate(path) as file:
        tuple_ = file.mkrntuple("tree", {name: ak.to_packed(expected[name][:130]) for name in BRANCHES})
        tuple_.extend({name: ak.to_packed(expected[name][130:]) for name in BRANCHES})


def write_parquet(path, expected):
    table = pa.table({name: ak.to_arrow(expected[name], extensionarray=False) for name in BRANCHES})
    pq.write_table(table, path, row_group_size=90)


def write_hdf5(path, expected):
    with h5py.File(path, "w") as file:
        for name in BRANCHES:
            if expected[name].ndim == 1:
                file.create_dataset(name, data=ak.to_numpy(expected[name]), chunks=(60,), compression="gzip")
            else:
                content = ak.to_numpy(ak.flatten(expected[name]))
                dataset = file.create_dataset(name, (len(expected),), dtype=h5py.vlen_dtype(content.dtype))
                for event, values in enumerate(expected[name]):
                    dataset[event] = np.asarray(values)


WRITERS = {"root": None, "rntuple": write_tuple, "parquet": write_parquet, "h5": write_hdf5}


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory, jet_file, expected):
    """The same jets in a file of each format."""
    if WRITERS[request.param] is None:
        return jet_file
    path = tmp_path_factory.mktemp("formats") / f"jets.{request.param.replace('rntuple', 'root')}"
    WRITERS[request.param](path, expected)
    return path


def test_formats_give_the_same_arrays(written, expected):
    assert_same(read(written), expected)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (85, 95), (129, 131), (200, 250), (40, 40)])
def test_entry_ranges(written, expected, first, last):
    assert_same(read(written, first=first, last=last), expected[first:last])


def test_steps_cover_the_file_once_and_going_back_is_possible(written, expected):
    with open_reader(written) as reader:
        first, parts = 0, []
        while first < reader.entries:
            stop = reader.step(BRANCHES, first, 30_000)
            assert first < stop <= reader.entries
            parts.append(reader.read(BRANCHES, first, stop))
            first = stop
        assert len(parts) > 1
        assert_same({name: ak.concatenate([part[name] for part in parts]) for name in BRANCHES}, expected)
        assert_same(reader.read(BRANCHES, 3, 7), expected[3:7])


def test_missing_branches_are_named_with_the_nearest(written):
    with pytest.raises(InputFileError, match=r"no branch 'jet_pT' \(and 1 more: nothing\)\. Did you mean: jet_pt") as error:
        read(written, ("jet_pt", "jet_pT", "nothing"))
    assert str(written) in str(error.value)


def test_awkward0_files_are_read_without_their_package(repository, expected):
    """The file was made by awkward0 0.15.5 from the same jets: jagged, nested, flat and regular arrays."""
    path = repository / "tests" / "files" / "old_formats" / "HToBB.awkd"
    arrays = read(path, ("part_px", "part_isPhoton", "jet_pt", "label_Hbb", "reversed_px", "vertices", "grid"), 5, 25)
    assert_same({name: arrays[name] for name in ("part_px", "part_isPhoton", "jet_pt", "label_Hbb")}, expected[5:25])
    assert arrays["reversed_px"].to_list() == expected["part_px"][:40][::-1][5:25].to_list()
    assert arrays["vertices"].to_list() == [[values] for values in expected["part_px"][5:25].to_list()]
    assert_array_equal(arrays["grid"], np.arange(240, dtype=np.float32).reshape(40, 2, 3)[5:25])


def test_awkward0_files_cannot_run_code(tmp_path):
    import base64
    import json
    import pickle
    import zipfile

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "evil.awkd"
    for schema in ({"python": base64.b64encode(pickle.dumps(Attack())).decode()}, {"call": ["os", "system"], "args": [{"json": "true"}]}):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.json", json.dumps({"awkward0": "0.15.5", "schema": schema, "prefix": "x-"}))
        with pytest.raises(InputFileError, match=r"evil.awkd: cannot be read as an awkward-0 file"):
            read(path, ("x",))
    assert not (tmp_path / "owned").exists()


def test_pytables_truth_values_stay_truth_values(tmp_path):
    tables = pytest.importorskip("tables")
    path = tmp_path / "jets.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "flag", obj=np.array([True, False, True]))
        file.create_carray("/", "pt", obj=np.arange(3, dtype=">f4"))
    arrays = read(path, ("flag", "pt"))
    assert arrays["flag"].to_list() == [True, False, True]
    assert str(ak.type(arrays["pt"])) == "3 * float32"


def test_missing_values_of_parquet(tmp_path):
    path = tmp_path / "jets.parquet"
    pq.write_table(pa.table({"pt": [1.5, None, 2.5], "parts": [[1.0, None], None, []], "n": [1, None, 3]}), path)
    arrays = read(path, ("pt", "parts"))
    assert_array_equal(ak.to_numpy(arrays["pt"]), [1.5, np.nan, 2.5])
    assert ak.num(arrays["parts"]).to_list() == [2, 0, 0]
    assert_array_equal(ak.to_numpy(ak.flatten(arrays["parts"])), [1.0, np.nan])
    # What stands for a whole number that is missing depends on its use.
    assert read(path, ("n",))["n"].to_list() == [1, None, 3]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), "string"),
        (pa.array(["a", "b" * 40, ""], pa.string_view()), "string"),
        (pa.array([["a"], ["b", "c"], []], pa.large_list(pa.string())), "var * string"),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)), "var * int32"),
        (pa.array([[1.0], [], [2.0, 3.0]], pa.list_view(pa.float64())), "var * float64"),
        (pa.array([1.5, 60000.0, 2.0], pa.float16()), "float32"),
        (pa.array([True, False, True]), "bool"),
    ],
    ids=["categories", "view", "lists of text", "fixed size", "list view", "half", "bool"],
)
def test_kinds_of_parquet_columns(tmp_path, column, kind):
    """Two row groups: each has categories of its own."""
    path = tmp_path / "jets.parquet"
    pq.write_table(pa.table({"x": column}), path, row_group_size=2)
    array = read(path, ("x",))["x"]
    assert array.to_list() == column.to_pylist()
    assert str(array.type) == f"3 * {kind}"


def test_missing_values_are_where_they_are_whichever_rows_are_read(tmp_path):
    path = tmp_path / "jets.parquet"
    columns = {"f": [1.0, None, 3.0, 4.0, None, 6.0], "l": [[1.0], None, [3.0], [4.0, None], [], [6.0]], "n": [1, None, 3, 4, None, 6]}
    pq.write_table(pa.table(columns), path)
    for first, last in ((0, 6), (1, 3), (3, 6), (4, 6), (5, 6)):
        arrays = read(path, tuple(columns), first, last)
        assert ak.fill_none(ak.nan_to_none(arrays["f"]), -1).to_list() == [-1 if x is None else x for x in columns["f"][first:last]]
        assert ak.num(arrays["l"]).to_list() == [len(x or []) for x in columns["l"][first:last]]
        assert arrays["n"].to_list() == columns["n"][first:last]


@pytest.mark.parametrize("column", [["a", None, "c"], [["a"], ["b", None], []]])
def test_missing_text_is_told_by_name(tmp_path, column):
    path = tmp_path / "jets.parquet"
    pq.write_table(pa.table({"x": column}), path)
    with pytest.raises(InputFileError, match=r"text is missing in 'x': in entry 1 and in 0 more of 3"):
        read(path, ("x",))


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.duration("s"), pa.date32()])
def test_other_types_of_parquet_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "jets.parquet"
    pq.write_table(pa.table({"x": pa.array([1, 2, 3], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)}), path)
    with pytest.raises(InputFileError, match=r"'x' is of type .*, which is not read"):
        read(path, ("x",))


def test_fixed_sizes_are_lists_in_every_format(tmp_path):
    """met[1] divided by a number of the event: that of the event, not of all events."""
    met, lep, pt = np.arange(1.0, 4.0).reshape(3, 1), np.arange(6.0).reshape(3, 2), np.array([2.0, 4.0, 8.0])
    paths = [tmp_path / name for name in ("tree.root", "tuple.root", "a.parquet", "a.h5")]
    with uproot.recreate(paths[0]) as file:
        file.mktree("tree", {"met": np.dtype(("f8", (1,))), "lep": np.dtype(("f8", (2,))), "pt": "f8"})
        file["tree"].extend({"met": met, "lep": lep, "pt": pt})
    with uproot.recreate(paths[1]) as file:
        file.mkrntuple("tree", {"met": ak.Array(met), "lep": ak.Array(lep), "pt": ak.Array(pt)})
    columns = {"met": pa.array(met.tolist(), pa.list_(pa.float64(), 1)), "lep": pa.array(lep.tolist(), pa.list_(pa.float64(), 2)), "pt": pt}
    pq.write_table(pa.table(columns), paths[2])
    with h5py.File(paths[3], "w") as file:
        file["met"], file["lep"], file["pt"] = met, lep, pt
    for path in paths:
        arrays = read(path, ("met", "lep", "pt"))
        assert (arrays["met"] / arrays["pt"]).to_list() == (met / pt[:, None]).tolist(), path
        assert (arrays["lep"] / arrays["pt"]).to_list() == (lep / pt[:, None]).tolist(), path


def test_half_precision_does_not_overflow(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["px"], file["py"] = np.full((2, 3), 300, dtype="f2"), np.full((2, 3), 400, dtype="f2")
    arrays = read(path, ("px", "py"))
    assert ak.all(np.sqrt(arrays["px"] ** 2 + arrays["py"] ** 2) == 500)
    assert ak.sum(arrays["px"], axis=1).to_list() == [900, 900]


# Trees


def write_trees(path, *names, entries=4):
    with uproot.recreate(path) as file:
        for name in names:
            file.mktree(name, {"x": "f4"})
            file[name].extend({"x": np.arange(entries, dtype=np.float32)})
        file["note"] = "not a tree"
    return path


def test_the_only_tree_is_found_whatever_its_name(tmp_path):
    path = write_trees(tmp_path / "a.root", "folder/events")
    assert read(path, ("x",))["x"].to_list() == [0, 1, 2, 3]
    assert read(path, ("x",), tree="folder/events")["x"].to_list() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("trees", "tree", "message"),
    [
        (("events", "runs"), None, "has several trees: events, runs. Give 'treename'"),
        (("events", "runs"), "event", "has no tree 'event', but trees: events, runs. Did you mean: events?"),
        ((), None, "has no tree. Give 'treename'"),
        ((), "events", "has no tree 'events', but no tree at all"),
    ],
)
def test_trees_are_named(tmp_path, trees, tree, message):
    path = write_trees(tmp_path / "a.root", *trees)
    with pytest.raises(InputFileError) as error:
        read(path, ("x",), tree=tree)
    assert str(error.value).startswith(f"{path}: {message}")


def test_branches_of_unequal_length_are_refused(tmp_path):
    path = tmp_path / "a.root"
    entries = 12347
    with uproot.recreate(path, compression=None) as file:
        file.mktree("tree", {"x": "f4", "y": "f4"})
        file["tree"].extend({name: np.zeros(entries, dtype=np.float32) for name in "xy"})
    content = bytearray(path.read_bytes())
    # The third time that the number is written it is fEntries of the branch x.
    number, place = struct.pack(">q", entries), -1
    for _ in range(3):
        place = content.index(number, place + 1)
    content[place : place + 8] = struct.pack(">q", entries - 3)
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="branch 'x' has 12344 entries, but tree 'tree' has 12347"):
        read(path, ("x", "y"))


def test_hdf5_arrays_of_unequal_length_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, length in (("x", 5), ("y", 5), ("z", 4)):
            file[name] = np.zeros(length)
    assert len(read(path, ("x", "y"))["x"]) == 5
    with pytest.raises(InputFileError, match="'z' has 4 entries, but others have 5"):
        read(path, ("x", "z"))


# Files that are not what they should be


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5", ".awkd"])
@pytest.mark.parametrize("content", [b"", b"not what it says\n" * 100], ids=["empty", "text"])
def test_other_files_are_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=f"bad{suffix}: "):
        read(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused_by_name(written, tmp_path, share):
    content = written.read_bytes()
    path = tmp_path / f"cut{written.suffix}"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputFileError, match=f"cut{written.suffix}: "):
        read(path)


def test_unknown_suffixes_and_missing_files(tmp_path):
    with pytest.raises(InputFileError, match=r"files ending in '\.csv' are not read"):
        read(tmp_path / "a.csv")
    with pytest.raises(InputFileError, match=r"a\.root: no such file"):
        read(tmp_path / "a.root")


# Names by magic


def test_branch_magic_and_file_magic(jet_file, expected):
    magic = {"branch_magic": {"AK8_": "jet_", "Pt": "pt"}, "file_magic": {"year": {"2018": 2018, "HTo": 7}, "other": {"nothing": 1}}}
    with open_reader(jet_file) as reader:
        arrays = read_arrays(reader, str(jet_file), ("AK8_Pt", "year", "other"), 2, 6, **magic)
        assert_array_equal(arrays["AK8_Pt"], expected["jet_pt"][2:6])
        assert arrays["year"].to_list() == [7] * 4
        assert arrays["other"].to_list() == [0] * 4
        # A file may be asked for nothing but what its path says.
        assert read_arrays(reader, str(jet_file), ("year",), 0, 3, **magic)["year"].to_list() == [7] * 3


# Steps


def test_steps_end_where_baskets_end():
    steps = Steps(total_bytes=1000 * 100, entries=1000, ends=[0, 90, 300, 310, 1000])
    assert [steps.step(first, 10_000) for first in (0, 90, 300, 305)] == [90, 300, 310, 310]
    # The next end is more than eight times the size away: cut within.
    assert Steps(1000 * 100, 1000, [0, 1000]).step(0, 10_000) == 100
    assert steps.step(310, 10_000) == 1000
    assert steps.step(999, 10) == 1000


# Remote files


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, or one range of them as most servers do."""

    def do_GET(self):
        path = self.translate_path(self.path)
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes=") or "," in wanted or not os.path.isfile(path):
            super().do_GET()
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        with open(path, "rb") as file:
            content = file.read()
        last = min(int(last) if last else len(content), len(content) - 1)
        part = content[int(first) : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """The address of a folder served over HTTP, and the folder."""
    pytest.importorskip("aiohttp")
    handler = functools.partial(RangeHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    server.server_close()
    thread.join()


def assert_stages_as(url, local, folder, repository):
    """A remote file gives in every mode the events of the local one; its checksum is known where it is copied."""
    configuration = load_data_configuration(repository / "config" / "data" / "demo.yaml")

    def staged(source, mode):
        target = {"columnar": folder / f"{mode}.arrow", "copy": folder / f"{mode}.root", "none": None}[mode]
        record = stage_file(source, target, Staging(configuration=configuration, split="train", mode=mode), group="g")
        assert record["bad"] is None
        return record, open_source(record, configuration).read(20, 90)

    _, reference = staged(str(local), "none")
    for mode in ("columnar", "copy", "none"):
        record, block = staged(url, mode)
        assert record["checksum"] == (file_checksum(local) if mode == "copy" else None)
        assert_array_equal(block.entries, reference.entries)
        for name, packed in reference.packed.items():
            assert_array_equal(block.packed[name].own_values(), packed.own_values())


def test_root_files_are_staged_over_http(web, jet_file, repository, tmp_path_factory):
    address, folder = web
    shutil.copy(jet_file, folder / "jets.root")
    assert_stages_as(f"{address}/jets.root", jet_file, tmp_path_factory.mktemp("staged"), repository)


def test_files_over_http(web, written, expected):
    address, folder = web
    shutil.copy(written, folder / f"jets{written.suffix}")
    assert_same(read(f"{address}/jets{written.suffix}", last=50), expected[:50])


def test_files_missing_over_http_are_named(web):
    address, _ = web
    with pytest.raises(InputFileError, match=rf"{address}/none\.root"):
        read(f"{address}/none.root")


@pytest.fixture
def xrootd():
    """The address of a folder served by an XRootD server, and the folder."""
    with serving() as (address, folder, _):
        yield address, folder


def test_files_over_xrootd(xrootd, jet_file, expected, repository, tmp_path_factory):
    address, folder = xrootd
    shutil.copy(jet_file, folder / "jets.root")
    assert_same(read(f"{address}/jets.root", first=10, last=60), expected[10:60])
    assert_stages_as(f"{address}/jets.root", jet_file, tmp_path_factory.mktemp("staged"), repository)
    with pytest.raises(InputFileError, match=r"none\.root: cannot be read: the server has no such file"):
        read(f"{address}/none.root")


def test_a_file_replaced_on_an_xrootd_server_is_known_by_its_checksum(xrootd, jet_file):
    address, folder = xrootd
    served = folder / "jets.root"
    shutil.copy(jet_file, served)
    known = remote_state(f"{address}/jets.root")
    assert known.size == jet_file.stat().st_size
    # A copy that was made anew has another time only.
    os.utime(served, (1_000_000_000, 1_000_000_000))
    now = remote_state(f"{address}/jets.root")
    assert now.modified != known.modified
    assert (known.difference(now) == "") == (known.checksum is not None)
    content = bytearray(served.read_bytes())
    content[-1] ^= 1
    served.unlink()
    served.write_bytes(content)
    with (
        pytest.raises(InputFileError, match=r"jets\.root: was replaced on the server"),
        open_reader(f"{address}/jets.root", expected=known),
    ):
        pass


# HDF5 whose bytes lie in other files


def write_parts(folder, *, entries=6):
    """Two files of values, a file of datasets that lie in them, and the values."""
    (folder / "parts").mkdir()
    values = np.arange(2.0 * entries)
    for part in range(2):
        with h5py.File(folder / "parts" / f"p{part}.h5", "w") as file:
            file["x"] = values[entries * part : entries * (part + 1)]
    path = folder / "all.h5"
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((2 * entries,), dtype="f8")
        for part in range(2):
            layout[entries * part : entries * (part + 1)] = h5py.VirtualSource(f"parts/p{part}.h5", "x", shape=(entries,))
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink("parts/p1.h5", "/x")
        file["own"] = values
    return path, values


def test_values_in_other_files_are_read(tmp_path):
    path, values = write_parts(tmp_path)
    assert_array_equal(ak.to_numpy(read(path, ("virtual", "own"))["virtual"]), values)
    with open_reader(path, branches=("linked",)) as reader:
        assert reader.entries == 6
        assert_array_equal(ak.to_numpy(reader.read(("linked",), 2, 5)["linked"]), values[8:11])


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("virtual", lambda folder: (folder / "parts/p0.h5").rename(folder / "gone.h5"), "takes its values from 'parts/p0.h5', which"),
        ("linked", lambda folder: (folder / "parts/p1.h5").rename(folder / "gone.h5"), "is a link to 'parts/p1.h5', which does not exist"),
        ("virtual", lambda folder: (folder / "parts/p1.h5").write_bytes(b"text"), "which cannot be read as HDF5"),
        ("linked", lambda folder: h5py.File(folder / "parts/p1.h5", "w").close(), "which holds no '/x'"),
        ("virtual", lambda folder: h5py.File(folder / "parts/p1.h5", "w").close(), "which holds no 'x'"),
    ],
)  # fmt: skip
def test_a_source_that_is_missing_is_named(tmp_path, name, harm, message):
    path, values = write_parts(tmp_path)
    harm(tmp_path)
    assert_array_equal(ak.to_numpy(read(path, ("own",))["own"]), values)
    with pytest.raises(InputFileError) as error, open_reader(path, branches=(name,)):
        pass
    assert str(error.value).startswith(f"{path}: '{name}' {message}") or message in str(error.value)


def test_values_that_lie_nowhere_or_outside_are_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    path, outside = tmp_path / "inside" / "a.h5", tmp_path / "outside.h5"
    np.arange(4.0).tofile(tmp_path / "inside" / "raw.bin")
    with h5py.File(outside, "w") as file:
        file["x"] = np.arange(4.0)
    with h5py.File(path, "w") as file:
        file["short"] = np.arange(3.0)
        file["linked"] = h5py.ExternalLink("../outside.h5", "/x")
        file.create_dataset("raw", (4,), dtype="f8", external=[(str(tmp_path / "inside" / "raw.bin"), 0, 32)])
        holes = h5py.VirtualLayout((4,), dtype="f8")
        holes[:2] = h5py.VirtualSource(".", "short", shape=(3,))[:2]
        file.create_virtual_dataset("holes", holes)
        larger = h5py.VirtualLayout((4,), dtype="f8")
        larger[:] = h5py.VirtualSource(".", "short", shape=(4,))
        file.create_virtual_dataset("larger", larger)
    for name, message in {
        "linked": "which lies outside the folder of the file",
        "raw": "keeps its values in",
        "holes": "has no source of 2 of its 4 values",
        "larger": "is smaller than it says",
    }.items():
        with pytest.raises(InputFileError, match=message), open_reader(path, branches=(name,)):
            pass


def test_other_files_are_part_of_checksum_and_size(tmp_path):
    path, _ = write_parts(tmp_path)
    before = source_checksum(str(path)), source_status(str(path))
    assert before[1][0] == sum(each.stat().st_size for each in (path, *(tmp_path / "parts").iterdir()))
    with h5py.File(tmp_path / "parts" / "p0.h5", "r+") as file:
        file["x"][0] = 5
    assert source_checksum(str(path)) != before[0]
    assert source_checksum(str(tmp_path / "parts" / "p1.h5")) == file_checksum(tmp_path / "parts" / "p1.h5")


def test_datasets_beside_the_used_ones_may_have_any_length(tmp_path):
    """Counters of a selection, several of one length, beside the jets and their tracks."""
    path = tmp_path / "a.h5"
    jets = np.zeros(5, dtype=[("pt", "f4"), ("flavor", "i4"), *((f"other{i}", "f8") for i in range(50))])
    jets["pt"], jets["flavor"] = np.arange(5), [0, 4, 5, 0, 5]
    tracks = np.zeros((5, 3), dtype=[("d0", "f2"), ("valid", "?")])
    tracks["d0"] = np.arange(15).reshape(5, 3)
    with h5py.File(path, "w") as file:
        file["jets"], file["tracks"] = jets, tracks
        for name in ("cutflow", "cutflow_weighted", "cutflow_weighted2"):
            file[name] = np.arange(7.0)
    with open_reader(path, branches=("jets", "tracks"), fields={"jets": ("pt",)}) as reader:
        assert reader.entries == 5
        read_ = read_arrays(reader, str(path), ("jets", "tracks"), 1, 4, **NO_MAGIC)
    assert read_["jets"].fields == ["pt"]
    assert read_["jets"].pt.to_list() == [1, 2, 3]
    assert str(read_["tracks"].d0.type) == "3 * var * float32"
    assert read_["tracks"].d0.to_list() == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("values", [np.zeros(3, dtype="c8"), np.array([1, 2, 3], dtype="M8[ns]").astype("i8").view("V8")])
def test_other_types_of_hdf5_are_refused_by_name(tmp_path, values):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["odd"] = values
    with pytest.raises(InputFileError, match=r"a\.h5: 'odd' holds .*, which is not read"):
        read(path, ("odd",))


def test_references_of_hdf5_are_refused_by_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
        file.create_dataset("odd", data=[file["x"].ref] * 3, dtype=h5py.ref_dtype)
    with pytest.raises(InputFileError, match=r"a\.h5: 'odd' holds object, which is not read"):
        read(path, ("odd",))


def test_text_of_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["variable"] = np.array(["ä", "", "bcd"], dtype=h5py.string_dtype())
        file["fixed"] = np.array([b"x", b"yz", b""])
        file["lists"] = np.array([[b"x", b"yz"], [b"", b"a"], [b"c", b"d"]])
    arrays = read(path, ("variable", "fixed", "lists"))
    assert arrays["variable"].to_list() == ["ä", "", "bcd"]
    assert arrays["fixed"].to_list() == ["x", "yz", ""]
    assert arrays["lists"].to_list() == [["x", "yz"], ["", "a"], ["c", "d"]]
    assert str(read(path, ("variable",), 0, 0)["variable"].type) == "0 * string"
