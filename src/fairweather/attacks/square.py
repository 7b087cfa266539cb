"""The Square attack: random search with squares, by the model's answers alone.

Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random
search", 2020, algorithms 1 to 3, with each image's own squares: the authors' code places one square
for the whole batch, which makes an image's fate depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from fairweather.attacks import draws, square_l2
from fairweather.attacks.losses import logits_of, margin
from fairweather.attacks.plan import Plan, Problem, Run

FIRST_SHARE = 0.8  # p: the share of the image that the first squares cover
# After so many queries of AutoAttack's 5000 the share is halved; other budgets stretch this.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000)
QUERIES = 5000

Start = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
Proposal = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], torch.Tensor]


def square(epsilon: float, norm: str = "linf", queries: int = QUERIES, restarts: int = 1) -> Plan:
    """Plan the black-box Square attack: so many queries an image, no gradients."""
    return Plan(epsilon, norm, lambda classes: square_runs(norm, queries, restarts))


def square_runs(norm: str, queries: int, restarts: int) -> list[Run]:
    """Give the runs of a Square attack; each restart begins anew."""
    begin, propose = _MOVES[norm]

    def search(problem: Problem) -> torch.Tensor:
        return _search(problem, queries, begin, propose)

    return [Run("square", f"square/restart={restart}", search) for restart in range(restarts)]


def share(query: int, queries: int = QUERIES) -> float:
    """Give the share of the image that the squares of one of so many queries cover.

    >>> share(0), share(10), share(11), share(4999), share(2, queries=500)
    (0.8, 0.8, 0.4, 0.00625, 0.4)
    """
    return FIRST_SHARE / 2 ** sum(query * QUERIES // queries > number for number in HALVINGS)


def _search(problem: Problem, queries: int, begin: Start, propose: Proposal) -> torch.Tensor:
    """Give each image the first point that the model gets wrong, else that of least margin."""
    states = problem.sequences()
    best = begin(problem.images, draws.fork(states, 0), problem.epsilon)
    found, place = best, torch.arange(len(best), device=best.device)
    least, wrong = _answer(problem, best)
    for query in range(queries):
        if bool(wrong.any()):
            keep = ~wrong
            found = found.index_copy(0, place[wrong], best[wrong])
            problem, best, least = problem.take(keep), best[keep], least[keep]
            place, states = place[keep], states[keep]
        if len(place) == 0:
            return found
        numbers = draws.fork(states, query + 1)
        point = propose(problem.images, best, numbers, problem.epsilon, share(query, queries))
        value, wrong = _answer(problem, point)
        better = wrong | (value < least)
        best = torch.where(better[:, None, None, None], point, best)
        least = torch.where(better, value, least)
    return found.index_copy(0, place, best)


def _answer(problem: Problem, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits_of(problem.model, points)
    return margin(logits, problem.labels), logits.argmax(1) != problem.labels


def _stripes(images: torch.Tensor, states: torch.Tensor, epsilon: float) -> torch.Tensor:
    count, channels, _, width = images.shape
    colors = draws.signs(draws.uniform(states, channels * width))
    return (images + epsilon * colors.reshape(count, channels, 1, width)).clamp(0, 1)


def _recolored(
    images: torch.Tensor, best: torch.Tensor, states: torch.Tensor, epsilon: float, part: float
) -> torch.Tensor:
    count, channels, height, width = images.shape
    side = min(max(round(math.sqrt(part * height * width)), 1), height, width)
    numbers = draws.uniform(states, 2 + channels)
    rows = _window(draws.whole(numbers[:, 0], height - side + 1), side, height)
    columns = _window(draws.whole(numbers[:, 1], width - side + 1), side, width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    colors = draws.signs(numbers[:, 2:]).reshape(count, channels, 1, 1)
    return torch.where(inside, (images + epsilon * colors).clamp(0, 1), best)


def _window(first: torch.Tensor, side: int, length: int) -> torch.Tensor:
    """Mark the places `first` to `first + side` of each row: bool `[B, length]`."""
    past = torch.arange(length, device=first.device) - first[:, None]
    return (past >= 0) & (past < side)


_MOVES: Mapping[str, tuple[Start, Proposal]] = {
    "linf": (_stripes, _recolored),
    "l2": (square_l2.bumps, square_l2.moved_bump),
}
