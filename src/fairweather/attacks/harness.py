"""Run attacks. Every attack runs through here; inputs and results are both checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from fairweather.attacks.problem import (
    AttackPlan,
    AttackRun,
    Problem,
    are_wrong,
    compute_logits,
    cross_entropy,
    needs_classes_error,
)
from fairweather.devices import in_evaluation_mode, repeatable_kernels
from fairweather.errors import InputError, NotFiniteError
from fairweather.small_maps import multiply_small_maps
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import UNKNOWN, AttackResult, Tell

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
