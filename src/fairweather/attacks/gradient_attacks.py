"""Attacks that use the gradient: FGSM, PGD, Auto-PGD and targeted FAB.

Auto-PGD is gradient ascent with momentum, with a step size that adapts to its progress: Croce and
Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", 2020, algorithm 1. FAB steps to the decision boundary of the linearised model and stays
near the image: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive
boundary attack", 2020, algorithm 1, towards one class at a time as in AutoAttack.

"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch

from fairweather.attacks import draws
from fairweather.attacks.problem import (
    AttackPlan,
    AttackRun,
    Budget,
    Count,
    Loss,
    Problem,
    Slope,
    StepSize,
    compute_slope,
    cross_entropy,
    draw_on_sphere,
    logit_lead,
    predict_classes,
    project_into_ball,
    project_on_hyperplane,
)

# ---------------------------------------------------------------- attacks that follow the gradient

# Madry et al. ("MNIST adversarial examples challenge", 2017): with 2.5 * epsilon / steps, the point
# can cross the ball from any start and still move along its border.
STEP_RATIO = 2.5


def fgsm(epsilon: Budget, norm: str = "linf") -> AttackPlan:
    """Plan the fast gradient method: one step of length epsilon along the steepest direction.

    In the maximum norm that is epsilon times the sign of the gradient (Goodfellow et al., 2015),
    then clipped to [0, 1].
    """
    return AttackPlan(epsilon, norm, lambda classes: [AttackRun("fgsm", "", _step_once)])


def pgd(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = 10,
    step_size: StepSize | None = None,
    restarts: Count = 1,
) -> AttackPlan:
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
        return _ascend(problem, steps, length)

    runs = [AttackRun("pgd", f"restart={restart}", climb) for restart in range(restarts)]
    return AttackPlan(epsilon, norm, lambda classes: runs)


def _step_once(problem: Problem) -> torch.Tensor:
    direction = problem.norm.steepest(_cross_entropy_slope(problem, problem.images).gradient)
    moved = problem.images + problem.epsilon * direction
    return project_into_ball(problem.images, moved, problem.epsilon, problem.norm)


def _ascend(problem: Problem, steps: int, length: float) -> torch.Tensor:
    point = _start_in_ball(problem)
    best, best_at = point, _cross_entropy_slope(problem, point)
    here = best_at
    for _ in range(steps):
        moved = point + length * problem.norm.steepest(here.gradient)
        point = project_into_ball(problem.images, moved, problem.epsilon, problem.norm)
        here = _cross_entropy_slope(problem, point)
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
    direction = draw_on_sphere(states, problem.images, problem.norm)
    # In n dimensions, the ball of radius r has the share r**n of the volume of the unit ball.
    radius = draws.uniform(states, 1, first=count)[:, :, None, None] ** (1 / count)
    start = problem.images + problem.epsilon * radius * direction
    return project_into_ball(problem.images, start, problem.epsilon, problem.norm)


def _cross_entropy_slope(problem: Problem, points: torch.Tensor) -> Slope:
    return compute_slope(problem.model, points, cross_entropy, problem.labels, problem.labels)


# ---------------------------------------------------------------- auto-PGD: gradient ascent with mo

MOMENTUM = 0.75  # α: the weight of the new step; the previous step has the rest
LEAST_RISES = 0.75  # ρ: the share of steps between two checkpoints that must raise the loss
FIRST_STEP = 2.0  # times epsilon


@dataclass(frozen=True)
class _ClimbState:
    """The state of each image that is still right; every attribute has one row per image."""

    place: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor
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

    def take(self, keep: torch.Tensor) -> _ClimbState:
        rows = {column.name: getattr(self, column.name)[keep] for column in fields(self)}
        return _ClimbState(**rows)


def climb(problem: Problem, loss: Loss, targets: torch.Tensor, steps: int) -> torch.Tensor:
    """Return, for each image, the first point that the model gets wrong, else that of highest loss.

    The start is uniform on the sphere. An image is not attacked further once it is broken.
    """
    start = problem.images + problem.epsilon * draw_on_sphere(
        problem.sequences(), problem.images, problem.norm
    )
    state, wrong = _start_climb(problem, start.clamp(0, 1), loss, targets)
    found = state.point
    state = state.take(~wrong)
    lengths = _checkpoint_periods(steps)
    left = period = next(lengths)
    for number in range(steps):
        if len(state.place) == 0:
            break
        state = _move(problem, state, 1.0 if number == 0 else MOMENTUM)
        state, wrong = _update_best(problem, state, loss)
        if bool(wrong.any()):
            found = found.index_copy(0, state.place[wrong], state.point[wrong])
            state = state.take(~wrong)
        left -= 1
        if left == 0:
            state = _adapt_steps(state, period)
            left = period = next(lengths)
    return found.index_copy(0, state.place, state.best)


def _checkpoint_periods(steps: int) -> Iterator[int]:
    # Checkpoints are 22 % of the steps apart, then 3 % less each time, but never less than 6 %;
    # rounded as in the authors' code.
    period = max(int(0.22 * steps), 1)
    while True:
        yield period
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))


def _start_climb(
    problem: Problem, point: torch.Tensor, loss: Loss, targets: torch.Tensor
) -> tuple[_ClimbState, torch.Tensor]:
    here = compute_slope(problem.model, point, loss, problem.labels, targets)
    count = len(point)
    state = _ClimbState(
        place=torch.arange(count, device=point.device),
        images=problem.images,
        labels=problem.labels,
        targets=targets,
        point=point,
        before=point,
        value=here.value,
        gradient=here.gradient,
        best=point,
        best_value=here.value,
        best_gradient=here.gradient,
        step=point.new_full((count, 1, 1, 1), FIRST_STEP * problem.epsilon),
        rises=here.value.new_zeros(count),
        checked_value=here.value,
        halved=torch.ones_like(here.wrong),
    )
    return state, here.wrong


def _move(problem: Problem, state: _ClimbState, momentum: float) -> _ClimbState:
    def project(point: torch.Tensor) -> torch.Tensor:
        return project_into_ball(state.images, point, problem.epsilon, problem.norm)

    ahead = project(state.point + state.step * problem.norm.steepest(state.gradient))
    drift = (1 - momentum) * (state.point - state.before)
    point = project(state.point + momentum * (ahead - state.point) + drift)
    return replace(state, point=point, before=state.point)


def _update_best(
    problem: Problem, state: _ClimbState, loss: Loss
) -> tuple[_ClimbState, torch.Tensor]:
    here = compute_slope(problem.model, state.point, loss, state.labels, state.targets)
    better = here.value > state.best_value
    wide = better[:, None, None, None]
    seen = replace(
        state,
        value=here.value,
        gradient=here.gradient,
        best=torch.where(wide, state.point, state.best),
        best_value=torch.where(better, here.value, state.best_value),
        best_gradient=torch.where(wide, here.gradient, state.best_gradient),
        rises=state.rises + (here.value > state.value),
    )
    return seen, here.wrong


def _adapt_steps(state: _ClimbState, period: int) -> _ClimbState:
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


# ---------------------------------------------------------------- targeted FAB: step to the decisio

LARGEST_BIAS = 0.1  # α_max: the largest weight of the step from the image itself
OVERSHOOT = 1.05  # η
BACKWARD_SHARE = 0.9  # β: after a wrong point, the perturbation is multiplied by this
START_SHARE = 0.5  # a random start has a perturbation of half of epsilon
_SHORTEST_LENGTH = 1e-8  # the smallest length, as in the authors' code, to avoid division by zero


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
        direction = draw_on_sphere(problem.sequences(), point, problem.norm)
        point = (point + START_SHARE * problem.epsilon * direction).clamp(0, 1)
    for _ in range(steps):
        point = _step_to_boundary(problem, point, targets)
        wrong = predict_classes(problem.model, point) != problem.labels
        change = point - problem.images
        done = wrong & (problem.norm.length(change).flatten() <= problem.epsilon)
        nearer = problem.images + BACKWARD_SHARE * change
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


def _step_to_boundary(problem: Problem, point: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    here = compute_slope(problem.model, point, logit_lead, problem.labels, targets)
    offset = (here.gradient * point).flatten(1).sum(1) - here.value
    onward = project_on_hyperplane(point, here.gradient, offset, problem.norm)
    direct = project_on_hyperplane(problem.images, here.gradient, offset, problem.norm)
    length = problem.norm.length(onward).clamp_min(_SHORTEST_LENGTH)
    other = problem.norm.length(direct).clamp_min(_SHORTEST_LENGTH)
    share = (length / (length + other)).clamp_max(LARGEST_BIAS)
    ahead = (point + OVERSHOOT * onward) * (1 - share)
    return (ahead + (problem.images + OVERSHOOT * direct) * share).clamp(0, 1)
