"""AutoAttack's standard ensemble and its gradient parts, for two or more classes.

The published code uses nine targets for every model, and fails with an IndexError for eight or nine
classes (fra31/auto-attack#110). Here a model with C classes has at most C - 1 targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from fairweather.attacks import apgd, fab
from fairweather.attacks.losses import DLR_CLASSES, cross_entropy, targeted_dlr
from fairweather.attacks.plan import Plan, Problem, Run
from fairweather.attacks.square import QUERIES, square_runs

# Croce and Hein (2020), section 5: the budgets of the standard ensemble.
STEPS, RESTARTS, TARGETS = 100, 1, 9

WITHOUT_DLR = "auto_ensemble_without_dlr"


def apgd_ce(
    epsilon: float, norm: str = "linf", steps: int = STEPS, restarts: int = RESTARTS
) -> Plan:
    """Plan Auto-PGD on the cross-entropy."""
    return Plan(epsilon, norm, lambda classes: _apgd_ce_runs(steps, restarts))


def apgd_t(
    epsilon: float,
    norm: str = "linf",
    steps: int = STEPS,
    targets: int = TARGETS,
    restarts: int = RESTARTS,
) -> Plan:
    """Plan Auto-PGD on the targeted DLR loss, towards the most likely other classes in turn."""
    runs = partial(_apgd_t_runs, steps, targets, restarts)
    return Plan(epsilon, norm, runs, DLR_CLASSES, "apgd_ce")


def fab_t(
    epsilon: float,
    norm: str = "linf",
    steps: int = STEPS,
    targets: int = TARGETS,
    restarts: int = RESTARTS,
) -> Plan:
    """Plan the targeted FAB attack, towards the most likely other classes in turn."""
    return Plan(epsilon, norm, partial(_fab_t_runs, steps, targets, restarts))


def autoattack(
    epsilon: float,
    norm: str = "linf",
    steps: int = STEPS,
    queries: int = QUERIES,
    targets: int = TARGETS,
    restarts: int = RESTARTS,
) -> Plan:
    """Plan AutoAttack's standard ensemble: APGD-CE, targeted APGD-DLR, FAB-T, Square.

    The targeted DLR loss needs at least four classes. A model with fewer classes is refused; the
    error names `auto_ensemble_without_dlr` instead.
    """

    def runs(classes: int) -> Sequence[Run]:
        return [
            *_apgd_ce_runs(steps, restarts),
            *_apgd_t_runs(steps, targets, restarts, classes),
            *_fab_t_runs(steps, targets, restarts, classes),
            *square_runs(norm, queries, restarts),
        ]

    return Plan(epsilon, norm, runs, DLR_CLASSES, WITHOUT_DLR)


def auto_ensemble_without_dlr(
    epsilon: float,
    norm: str = "linf",
    steps: int = STEPS,
    queries: int = QUERIES,
    targets: int = TARGETS,
    restarts: int = RESTARTS,
) -> Plan:
    """Plan the parts of AutoAttack that work with two or three classes: APGD-CE, FAB-T, Square."""

    def runs(classes: int) -> Sequence[Run]:
        return [
            *_apgd_ce_runs(steps, restarts),
            *_fab_t_runs(steps, targets, restarts, classes),
            *square_runs(norm, queries, restarts),
        ]

    return Plan(epsilon, norm, runs)


def ensemble_name(classes: int) -> str:
    """Return the name of the ensemble for a model with this number of classes.

    >>> ensemble_name(9), ensemble_name(2)
    ('autoattack', 'auto_ensemble_without_dlr')
    """
    return "autoattack" if classes >= DLR_CLASSES else WITHOUT_DLR


def _apgd_ce_runs(steps: int, restarts: int) -> list[Run]:
    def climb(problem: Problem) -> torch.Tensor:
        return apgd.climb(problem, cross_entropy, problem.labels, steps)

    return [Run("apgd_ce", f"apgd_ce/restart={restart}", climb) for restart in range(restarts)]


def _apgd_t_runs(steps: int, targets: int, restarts: int, classes: int) -> list[Run]:
    def climb(rank: int, restart: int) -> Callable[[Problem], torch.Tensor]:
        return lambda problem: apgd.climb(problem, targeted_dlr, problem.targets(rank), steps)

    return _targeted_runs("apgd_t", climb, min(targets, classes - 1), restarts)


def _fab_t_runs(steps: int, targets: int, restarts: int, classes: int) -> list[Run]:
    def walk(rank: int, restart: int) -> Callable[[Problem], torch.Tensor]:
        return lambda problem: fab.walk(problem, problem.targets(rank), steps, restart)

    return _targeted_runs("fab_t", walk, min(targets, classes - 1), restarts)


def _targeted_runs(
    name: str,
    attack: Callable[[int, int], Callable[[Problem], torch.Tensor]],
    targets: int,
    restarts: int,
) -> list[Run]:
    return [
        Run(name, f"{name}/target={rank}/restart={restart}", attack(rank, restart))
        for rank in range(targets)
        for restart in range(restarts)
    ]
