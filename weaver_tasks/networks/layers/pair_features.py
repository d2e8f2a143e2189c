"""Kinematic features of particles and of pairs of particles, computed from their four-vectors.

Dimension 1 of a vector is px, py, pz, E in GeV: (B, 4, …). Padded particles are zero vectors; `eps` keeps logarithms and
quotients finite for them. The pair features are those of Particle Transformer (arXiv:2202.03772, eq. 3) and of its variants.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def delta_phi(a: Tensor, b: Tensor) -> Tensor:
    """a - b in radians, in [-pi, pi)."""
    return (a - b + math.pi) % (2 * math.pi) - math.pi


def delta_r2(eta1: Tensor, phi1: Tensor, eta2: Tensor, phi2: Tensor) -> Tensor:
    """The squared distance in the plane of (pseudo)rapidity and azimuth."""
    return (eta1 - eta2) ** 2 + delta_phi(phi1, phi2) ** 2


def to_pt2(x: Tensor, eps: float | None = 1e-8) -> Tensor:
    """Transverse momentum squared, at least eps. (B, 4, …) -> (B, 1, …)."""
    return _at_least(x[:, :2].square().sum(dim=1, keepdim=True), eps)


def to_p2(x: Tensor, eps: float | None = 1e-8) -> Tensor:
    """Momentum squared, at least eps. (B, 4, …) -> (B, 1, …)."""
    return _at_least(x[:, :3].square().sum(dim=1, keepdim=True), eps)


def to_m2(x: Tensor, eps: float | None = 1e-8) -> Tensor:
    """Invariant mass squared, at least eps. (B, 4, …) -> (B, 1, …)."""
    return _at_least(x[:, 3:4].square() - to_p2(x, eps=None), eps)


def _at_least(x: Tensor, eps: float | None) -> Tensor:
    return x if eps is None else x.clamp(min=eps)


def to_ptrapphim(x: Tensor, return_mass: bool = True, eps: float | None = 1e-8) -> Tensor:
    """pt, rapidity, azimuth and (if `return_mass`) mass. (B, 4, …) -> (B, 3 or 4, …)."""
    px, py, pz, energy = x.split((1, 1, 1, 1), dim=1)
    pt = to_pt2(x, eps=eps).sqrt()
    rapidity = 0.5 * torch.log(1 + (2 * pz) / (energy - pz).clamp(min=1e-20))
    # The azimuth is 0 for zero momentum. ONNX has no atan2, and would compute 0 / 0.
    parts = [pt, rapidity, torch.atan2(py, px + ((px == 0) & (py == 0)))]
    if return_mass:
        parts.append(to_m2(x, eps=eps).sqrt())
    return torch.cat(parts, dim=1)


def from_ptrapphie(x: Tensor) -> Tensor:
    """px, py, pz, E from (pt, rapidity, azimuth, E). (B, 4, …) -> (B, 4, …)."""
    pt, rapidity, phi, energy = x.split((1, 1, 1, 1), dim=1)
    return torch.cat((pt * phi.cos(), pt * phi.sin(), energy * rapidity.tanh(), energy), dim=1)


def boost(x: Tensor, boostp4: Tensor, eps: float = 1e-8) -> Tensor:
    """The momenta of `x` in the rest frame of `boostp4`. (B, 4, …) each -> (B, 3, …)."""
    velocity = -boostp4[:, :3] / boostp4[:, 3:].clamp(min=eps)
    beta2 = velocity.square().sum(dim=1, keepdim=True)
    gamma = (1 - beta2).clamp(min=eps) ** (-0.5)
    along = ((gamma - 1) / beta2).masked_fill(beta2 == 0, 0) * (x[:, :3] * velocity).sum(dim=1, keepdim=True)
    return x[:, :3] + along * velocity + x[:, 3:] * gamma * velocity


def p3_norm(p: Tensor, eps: float = 1e-8) -> Tensor:
    """The unit vector of the momentum. (B, 3 or 4, …) -> (B, 3, …)."""
    return p[:, :3] / p[:, :3].norm(dim=1, keepdim=True).clamp(min=eps)


def _cos_sin(ni: Tensor, nj: Tensor) -> list[Tensor]:
    cos = (ni * nj).sum(dim=1, keepdim=True).clamp(min=-1, max=1)
    (xi, yi, zi), (xj, yj, zj) = ni.unbind(1), nj.unbind(1)
    cross = torch.stack((yi * zj - zi * yj, zi * xj - xi * zj, xi * yj - yi * xj), dim=1)
    return [cos, cross.norm(dim=1, keepdim=True).clamp(min=0, max=1)]


def _momentum(x: Tensor) -> tuple[Tensor, Tensor]:
    size = to_p2(x, eps=None).sqrt()
    return size, x[:, :3] / size.clamp(min=1e-8)


def pairwise_lv_fts(xi: Tensor, xj: Tensor, num_outputs: int = 4, eps: float = 1e-8) -> Tensor:
    """Features of pairs of particles at hadron colliders: ln kt, ln z, ln delta, ln m2 (arXiv:2202.03772, eq. 3), and more.

    xi, xj: (B, 4, …), broadcast. Returns (B, num_outputs, …): 1: ln delta alone; 3 or 4: the first 3 or 4 of those
    above; 5: adds ln -(pi - pj)^2; 6: adds the cosine of the polarization angle; 8: adds the differences in rapidity and azimuth.
    """
    pti, rapi, phii = to_ptrapphim(xi, False, eps=None).split((1, 1, 1), dim=1)
    ptj, rapj, phij = to_ptrapphim(xj, False, eps=None).split((1, 1, 1), dim=1)
    delta = delta_r2(rapi, phii, rapj, phij).sqrt()
    lndelta = delta.clamp(min=eps).log()
    if num_outputs == 1:
        return lndelta
    ptmin = torch.minimum(pti, ptj)
    outputs = [
        (ptmin * delta).clamp(min=eps).log(),
        (ptmin / (pti + ptj).clamp(min=eps)).clamp(min=eps).log(),
        lndelta,
    ]
    xij = xi + xj
    if num_outputs > 3:
        outputs.append(to_m2(xij, eps=eps).log())
    if num_outputs > 4:
        outputs.append((-to_m2(xi - xj, eps=None)).clamp(min=eps).log())
    if num_outputs > 5:
        outputs.append((p3_norm(boost(xj, xij), eps=eps) * p3_norm(xij, eps=eps)).sum(dim=1, keepdim=True))
    if num_outputs > 6:
        outputs += [rapi - rapj, delta_phi(phii, phij)]
    return _checked(outputs, num_outputs)


pairwise_lv_fts_pp = pairwise_lv_fts


def pairwise_lv_fts_ee(xi: Tensor, xj: Tensor, num_outputs: int = 6, eps: float = 1e-8) -> Tensor:
    """Features of pairs at lepton colliders: ln m2, cos and sin of the angle, ln kt, ln z, ln of the Jade distance.

    xi, xj: (B, 4, …), broadcast. Returns (B, num_outputs, …), num_outputs one of 1, 3, 5, 6.
    """
    outputs = [to_m2(xi + xj, eps=eps).log()]
    if num_outputs > 1:
        (pi, ni), (pj, nj) = _momentum(xi), _momentum(xj)
        cos, sin = _cos_sin(*torch.broadcast_tensors(ni, nj))
        outputs += [cos, sin]
    if num_outputs > 3:
        pmin = torch.minimum(pi, pj)
        outputs += [(pmin * sin).clamp(min=eps).log(), (pmin / (pi + pj).clamp(min=eps)).clamp(min=eps).log()]
    if num_outputs > 5:
        outputs.append((xi[:, 3:4] * xj[:, 3:4] * (1 - cos)).clamp(min=eps).log())
    return _checked(outputs, num_outputs)


def pairwise_lv_fts_xyzt(xi: Tensor, xj: Tensor, num_outputs: int = 7, coords: str | None = "rectangular", eps: float = 1e-8) -> Tensor:
    """Features of pairs of points in space and time (x, y, z, t): ln d2, cos and sin of the angle, asinh dt, differences.

    coords: the coordinates of the three differences: rectangular (or Cartesian), spherical, cylindrical.
    xi, xj: (B, 4, …), broadcast. Returns (B, num_outputs, …), num_outputs one of 1, 3, 4, 7.
    """
    difference = xi - xj
    outputs = [to_p2(difference, eps=eps).log()]
    if num_outputs > 1:
        outputs += _cos_sin(*torch.broadcast_tensors(_momentum(xi)[1], _momentum(xj)[1]))
    if num_outputs > 3:
        outputs.append(difference[:, 3:4].asinh())
    if num_outputs > 4:
        outputs += _differences(xi, xj, coords or "rectangular")
    return _checked(outputs, num_outputs)


def _differences(xi: Tensor, xj: Tensor, coords: str) -> list[Tensor]:
    (x1, y1, z1), (x2, y2, z2) = xi[:, :3].split((1, 1, 1), dim=1), xj[:, :3].split((1, 1, 1), dim=1)
    if coords.lower().startswith(("rect", "cart")):
        return [x1 - x2, y1 - y2, z1 - z2]
    phi = delta_phi(torch.atan2(y1, x1), torch.atan2(y2, x2))
    if coords.lower().startswith("cyl"):
        return [(to_pt2(xi, None).sqrt() - to_pt2(xj, None).sqrt()).asinh(), phi, (z1 - z2).asinh()]
    if coords.lower().startswith("sph"):
        r1, r2 = to_p2(xi, None).sqrt(), to_p2(xj, None).sqrt()
        theta1, theta2 = ((z / r.clamp(min=1e-8)).clamp(-1, 1).acos() for z, r in ((z1, r1), (z2, r2)))
        return [(r1 - r2).asinh(), theta1 - theta2, phi]
    raise ValueError(f"coordinates '{coords}' are not known: use rectangular, cylindrical or spherical")


def _checked(outputs: list[Tensor], wanted: int) -> Tensor:
    if len(outputs) != wanted:
        raise ValueError(f"{wanted} pair features are not defined; {len(outputs)} are")
    return torch.cat(torch.broadcast_tensors(*outputs), dim=1)
