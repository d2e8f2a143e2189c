"""ParticleNeXt, the successor of ParticleNet."""

from weaver_tasks.networks.particle_next.model import ParticleNeXt

__all__ = ["ParticleNeXt"]
