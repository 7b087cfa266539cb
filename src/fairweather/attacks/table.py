"""The table of attacks: small changes of each image, within a budget, that make the model fail.

AutoAttack's standard ensemble is here too, for two or more classes. The published code uses nine
targets for every model, and fails with an IndexError for eight or nine classes
(fra31/auto-attack#110). Here a model with C classes has at most C - 1 targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch

from fairweather.attacks.gradient_attacks import auto_pgd, fab, fgsm, pgd
from fairweather.attacks.harness import (
    AttackMode,
    attack_right_images,
    change_every_image,
    run_attack,
)
from fairweather.attacks.problem import (
    DLR_CLASSES,
    NORMS,
    STANDARD,
    AttackPlan,
    AttackRun,
    AttackSettings,
    Problem,
    cross_entropy,
    targeted_dlr,
)
from fairweather.attacks.square import square
from fairweather.errors import InputError, unknown_name
from fairweather.shifts.ranges import check_arguments
from fairweather.shifts.table import SweepLevels
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import (
    UNKNOWN,
    Attack,
    Images,
    Parameter,
    Predictions,
    format_number,
    make_levels,
)

WITHOUT_DLR = "auto_ensemble_without_dlr"


class AttackPart(NamedTuple):
    """An attack on its own, or as a part of an ensemble."""

    attack: Callable[[Problem, AttackSettings, torch.Tensor, int], torch.Tensor]
    """Returns a point for each image, from the problem, the settings, the targets (the labels if it
    has none) and the number of the restart."""

    stream: str
    """What the names of its random sequences begin with."""

    targeted: bool = False
    """Whether it runs towards each of the most likely other classes in turn."""


PARTS: Mapping[str, AttackPart] = {
    "fgsm": AttackPart(fgsm, ""),
    "pgd": AttackPart(pgd, ""),
    "apgd_ce": AttackPart(partial(auto_pgd, cross_entropy), "apgd_ce/"),
    "apgd_t": AttackPart(partial(auto_pgd, targeted_dlr), "apgd_t/", targeted=True),
    "fab_t": AttackPart(fab, "fab_t/", targeted=True),
    "square": AttackPart(square, "square/"),
}


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


@dataclass(frozen=True)
class AttackKind:
    """A row of the table of attacks."""

    title: str
    """Text for table heads."""

    parts: tuple[str, ...]
    """The attacks that it consists of, names in `PARTS`; each attacks only the images that no
    earlier one has broken."""

    options: tuple[str, ...]
    """Its parameters beside epsilon and norm."""

    note: Callable[[Mapping[str, Parameter]], str] = _budget_note
    """Returns what a reader must know about these parameters, or ""."""

    steps: int = STANDARD["steps"]
    """How many steps it makes by default."""

    least_classes: int = 2
    """Models with fewer classes are refused."""

    instead: str = ""
    """The attack that the error message then recommends."""

    accepts: tuple[TaskKind, ...] = (Predictions.kind,)
    """The kinds of predictions whose loss it raises."""

    level: ClassVar = "epsilon"
    """The parameter that a sweep varies."""

    level_title: ClassVar = "budget ε (pixels in [0, 1])"
    """Text for axes."""

    neutral: ClassVar = 0.0
    """The level that changes nothing; clean images have this place on a figure's axis."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all parameters, in order."""
        every = (field.name for field in fields(AttackSettings))
        return tuple(name for name in every if name in (self.level, "norm", *self.options))

    def plan(self, parameters: Mapping[str, Any]) -> AttackPlan:
        """Plan the runs of the attack."""
        settings = AttackSettings(**{"steps": self.steps, **parameters})
        runs = partial(_list_runs, self.parts, settings)
        least, instead = self.least_classes, self.instead
        return AttackPlan(settings.epsilon, settings.norm, runs, least, instead, self.accepts)


def _list_runs(parts: Sequence[str], settings: AttackSettings, classes: int) -> list[AttackRun]:
    runs = []
    for name in parts:
        attack, stream, targeted = PARTS[name]
        for rank in range(min(settings.targets, classes - 1)) if targeted else (None,):
            purpose = stream if rank is None else f"{stream}target={rank}/"
            for restart in range(settings.restarts):
                run = partial(_run_part, attack, settings, rank, restart)
                runs.append(AttackRun(name, f"{purpose}restart={restart}", run))
    return runs


def _run_part(
    attack: Callable[..., torch.Tensor],
    settings: AttackSettings,
    rank: int | None,
    restart: int,
    problem: Problem,
) -> torch.Tensor:
    targets = problem.labels if rank is None else problem.targets(rank)
    return attack(problem, settings, targets, restart)


# Their loss is a sum over what is known of an image.
CLASSES_OR_FINDINGS = (Predictions.kind, FINDINGS)

ATTACKS: Mapping[str, AttackKind] = {
    "fgsm": AttackKind("FGSM", ("fgsm",), ("finding",), accepts=CLASSES_OR_FINDINGS),
    "pgd": AttackKind(
        "PGD",
        ("pgd",),
        ("steps", "step_size", "restarts", "finding"),
        note=lambda parameters: "",
        steps=10,
        accepts=CLASSES_OR_FINDINGS,
    ),
    "apgd_ce": AttackKind(
        "APGD-CE", ("apgd_ce",), ("steps", "restarts", "finding"), accepts=CLASSES_OR_FINDINGS
    ),
    "apgd_t": AttackKind(
        "targeted APGD-DLR",
        ("apgd_t",),
        ("steps", "targets", "restarts"),
        least_classes=DLR_CLASSES,
        instead="apgd_ce",
    ),
    "fab_t": AttackKind("FAB-T", ("fab_t",), ("steps", "targets", "restarts")),
    "square": AttackKind("Square", ("square",), ("queries", "restarts")),
    "autoattack": AttackKind(
        "AutoAttack",
        ("apgd_ce", "apgd_t", "fab_t", "square"),
        tuple(STANDARD),
        least_classes=DLR_CLASSES,
        instead=WITHOUT_DLR,
    ),
    # The parts of AutoAttack that work with two or three classes.
    WITHOUT_DLR: AttackKind(
        "Ensemble without DLR",
        ("apgd_ce", "fab_t", "square"),
        tuple(STANDARD),
        note=_without_dlr_note,
    ),
}


def make_attack(name: str, **parameters: Parameter) -> Attack:
    """Make one attack with one budget, `epsilon`, in units of [0, 1] pixels.

    Every attack takes `norm`, "linf" (the default) or "l2". FGSM takes nothing else. PGD takes
    `steps`, `step_size` and `restarts`. APGD and FAB take `steps` and `restarts`, and the targeted
    ones also `targets`. Square takes `queries` and `restarts`. The ensembles take all of these
    except `step_size`.

    For images with several findings, FGSM, PGD and APGD-CE raise the sum of the losses of all known
    findings. With `finding=NAME` they raise the loss of one. The others need one class of each
    image.

    Raises `InputError` for a name, a parameter or a value that the table of attacks does not allow.

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
    known = kind.parameter_names
    for key, value in parameters.items():
        if key not in known:
            raise unknown_name(f"parameter of {name}", key, known)
        if key == "norm" and (not isinstance(value, str) or value not in NORMS):
            raise unknown_name(f"norm of {name}", value, NORMS)
    if "finding" in parameters:  # a number is the name of a finding too
        parameters = {**parameters, "finding": _check_finding(parameters["finding"])}
    check_arguments(name, AttackSettings, parameters)
    if kind.level not in parameters:
        raise InputError(f"{name} needs its level, {kind.level}=NUMBER")
    ordered = {key: parameters[key] for key in known if key in parameters}
    plan = kind.plan(ordered)
    if plan.norm == "linf" and plan.epsilon > 1:
        raise InputError(
            f"{name}: epsilon is in units of [0, 1] pixels, at most 1 in the norm linf, "
            f"found {plan.epsilon}"
        )
    apply = partial(run_attack, name, plan, change=change)
    return Attack(name, float(parameters[kind.level]), ordered, apply)


def _check_finding(name: Parameter) -> str:
    """The name of a finding, unless it would not be read back from the id of an attack."""
    text = format_number(name)
    if not text.strip() or set(text) & set(",:=[]{}\n"):
        raise InputError(
            f"an attack cannot be on a finding called {text!r}: rename it without , : = [ ] {{ }}"
        )
    return text


def select_labels(attack: Attack, images: Images) -> torch.Tensor:
    """Return the labels that an attack makes a model miss: if it names a finding, its labels alone.

    Args:
        attack: the labels of all findings but the one that it names become `UNKNOWN`.
        images: with labels `[N]` of classes or `[N, L]` of findings.

    Raises:
        InputError: the attack names a finding, and the images have none of this name.

    >>> pixels, labels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[1, 0]])
    >>> images = Images(pixels, labels, torch.arange(1), ("Effusion", "Mass"))
    >>> select_labels(make_attack("pgd", epsilon=0.1, finding="Mass"), images)
    tensor([[-1,  0]])
    """
    finding = attack.parameters.get("finding")
    if finding is None:
        return images.labels
    if images.labels.ndim == 1:
        raise InputError(
            f"{attack.name}: finding={finding} is for images with several findings, and these have "
            "one class each: leave it out"
        )
    if finding not in images.classes:
        raise unknown_name(f"finding of {attack.name}", finding, images.classes)
    others = torch.tensor([name != finding for name in images.classes])
    return images.labels.masked_fill(others.to(images.labels.device), UNKNOWN)


def sweep(name: str, levels: SweepLevels) -> list[Attack]:
    """Make one attack at several levels, from a list of levels or a mapping of parameters.

    >>> [attack.id for attack in sweep("pgd", {"epsilon": [0.01, 0.02], "steps": 5})]
    ['pgd,epsilon=0.01,steps=5', 'pgd,epsilon=0.02,steps=5']
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return make_levels(name, ATTACKS[name].level, levels, make_attack)
