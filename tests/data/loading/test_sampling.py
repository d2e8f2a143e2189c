"""The draws: acceptance follows the weights as in weaver, and a batch of bucketed events has one bucket."""

from __future__ import annotations

import numpy as np
import pytest

from weaver_tasks.data.loading.sampling import RandomStream, accepted_events, generator, shuffled, shuffled_by_length


def rng(seed: int = 1) -> np.random.Generator:
    return generator((seed,), RandomStream.ACCEPTANCE, 0)


def test_each_draw_has_a_stream_of_its_own() -> None:
    keys = [
        ((1,), RandomStream.ORDER, 0, 0),
        ((2,), RandomStream.ORDER, 0, 0),
        ((1,), RandomStream.ACCEPTANCE, 0, 0),
        ((1,), RandomStream.ORDER, 1, 0),
    ]
    keys += [((1,), RandomStream.ORDER, 0, 1), ((1, 0), RandomStream.ORDER, 0, 0)]
    first = [generator(*key).random() for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [generator(*key).random() for key in keys]


def test_acceptance_without_up_sampling_follows_the_weights() -> None:
    weights = np.tile(np.array([0.0, 0.2, 0.5, 1.0], dtype=np.float32), 20_000)
    accepted = accepted_events(weights, rng(), up_sample=False)
    assert len(np.unique(accepted)) == len(accepted)
    shares = np.bincount(accepted % 4, minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0, 0.2, 0.5, 1.0], atol=0.02)
    halved = accepted_events(weights, rng(), up_sample=False, weight_scale=2.0)
    np.testing.assert_allclose(np.bincount(halved % 4, minlength=4) / 20_000, [0, 0.1, 0.25, 0.5], atol=0.02)


def test_up_sampling_makes_up_for_low_weights_as_in_weaver() -> None:
    dataset = pytest.importorskip("weaver.utils.dataset")
    weights = np.tile(np.array([0.02, 0.1, 0.3], dtype=np.float32), 5_000)
    for options in ({}, {"max_resample": 3}, {"weight_scale": 0.5}, {"up_sample": False}, {"max_resample": 3, "weight_scale": 4.0}):
        np.random.seed(1)
        theirs = np.mean([np.bincount(dataset._get_reweight_indices(weights, **options) % 3, minlength=3) for _ in range(20)], axis=0)
        ours = np.mean([np.bincount(accepted_events(weights, rng(seed), **options) % 3, minlength=3) for seed in range(20)], axis=0)
        np.testing.assert_allclose(ours, theirs, rtol=0.03, err_msg=str(options))


def test_a_window_without_weight_gives_no_event() -> None:
    assert len(accepted_events(np.zeros(50, dtype=np.float32), rng())) == 0
    assert len(accepted_events(np.zeros(0, dtype=np.float32), rng())) == 0


def test_shuffling_keeps_every_event() -> None:
    events = np.array([3, 3, 5, 9, 11, 40])
    order = shuffled(events, rng())
    assert sorted(order) == sorted(events)
    assert order.tolist() != events.tolist()


@pytest.mark.parametrize("edges", [[0, 20, 40, 60, 128], 4])
@pytest.mark.parametrize("carried", [0, 17])
def test_batches_of_similar_length(edges: int | list[float], carried: int) -> None:
    lengths = rng(3).integers(1, 128, 3_000)
    events = np.arange(3_000)
    order = shuffled_by_length(events, lengths, edges, rng(), batch_size=32, carried=carried)
    assert sorted(order) == events.tolist()
    bounds = np.percentile(lengths, [25, 50, 75]) if isinstance(edges, int) else edges[1:-1]
    bucket = np.digitize(lengths, bounds)
    of_batch = [set(bucket[order[begin : begin + 32]]) for begin in range(carried, 3_000 - 31, 32)]
    pure = [buckets for buckets in of_batch if len(buckets) == 1]
    assert len(pure) >= len(of_batch) - 4
    assert len({next(iter(buckets)) for buckets in pure[:12]}) > 1, "the buckets follow one another"


def test_buckets_give_the_lead_even_when_they_leave_no_rest() -> None:
    order = shuffled_by_length(np.arange(64), np.repeat([1, 9], 32), [0, 5, 10], rng(), batch_size=32, carried=40)
    assert sorted(order) == list(range(64))
