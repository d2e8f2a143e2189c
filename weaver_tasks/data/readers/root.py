"""Reads a TTree or an RNTuple from a ROOT file."""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import awkward as ak
import cramjam
import uproot

from weaver_tasks.base.errors import InputFileError, did_you_mean
from weaver_tasks.data.readers.baskets import Baskets, baskets_of
from weaver_tasks.data.readers.chunks import Steps
from weaver_tasks.data.readers.place import Place
from weaver_tasks.data.readers.remote_root import open_by_uproot
from weaver_tasks.data.readers.truncated_numbers import array_of_truncated

# Exceptions that uproot raises on damaged files, because it uses pointers and sizes from the file without checks.
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    cramjam.DecompressionError,
    uproot.deserialization.DeserializationError,
)
# Exceptions that uproot raises on branches of types that it cannot read.
_OF_TYPE = (
    NameError,
    NotImplementedError,
    uproot.interpretation.identify.UnknownInterpretation,
    uproot.interpretation.objects.CannotBeAwkward,
)
_TREES = ("TTree", "TNtuple", "TNtupleD", "TChain")
_TUPLES = ("ROOT::RNTuple", "ROOT::Experimental::RNTuple")


@contextlib.contextmanager
def refusing_damage(source: str, doing: str) -> Iterator[None]:
    """Turn exceptions of uproot on a damaged file into an InputFileError that names the file."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        if "unsupported compression algorithm" in reason:
            raise InputFileError(
                f"{source}: {doing} failed: it is packed by an algorithm of ROOT that uproot does not unpack ({reason}). Pack it anew with "
                "ROOT: hadd -f505 new.root old.root."
            ) from error
        raise InputFileError(
            f"{source}: {doing} failed ({type(error).__name__}: {reason}). The file is damaged or incomplete: fetch it again."
        ) from error


@contextlib.contextmanager
def _refusing_type(source: str, name: str, branch: Any) -> Iterator[None]:
    """Turn exceptions of uproot on an unknown type, or one that is not an array, into an InputFileError that names the branch."""
    try:
        yield
    except _OF_TYPE as error:
        try:
            typename = f"of type {branch.typename}"
        except Exception:  # uproot may fail on the type itself
            typename = "of a type that uproot does not know"
        reason = " ".join(str(error).split())[:100]
        raise InputFileError(
            f"{source}: branch '{name}' is {typename}, which cannot be read as an array ({type(error).__name__}: {reason}). Leave it "
            "out, or write its values as numbers or vectors of numbers."
        ) from error


def open_root(place: Place, tree: str | None) -> TreeReader | TupleReader:
    """Open a tree. Raises InputFileError when no tree has this name, or when there are several and no name is given."""
    source = place.name
    with refusing_damage(source, "opening it"):
        file = _opened(place, object_cache=None, array_cache=None)
        size, end = file.file.source.num_bytes, file.file.fEND
        cycles = file.classnames(recursive=True, cycle=True)
        classes = {key.partition(";")[0]: name for key, name in cycles.items()}
    if size < end:
        raise InputFileError(f"{source}: is truncated: it has {size} of {end} bytes. Fetch it again.")
    trees = [key for key, name in classes.items() if name in (*_TREES, *_TUPLES)]
    if not trees and size > end and not file.file.fSeekInfo:
        # ROOT writes the description of a file's content when the file is closed.
        raise InputFileError(
            f"{source}: was never closed: the job that wrote it has ended too early. Run that job again; or have ROOT recover what "
            f"""was saved: python -c 'import ROOT; ROOT.TFile("{source}", "UPDATE").Close()'."""
        )
    if tree is None:
        if len(trees) != 1:
            found = f"several trees: {', '.join(trees)}" if trees else "no tree"
            raise InputFileError(f"{source}: has {found}. Give 'treename' in the data configuration.")
        tree = trees[0]
    elif tree.partition(";")[0] not in trees:
        found = f"trees: {', '.join(trees)}" if trees else "no tree at all"
        raise InputFileError(f"{source}: has no tree '{tree}', but {found}.{did_you_mean(tree, trees)} Correct 'treename'.")
    elif ";" in tree and tree not in cycles:
        there = ", ".join(key for key in cycles if key.partition(";")[0] == tree.partition(";")[0])
        raise InputFileError(f"{source}: has no tree '{tree}', but {there}. Write treename: {tree.partition(';')[0]}, which is the latest.")
    kind = TupleReader if classes[tree.partition(";")[0]] in _TUPLES else TreeReader
    with refusing_damage(source, f"reading tree '{tree}'"):
        return kind(place, file, tree)


def _opened(place: Place, **options: Any) -> Any:
    if place.remote is not None:
        return open_by_uproot(place.remote, **options)
    return uproot.open({place.path: None}, handler=uproot.source.file.MemmapSource, **options)


class TreeReader:
    """A TTree. If possible, its steps end where baskets of all branches end together.

    Simple branches of local files are read by `baskets`, all others by uproot.
    """

    def __init__(self, place: Place, file: Any, tree: str) -> None:
        self._source = place.name
        self._file = file
        self._tree = file[tree]
        self.tree: str = tree
        self.entries = int(self._tree.num_entries)
        self._descriptor = None if place.remote is not None else os.open(place.path, os.O_RDONLY)
        # Also closes readers that are garbage-collected without a call of `close`.
        self._close = weakref.finalize(self, os.close, self._descriptor) if self._descriptor is not None else None
        self._baskets: dict[str, Baskets | None] = {}
        self._truncated: dict[str, Any] = {}
        self._steps: dict[tuple[str, ...], Steps] = {}
        self._branches: dict[str, Any] = {}
        for path, branch in self._tree.iteritems(recursive=True):
            self._branches.setdefault(path, branch)
            self._branches.setdefault(branch.name, branch)
        for name, branch in list(self._branches.items()):
            # ROOT puts the fixed size of a member into its branch's name: Particle.fMother[2].
            self._branches.setdefault(name.partition("[")[0], branch)

    def known(self) -> set[str]:
        return set(self._branches)

    def _chosen(self, branches: Sequence[str]) -> list[Any]:
        chosen = [self._branches[name] for name in branches]
        for name, branch in zip(branches, chosen, strict=True):
            if branch.num_entries != self.entries:
                raise InputFileError(
                    f"{self._source}: branch '{name}' has {branch.num_entries} entries, but tree '{self.tree}' has {self.entries}. "
                    "The file is damaged: make it again."
                )
        return chosen

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        chosen = dict(zip(branches, self._chosen(branches), strict=True))
        with refusing_damage(self._source, f"reading entries {first} to {last} of tree '{self.tree}'"):
            arrays = {}
            for name, branch in chosen.items():
                with _refusing_type(self._source, name, branch):
                    arrays[name] = self._simple(name, branch, first, last)
            left = {name: chosen[name] for name, array in arrays.items() if array is None}
            return arrays | self._by_uproot(left, first, last)

    def _by_uproot(self, branches: dict[str, Any], first: int, last: int) -> dict[str, ak.Array]:
        options: dict[str, Any] = {"entry_start": first, "entry_stop": last, "library": "ak", "array_cache": None}
        if not branches:
            return {}
        if self._descriptor is not None or len({branch.name for branch in branches.values()}) < len(branches):
            arrays = {}
            for name, branch in branches.items():
                with _refusing_type(self._source, name, branch):
                    arrays[name] = branch.array(**options)
            return arrays
        # All branches in one call, because each request to a server has a latency.
        wanted = {id(branch) for branch in branches.values()}
        found = self._tree.arrays(filter_branch=lambda branch: id(branch) in wanted, **options)
        return {name: found[branch.name] if branch.name in found.fields else branch.array(**options) for name, branch in branches.items()}

    def _simple(self, name: str, branch: Any, first: int, last: int) -> ak.Array | None:
        """Read the entries of a simple branch; None if uproot must read them."""
        if name not in self._truncated:
            self._truncated[name] = self._known_type(name, branch)
        if (interpretation := self._truncated[name]) is not None:
            return branch.array(interpretation, entry_start=first, entry_stop=last, library="ak", array_cache=None)
        if self._descriptor is None:
            return None
        if name not in self._baskets:
            self._baskets[name] = baskets_of(branch)
        baskets = self._baskets[name]
        return baskets and baskets.read(self._descriptor, first, last)

    def _known_type(self, name: str, branch: Any) -> Any:
        """Return the correct interpretation where uproot's own is wrong. Raises InputFileError for a type unknown to uproot."""
        try:
            interpretation = array_of_truncated(branch)
            if interpretation is None:
                branch.interpretation  # noqa: B018
        except Exception as error:  # only the description was parsed; no value was read yet
            reason = " ".join(str(error).split())[:100]
            raise InputFileError(
                f"{self._source}: branch '{name}' (its title is '{branch.title}') is of a type that is not read "
                f"({type(error).__name__}: {reason}). Leave it out, or write its values as numbers or vectors of numbers."
            ) from error
        return interpretation

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        key = tuple(branches)
        if key not in self._steps:
            chosen = self._chosen(branches)
            with refusing_damage(self._source, f"reading the baskets of tree '{self.tree}'"):
                ends = set.intersection(*(set(map(int, branch.entry_offsets)) for branch in chosen)) if chosen else set()
                self._steps[key] = Steps(sum(branch.uncompressed_bytes for branch in chosen), self.entries, ends)
        return self._steps[key].step(first, size)

    def close(self) -> None:
        self._file.close()
        if self._close is not None:
            # Close only once: another file may get the same descriptor.
            self._close()
            self._descriptor = None


class TupleReader:
    """An RNTuple. If possible, its steps end with a cluster."""

    def __init__(self, place: Place, file: Any, tree: str) -> None:
        self._source = place.name
        self._file = file
        self._tuple = file[tree]
        self.tree: str = tree
        self.entries = int(self._tuple.num_entries)
        self._steps: dict[tuple[str, ...], Steps] = {}

    def known(self) -> set[str]:
        return set(self._tuple.keys(recursive=False))

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        with refusing_damage(self._source, f"reading entries {first} to {last} of '{self.tree}'"):
            arrays = self._tuple.arrays(filter_name=list(branches), entry_start=first, entry_stop=last, array_cache=None)
            return {name: arrays[name] for name in branches}

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        key = tuple(branches)
        if key not in self._steps:
            with refusing_damage(self._source, f"reading the clusters of '{self.tree}'"):
                clusters = self._tuple.cluster_summaries
                per_step = int(self._tuple.num_entries_for(size, filter_name=list(branches))) if branches else self.entries
            ends = {int(cluster.num_first_entry + cluster.num_entries) for cluster in clusters}
            self._steps[key] = Steps(size * self.entries // max(1, per_step), self.entries, ends)
        return self._steps[key].step(first, size)

    def close(self) -> None:
        self._file.close()
