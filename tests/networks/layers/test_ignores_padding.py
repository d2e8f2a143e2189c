"""Networks that say that padding changes none of their outputs, and what does not count as saying so."""

from pathlib import Path

import pytest
import torch
from torch import nn

from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.networks.layers.trimming import ignores_padding
from weaver_tasks.networks.particle_net import ParticleNet
from weaver_tasks.networks.particle_net_tagger import ParticleNetTagger
from weaver_tasks.networks.particle_next.model import ParticleNeXt
from weaver_tasks.networks.particle_transformer.model import ParticleTransformer
from weaver_tasks.networks.particle_transformer_taggers import ParticleTransformerTagger
from weaver_tasks.networks.pcnn import ResNet
from weaver_tasks.networks.pfn import ParticleFlowNetwork

PART = {"num_layers": 1, "embed_dims": [16], "pair_embed_dims": [8]}
CASES = {
    "pfn": (lambda: ParticleFlowNetwork(17, 3), ("features", "mask")),
    "pfn, bn": (lambda: ParticleFlowNetwork(17, 3, use_bn=True), ("features", "mask")),
    "particle_net": (lambda: ParticleNet(17, 3, [(7, (8,))]), ("points", "features", "mask")),
    "particle_net, not trimmed": (lambda: ParticleNet(17, 3, [(7, (8,))], trim=False), ("points", "features", "mask")),
    "particle_transformer": (lambda: ParticleTransformer(17, 3, pair_input_dim=4, **PART), ("features", "vectors", "mask")),
    "particle_transformer, without class blocks": (
        lambda: ParticleTransformer(17, 3, pair_input_dim=4, num_cls_layers=0, **PART),
        ("features", "vectors", "mask"),
    ),
}
TAGGERS = {
    "particle_net_tagger": (lambda: ParticleNetTagger(17, 17, 3, [(7, (8,))]), ("points", "features", "mask")),
    "particle_transformer_tagger": (
        lambda: ParticleTransformerTagger(17, 17, 3, pair_input_dim=4, **PART),
        ("features", "vectors", "mask"),
    ),
}


@pytest.mark.parametrize("name", [*CASES, *TAGGERS])
def test_what_declares_it_gives_the_same_scores(batch, name):
    """Few particles, of which some jets have less than a network looks for neighbors; and jets without any."""
    make, groups = (CASES | TAGGERS)[name]
    torch.manual_seed(3)
    model = make().eval()
    assert ignores_padding(model)
    given = {group: tensor[:16].clone() for group, tensor in zip(("points", "features", "vectors", "mask"), batch, strict=True)}
    kept = torch.tensor([0, 1, 3, 12] * 4)
    given["mask"] = given["mask"] * (torch.arange(128) < kept[:, None, None])
    twice = 2 if name in TAGGERS else 1
    inputs = [given[group] for _ in range(twice) for group in groups]
    expected = model(*inputs)
    found = model(*(tensor[:, :, :12] for tensor in inputs))
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    "model",
    [
        ResNet(17, 3),
        ParticleNet(17, 3, [(7, (8,))], use_counts=False),
        ParticleNet(17, 3, [(7, (8,))], for_segmentation=True),
        # Of a jet without particles, its pooling with attention sees the padding.
        ParticleNeXt(feature_input_dim=17, num_classes=3, layer_params=[(8, 16, [(1, 1)], 16)]),
        ParticleTransformer(17, 3, for_segmentation=True, **PART),
        ParticleTransformer(17, 3, fc_params=None, **PART),
        nn.Linear(3, 2),
    ],
)
def test_what_depends_on_it_does_not_declare_it(model):
    assert not ignores_padding(model)


def test_a_jet_without_particles_shows_particle_nexts_padding(batch):
    points, features, vectors, mask = (tensor[:8] for tensor in batch)
    torch.manual_seed(3)
    model = ParticleNeXt(feature_input_dim=17, num_classes=3, layer_params=[(8, 16, [(1, 1)], 16)], trim=False).eval()
    mask = mask * (torch.arange(128) < torch.tensor([0, 20] * 4)[:, None, None])
    whole, cut = model(points, features, vectors, mask), model(*(tensor[:, :, :20] for tensor in (points, features, vectors, mask)))
    changed = (whole - cut).abs().amax(dim=1)
    assert changed[0] > 1e-3
    assert changed[1] < 1e-5


def test_the_mean_over_all_slots_depends_on_padding(batch):
    points, features, _, mask = (tensor[:8] for tensor in batch)
    model = ParticleNet(17, 3, [(7, (8,))], use_counts=False, trim=False).eval()
    mask = mask * (torch.arange(128) < 20)
    whole, cut = model(points, features, mask), model(points[:, :, :20], features[:, :, :20], mask[:, :, :20])
    assert (whole - cut).abs().max() > 1e-3


def test_a_subclass_speaks_for_itself():
    class Pooled(ParticleFlowNetwork):
        def forward(self, features, mask):
            return self.fc(self.phi(features).amax(dim=2))

    assert not ignores_padding(Pooled(17, 3))


def test_the_declaration_retrains_nothing(tmp_path: Path):
    text = "import torch\nclass Model(torch.nn.Module):\n    {}\n    def forward(self, x):\n        return x\n"
    digests = set()
    for line in ("pass", "pass; ignores_padding = True", "pass; ignores_padding = property(lambda self: self.mod.ignores_padding)"):
        (tmp_path / "net.py").write_text(text.format(line))
        digests.add(source_digest(tmp_path / "net.py"))
    assert len(digests) == 1
    (tmp_path / "net.py").write_text(text.format("pass; other = True"))
    assert source_digest(tmp_path / "net.py") not in digests
