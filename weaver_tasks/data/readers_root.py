"""ROOT files: a TTree as a Reader."""

from __future__ import annotations

import contextlib
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import awkward as ak
import cramjam
import uproot

from weaver_tasks.base.errors import InputFileError, nearest

# What uproot was seen to raise on damaged files: it follows pointers and sizes wherever they lead.
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
_TREES = ("TTree", "TNtuple", "TNtupleD", "TChain")


@contextlib.contextmanager
def refusing_damage(source: str, doing: str) -> Iterator[None]:
    """Turn what uproot raises on a damaged or unreachable file into an InputFileError naming it."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(
            f"{source}: {doing} failed ({type(error).__name__}: {reason}). The file is damaged, incomplete or out of reach: fetch it again."
        ) from error


def open_root(source: str, tree: str | None) -> TreeReader:
    """Open a tree. Raises InputFileError when there is none of that name, or several and no name is given."""
    with refusing_damage(source, "opening it"):
        file = uproot.open({source: None}, object_cache=None, array_cache=None, **_handler(source))
        classes = {key.partition(";")[0]: name for key, name in file.classnames(recursive=True, cycle=True).items()}
    trees = [key for key, name in classes.items() if name in _TREES]
    if tree is None:
        if len(trees) != 1:
            found = f"several trees: {', '.join(trees)}" if trees else "no tree"
            raise InputFileError(f"{source}: has {found}. Give 'treename' in the data configuration.")
        tree = trees[0]
    elif tree.partition(";")[0] not in trees:
        found = f"trees: {', '.join(trees)}" if trees else "no tree at all"
        raise InputFileError(f"{source}: has no tree '{tree}', but {found}.{nearest(tree, trees)} Correct 'treename'.")
    with refusing_damage(source, f"reading tree '{tree}'"):
        return TreeReader(source, file, tree)


def _handler(source: str) -> dict[str, Any]:
    return {} if "://" in source else {"handler": uproot.source.file.MemmapSource}


class TreeReader:
    """A TTree. Entries are read in steps that end with a basket where the branches' baskets end together."""

    def __init__(self, source: str, file: Any, tree: str) -> None:
        self._source = source
        self._file = file
        self._tree = file[tree]
        self.tree: str = tree
        self.entries = int(self._tree.num_entries)
        self._branches: dict[str, Any] = {}
        for path, branch in self._tree.iteritems(recursive=True):
            self._branches.setdefault(path, branch)
            self._branches.setdefault(branch.name, branch)

    def known(self) -> set[str]:
        return set(self._branches)

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        chosen = [self._branches[name] for name in branches]
        for name, branch in zip(branches, chosen, strict=True):
            if branch.num_entries != self.entries:
                raise InputFileError(
                    f"{self._source}: branch '{name}' has {branch.num_entries} entries, but tree '{self.tree}' has {self.entries}. "
                    "The file is damaged: make it again."
                )
        wanted = {id(branch) for branch in chosen}
        with refusing_damage(self._source, f"reading entries {first} to {last} of tree '{self.tree}'"):
            arrays = self._tree.arrays(
                filter_branch=lambda branch: id(branch) in wanted, entry_start=first, entry_stop=last, library="ak", array_cache=None
            )
            return {name: arrays[branch.name] for name, branch in zip(branches, chosen, strict=True)}

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        chosen = [self._branches[name] for name in branches]
        bytes_per_entry = sum(branch.uncompressed_bytes for branch in chosen) / max(1, self.entries)
        most = min(self.entries, first + max(1, int(size / max(1.0, bytes_per_entry))))
        ends = set.intersection(*(set(map(int, branch.entry_offsets)) for branch in chosen)) if chosen else set()
        together = [end for end in ends if first < end <= most]
        return max(together, default=most)

    def close(self) -> None:
        self._file.close()
