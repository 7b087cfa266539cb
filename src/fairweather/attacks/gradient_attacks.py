"""Attacks that use the gradient: FGSM, PGD, Auto-PGD and targeted FAB.

Auto-PGD is gradient ascent with momentum, with a step size that adapts to its progress: Croce and
Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", 2020, algorithm 1. FAB steps to the decision boundary of the linearised model and stays
near the image: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive
boundary attack", 2020, algorithm 1, towards one class at a time as in AutoAttack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fairweather.attacks import draws
from fairweather.attacks.problem import (
    AttackSettings,
    Loss,
    Problem,
    Slope,
    cross_entropy,
    logit_lead,
    project_on_hyperplane,
)

# Madry et al. ("MNIST adversarial examples challenge", 2017): with 2.5 * epsilon / steps, the point
# can cross the ball from any start and still move along its border.
STEP_RATIO = 2.5


def fgsm(problem: Problem, *unused: object) -> torch.Tensor:
    """Fast gradient method: one step of length epsilon along the steepest direction.

    In the maximum norm that is epsilon times the sign of the gradient (Goodfellow et al., 2015),
    then clipped to [0, 1].
    """
    gradient = problem.slope(problem.images, cross_entropy, problem.labels).gradient
    return problem.project(problem.images + problem.epsilon * problem.norm.steepest(gradient))


def pgd(problem: Problem, settings: AttackSettings, *unused: object) -> torch.Tensor:
    """Projected gradient descent from random starts (Madry et al., 2018).

    * The start is uniform in the ball, then clipped to [0, 1].
    * Each step has the length `step_size`, by default `2.5 * epsilon / steps`, along the sign of
      the gradient (maximum norm) or the gradient (Euclidean norm).
    * All steps are made. The result for an image is the point with the highest cross-entropy among
      those that the model gets wrong; if there are none, among all points.
    * A restart attacks only the images that are still right.
    """
    length = settings.step_size
    if length is None:
        length = STEP_RATIO * problem.epsilon / settings.steps
    point = _start_in_ball(problem)
    best = point
    here = best_at = problem.slope(point, cross_entropy, problem.labels)
    for _ in range(settings.steps):
        point = problem.project(point + length * problem.norm.steepest(here.gradient))
        here = problem.slope(point, cross_entropy, problem.labels)
        better = torch.where(here.wrong == best_at.wrong, here.value > best_at.value, here.wrong)
        best = torch.where(better[:, None, None, None], point, best)
        best_at = Slope(
            here.wrong | best_at.wrong,
            torch.where(better, here.value, best_at.value),
            here.gradient,
        )
    return best


def _start_in_ball(problem: Problem) -> torch.Tensor:
    states, count = problem.sequences(), problem.images[0].numel()
    direction = problem.draw_direction()
    # In n dimensions, the ball of radius r has the share r**n of the volume of the unit ball.
    radius = draws.uniform(states, 1, first=count)[:, :, None, None] ** (1 / count)
    return problem.project(problem.images + problem.epsilon * radius * direction)


# --- Auto-PGD

MOMENTUM = 0.75  # α: the weight of the new step; the previous step has the rest
LEAST_RISES = 0.75  # ρ: the share of steps between two checkpoints that must raise the loss
FIRST_STEP = 2.0  # times epsilon


@dataclass(frozen=True)
class _Ascent:
    """The images that are still right; every attribute but the problem has one row per image."""

    problem: Problem
    place: torch.Tensor
    targets: torch.Tensor
    point: torch.Tensor
    before: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    best: torch.Tensor
    best_value: torch.Tensor
    best_gradient: torch.Tensor
    step: torch.Tensor
    rises: torch.Tensor
    checked_value: torch.Tensor
    halved: torch.Tensor

    def take(self, keep: torch.Tensor) -> _Ascent:
        columns = {name: column[keep] for name, column in vars(self).items() if name != "problem"}
        return _Ascent(self.problem.take(keep), **columns)


def auto_pgd(
    loss: Loss, problem: Problem, settings: AttackSettings, targets: torch.Tensor, *unused: object
) -> torch.Tensor:
    """Return, for each image, the first point that the model gets wrong, else that of highest loss.

    The start is uniform on the sphere. An image is not attacked further once it is broken.
    """
    direction = problem.draw_direction()
    result = (problem.images + problem.epsilon * direction).clamp(0, 1)
    state, wrong = _start_ascent(problem, result, loss, targets)
    state = state.take(~wrong)
    periods = _checkpoint_periods(settings.steps)
    left = period = next(periods)
    for number in range(settings.steps):
        if len(state.place) == 0:
            break
        state, wrong = _step_up(state, loss, 1.0 if number == 0 else MOMENTUM)
        if bool(wrong.any()):
            result = result.index_copy(0, state.place[wrong], state.point[wrong])
            state = state.take(~wrong)
        left -= 1
        if left == 0:
            state = _adapt_steps(state, period)
            left = period = next(periods)
    return result.index_copy(0, state.place, state.best)


def _checkpoint_periods(steps: int) -> Iterator[int]:
    # Checkpoints are 22 % of the steps apart, then 3 % less each time, but never less than 6 %;
    # rounded as in the authors' code.
    period = max(int(0.22 * steps), 1)
    while True:
        yield period
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))


def _start_ascent(
    problem: Problem, point: torch.Tensor, loss: Loss, targets: torch.Tensor
) -> tuple[_Ascent, torch.Tensor]:
    wrong, value, gradient = problem.slope(point, loss, targets)
    state = _Ascent(
        problem,
        place=torch.arange(len(point), device=point.device),
        targets=targets,
        point=point,
        before=point,
        value=value,
        gradient=gradient,
        best=point,
        best_value=value,
        best_gradient=gradient,
        step=point.new_full((len(point), 1, 1, 1), FIRST_STEP * problem.epsilon),
        rises=torch.zeros_like(value),
        checked_value=value,
        halved=torch.ones_like(wrong),
    )
    return state, wrong


def _step_up(state: _Ascent, loss: Loss, momentum: float) -> tuple[_Ascent, torch.Tensor]:
    problem, last = state.problem, state.point
    ahead = problem.project(last + state.step * problem.norm.steepest(state.gradient))
    drift = (1 - momentum) * (last - state.before)
    point = problem.project(last + momentum * (ahead - last) + drift)
    slope = problem.slope(point, loss, state.targets)
    better = slope.value > state.best_value
    wide = better[:, None, None, None]
    moved = replace(
        state,
        point=point,
        before=last,
        value=slope.value,
        gradient=slope.gradient,
        best=torch.where(wide, point, state.best),
        best_value=torch.where(better, slope.value, state.best_value),
        best_gradient=torch.where(wide, slope.gradient, state.best_gradient),
        rises=state.rises + (slope.value > state.value),
    )
    return moved, slope.wrong


def _adapt_steps(state: _Ascent, period: int) -> _Ascent:
    """Halve the step of images whose loss rises too rarely, and go back to their best point."""
    # The paper writes <; the authors' code, which published numbers come from, has <=.
    stalled = state.rises <= LEAST_RISES * period
    stuck = ~state.halved & (state.best_value <= state.checked_value)
    halve = stalled | stuck
    wide = halve[:, None, None, None]
    return replace(
        state,
        step=torch.where(wide, state.step / 2, state.step),
        point=torch.where(wide, state.best, state.point),
        gradient=torch.where(wide, state.best_gradient, state.gradient),
        rises=torch.zeros_like(state.rises),
        checked_value=state.best_value,
        halved=halve,
    )


# --- FAB

LARGEST_BIAS = 0.1  # α_max: the largest weight of the step from the image itself
OVERSHOOT = 1.05  # η
BACKWARD_SHARE = 0.9  # β: after a wrong point, the perturbation is multiplied by this
START_SHARE = 0.5  # a random start has a perturbation of half of epsilon
_SHORTEST_LENGTH = 1e-8  # the smallest length, as in the authors' code, to avoid division by zero


def fab(
    problem: Problem, settings: AttackSettings, targets: torch.Tensor, restart: int
) -> torch.Tensor:
    """Return, for each image, the first point in the budget that the model gets wrong, else itself.

    The search starts at the image; after a restart, at half of epsilon in a random direction. The
    published attack continues to the smallest perturbation. Here it only matters whether one within
    epsilon exists, so the search stops at the first.
    """
    result = point = problem.images
    place = torch.arange(len(result), device=result.device)
    if restart:
        direction = problem.draw_direction()
        point = (point + START_SHARE * problem.epsilon * direction).clamp(0, 1)
    for _ in range(settings.steps):
        point = _step_to_boundary(problem, point, targets)
        wrong = problem.is_wrong(point)
        change = point - problem.images
        done = wrong & (problem.norm.length(change).flatten() <= problem.epsilon)
        nearer = problem.images + BACKWARD_SHARE * change
        following = torch.where(wrong[:, None, None, None], nearer, point)
        if bool(done.any()):
            result = result.index_copy(0, place[done], point[done])
            keep = ~done
            problem, following, targets = problem.take(keep), following[keep], targets[keep]
            place = place[keep]
        if len(place) == 0:
            break
        point = following
    return result


def _step_to_boundary(problem: Problem, point: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    here = problem.slope(point, logit_lead, targets)
    offset = (here.gradient * point).flatten(1).sum(1) - here.value
    onward = project_on_hyperplane(point, here.gradient, offset, problem.norm)
    direct = project_on_hyperplane(problem.images, here.gradient, offset, problem.norm)
    length = problem.norm.length(onward).clamp_min(_SHORTEST_LENGTH)
    direct_length = problem.norm.length(direct).clamp_min(_SHORTEST_LENGTH)
    share = (length / (length + direct_length)).clamp_max(LARGEST_BIAS)
    ahead = (point + OVERSHOOT * onward) * (1 - share)
    return (ahead + (problem.images + OVERSHOOT * direct) * share).clamp(0, 1)
