"""The Square attack: random search with squares that uses only the model's outputs.

Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random
search", 2020, algorithms 1 to 3. Here each image has its own squares. The authors' code places one
square for the whole batch, so the result of an image depends on the other images. In the maximum
norm, the attack gives squares new colours; in the Euclidean norm, it moves the energy of the
perturbation between windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch

from fairweather.attacks import draws
from fairweather.attacks.problem import STANDARD, AttackSettings, Problem, compute_logits, margin

FIRST_SHARE = 0.8  # p: the share of the image that the first squares cover
# After each of these queries of AutoAttack's 5000 the share is halved; other budgets are scaled.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000)
_TILES = 5  # the number of bumps along the shorter side at the start, in the Euclidean norm

Start = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
Proposal = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], torch.Tensor]


def square_share(query: int, queries: int = STANDARD["queries"]) -> float:
    """Return the share of the image that the square of query number `query` covers.

    >>> [square_share(query) for query in (0, 10, 11, 4999)], square_share(2, queries=500)
    ([0.8, 0.8, 0.4, 0.00625], 0.4)
    """
    return FIRST_SHARE / 2 ** sum(
        query * STANDARD["queries"] // queries > number for number in HALVINGS
    )


def square(problem: Problem, settings: AttackSettings, *unused: object) -> torch.Tensor:
    """Find, for each image, the first wrong point, else the point with the smallest margin.

    It makes `queries` queries per image and uses no gradients.
    """
    begin, propose = _MOVES[settings.norm]
    states = problem.sequences()
    best = begin(problem.images, draws.fork(states, 0), problem.epsilon)
    result, place = best, torch.arange(len(best), device=best.device)
    least, wrong = _compute_margins(problem, best)
    for query in range(settings.queries):
        if bool(wrong.any()):
            keep = ~wrong
            result = result.index_copy(0, place[wrong], best[wrong])
            problem, best, least = problem.take(keep), best[keep], least[keep]
            place, states = place[keep], states[keep]
        if len(place) == 0:
            return result
        numbers = draws.fork(states, query + 1)
        point = propose(
            problem.images, best, numbers, problem.epsilon, square_share(query, settings.queries)
        )
        value, wrong = _compute_margins(problem, point)
        better = wrong | (value < least)
        best = torch.where(better[:, None, None, None], point, best)
        least = torch.where(better, value, least)
    return result.index_copy(0, place, best)


def _compute_margins(problem: Problem, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = compute_logits(problem.model, points)
    return margin(logits, problem.labels), logits.argmax(1) != problem.labels


def _draw_stripes(images: torch.Tensor, states: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Start in the maximum norm: vertical stripes, one pixel wide, with a sign per channel."""
    count, channels, _, width = images.shape
    colors = draws.signs(draws.uniform(states, channels * width))
    return (images + epsilon * colors.reshape(count, channels, 1, width)).clamp(0, 1)


def _recolour_square(
    images: torch.Tensor, best: torch.Tensor, states: torch.Tensor, epsilon: float, part: float
) -> torch.Tensor:
    """Give one random square of each image new signs, one per channel."""
    count, channels, height, width = images.shape
    side = min(max(round(math.sqrt(part * height * width)), 1), height, width)
    numbers = draws.uniform(states, 2 + channels)
    rows = _mark_span(draws.whole(numbers[:, 0], height - side + 1), side, height)
    columns = _mark_span(draws.whole(numbers[:, 1], width - side + 1), side, width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    colors = draws.signs(numbers[:, 2:]).reshape(count, channels, 1, 1)
    return torch.where(inside, (images + epsilon * colors).clamp(0, 1), best)


def _mark_span(first: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Mark the positions `first` to `first + side` of each row: bool `[B, length]`."""
    past = torch.arange(length, device=first.device) - first[:, None]
    return (past >= 0) & (past < side)


def draw_bumps(images: torch.Tensor, states: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Start in the Euclidean norm: a grid of bumps, with a separate sign per channel."""
    count, channels, height, width = images.shape
    side = min(height, width) // _TILES
    rows, columns = height // side, width // side
    numbers = draws.uniform(states, rows * columns * (channels + 1))
    upright = numbers[:, : rows * columns].reshape(count, 1, rows, 1, columns, 1) < 0.5
    colors = draws.signs(numbers[:, rows * columns :]).reshape(count, channels, rows, 1, columns, 1)
    standing = make_bump(side).to(images.device)[
        :, None, :
    ]  # [side, 1, side]: axis 1 is for the columns
    lying = make_bump(side).T.to(images.device)[:, None, :]
    grid = torch.where(upright, standing, lying) * colors  # [B, C, rows, side, columns, side]
    grid = grid.reshape(count, channels, rows * side, columns * side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    change = torch.zeros_like(images)
    change[:, :, top : top + rows * side, left : left + columns * side] = grid
    return _scale_change(images, change, epsilon)


def move_bump(
    images: torch.Tensor, best: torch.Tensor, states: torch.Tensor, epsilon: float, part: float
) -> torch.Tensor:
    """Set one random window of the perturbation to zero and add its energy to another as a bump."""
    count, channels, height, width = images.shape
    side = _odd_side(max(round(math.sqrt(part * height * width)), 3), min(height, width))
    numbers = draws.uniform(states, 5 + channels)
    upright = numbers[:, 4, None, None, None] < 0.5
    colors = draws.signs(numbers[:, 5:]).reshape(count, channels, 1, 1)
    here = _window_index(numbers[:, 0:2], side, height, width)
    target = _window_index(numbers[:, 2:4], side, height, width)

    change = best - images
    energy = (change**2).sum((2, 3), keepdim=True)  # of each channel
    emptied = torch.zeros_like(change, dtype=torch.bool)
    emptied[here], emptied[target] = True, True
    freed = ((change * emptied) ** 2).sum((1, 2, 3), keepdim=True)
    unused = (epsilon**2 - energy.sum(1, keepdim=True)).clamp_min(0) / channels

    old = change[here].permute(0, 3, 1, 2)
    old = old / _window_length(old).clamp_min(1e-12)
    new = (
        torch.where(upright, make_bump(side).to(images), make_bump(side).T.to(images)) * colors
        + old
    )
    new = new / _window_length(new).clamp_min(1e-12) * (unused + freed).sqrt()
    change = change.masked_fill(emptied, 0)
    change[here] = new.permute(0, 2, 3, 1)
    return _scale_change(images, change, epsilon)


@cache
def make_bump(side: int) -> torch.Tensor:
    """Make the perturbation of one window, a hill above a valley, with length 1, `[side, side]`.

    >>> make_bump(4).sum(), make_bump(4).norm()
    (tensor(0.), tensor(1.0000))
    """
    upper, lower = _make_hill(side // 2, side), _make_hill(side - side // 2, side)
    whole = torch.cat([upper, -lower])
    return whole / whole.norm()


def _make_hill(height: int, width: int) -> torch.Tensor:
    """Sum nested rectangles around the middle; the k-th from the inside has the height 1 / k²."""
    if height == 0:
        return torch.zeros(0, width)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    steps = max(height, width) // 2 + 1
    heights = 1 / torch.arange(1.0, steps + 1) ** 2
    hill = heights.flip(0).cumsum(0).flip(0)[ring]
    return hill / hill.norm()


def _odd_side(side: int, most: int) -> int:
    side = min(side, most)
    if side % 2:
        return side
    return side + 1 if side < most else side - 1


def _window_index(
    numbers: torch.Tensor, side: int, height: int, width: int
) -> tuple[torch.Tensor, slice, torch.Tensor, torch.Tensor]:
    """Return the index of a square window of each image; it selects `[B, side, side, C]`."""
    steps = torch.arange(side, device=numbers.device)
    rows = draws.whole(numbers[:, 0], height - side + 1)[:, None] + steps
    columns = draws.whole(numbers[:, 1], width - side + 1)[:, None] + steps
    image = torch.arange(len(numbers), device=numbers.device)
    return image[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]


def _window_length(windows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(windows, dim=(2, 3), keepdim=True)


def _scale_change(images: torch.Tensor, change: torch.Tensor, epsilon: float) -> torch.Tensor:
    length = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (images + epsilon / length * change).clamp(0, 1)


_MOVES: Mapping[str, tuple[Start, Proposal]] = {
    "linf": (_draw_stripes, _recolour_square),
    "l2": (draw_bumps, move_bump),
}
