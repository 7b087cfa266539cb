"""The table of attacks: small changes of each image, within a budget, that make the model fail.

Every attack runs through `run_attack`, which checks both inputs and results.

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
from torch import nn

from fairweather.attacks.gradient_attacks import auto_pgd, fab, fgsm, pgd
from fairweather.attacks.problem import (
    DLR_CLASSES,
    NORMS,
    STANDARD,
    AttackPlan,
    AttackRun,
    AttackSettings,
    Problem,
    are_wrong,
    compute_logits,
    cross_entropy,
    needs_classes_error,
    targeted_dlr,
)
from fairweather.attacks.square import square
from fairweather.devices import in_evaluation_mode, repeatable_kernels
from fairweather.errors import InputError, NotFiniteError, unknown_name
from fairweather.shifts.ranges import check_arguments
from fairweather.shifts.table import SweepLevels
from fairweather.small_maps import multiply_small_maps
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import (
    UNKNOWN,
    Attack,
    AttackResult,
    Images,
    Parameter,
    Predictions,
    Tell,
    format_number,
    make_levels,
)

# ---------------------------------------------------------------- one run

# Pixels near 1 are multiples of 6e-8 in float32, so a perturbation may exceed epsilon by that much.
ROUNDING_ERROR = 1e-6


# Attacks the images of a problem, given the name of the attack, its runs, the problem, and a
# callback for the share of finished runs.
AttackMode = Callable[[str, Sequence[AttackRun], Problem, Tell], AttackResult]


def attack_right_images(
    name: str, runs: Sequence[AttackRun], problem: Problem, tell: Tell
) -> AttackResult:
    """Attack the images that the model gets right; each run attacks those that are still right.

    An image that the model already gets wrong (`are_wrong`) is returned unchanged. For an image
    that no run breaks, the point of the first run is returned; with several findings, that with the
    highest loss of all runs, because it may make some of them wrong.
    """
    points = problem.images.clone()
    losses = torch.full((len(points),), -torch.inf, device=points.device)
    clean = are_wrong(problem.logits, problem.labels)
    broken = {"clean": clean, **{part.name: torch.zeros_like(clean) for part in runs}}
    right = (~clean).nonzero().squeeze(1)
    for number, part in enumerate(runs):
        if len(right) == 0:
            break
        task = problem.take(right)
        found_points, logits = _find_points(name, part, task)
        wrong = are_wrong(logits, task.labels)
        if task.labels.ndim == 1:
            chosen = wrong | (number == 0)
        else:
            values = cross_entropy(logits, task.labels, task.labels)
            chosen = wrong | (values > losses[right])
            losses[right[chosen]] = values[chosen]
        points[right[chosen]] = found_points[chosen]
        broken[part.name][right[wrong]] = True
        right = right[~wrong]
        if tell is not None:
            tell((number + 1) / len(runs))
    return AttackResult(points, broken)


def change_every_image(
    name: str, runs: Sequence[AttackRun], problem: Problem, tell: Tell
) -> AttackResult:
    """Let the first run change every image, also those that the model already gets wrong.

    Adversarial training needs this: if wrong images were not changed, it would train on clean
    images exactly where the model has most to learn.
    """
    clean = are_wrong(problem.logits, problem.labels)
    if not runs:
        return AttackResult(problem.images, {"clean": clean})
    points, logits = _find_points(name, runs[0], problem)
    wrong = are_wrong(logits, problem.labels)
    return AttackResult(points, {"clean": clean, runs[0].name: wrong & ~clean})


def run_attack(
    name: str,
    plan: AttackPlan,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    keys: torch.Tensor,
    stream: str,
    tell: Tell = None,
    change: AttackMode = attack_right_images,
) -> AttackResult:
    """Run an attack on a batch.

    * The model is in evaluation mode during the attack. Afterwards every module is in its previous
      mode again. The parameters get no gradients.
    * After each run, every point is checked: it must be finite, in [0, 1], and at most epsilon
      (plus 1e-6 for rounding) from its image. If not, there is a bug, and a `RuntimeError` is
      raised.
    * The arithmetic is float32, even inside an autocast.
    """
    _check_inputs(name, plan, model, images, labels, keys)
    plain = torch.autocast(images.device.type, enabled=False)
    as_predicted = multiply_small_maps(images.device)
    with (
        torch.inference_mode(False),
        repeatable_kernels(),
        plain,
        as_predicted,
        in_evaluation_mode(model),
    ):
        images, labels = images.detach().clone(), labels.to(images.device)
        logits = _check_logits(name, plan, model, images, labels)
        keys = keys.to(images.device)
        problem = Problem(model, images, labels, keys, logits, plan.epsilon, plan.ball, stream)
        runs = plan.runs(logits.shape[1]) if plan.epsilon else []
        return change(name, runs, problem, tell)


def _find_points(name: str, part: AttackRun, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The points that a run finds, checked, and their logits."""
    task = problem.named(part.purpose)
    points = part.attack(task)
    _check_outputs(f"{name} ({part.name})", task, points)
    return points, compute_logits(task.model, points)


def _check_inputs(
    name: str,
    plan: AttackPlan,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    keys: torch.Tensor,
) -> None:
    if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3:
        shape = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"{name} needs float32 images [B, 3, H, W] in [0, 1], found {shape}")
    if len(images) == 0:
        raise InputError(f"{name} needs at least one image, found none")
    low, high = (float(bound) for bound in images.aminmax())
    if not 0 <= low <= high <= 1:  # false for NaN too
        raise InputError(
            f"{name} needs images in [0, 1], found {low:.4g} to {high:.4g}; "
            "normalisation belongs inside the model"
        )
    several = labels.ndim == 2  # findings
    if several and FINDINGS not in plan.accepts:
        raise needs_classes_error(name)
    for column, values in (("label", labels[:, 0] if several else labels), ("key", keys)):
        if values.dtype != torch.int64 or values.shape != images.shape[:1]:
            shape = f"{values.dtype} {list(values.shape)}"
            raise InputError(
                f"{name} needs one int64 {column} for each of {len(images)} images, found {shape}"
            )
    weights = next(model.parameters(), None)
    if weights is not None and weights.device != images.device:
        raise InputError(f"the images are on {images.device}, the model on {weights.device}")
    most = plan.ball.most(images[0].numel())
    if plan.epsilon > most:
        raise InputError(
            f"{name}: epsilon must be at most {most:.4g}, the largest distance of two images "
            f"{list(images.shape[1:])} in the norm {plan.norm}, found {plan.epsilon}"
        )


def _check_logits(
    name: str, plan: AttackPlan, model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    logits = compute_logits(model, images)
    if logits.ndim != 2 or len(logits) != len(images):
        shape = f"{list(logits.shape)} for {len(images)} images"
        raise InputError(f"{name} needs a model with logits [B, classes], found {shape}")
    if not bool(logits.isfinite().all()):
        raise NotFiniteError(f"{name} needs a model with finite logits, found NaN or infinity")
    if labels.ndim == 2:
        _check_findings(name, logits, labels)
        return logits
    classes = logits.shape[1]
    if classes < plan.least_classes:
        hint = f"; ask for {plan.instead}" if plan.instead else ""
        raise InputError(
            f"{name} needs a model with at least {plan.least_classes} classes, "
            f"found {classes}{hint}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"labels go from {span}, but the model has {classes} classes")
    return logits


def _check_findings(name: str, logits: torch.Tensor, labels: torch.Tensor) -> None:
    if logits.shape != labels.shape:
        raise InputError(
            f"{name} needs a label of each of the model's {logits.shape[1]} outputs, found "
            f"{list(labels.shape)}"
        )
    if not bool(torch.isin(labels, torch.tensor([0, 1, UNKNOWN], device=labels.device)).all()):
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"labels of findings must be 0, 1 or {UNKNOWN} (unknown), found {span}")


def _check_outputs(name: str, problem: Problem, points: torch.Tensor) -> None:
    images, epsilon = problem.images, problem.epsilon
    if points.shape != images.shape or points.dtype != torch.float32:
        shape = f"{points.dtype} {list(points.shape)}"
        raise RuntimeError(f"{name} must return float32 {list(images.shape)}, returned {shape}")
    low, high = (float(bound) for bound in points.aminmax())
    if not 0 <= low <= high <= 1:
        raise RuntimeError(f"{name} left [0, 1]: its points go from {low} to {high}")
    length = float(problem.norm.length(points - images).max())
    if not length <= epsilon * (1 + ROUNDING_ERROR) + ROUNDING_ERROR:
        raise RuntimeError(f"{name} exceeded its budget: {length} > epsilon {epsilon}")


# ---------------------------------------------------------------- the table

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
