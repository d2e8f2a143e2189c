"""ParticleNet equals weaver-core's: scores, gradients, statistics; and has the symmetries of a set."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weaver_tasks.networks.particle_net import ParticleNet
from weaver_tasks.networks.particle_net_tagger import ParticleNetTagger
from weaver_tasks.networks.weights import load_weights

Peer = Callable[[str], ModuleType]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
PUBLISHED = {
    "conv_params": [(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
    "fc_params": [(256, 0.1)],
    "use_fusion": False,
}
SMALL: dict[str, Any] = {"conv_params": [(7, (8, 8)), (5, (8, 8))], "fc_params": [(16, 0.0)], "trim": False}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_fusion": False, "use_counts": False},
        {"use_fts_bn": False},
        {"use_amp": True},
        {"for_segmentation": True},
        {"conv_params": [(3, (17,)), (16, (8, 8, 8))]},
    ],
)
def test_equal_to_weaver(peer: Peer, batch: Batch, options: dict[str, Any], same: Callable[..., None]) -> None:
    torch.manual_seed(0)
    options = {**SMALL, **options}
    points, features, _, mask = (part[:12] for part in batch)
    real = mask.bool() if "for_segmentation" in options else None
    same(peer("nn.model.ParticleNet").ParticleNet(17, 10, **options), ParticleNet(17, 10, **options), (points, features, mask), real=real)


def test_equal_to_weaver_while_trimming(peer: Peer, batch: Batch, same: Callable[..., None]) -> None:
    """With the same random numbers the same particles are left out, and padded particles that remain count as they do there."""
    torch.manual_seed(0)
    options = {**SMALL, "trim": True}
    models = peer("nn.model.ParticleNet").ParticleNet(17, 10, **options), ParticleNet(17, 10, **options)
    for model in models:
        model.trimmer._counter.fill_(5)
    points, features, _, mask = (part[:12] for part in batch)
    same(*models, (points, features, mask))


def test_two_collections_equal_to_weaver(peer: Peer, batch: Batch, same: Callable[..., None]) -> None:
    torch.manual_seed(0)
    points, features, _, mask = (part[:12] for part in batch)
    vertices = points[:, :, 40:60], features[:, :5, 40:60], mask[:, :, 40:60]
    arguments = {"pf_features_dims": 17, "sv_features_dims": 5, "num_classes": 10, **SMALL}
    theirs = peer("nn.model.ParticleNet").ParticleNetTagger(**arguments)
    same(theirs, ParticleNetTagger(**arguments), (points, features, mask, *vertices))


def published(samples: Path) -> Path:
    path = samples.parent / "pretrained" / "ParticleNet_full.pt"
    if not path.is_file():
        pytest.skip("the published weights are not here")
    return path


def test_published_weights(peer: Peer, batch: Batch, samples: Path) -> None:
    """They load strictly, give weaver-core's scores in single precision, and know the jets that they never saw."""
    torch.manual_seed(0)
    path = published(samples)
    theirs, ours = peer("nn.model.ParticleNet").ParticleNet(17, 10, **PUBLISHED).eval(), ParticleNet(17, 10, **PUBLISHED).eval()
    report = load_weights(ours, f"{path}:mod")
    assert not report.missing
    assert not report.unexpected
    theirs.load_state_dict(ours.state_dict())
    points, features, _, mask = batch
    with torch.no_grad():
        wanted, got = (model(points[::4], features[::4], mask[::4]).softmax(dim=1) for model in (theirs, ours))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    few = points[::8], features[::8], mask[::8]
    gradients = []
    for model in (theirs, ours):
        nn.functional.cross_entropy(model(*few), torch.arange(8)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for wanted_gradient, got_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(got_gradient, wanted_gradient, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        predicted = ours(points, features, mask).argmax(dim=1)
    classes = torch.tensor([1, 2, 3, 5, 4, 8, 9, 7, 0, 6])  # of the test files in order, among the published model's outputs
    assert (predicted == classes[torch.arange(64) // 7]).float().mean() > 0.45


@pytest.mark.parametrize("options", [{}, {"use_fusion": False}])
def test_order_padding_and_the_rest_of_the_batch_change_nothing(batch: Batch, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ParticleNet(17, 10, **{**SMALL, **options, "trim": True}).double().eval()
    points, features, _, mask = (part.double() for part in batch)
    with torch.no_grad():
        wanted = model(points, features, mask)
        order = torch.rand(64, 1, 128).argsort(dim=2)
        shuffled = [part.gather(2, order.expand_as(part)) for part in (points, features, mask)]
        torch.testing.assert_close(model(*shuffled), wanted, atol=1e-9, rtol=0)
        longer = [nn.functional.pad(part, (0, 50)) for part in (points, features, mask)]
        torch.testing.assert_close(model(*longer), wanted, atol=1e-9, rtol=0)
        torch.testing.assert_close(model(points[:3], features[:3], mask[:3]), wanted[:3], atol=1e-9, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_events_with_one_particle_or_none_are_finite(batch: Batch, training: bool) -> None:
    torch.manual_seed(0)
    model = ParticleNet(17, 10, **{**SMALL, "trim": True}).train(training)
    points, features, _, mask = (part[:4].clone() for part in batch)
    mask[0, :, 1:] = 0
    mask[1] = 0
    assert model(points, features * mask, mask).isfinite().all()
    for alone in (slice(0, 1), slice(1, 2)):
        assert model.eval()(points[alone], features[alone] * mask[alone], mask[alone]).isfinite().all()
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_packed_and_dense_paths_agree(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters and compilers take the dense path."""
    torch.manual_seed(0)
    model = ParticleNet(17, 10, **SMALL).double()
    points, features, _, mask = (part[:12].double() for part in batch)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = model(points, features, mask)
    left = dict(model.named_buffers())["edge_convs.1.bns.0.running_var"].clone()
    model.load_state_dict(state)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(model(points, features, mask), packed, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(dict(model.named_buffers())["edge_convs.1.bns.0.running_var"], left)
