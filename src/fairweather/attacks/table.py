"""The table of attacks: small changes of each image, within a budget, that make the model fail.

AutoAttack's standard ensemble is here too, for two or more classes. The published code uses nine
targets for every model, and fails with an IndexError for eight or nine classes
(fra31/auto-attack#110). Here a model with C classes has at most C - 1 targets.

"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from fairweather.attacks import gradient_attacks as apgd
from fairweather.attacks import gradient_attacks as fab
from fairweather.attacks.gradient_attacks import fgsm, pgd
from fairweather.attacks.harness import (
    AttackMode,
    attack_right_images,
    change_every_image,
    run_attack,
)
from fairweather.attacks.masking import masking_warning as masking_warning
from fairweather.attacks.problem import (
    DLR_CLASSES,
    NORMS,
    AttackPlan,
    AttackRun,
    Budget,
    Count,
    Problem,
    cross_entropy,
    targeted_dlr,
)
from fairweather.attacks.square import QUERIES, square
from fairweather.errors import InputError, unknown_name
from fairweather.shifts.ranges import check_arguments
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import Attack, Parameter, Predictions, make_levels

# ---------------------------------------------------------------- autoAttack's standard ensemble an

# Croce and Hein (2020), section 5: the budgets of the standard ensemble.
STEPS, RESTARTS, TARGETS = 100, 1, 9

WITHOUT_DLR = "auto_ensemble_without_dlr"


def apgd_ce(
    epsilon: Budget, norm: str = "linf", steps: Count = STEPS, restarts: Count = RESTARTS
) -> AttackPlan:
    """Plan Auto-PGD on the cross-entropy."""

    def climb(problem: Problem) -> torch.Tensor:
        return apgd.climb(problem, cross_entropy, problem.labels, steps)

    runs = [
        AttackRun("apgd_ce", f"apgd_ce/restart={restart}", climb) for restart in range(restarts)
    ]
    return AttackPlan(epsilon, norm, lambda classes: runs)


def apgd_t(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> AttackPlan:
    """Plan Auto-PGD on the targeted DLR loss, towards the most likely other classes in turn."""

    def climb(problem: Problem, rank: int, restart: int) -> torch.Tensor:
        return apgd.climb(problem, targeted_dlr, problem.targets(rank), steps)

    runs = partial(_targeted_runs, "apgd_t", climb, targets, restarts)
    return AttackPlan(epsilon, norm, runs, DLR_CLASSES, "apgd_ce")


def fab_t(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> AttackPlan:
    """Plan the targeted FAB attack, towards the most likely other classes in turn."""

    def walk(problem: Problem, rank: int, restart: int) -> torch.Tensor:
        return fab.walk(problem, problem.targets(rank), steps, restart)

    return AttackPlan(epsilon, norm, partial(_targeted_runs, "fab_t", walk, targets, restarts))


def autoattack(
    epsilon: Budget,
    norm: str = "linf",
    steps: Count = STEPS,
    queries: Count = QUERIES,
    targets: Count = TARGETS,
    restarts: Count = RESTARTS,
) -> AttackPlan:
    """Plan AutoAttack's standard ensemble: APGD-CE, targeted APGD-DLR, FAB-T, Square.

    The targeted DLR loss needs at least four classes. A model with fewer classes is refused; the
    error names `auto_ensemble_without_dlr` instead.
    """
    return _chain_plans(
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
) -> AttackPlan:
    """Plan the parts of AutoAttack that work with two or three classes: APGD-CE, FAB-T, Square."""
    return _chain_plans(
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


def _chain_plans(*plans: AttackPlan) -> AttackPlan:
    return plans[0]._replace(
        runs=lambda classes: [run for plan in plans for run in plan.runs(classes)]
    )


def _targeted_runs(
    name: str,
    attack: Callable[..., torch.Tensor],
    targets: int,
    restarts: int,
    classes: int,
) -> list[AttackRun]:
    return [
        AttackRun(
            name,
            f"{name}/target={rank}/restart={restart}",
            partial(attack, rank=rank, restart=restart),
        )
        for rank in range(min(targets, classes - 1))
        for restart in range(restarts)
    ]


# ---------------------------------------------------------------- adversarial attacks: small change

Sweep = Sequence[float] | Mapping[str, object]

# The published budget of AutoAttack; with less, an attack breaks fewer images and the model looks
# too robust.
STANDARD = {"steps": STEPS, "queries": QUERIES, "restarts": RESTARTS, "targets": TARGETS}


class AttackKind(NamedTuple):
    """A row of the table of attacks.

    Attributes:
        build: makes the plan of the attack from keyword parameters.
        level: the parameter that a sweep varies.
        title, level_title: texts for table heads and axes.
        neutral: the level that changes nothing; clean images have this place on a figure's axis.
        note: returns what a reader must know about these parameters, or "".
        accepts: the kind of predictions whose loss it raises.
    """

    build: Callable[..., AttackPlan]
    level: str
    title: str
    level_title: str
    neutral: float
    note: Callable[[Mapping[str, Parameter]], str]
    accepts: TaskKind = Predictions.kind


def _no_note(parameters: Mapping[str, Parameter]) -> str:
    return ""


def _budget_note(parameters: Mapping[str, Parameter]) -> str:
    less = [
        f"{value} {key} instead of {STANDARD[key]}"
        for key, value in parameters.items()
        if key in STANDARD and int(value) < STANDARD[key]
    ]
    return f"below the published budget: {', '.join(less)}" if less else ""


def _without_dlr_note(parameters: Mapping[str, Parameter]) -> str:
    notes = ["not AutoAttack: the targeted DLR loss is left out", _budget_note(parameters)]
    return "; ".join(note for note in notes if note)


def _epsilon_kind(
    build: Callable[..., AttackPlan], title: str, note: Callable[[Mapping[str, Parameter]], str]
) -> AttackKind:
    return AttackKind(build, "epsilon", title, "budget ε (pixels in [0, 1])", 0.0, note)


ATTACKS: Mapping[str, AttackKind] = {
    "fgsm": _epsilon_kind(fgsm, "FGSM", _no_note),
    "pgd": _epsilon_kind(pgd, "PGD", _no_note),
    "apgd_ce": _epsilon_kind(apgd_ce, "APGD-CE", _budget_note),
    "apgd_t": _epsilon_kind(apgd_t, "targeted APGD-DLR", _budget_note),
    "fab_t": _epsilon_kind(fab_t, "FAB-T", _budget_note),
    "square": _epsilon_kind(square, "Square", _budget_note),
    "autoattack": _epsilon_kind(autoattack, "AutoAttack", _budget_note),
    "auto_ensemble_without_dlr": _epsilon_kind(
        auto_ensemble_without_dlr, "Ensemble without DLR", _without_dlr_note
    ),
}


def make_attack(name: str, **parameters: Parameter) -> Attack:
    """Make one attack with one budget, `epsilon`, in units of [0, 1] pixels.

    Every attack takes `norm`, "linf" (the default) or "l2". FGSM takes nothing else. PGD takes
    `steps`, `step_size` and `restarts`. APGD and FAB take `steps` and `restarts`, and the targeted
    ones also `targets`. Square takes `queries` and `restarts`. The ensembles take all of these
    except `step_size`. Raises `InputError` for a name, a parameter or a value that the table of
    attacks does not allow.

    >>> make_attack("pgd", epsilon=0.1, steps=5, norm="l2").id
    'pgd,epsilon=0.1,norm=l2,steps=5'
    """
    return _build_attack(attack_right_images, name, parameters)


def make_training_attack(name: str, **parameters: Parameter) -> Attack:
    """Make an attack for adversarial training: it changes every image, right or wrong.

    As `make_attack`, with two differences. `make_attack` does not change images that the model
    already gets wrong, which is right for a test and wrong for training (Madry et al. 2018,
    equation 2.1). And if an attack has several runs or restarts, only the first one is used.

    >>> make_training_attack("pgd", epsilon=0.1, steps=5).id
    'pgd,epsilon=0.1,steps=5'
    """
    return _build_attack(change_every_image, name, parameters)


def _build_attack(change: AttackMode, name: str, parameters: Mapping[str, Parameter]) -> Attack:
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    kind = ATTACKS[name]
    known = inspect.signature(kind.build).parameters
    for key, value in parameters.items():
        if key not in known:
            raise unknown_name(f"parameter of {name}", key, known)
        if key == "norm" and (not isinstance(value, str) or value not in NORMS):
            raise unknown_name(f"norm of {name}", value, NORMS)
    check_arguments(name, kind.build, parameters)
    if kind.level not in parameters:
        raise InputError(f"{name} needs its level, {kind.level}=NUMBER")
    ordered = {key: parameters[key] for key in known if key in parameters}
    plan = kind.build(**ordered)
    if plan.norm == "linf" and plan.epsilon > 1:
        raise InputError(
            f"{name}: epsilon is in units of [0, 1] pixels, at most 1 in the norm linf, "
            f"found {plan.epsilon}"
        )
    apply = partial(run_attack, name, plan, change=change)
    return Attack(name, float(parameters[kind.level]), ordered, apply)


def sweep(name: str, levels: Sweep) -> list[Attack]:
    """Make one attack at several levels, from a list of levels or a mapping of parameters.

    >>> [attack.id for attack in sweep("pgd", {"epsilon": [0.01, 0.02], "steps": 5})]
    ['pgd,epsilon=0.01,steps=5', 'pgd,epsilon=0.02,steps=5']
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return make_levels(name, ATTACKS[name].level, levels, make_attack)
