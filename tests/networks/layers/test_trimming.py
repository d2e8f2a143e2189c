"""Trimming equals weaver-core's in training, and never loses a particle in evaluation."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from weaver_tasks.networks.layers.trimming import SequenceTrimmer

Peer = Callable[[str], ModuleType]


@pytest.fixture
def inputs(batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, features, vectors, mask = batch
    return features, vectors, mask, torch.rand(64, 2, 128, 128)


@pytest.mark.parametrize("options", [{}, {"round_to_32": True}, {"round_to_32": True, "num_extra_tokens": 1}, {"warmup_steps": 0}])
def test_training_equals_weaver(peer: Peer, inputs: tuple[Tensor, ...], options: dict[str, int]) -> None:
    theirs = peer("nn.model.ParticleTransformer").SequenceTrimmer(enabled=True, **options)
    ours = SequenceTrimmer(enabled=True, **options)
    for step in range(9):
        results = []
        for trimmer in (theirs, ours):
            torch.manual_seed(step)
            results.append(trimmer(*inputs))
        for wanted, got in zip(*results, strict=True):
            assert torch.equal(got, wanted)
    assert int(ours._counter) == int(theirs._counter)
    assert ours.state_dict() == {}
    assert "_counter" in dict(ours.named_buffers())


def test_evaluation_keeps_all_particles(inputs: tuple[Tensor, ...]) -> None:
    trimmer = SequenceTrimmer(enabled=True, min_length=17).eval()
    features, vectors, mask, pairs = inputs
    longest = int(mask.sum(dim=2).max())
    x, v, kept, uu = trimmer(features, [vectors], mask, pairs)
    assert x.shape[2] == v[0].shape[2] == kept.shape[2] == uu.shape[2] == uu.shape[3] == longest
    assert kept.sum() == mask.sum()
    gap = mask.clone()
    gap[:, :, 0] = 0
    gap[0, :, 120] = 1
    assert trimmer(features, None, gap)[2].sum() == gap.sum()
    assert trimmer(features[:1], None, mask[:1] * 0)[0].shape[2] == 17
    assert int(trimmer._counter) == 0


def test_disabled_changes_nothing(inputs: tuple[Tensor, ...]) -> None:
    features, vectors, mask, pairs = inputs
    x, v, kept, uu = SequenceTrimmer()(features, vectors, mask, pairs)
    assert x is features
    assert v is vectors
    assert uu is pairs
    assert kept.dtype == torch.bool
    assert SequenceTrimmer()(features)[2].all()
