"""Targeted FAB: step to the decision boundary of the linearised model, and stay near the image.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
2020, algorithm 1, towards one class at a time as in AutoAttack.
"""

from __future__ import annotations

import torch

from fairweather.attacks.losses import lead, predicted, slope
from fairweather.attacks.norms import sphere, to_hyperplane
from fairweather.attacks.plan import Problem

BIAS = 0.1  # α_max: the largest weight of the step from the image itself
OVERSHOOT = 1.05  # η
BACKWARD = 0.9  # β: after a wrong point, the perturbation is multiplied by this
START = 0.5  # a random start has a perturbation of half of epsilon
_SHORTEST = 1e-8  # the smallest length, as in the authors' code, to avoid division by zero


def walk(problem: Problem, targets: torch.Tensor, steps: int, restart: int) -> torch.Tensor:
    """Return, for each image, the first point in the budget that the model gets wrong, else itself.

    The search starts at the image; after a restart, at half of epsilon in a random direction. The
    published attack continues to the smallest perturbation. Here it only matters whether one within
    epsilon exists, so the search stops at the first.
    """
    found = problem.images
    place = torch.arange(len(found), device=found.device)
    point = problem.images
    if restart:
        direction = sphere(problem.sequences(), point, problem.norm)
        point = (point + START * problem.epsilon * direction).clamp(0, 1)
    for _ in range(steps):
        point = _stepped(problem, point, targets)
        wrong = predicted(problem.model, point) != problem.labels
        change = point - problem.images
        done = wrong & (problem.norm.length(change).flatten() <= problem.epsilon)
        nearer = problem.images + BACKWARD * change
        if bool(done.any()):
            found = found.index_copy(0, place[done], point[done])
        point = torch.where(wrong[:, None, None, None], nearer, point)
        if bool(done.any()):
            keep = ~done
            problem, point, targets = problem.take(keep), point[keep], targets[keep]
            place = place[keep]
        if len(place) == 0:
            break
    return found


def _stepped(problem: Problem, point: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    here = slope(problem.model, point, lead, problem.labels, targets)
    offset = (here.gradient * point).flatten(1).sum(1) - here.value
    onward = to_hyperplane(point, here.gradient, offset, problem.norm)
    direct = to_hyperplane(problem.images, here.gradient, offset, problem.norm)
    length = problem.norm.length(onward).clamp_min(_SHORTEST)
    other = problem.norm.length(direct).clamp_min(_SHORTEST)
    share = (length / (length + other)).clamp_max(BIAS)
    ahead = (point + OVERSHOOT * onward) * (1 - share)
    return (ahead + (problem.images + OVERSHOOT * direct) * share).clamp(0, 1)
