"""Auto-PGD: gradient ascent with momentum, with a step size that adapts to its progress.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", 2020, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch

from fairweather.attacks.losses import Loss, slope
from fairweather.attacks.norms import sphere, within
from fairweather.attacks.plan import Problem

MOMENTUM = 0.75  # α: the weight of the new step; the previous step has the rest
LEAST_RISES = 0.75  # ρ: the share of steps between two checkpoints that must raise the loss
FIRST_STEP = 2.0  # times epsilon


@dataclass(frozen=True)
class _Climb:
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

    def take(self, keep: torch.Tensor) -> _Climb:
        rows = {column.name: getattr(self, column.name)[keep] for column in fields(self)}
        return _Climb(**rows)


def climb(problem: Problem, loss: Loss, targets: torch.Tensor, steps: int) -> torch.Tensor:
    """Return, for each image, the first point that the model gets wrong, else that of highest loss.

    The start is uniform on the sphere. An image is not attacked further once it is broken.
    """
    start = problem.images + problem.epsilon * sphere(
        problem.sequences(), problem.images, problem.norm
    )
    state, wrong = _started(problem, start.clamp(0, 1), loss, targets)
    found = state.point
    state = state.take(~wrong)
    lengths = _periods(steps)
    left = period = next(lengths)
    for number in range(steps):
        if len(state.place) == 0:
            break
        state = _moved(problem, state, 1.0 if number == 0 else MOMENTUM)
        state, wrong = _looked(problem, state, loss)
        if bool(wrong.any()):
            found = found.index_copy(0, state.place[wrong], state.point[wrong])
            state = state.take(~wrong)
        left -= 1
        if left == 0:
            state = _checked(state, period)
            left = period = next(lengths)
    return found.index_copy(0, state.place, state.best)


def _periods(steps: int) -> Iterator[int]:
    # Checkpoints are 22 % of the steps apart, then 3 % less each time, but never less than 6 %;
    # rounded as in the authors' code.
    period = max(int(0.22 * steps), 1)
    while True:
        yield period
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))


def _started(
    problem: Problem, point: torch.Tensor, loss: Loss, targets: torch.Tensor
) -> tuple[_Climb, torch.Tensor]:
    here = slope(problem.model, point, loss, problem.labels, targets)
    count = len(point)
    state = _Climb(
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


def _moved(problem: Problem, state: _Climb, momentum: float) -> _Climb:
    def project(point: torch.Tensor) -> torch.Tensor:
        return within(state.images, point, problem.epsilon, problem.norm)

    ahead = project(state.point + state.step * problem.norm.steepest(state.gradient))
    drift = (1 - momentum) * (state.point - state.before)
    point = project(state.point + momentum * (ahead - state.point) + drift)
    return replace(state, point=point, before=state.point)


def _looked(problem: Problem, state: _Climb, loss: Loss) -> tuple[_Climb, torch.Tensor]:
    here = slope(problem.model, state.point, loss, state.labels, state.targets)
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


def _checked(state: _Climb, period: int) -> _Climb:
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
