"""The two norms of attacks, and projections onto balls, the box [0, 1] and hyperplanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from fairweather.attacks import draws

_TINY = 1e-12  # keeps a direction of length zero at zero
_LEAST = torch.finfo(torch.float32).tiny
_FINE = 2**37  # rows of 3 x 4096 x 4096 numbers in [0, 1] still fit into 64 bits


class Norm(NamedTuple):
    """The functions of a norm that attacks need; perturbations are float32 `[B, 3, H, W]`.

    Attributes:
        length: the norm of each perturbation, `[B, 1, 1, 1]`.
        steepest: the perturbation of length 1 with the largest product with a gradient.
        fit: the nearest perturbation whose length is at most a radius.
        noise: numbers `[B, count]` with a uniform direction on the sphere, from the states of
            sequences and a count.
        weight: how much each pixel moves on the shortest way to a hyperplane, from the absolute
            values of its normal.
        most: the largest distance of two images with this many numbers.
    """

    length: Callable[[torch.Tensor], torch.Tensor]
    steepest: Callable[[torch.Tensor], torch.Tensor]
    fit: Callable[[torch.Tensor, float], torch.Tensor]
    noise: Callable[[torch.Tensor, int], torch.Tensor]
    weight: Callable[[torch.Tensor], torch.Tensor]
    most: Callable[[int], float]


def _largest(perturbation: torch.Tensor) -> torch.Tensor:
    return perturbation.abs().amax((1, 2, 3), keepdim=True)


def _euclidean(perturbation: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)


def _unit(perturbation: torch.Tensor) -> torch.Tensor:
    # Scaled first, because the squares of a saturated model's gradients are zero in float32.
    scaled = perturbation / _largest(perturbation).clamp_min(_LEAST)
    return scaled / _euclidean(scaled).clamp_min(_TINY)


def _fit_euclidean(perturbation: torch.Tensor, radius: float) -> torch.Tensor:
    return perturbation * (radius / _euclidean(perturbation).clamp_min(_TINY)).clamp_max(1)


def _box_noise(states: torch.Tensor, count: int) -> torch.Tensor:
    return draws.uniform(states, count) * 2 - 1


NORMS: Mapping[str, Norm] = {
    "linf": Norm(
        _largest,
        torch.sign,
        lambda perturbation, radius: perturbation.clamp(-radius, radius),
        _box_noise,
        lambda normal: (normal > 0).float(),
        lambda count: 1.0,
    ),
    "l2": Norm(
        _euclidean,
        _unit,
        _fit_euclidean,
        draws.normal,
        lambda normal: normal,
        lambda count: count**0.5,
    ),
}


def within(images: torch.Tensor, points: torch.Tensor, epsilon: float, norm: Norm) -> torch.Tensor:
    """Move points into the ball around their images, then into [0, 1].

    The box contains the centre of the ball, so clipping never makes a perturbation longer. In the
    maximum norm the result is the nearest point of the intersection. In the Euclidean norm it is a
    point of the intersection, but not always the nearest.

    >>> images, points = torch.zeros(1, 3, 1, 1), torch.tensor([3.0, -1, 0]).reshape(1, 3, 1, 1)
    >>> within(images, points, 0.5, NORMS["linf"]).flatten()
    tensor([0.5000, 0.0000, 0.0000])
    """
    return (images + norm.fit(points - images, epsilon)).clamp(0, 1)


def sphere(states: torch.Tensor, images: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Draw a perturbation of length 1 for each image, uniform on the sphere of the norm."""
    noise = draws.shaped(norm.noise(states, images[0].numel()), images.shape[1:])
    return noise / norm.length(noise).clamp_min(_TINY)


def to_hyperplane(
    points: torch.Tensor, normals: torch.Tensor, offsets: torch.Tensor, norm: Norm
) -> torch.Tensor:
    """Return the shortest perturbations that move points onto hyperplanes inside [0, 1].

    If the hyperplane does not cross the box, the point moves to the corner of the box nearest to
    the hyperplane. Pixel i moves by min(λ v_i, room_i), where v_i is 1 in the maximum norm and
    |w_i| in the Euclidean norm. λ is found from the sorted values at which pixels reach their
    bounds (Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
    attack", 2020, section 2.2).

    Args:
        points: float32 `[B, 3, H, W]` in [0, 1].
        normals: float32 `[B, 3, H, W]`, the normal w of each hyperplane `<w, x> = offset`.
        offsets: float32 `[B]`.

    >>> point, w = torch.full((1, 3, 1, 1), 0.5), torch.tensor([1.0, 0, 3]).reshape(1, 3, 1, 1)
    >>> to_hyperplane(point, w, torch.tensor([2.8]), NORMS["linf"]).flatten()
    tensor([0.2000, 0.0000, 0.2000])
    """
    flat, w = points.flatten(1), normals.flatten(1)
    missing = offsets - (w * flat).sum(1)
    towards = w.sign() * missing.sign()[:, None]
    room = torch.where(towards > 0, 1 - flat, flat)
    # Without this, squares of small gradients would be zero: beside larger ones of pixels that
    # cannot move, too.
    free = torch.where(room > 0, w.abs(), 0.0)
    scale = free.amax(1, keepdim=True).clamp_min(_LEAST)
    size, short = free / scale, missing.abs()[:, None] / scale
    move = norm.weight(size)
    meets = torch.where(size > 0, room / move.clamp_min(_LEAST), 0.0)
    meets, order = meets.sort(dim=1)
    filled, slope = (size * room).gather(1, order), (size * move).gather(1, order)
    total = _running_sum(filled)
    steep = _running_sum(slope.flip(1)).flip(1)  # of this pixel and all that are bounded later
    reached = total + meets * (steep - slope)
    last = torch.searchsorted(reached, short).clamp_max(w.shape[1] - 1)
    before = (total - filled).gather(1, last)
    rate = steep.gather(1, last).clamp_min(_LEAST)
    # Beyond the last bound no pixel can move: the hyperplane does not cross the box.
    length = ((short - before) / rate).clamp_min(0).minimum(meets[:, -1:])
    return (towards * torch.minimum(length * move, room)).reshape(points.shape)


def _running_sum(shares: torch.Tensor) -> torch.Tensor:
    """Add up numbers in [0, 1] along rows, to the last bit the same on every device.

    They are summed as whole multiples of 2**-37, in any order. A GPU that adds up floats in
    parallel may round each time in another way.
    """
    return (shares * _FINE).round().long().cumsum(1).float() / _FINE
