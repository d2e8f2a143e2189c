"""The array functions that weaver offers to expressions (there with a leading underscore), with the same results.

Ragged arrays are awkward, one list per event; padded ones are numpy, (events, length).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import awkward as ak
import numpy as np


def hash(*arrays: Any) -> np.ndarray:
    """Return Python's hash of each event's tuple of values: (events,)."""
    return np.array([entry.__hash__() for entry in zip(*arrays, strict=False)])


def concat(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Join arrays along an axis; an empty list gives an empty array."""
    if not len(arrays):
        return np.array([])
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays, axis=axis)
    return ak.concatenate(arrays, axis=axis)


def stack(arrays: Sequence[Any], axis: int = 1) -> Any:
    """Join arrays along a new axis; an empty list gives an empty array."""
    if not len(arrays):
        return np.array([])
    if isinstance(arrays[0], np.ndarray):
        return np.stack(arrays, axis=axis)
    place = tuple(np.newaxis if position == axis else slice(None) for position in range(arrays[0].ndim + 1))
    return ak.concatenate([array[place] for array in arrays], axis=axis)


def _ragged(array: Any, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, starts (events,) and counts (events,) of a ragged array. Items of a flat array become lists of one."""
    ragged = array if isinstance(array, ak.Array) else ak.from_iter(array)
    if ragged.ndim == 1:
        ragged = ak.unflatten(ragged, 1)
    counts = ak.to_numpy(ak.num(ragged)).astype(np.int64)
    return ak.to_numpy(ak.flatten(ragged)).astype(dtype), np.cumsum(counts) - counts, counts


def pad(array: Any, maxlen: int, value: float = 0, dtype: str = "float32") -> np.ndarray:
    """Return (events, maxlen): the first values of each event, padded with `value`. Padded numpy arrays are returned unchanged."""
    if isinstance(array, np.ndarray) and array.ndim >= 2 and array.shape[1] == maxlen:
        return array
    values, starts, counts = _ragged(array, dtype)
    padded = np.full((len(counts), maxlen), value, dtype=dtype)
    kept = np.minimum(counts, maxlen)
    position = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    padded[np.repeat(np.arange(len(counts)), kept), position] = values[np.repeat(starts, kept) + position]
    return padded


def repeat_pad(array: ak.Array, maxlen: int, dtype: str = "float32") -> np.ndarray:
    """Return (events, maxlen): the values of each event, repeated cyclically. An event without values gives zeros."""
    values, starts, counts = _ragged(array, dtype)
    padded = np.zeros((len(counts), maxlen), dtype=dtype)
    filled = counts > 0
    padded[filled] = values[starts[filled, np.newaxis] + np.arange(maxlen) % counts[filled, np.newaxis]]
    return padded


def unflatten(array: Any, counts: Any, *arguments: Any, **keywords: Any) -> Any:
    """`ak.unflatten` with a check of the counts: awkward accepts negative ones and makes overlapping or out-of-range lists."""
    if np.min(ak.to_numpy(ak.drop_none(counts)) if isinstance(counts, ak.Array) else counts, initial=0) < 0:
        raise ValueError("ak.unflatten with a negative count")
    return ak.unflatten(array, counts, *arguments, **keywords)


def clip(array: Any, a_min: float, a_max: float) -> Any:
    """Limit values to [a_min, a_max]. Ragged arrays stay ragged."""
    if isinstance(array, np.ndarray) or array.ndim == 1:
        return np.clip(array, a_min, a_max)
    return ak.unflatten(np.clip(ak.to_numpy(ak.flatten(array)), a_min, a_max), ak.num(array))


def knn(support: Any, query: Any, k: int, n_jobs: int = 1) -> np.ndarray:
    """Return the indices (queries, k) in `support` (points, dimensions) of the k nearest points of each query."""
    from scipy.spatial import cKDTree

    return cKDTree(support).query(query, k, workers=n_jobs)[1]


def batch_knn(supports: Any, queries: Any, k: int, maxlen_s: int, maxlen_q: int | None = None, n_jobs: int = 1) -> np.ndarray:
    """Apply `knn` to each event: (events, maxlen_q, k) int32. Padded queries point to the last index."""
    maxlen_q = maxlen_s if maxlen_q is None else maxlen_q
    found = np.full((len(supports), maxlen_q, k), maxlen_s - 1, dtype="int32")
    for event, (support, query) in enumerate(zip(supports, queries, strict=True)):
        neighbors = knn(support[:maxlen_s], query[:maxlen_q], k, n_jobs=n_jobs)
        found[event, : len(query[:maxlen_q])] = neighbors.reshape(-1, k)
    return found


def batch_argsort(array: ak.Array) -> ak.Array:
    """Return the indices that sort each event in ascending order."""
    return ak.argsort(array)


def batch_gather(array: ak.Array, indices: ak.Array) -> ak.Array:
    """Return the values of each event at the event's indices."""
    return array[indices]


def batch_permute_indices(array: ak.Array, *, random: np.random.RandomState) -> ak.Array:
    """Return a random permutation of the indices of each event."""
    return ak.argsort(ak.unflatten(random.rand(ak.count(array)), ak.num(array)))


def batch_permute_and_drop_indices(
    array: ak.Array,
    random_permute: bool = True,
    drop_rate_min: float = 0,
    drop_rate_max: float = 0,
    min_elements: int = 1,
    *,
    random: np.random.RandomState,
) -> ak.Array:
    """Return the indices of each event, permuted (or in the order that sorts the values), without a random fraction at the end.

    The dropped fraction is uniform in [drop_rate_min, drop_rate_max] per event. At least `min_elements` indices are kept.
    """
    indices = batch_permute_indices(array, random=random) if random_permute else batch_argsort(array)
    if not drop_rate_min:
        return indices
    if not 0 < drop_rate_min <= drop_rate_max < 1:
        raise ValueError(f"drop rates {drop_rate_min} to {drop_rate_max}: 0 < min <= max < 1 is required")
    counts = ak.to_numpy(ak.num(array))
    kept = np.round(counts * (1 - random.uniform(low=drop_rate_min, high=drop_rate_max, size=len(counts))))
    return indices[indices < np.maximum(min_elements, kept).astype("int64")]


def _vectors(components: dict[str, Any]) -> ak.Array:
    # Imported here, because importing vector takes a second and few configurations need it.
    import vector

    vector.register_awkward()
    return vector.zip(components)


def p4_from_pxpypze(px: Any, py: Any, pz: Any, energy: Any) -> ak.Array:
    """Return four-momenta (vector records) from Cartesian components in GeV."""
    return _vectors({"px": px, "py": py, "pz": pz, "energy": energy})


def p4_from_ptetaphie(pt: Any, eta: Any, phi: Any, energy: Any) -> ak.Array:
    """Return four-momenta (vector records) from pt, eta, phi and energy."""
    return _vectors({"pt": pt, "eta": eta, "phi": phi, "energy": energy})


def p4_from_ptetaphim(pt: Any, eta: Any, phi: Any, mass: Any) -> ak.Array:
    """Return four-momenta (vector records) from pt, eta, phi and mass."""
    return _vectors({"pt": pt, "eta": eta, "phi": phi, "mass": mass})
