"""Particle Transformer (arXiv:2202.03772)."""

from weaver_tasks.networks.particle_transformer.model import ParticleTransformer

__all__ = ["ParticleTransformer"]
