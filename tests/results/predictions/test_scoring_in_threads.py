"""Scorers that several threads use at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from weaver_tasks.results.predictions.scoring import ScorerPool, in_order


def test_no_scorer_is_used_by_two_threads_at_a_time():
    meeting, used = threading.Barrier(3, timeout=20), set()

    def scorer(number):
        busy = threading.Lock()

        def score(inputs):
            assert busy.acquire(blocking=False)
            used.add((number, torch.get_num_threads()))
            meeting.wait()  # until all three are in use
            busy.release()
            return inputs["x"] * 2, None

        return score

    pool = ScorerPool([scorer(number) for number in range(3)], threads=1)
    inputs = [{"x": np.full(2, value)} for value in range(9)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(pool, inputs))
    assert len(pool) == 3
    assert used == {(0, 1), (1, 1), (2, 1)}
    np.testing.assert_array_equal([scores[0] for scores, _ in found], 2 * np.arange(9))


def test_scores_of_batches_go_back_to_their_events():
    scores = np.random.default_rng(1).random((10, 3), np.float32)
    places = np.split(np.random.default_rng(2).permutation(10), [4, 7])
    np.testing.assert_array_equal(in_order([scores[which] for which in places], places), scores)
