"""Attacks that follow the gradient of the cross-entropy: FGSM and PGD."""

from __future__ import annotations

import torch

from fairweather.attacks import draws
from fairweather.attacks.losses import Slope, cross_entropy, slope
from fairweather.attacks.norms import sphere, within
from fairweather.attacks.plan import Budget, Count, Plan, Problem, Run, StepSize

# Madry et al. ("MNIST adversarial examples challenge", 2017): with 2.5 * epsilon / steps, the point
# can cross the ball from any start and still move along its border.
STEP_RATIO = 2.5


def fgsm(epsilon: Budget, norm: str = "linf") -> Plan:
    """Plan the fast gradient method: one step of length epsilon along the steepest direction.

    In the maximum norm that is epsilon times the sign of the gradient (Goodfellow et al., 2015),
    then clipped to [0, 1].
    """
    return Plan(epsilon, norm, lambda classes: [Run("fgsm", "", _one_step)])


def pgd(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = 10,
    step_size: StepSize | None = None,
    restarts: Count = 1,
) -> Plan:
    """Plan projected gradient descent from random starts (Madry et al., 2018).

    * The start is uniform in the ball, then clipped to [0, 1].
    * Each step has the length `step_size`, by default `2.5 * epsilon / steps`, along the sign of
      the gradient (maximum norm) or the gradient (Euclidean norm).
    * All steps are made. The result for an image is the point with the highest cross-entropy among
      those that the model gets wrong; if there are none, among all points.
    * A restart attacks only the images that are still right.
    """
    length = STEP_RATIO * epsilon / steps if step_size is None else step_size

    def climb(problem: Problem) -> torch.Tensor:
        return _climb(problem, steps, length)

    runs = [Run("pgd", f"restart={restart}", climb) for restart in range(restarts)]
    return Plan(epsilon, norm, lambda classes: runs)


def _one_step(problem: Problem) -> torch.Tensor:
    direction = problem.norm.steepest(_slope(problem, problem.images).gradient)
    moved = problem.images + problem.epsilon * direction
    return within(problem.images, moved, problem.epsilon, problem.norm)


def _climb(problem: Problem, steps: int, length: float) -> torch.Tensor:
    point = _in_ball(problem)
    best, best_at = point, _slope(problem, point)
    here = best_at
    for _ in range(steps):
        moved = point + length * problem.norm.steepest(here.gradient)
        point = within(problem.images, moved, problem.epsilon, problem.norm)
        here = _slope(problem, point)
        better = torch.where(here.wrong == best_at.wrong, here.value > best_at.value, here.wrong)
        best = torch.where(better[:, None, None, None], point, best)
        best_at = Slope(
            here.wrong | best_at.wrong,
            torch.where(better, here.value, best_at.value),
            here.gradient,
        )
    return best


def _in_ball(problem: Problem) -> torch.Tensor:
    states, count = problem.sequences(), problem.images[0].numel()
    direction = sphere(states, problem.images, problem.norm)
    # In n dimensions, the ball of radius r has the share r**n of the volume of the unit ball.
    radius = draws.uniform(states, 1, first=count)[:, :, None, None] ** (1 / count)
    start = problem.images + problem.epsilon * radius * direction
    return within(problem.images, start, problem.epsilon, problem.norm)


def _slope(problem: Problem, points: torch.Tensor) -> Slope:
    return slope(problem.model, points, cross_entropy, problem.labels, problem.labels)
