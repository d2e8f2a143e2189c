"""Random sampling and shuffling of the events of a window: which events are accepted, how often, and in which order.

Each draw has a separate random generator, seeded by its purpose, the pass and the window. So any window can be reproduced on its
own, and no draw depends on earlier draws.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np


class RandomStream(enum.IntEnum):
    """The purpose of a draw. The numbers are part of the seeds: changing one changes every training."""

    FILES = 1
    PARTS = 2
    SLICES = 3
    WINDOWS = 4
    ACCEPTANCE = 5
    ORDER = 6
    EXPRESSIONS = 7


def generator(seed: Sequence[int], purpose: RandomStream, pass_number: int, window: int = 0) -> np.random.Generator:
    """Return the random generator of one draw."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*seed, int(purpose), pass_number, window))))


def accepted_events(
    weights: np.ndarray, rng: np.random.Generator, *, up_sample: bool = True, max_resample: int = 10, weight_scale: float = 1.0
) -> np.ndarray:
    """Draw which events of a window are kept. Returns their indices in order, (n,) int64, with repetitions if up-sampled.

    weights: (N,). As in weaver, an event is kept if uniform(0, weight_scale) < weight. With up-sampling, each event is drawn
    min(max_resample, N // kept) times, where kept is the number of events that the first draw keeps.
    """
    kept = np.flatnonzero(rng.random(len(weights)) * weight_scale < weights)
    tries = min(max_resample, len(weights) // max(1, len(kept)))
    if not up_sample or tries <= 1:
        return kept
    repeated = np.repeat(np.arange(len(weights)), tries)
    return repeated[rng.random(len(repeated)) * weight_scale < weights[repeated]]


def shuffled(events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the events in random order."""
    return rng.permutation(events)


def shuffled_by_length(
    events: np.ndarray,
    lengths: np.ndarray,
    edges: int | Sequence[float],
    rng: np.random.Generator,
    *,
    batch_size: int,
    carried: int = 0,
) -> np.ndarray:
    """Return the events in random order such that each batch holds events of similar length. events, lengths: (n,).

    edges: edges of the buckets (events beyond them count in the outermost buckets), or the number of buckets of equal population.
    batch_size: events of a global batch. carried: events that are missing in the batch begun in the previous window.
    Events that do not fill a batch of their bucket complete that batch, or come last. This is as in weaver, except that batches keep
    their bucket across windows.
    """
    if len(events) == 0:
        return events
    bounds = np.percentile(lengths, np.linspace(0, 100, edges + 1)) if isinstance(edges, int) else np.asarray(edges)
    bucket = np.digitize(lengths, bounds[1:-1])
    order = rng.permutation(len(events))
    order = order[np.argsort(bucket[order], kind="stable")]
    batches, rest = [], []
    for members in np.split(order, np.cumsum(np.bincount(bucket, minlength=len(bounds) - 1))[:-1]):
        whole = len(members) - len(members) % batch_size
        batches.extend(np.split(members[:whole], whole // batch_size) if whole else [])
        rest.append(members[whole:])
    batches = [batches[which] for which in rng.permutation(len(batches))]
    remainder = np.concatenate(rest)
    while len(remainder) < carried and batches:
        remainder = np.concatenate([remainder, batches.pop()])
    remainder = rng.permutation(remainder)
    return events[np.concatenate([remainder[:carried], *batches, remainder[carried:]])]
