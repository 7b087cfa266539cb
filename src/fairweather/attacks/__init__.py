"""Adversarial attacks: small changes of each image, within a budget, that make the model fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from fairweather.attacks.autoattack import (
    RESTARTS,
    STEPS,
    TARGETS,
    apgd_ce,
    apgd_t,
    auto_ensemble_without_dlr,
    autoattack,
    fab_t,
)
from fairweather.attacks.autoattack import ensemble_name as ensemble_name
from fairweather.attacks.gradient import fgsm, pgd
from fairweather.attacks.harness import Change, break_right_ones, change_every_one, run
from fairweather.attacks.masking import masking_warning as masking_warning
from fairweather.attacks.norms import NORMS
from fairweather.attacks.plan import Plan
from fairweather.attacks.square import QUERIES, square
from fairweather.errors import InputError, unknown_name
from fairweather.ranges import check_arguments
from fairweather.types import (
    Attack,
    Kind,
    Parameter,
    Predictions,
    at_levels,
)

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

    build: Callable[..., Plan]
    level: str
    title: str
    level_title: str
    neutral: float
    note: Callable[[Mapping[str, Parameter]], str]
    accepts: Kind = Predictions.kind


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


def _kind(
    build: Callable[..., Plan], title: str, note: Callable[[Mapping[str, Parameter]], str]
) -> AttackKind:
    return AttackKind(build, "epsilon", title, "budget ε (pixels in [0, 1])", 0.0, note)


ATTACKS: Mapping[str, AttackKind] = {
    "fgsm": _kind(fgsm, "FGSM", _no_note),
    "pgd": _kind(pgd, "PGD", _no_note),
    "apgd_ce": _kind(apgd_ce, "APGD-CE", _budget_note),
    "apgd_t": _kind(apgd_t, "targeted APGD-DLR", _budget_note),
    "fab_t": _kind(fab_t, "FAB-T", _budget_note),
    "square": _kind(square, "Square", _budget_note),
    "autoattack": _kind(autoattack, "AutoAttack", _budget_note),
    "auto_ensemble_without_dlr": _kind(
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
    return _make(break_right_ones, name, parameters)


def make_training_attack(name: str, **parameters: Parameter) -> Attack:
    """Make an attack for adversarial training: it changes every image, right or wrong.

    As `make_attack`, with two differences. `make_attack` does not change images that the model
    already gets wrong, which is right for a test and wrong for training (Madry et al. 2018,
    equation 2.1). And if an attack has several runs or restarts, only the first one is used.

    >>> make_training_attack("pgd", epsilon=0.1, steps=5).id
    'pgd,epsilon=0.1,steps=5'
    """
    return _make(change_every_one, name, parameters)


def _make(change: Change, name: str, parameters: Mapping[str, Parameter]) -> Attack:
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
    apply = partial(run, name, plan, change=change)
    return Attack(name, float(parameters[kind.level]), ordered, apply)


def sweep(name: str, levels: Sweep) -> list[Attack]:
    """Make one attack at several levels, from a list of levels or a mapping of parameters.

    >>> [attack.id for attack in sweep("pgd", {"epsilon": [0.01, 0.02], "steps": 5})]
    ['pgd,epsilon=0.01,steps=5', 'pgd,epsilon=0.02,steps=5']
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return at_levels(name, ATTACKS[name].level, levels, make_attack)
