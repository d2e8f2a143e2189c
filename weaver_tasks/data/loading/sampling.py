"""The draws of the loader: which events of a window are accepted, how often, and in which order.

Each draw has a generator of its own, seeded by what it is for, the pass and the window: so any window can be redone
alone, and no draw depends on what was drawn before it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np


class RandomStream(enum.IntEnum):
    """What is drawn. The numbers are part of the seeds: changing one changes every training."""

    FILES = 1
    PARTS = 2
    SLICES = 3
    WINDOWS = 4
    ACCEPTANCE = 5
    ORDER = 6
    EXPRESSIONS = 7


def generator(seed: Sequence[int], purpose: RandomStream, pass_number: int, window: int = 0) -> np.random.Generator:
    """The generator of one draw."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((*seed, int(purpose), pass_number, window))))


def accepted_events(
    weights: np.ndarray, rng: np.random.Generator, *, up_sample: bool = True, max_resample: int = 10, weight_scale: float = 1.0
) -> np.ndarray:
    """The events of a window that are kept, in order, an up-sampled one several times. weights: (N,). Returns (n,) int64.

    As in weaver, an event is kept if uniform(0, weight_scale) < weight. With up-sampling each is tried
    min(max_resample, N // kept) times, kept being the number that a first try keeps.
    """
    kept = np.flatnonzero(rng.random(len(weights)) * weight_scale < weights)
    tries = min(max_resample, len(weights) // max(1, len(kept)))
    if not up_sample or tries <= 1:
        return kept
    repeated = np.repeat(np.arange(len(weights)), tries)
    return repeated[rng.random(len(repeated)) * weight_scale < weights[repeated]]


def shuffled(events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The events in random order."""
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
    """The events in random order, but so that a batch holds events of similar length. events, lengths: (n,).

    edges: edges of the buckets (events beyond the outer ones count to the outer buckets), or how many buckets of equal content.
    batch_size: events of a global batch; lead: events that the batch begun in the window before still wants.
    What fills no batch in its bucket serves as lead, or comes last. As in weaver, but batches keep their bucket across windows.
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
