"""Particle Transformer equals weaver-core's for all options that change its graph; and has the symmetries of a set."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weaver_tasks.networks.particle_transformer.block import Block
from weaver_tasks.networks.particle_transformer.model import ParticleTransformer
from weaver_tasks.networks.particle_transformer_taggers import (
    ParticleTransformerTagger,
    ParticleTransformerTaggerWithExtraPairFeatures,
)

Peer = Callable[[str], ModuleType]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
NAME = "nn.model.ParticleTransformer"
SMALL: dict[str, Any] = {
    "num_classes": 10,
    "embed_dims": [16, 16],
    "num_heads": 2,
    "num_layers": 2,
    "pair_embed_dims": [8, 8],
    "trim": False,
    "block_params": {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
}
BLOCK = SMALL["block_params"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_pre_activation_pair": False, "remove_self_pair": True},
        {"pair_input_dim": 5},
        {"pair_input_dim": 6},
        {"pair_input_dim": 8},
        {"pair_input_dim": 0},
        {"pair_embed_dims": None},
        {"pair_input_type": "ee"},
        {"pair_input_type": "xyzt:rect"},
        {"pair_input_type": "xyzt:sph"},
        {"pair_input_type": "xyzt:cyl"},
        {"pair_embed_sparse_eval": (False, False)},
        {"use_conv_embed": True},
        {"embed_dims": [16], "activation": "relu", "fc_params": [(16, 0.0), (8, 0.0, "gelu")]},
        {"fc_params": [(16, 0.0, "swiglu")]},
        {"block_ids_with_attn_mask": [0]},
        {"num_cls_layers": 0},
        {"num_cls_layers": 0, "include_global_token": True},
        {"for_segmentation": True},
        {"fc_params": None},
        {"version": 2},
        {"version": 3, "block_params": {"drop_path_rate": 0}, "cls_block_params": {"drop_path_rate": 0}},
        {"version": 3.5, "block_params": {"drop_path_rate": 0}, "cls_block_params": {"drop_path_rate": 0}},
        {"version": 3.6, "block_params": {"drop_path_rate": 0}},
        {"block_params": {**BLOCK, "scale_attn_mask": True, "headwise_attn_output_gate": True, "layer_scale_init_values": 0.1}},
        {"trim": True},
    ],
    ids=str,
)
def test_equal_to_weaver(peer: Peer, batch: Batch, options: dict[str, Any], same: Callable[..., None]) -> None:
    torch.manual_seed(0)
    options = {**SMALL, **options}
    _, features, vectors, mask = (part[:24] for part in batch)  # more than one group of events
    models = peer(NAME).ParticleTransformer(17, **options), ParticleTransformer(17, **options)
    for model in models:
        model.trimmer._counter.fill_(5)
    real = mask.bool() if "for_segmentation" in options else None
    same(*models, (features, vectors, mask), real=real, gradient=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of weaver-core
@pytest.mark.parametrize("extra", [0, 3])
def test_two_collections_equal_to_weaver(peer: Peer, batch: Batch, extra: int, same: Callable[..., None]) -> None:
    torch.manual_seed(0)
    _, features, vectors, mask = (part[:20] for part in batch)
    vertices = features[:, :5, 40:60], vectors[:, :, 40:60], mask[:, :, 40:60]
    arguments = {"pf_input_dim": 17, "sv_input_dim": 5, "pair_extra_dim": extra, **SMALL}
    inputs: tuple[Tensor, ...] = (features, vectors, mask, *vertices)
    if extra == 0:
        same(peer(NAME).ParticleTransformerTagger(**arguments), ParticleTransformerTagger(**arguments), inputs, gradient=1e-6)
        return
    name = "ParticleTransformerTaggerWithExtraPairFeatures"
    listed = torch.randn(20, extra, 70)
    pairs = torch.stack([torch.randperm(30)[:20].repeat(4)[:70], torch.arange(70) % 35]).expand(20, 2, 70)
    models = getattr(peer(NAME), name)(**arguments), ParticleTransformerTaggerWithExtraPairFeatures(**arguments)
    same(*(_WithPairs(model, pairs) for model in models), (*inputs, listed), gradient=1e-6)


class _WithPairs(nn.Module):
    """The list of pairs has integers, which are not to be made double."""

    def __init__(self, model: nn.Module, pairs: Tensor) -> None:
        super().__init__()
        self.model, self.pairs = model, pairs

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*inputs, self.pairs)


def test_block_alone_equals_weaver(peer: Peer) -> None:
    """Users build their own networks of blocks, on padded batches."""
    torch.manual_seed(0)
    theirs, ours = peer(NAME).Block(16, 2, **BLOCK), Block(16, 2, **BLOCK)
    ours.load_state_dict(theirs.state_dict())
    x, padding = torch.randn(3, 9, 16), torch.arange(9).expand(3, 9) > torch.tensor([[4], [8], [6]])
    bias, token = torch.randn(3, 2, 9, 9), torch.randn(3, 1, 16)
    wanted, got = (model(x, padding_mask=padding, attn_mask=bias) for model in (theirs, ours))
    torch.testing.assert_close(got[~padding], wanted[~padding], atol=1e-5, rtol=1e-5)
    wanted, got = (model(x, x_cls=token, padding_mask=padding) for model in (theirs, ours))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_weights_of_earlier_versions_load() -> None:
    model = ParticleTransformer(17, **SMALL)
    earlier = {
        name.replace("in_proj.weight", "in_proj_weight").replace("in_proj.bias", "in_proj_bias"): 2 * tensor
        for name, tensor in model.state_dict().items()
    }
    wanted = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    assert model.load_state_dict(earlier).missing_keys == []
    torch.testing.assert_close(model.state_dict(), wanted, rtol=0, atol=0)


def test_initial_weights_are_distributed_as_weavers(peer: Peer) -> None:
    torch.manual_seed(0)
    theirs = peer(NAME).ParticleTransformer(17, 10).state_dict()
    ours = ParticleTransformer(17, 10).state_dict()
    for name, wanted in theirs.items():
        if wanted.numel() > 4000:
            assert ours[name].std() == pytest.approx(wanted.std().item(), rel=0.1), name
            assert ours[name].abs().max() == pytest.approx(wanted.abs().max().item(), rel=0.1), name
        elif wanted.unique().numel() == 1:
            torch.testing.assert_close(ours[name], wanted)


def test_order_padding_and_the_rest_of_the_batch_change_nothing(batch: Batch) -> None:
    torch.manual_seed(0)
    model = ParticleTransformer(17, **{**SMALL, "trim": True}).double().eval()
    _, features, vectors, mask = (part.double() for part in batch)
    with torch.no_grad():
        wanted = model(features, vectors, mask)
        order = torch.rand(64, 1, 128).argsort(dim=2)
        shuffled = [part.gather(2, order.expand_as(part)) for part in (features, vectors, mask)]
        torch.testing.assert_close(model(*shuffled), wanted, atol=1e-9, rtol=0)
        longer = [nn.functional.pad(part, (0, 50)) for part in (features, vectors, mask)]
        torch.testing.assert_close(model(*longer), wanted, atol=1e-9, rtol=0)
        torch.testing.assert_close(model(features[:3], vectors[:3], mask[:3]), wanted[:3], atol=1e-9, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_events_with_one_particle_or_none_are_finite(batch: Batch, training: bool) -> None:
    torch.manual_seed(0)
    model = ParticleTransformer(17, **SMALL).train(training)
    _, features, vectors, mask = (part[:4].clone() for part in batch)
    mask[0, :, 1:] = 0
    mask[1] = 0
    output = model(features * mask, vectors * mask, mask)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    for alone in (slice(0, 1), slice(1, 2)):
        assert model.eval()(features[alone], vectors[alone], mask[alone]).isfinite().all()
