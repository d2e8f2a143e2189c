"""ParticleNeXt equals weaver-core's for the options that change its graph; and has the symmetries of a set."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weaver_tasks.networks.particle_next.model import ParticleNeXt
from weaver_tasks.networks.particle_next_taggers import ParticleNeXtTagger

Peer = Callable[[str], ModuleType]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
SMALL: dict[str, Any] = {
    "num_classes": 10,
    "layer_params": [(16, 16, [(8, 1), (4, 1), (2, 1), (1, 1)], 16), (8, 24, [(2, 2), (1, 1)], 16)],
    "fc_params": [(16, 0.0)],
    "trim": False,
    "init_scale": 0.5,
}
MOVING = {"update_coords": True, "edge_dim": 0, "layer_params": [(8, 16, [(1, 1)], 16), (8, 16, None, 16)]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"node_dim": 0, "edge_dim": 0},
        {"edge_aggregation": "attn", "global_aggregation": "attn"},
        {"edge_aggregation": "attn32"},
        {"edge_aggregation": "max", "global_aggregation": "mean"},
        {"edge_aggregation": "mean", "global_aggregation": "max"},
        {"edge_aggregation": "sum", "global_aggregation": "sum"},
        {"use_polarization_angle": True, "use_rel_fts": True},
        {"use_rel_lv_fts": False},
        {"lv_aggregation": True},
        {"use_node_se": False, "use_edge_se": False},
        {"layer_params": [{"k": 8, "c": 16, "rd": None}]},
        MOVING,
        {**MOVING, "use_rel_dist": True},
        {"for_segmentation": True},
    ],
    ids=str,
)
def test_equal_to_weaver(peer: Peer, batch: Batch, options: dict[str, Any], same: Callable[..., None]) -> None:
    torch.manual_seed(0)
    options = {**SMALL, **options}
    inputs = tuple(part[:8] for part in batch)
    real = inputs[3].bool() if "for_segmentation" in options else None
    theirs = peer("nn.model.ParticleNeXt").ParticleNeXt(17, **options)
    same(_Cloned(theirs), _Cloned(ParticleNeXt(17, **options)), inputs, real=real, gradient=1e-3)


class _Cloned(nn.Module):
    """weaver's network writes into its inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(*(part.clone() for part in inputs))


def test_two_collections_equal_to_weaver_and_train_their_encoders(peer: Peer, batch: Batch) -> None:
    """weaver computes the encoders' outputs without gradients, so that they never learn; here they do."""
    torch.manual_seed(0)
    arguments = {"pf_features_dims": 17, "sv_features_dims": 5, **SMALL}
    theirs, ours = peer("nn.model.ParticleNeXt").ParticleNeXtTagger(**arguments), ParticleNeXtTagger(**arguments)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    points, features, vectors, mask = (part[:8].double() for part in batch)
    inputs = (points, features, vectors, mask, points[:, :, 40:60], features[:, :5, 40:60], vectors[:, :, 40:60], mask[:, :, 40:60])
    for model in (theirs.double(), ours.double()):
        model.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), atol=1e-9, rtol=1e-9)
    ours.train()(*inputs).square().sum().backward()
    assert ours.pf_encode[1].weight.grad.abs().max() > 0


def test_order_and_padding_change_nothing(batch: Batch) -> None:
    torch.manual_seed(0)
    model = ParticleNeXt(17, **{**SMALL, "trim": True}).double().eval()
    inputs = [part[:16].double() for part in batch]
    with torch.no_grad():
        wanted = model(*inputs)
        order = torch.rand(16, 1, 128).argsort(dim=2)
        torch.testing.assert_close(model(*(part.gather(2, order.expand_as(part)) for part in inputs)), wanted, atol=1e-9, rtol=0)
        torch.testing.assert_close(model(*(nn.functional.pad(part, (0, 50)) for part in inputs)), wanted, atol=1e-9, rtol=0)


def test_augmentation_changes_training_only(batch: Batch) -> None:
    torch.manual_seed(0)
    options = {
        "pt_dropout": 1.0,
        "input_dropout": 0.1,
        "lorentz_vector_scale": 0.1,
        "lorentz_vector_smear": 0.1,
        "lorentz_vector_shift": 0.01,
    }
    model = ParticleNeXt(4, **SMALL, **options)
    points, features, vectors, mask = (part[:8] for part in batch)
    before = [part.clone() for part in (points, features, vectors, mask)]
    first, second = (model(points, features[:, :4], vectors, mask) for _ in range(2))
    assert first.isfinite().all()
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(points, features[:, :4], vectors, mask), model(points, features[:, :4], vectors, mask))
    assert all(torch.equal(part, kept) for part, kept in zip((points, features, vectors, mask), before, strict=True))
