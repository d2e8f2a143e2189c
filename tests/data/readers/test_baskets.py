"""Baskets read here hold what uproot reads in them, in files of ROOT itself and of uproot; damage is never read as numbers."""

import gc
import os
from contextlib import closing
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.readers.baskets import baskets_of
from weaver_tasks.data.readers.place import local
from weaver_tasks.data.readers.root import open_root

WRITTEN_BY_ROOT = Path(__file__).parents[2] / "files" / "written_by_root"
COMPRESSIONS = ("lz4", "zstd", "zlib", "lzma", "none")
JETS = 24
LEFT_TO_UPROOT = {"array_of_3"}
PACKED = ("vector_int", "vector_bool", "vector_unsigned_char", "vector_unsigned_int")
"""Those that LZ4 makes smaller, and so have checksums; ROOT leaves others as they are."""


def same(array, expected):
    assert array.type == expected.type
    assert array.to_list() == expected.to_list()


def branches_of(path, **entries):
    """Name -> baskets, and uproot's array of the whole branch or of some entries."""
    with uproot.open(path) as file:
        return {branch.name: (baskets_of(branch), branch.array(**entries)) for branch in file["tree"].branches}


@pytest.fixture(scope="module")
def lz4():
    path = WRITTEN_BY_ROOT / "lz4.root"
    return path, {name: found for name, found in branches_of(path).items() if name not in LEFT_TO_UPROOT}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_root_wrote(compression):
    path = WRITTEN_BY_ROOT / f"{compression}.root"
    with path.open("rb") as file:
        for name, (baskets, expected) in branches_of(path).items():
            assert (baskets is None) == (name in LEFT_TO_UPROOT)
            if baskets is not None:
                same(baskets.read(file.fileno(), 0, JETS), expected)


def test_vectors_have_several_baskets_and_empty_lists(lz4):
    _, branches = lz4
    baskets, vector = branches["vector_float"]
    assert len(baskets.places) > 2
    assert baskets.header == 10
    assert ak.any(ak.num(vector) == 0)
    assert ak.any(ak.num(vector) > 30)


@given(st.data())
def test_any_range_of_entries(lz4, data):
    path, branches = lz4
    first = data.draw(st.integers(0, JETS - 1))
    last = data.draw(st.integers(first + 1, JETS))
    with path.open("rb") as file:
        for baskets, expected in branches.values():
            same(baskets.read(file.fileno(), first, last), expected[first:last])


def test_jets_that_uproot_wrote(jets):
    path = jets / "train" / "TTBar.root"
    with path.open("rb") as file:
        for baskets, expected in branches_of(path, entry_start=3, entry_stop=200).values():
            same(baskets.read(file.fileno(), 3, 200), expected)


def test_ranges_outside_the_file_are_left_to_uproot(lz4):
    path, branches = lz4
    baskets, _ = branches["vector_float"]
    with path.open("rb") as file:
        for first, last in ((0, 0), (0, JETS + 1), (-1, 3)):
            assert baskets.read(file.fileno(), first, last) is None


@pytest.mark.parametrize(("first", "last"), [(0, JETS), (7, 20)])
def test_lists_without_places_are_as_long_as_another_branch_says(first, last):
    with closing(open_root(local(str(WRITTEN_BY_ROOT / "offsets_left_out.root")), None)) as reader:
        arrays = reader.read(["array_of_n", "vector_float"], first, last)
    for name, array in arrays.items():
        same(array, branches_of(WRITTEN_BY_ROOT / "zstd.root")[name][1][first:last])


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_reader_gives_all_branches_whoever_reads_them(name):
    path = WRITTEN_BY_ROOT / f"{name}.root"
    expected = branches_of(path, entry_start=2, entry_stop=20)
    with closing(open_root(local(str(path)), None)) as reader:
        arrays = reader.read(list(expected), 2, 20)
    assert list(arrays) == list(expected)
    for branch, array in arrays.items():
        same(array, expected[branch][1])


def test_a_tuple_that_root_wrote_holds_the_same_as_the_tree():
    with (
        closing(open_root(local(str(WRITTEN_BY_ROOT / "tuple.root")), None)) as tuples,
        closing(open_root(local(str(WRITTEN_BY_ROOT / "lz4.root")), None)) as tree,
    ):
        names = sorted(tuples.known())
        assert {"vector_float", "vector_bool", "number_bool"} <= set(names)
        arrays = tuples.read(names, 0, JETS)
        for name, array in tree.read(names, 0, JETS).items():
            same(arrays[name], array)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_of_what_has_a_checksum_gives_no_other_number(lz4, tmp_path, data):
    path, branches = lz4
    baskets, expected = branches[data.draw(st.sampled_from(PACKED))]
    basket = data.draw(st.integers(0, len(baskets.places) - 1))
    content = bytearray(path.read_bytes())
    content[baskets.places[basket] + data.draw(st.integers(0, baskets.sizes[basket] - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path / "damaged.root"
    damaged.write_bytes(content)
    with damaged.open("rb") as file:
        array = baskets.read(file.fileno(), 0, JETS)
    if array is not None:
        same(array, expected)


@pytest.mark.parametrize("name", PACKED)
def test_flipped_bits_are_noticed(lz4, tmp_path, name):
    path, branches = lz4
    baskets, _ = branches[name]
    content = bytearray(path.read_bytes())
    for place, size in zip(baskets.places, baskets.sizes, strict=True):
        content[place + size - 5] ^= 1
    damaged = tmp_path / "damaged.root"
    damaged.write_bytes(content)
    with damaged.open("rb") as file:
        assert baskets.read(file.fileno(), 0, JETS) is None


def test_a_file_cut_short(lz4, tmp_path):
    path, branches = lz4
    baskets, expected = branches["vector_float"]
    short = tmp_path / "short.root"
    short.write_bytes(path.read_bytes()[: baskets.places[-1] + 10])
    file = os.open(short, os.O_RDONLY)
    try:
        assert baskets.read(file, 0, JETS) is None
        same(baskets.read(file, 0, baskets.entries[1]), expected[: baskets.entries[1]])
    finally:
        os.close(file)


def test_numbers_are_in_the_order_of_this_machine(lz4):
    path, branches = lz4
    with path.open("rb") as file:
        values = np.asarray(ak.flatten(branches["vector_double"][0].read(file.fileno(), 0, JETS)))
    assert values.dtype.isnative
    assert values.dtype == np.float64


def test_a_reader_that_nobody_has_any_more_leaves_no_file_open(jets):
    def ours():
        return sum(os.path.realpath(f"/proc/self/fd/{name}") == str(path) for name in os.listdir("/proc/self/fd"))

    path = (jets / "train" / "TTBar.root").resolve()
    reader = open_root(local(str(path)), None)
    reader.read(["jet_pt"], 0, 10)
    assert ours() > 0
    del reader
    gc.collect()
    assert ours() == 0
    reader = open_root(local(str(path)), None)
    reader.close()
    assert ours() == 0


def test_split_collections_are_read_as_uproot_reads_them():
    path = WRITTEN_BY_ROOT / "collections.root"
    with uproot.open(path) as file, closing(open_root(local(str(path)), None)) as reader:
        branches = dict(file["Delphes"].iteritems(recursive=True))
        assert {"Particle/Particle.fPx", "Particle/Particle.fMother[2]", "Event.HT"} <= set(branches)
        for first, last in ((0, 40), (7, 20)):
            for name, branch in branches.items():
                same(reader.read([name], first, last)[name], branch.array(entry_start=first, entry_stop=last))
        # Under the last part of its name, and without the size that ROOT writes into it.
        same(reader.read(["Particle.fMother"], 0, 40)["Particle.fMother"], branches["Particle/Particle.fMother[2]"].array())
        counts = ak.num(reader.read(["Particle.fE"], 0, 40)["Particle.fE"]).to_list()
        assert counts == reader.read(["Particle_size"], 0, 40)["Particle_size"].to_list()


@pytest.mark.parametrize("kind", ["d", "f"])
@pytest.mark.parametrize("limits", ["", "_range"])
def test_arrays_of_truncated_numbers(kind, limits):
    """Of 16 bits from 0 to 100: as near as half a step; of no range: as these numbers are, exactly."""
    step = 100 / (1 << 16) if limits else 0.0
    with closing(open_root(local(str(WRITTEN_BY_ROOT / "truncated.root")), None)) as reader:
        arrays = reader.read([f"{kind}{limits}", f"list_{kind}{limits}", "n"], 2, 9)
    fixed, lists = arrays[f"{kind}{limits}"], arrays[f"list_{kind}{limits}"]
    assert arrays["n"].to_list() == ak.num(lists).to_list() == list(range(2, 9))
    np.testing.assert_allclose(ak.to_numpy(fixed), np.arange(2, 9)[:, None] + np.arange(3) / 4, rtol=0, atol=step / 2 * 1.01)
    expected = np.concatenate([n + np.arange(n) / 4 for n in range(2, 9)])
    np.testing.assert_allclose(ak.to_numpy(ak.flatten(lists)), expected, rtol=0, atol=step / 2 * 1.01)


def test_a_range_of_truncated_numbers_may_be_in_pi():
    with closing(open_root(local(str(WRITTEN_BY_ROOT / "truncated.root")), None)) as reader:
        found = ak.to_numpy(reader.read(["d_pi"], 0, 9)["d_pi"])
    np.testing.assert_allclose(found, (np.arange(9)[:, None] + np.arange(3) / 4) / 4, rtol=0, atol=10 / (1 << 24))


def test_files_that_were_never_closed_and_cycles_that_are_not_there():
    with pytest.raises(InputFileError, match=r"unclosed\.root: was never closed: .*ROOT recover"):
        open_root(local(str(WRITTEN_BY_ROOT / "unclosed.root")), None)
    with pytest.raises(InputFileError, match=r"has no tree 'tree;3', but tree;1\. Write treename: tree"):
        open_root(local(str(WRITTEN_BY_ROOT / "truncated.root")), "tree;3")
