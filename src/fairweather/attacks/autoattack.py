"""AutoAttack's standard ensemble and its gradient parts, for two or more classes.

The published code uses nine targets for every model, and fails with an IndexError for eight or nine
classes (fra31/auto-attack#110). Here a model with C classes has at most C - 1 targets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from fairweather.attacks import apgd, fab
from fairweather.attacks.losses import DLR_CLASSES, cross_entropy, targeted_dlr
from fairweather.attacks.plan import Budget, Count, Plan, Problem, Run
from fairweather.attacks.square import QUERIES, square

# Croce and Hein (2020), section 5: the budgets of the standard ensemble.
STEPS, RESTARTS, TARGETS = 100, 1, 9

WITHOUT_DLR = "auto_ensemble_without_dlr"


def apgd_ce(
    epsilon: Budget, norm: str = "linf", steps: Count = STEPS, restarts: Count = RESTARTS
) -> Plan:
    """Plan Auto-PGD on the cross-entropy."""

    def climb(problem: Problem) -> torch.Tensor:
        return apgd.climb(problem, cross_entropy, problem.labels, steps)

    runs = [Run("apgd_ce", f"apgd_ce/restart={restart}", climb) for restart in range(restarts)]
    return Plan(epsilon, norm, lambda classes: runs)


def apgd_t(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> Plan:
    """Plan Auto-PGD on the targeted DLR loss, towards the most likely other classes in turn."""

    def climb(problem: Problem, rank: int, restart: int) -> torch.Tensor:
        return apgd.climb(problem, targeted_dlr, problem.targets(rank), steps)

    runs = partial(_targeted_runs, "apgd_t", climb, targets, restarts)
    return Plan(epsilon, norm, runs, DLR_CLASSES, "apgd_ce")


def fab_t(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> Plan:
    """Plan the targeted FAB attack, towards the most likely other classes in turn."""

    def walk(problem: Problem, rank: int, restart: int) -> torch.Tensor:
        return fab.walk(problem, problem.targets(rank), steps, restart)

    return Plan(epsilon, norm, partial(_targeted_runs, "fab_t", walk, targets, restarts))


def autoattack(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    queries: Count = QUERIES,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> Plan:
    """Plan AutoAttack's standard ensemble: APGD-CE, targeted APGD-DLR, FAB-T, Square.

    The targeted DLR loss needs at least four classes. A model with fewer classes is refused; the
    error names `auto_ensemble_without_dlr` instead.
    """
    return _in_turn(
        apgd_ce(epsilon, norm, steps, restarts),
        apgd_t(epsilon, norm, steps, targets, restarts),
        fab_t(epsilon, norm, steps, targets, restarts),
        square(epsilon, norm, queries, restarts),
    )._replace(least_classes=DLR_CLASSES, instead=WITHOUT_DLR)


def auto_ensemble_without_dlr(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    queries: Count = QUERIES,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> Plan:
    """Plan the parts of AutoAttack that work with two or three classes: APGD-CE, FAB-T, Square."""
    return _in_turn(
        apgd_ce(epsilon, norm, steps, restarts),
        fab_t(epsilon, norm, steps, targets, restarts),
        square(epsilon, norm, queries, restarts),
    )


def ensemble_name(classes: int) -> str:
    """Return the name of the ensemble for a model with this number of classes.

    >>> ensemble_name(9), ensemble_name(2)
    ('autoattack', 'auto_ensemble_without_dlr')
    """
    return "autoattack" if classes >= DLR_CLASSES else WITHOUT_DLR


def _in_turn(*plans: Plan) -> Plan:
    return plans[0]._replace(
        runs=lambda classes: [run for plan in plans for run in plan.runs(classes)]
    )


def _targeted_runs(
    name: str,
    attack: Callable[..., torch.Tensor],
    targets: int,
    restarts: int,
    classes: int,
) -> list[Run]:
    return [
        Run(
            name,
            f"{name}/target={rank}/restart={restart}",
            partial(attack, rank=rank, restart=restart),
        )
        for rank in range(min(targets, classes - 1))
        for restart in range(restarts)
    ]
