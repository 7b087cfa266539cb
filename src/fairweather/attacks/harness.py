"""The one way that every attack runs: it trusts neither what comes in nor what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fairweather.attacks.losses import logits_of
from fairweather.attacks.norms import Norm
from fairweather.attacks.plan import Plan, Problem, Run
from fairweather.devices import repeatable_kernels
from fairweather.errors import InputError, NotFiniteError
from fairweather.types import Attacked

# Pixels near 1 are multiples of 6e-8 in float32: moved by epsilon, they miss it by that much.
ROUNDING = 1e-6


def run(
    name: str,
    plan: Plan,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    keys: torch.Tensor,
    stream: str,
) -> Attacked:
    """Attack the images that the model gets right, a run at a time on those still right.

    * The model is in evaluation mode meanwhile and then, module by module, in the mode it was in;
      its parameters get no gradients.
    * After each run, every point is checked to be finite, in [0, 1] and no farther than epsilon
      (plus 1e-6 for rounding) from its image; if not, that is a bug and a `RuntimeError`.
    * The arithmetic is float32, whatever autocast is on outside.
    * An image that the model gets wrong anyway comes back as it is. One that no run breaks comes
      back as the point that the first run found for it.
    """
    with _posed(name, plan, model, images, labels, keys, stream) as problem:
        runs = plan.runs(problem.logits.shape[1]) if plan.epsilon else []
        return _run_all(name, runs, problem)


def run_on_every_image(
    name: str,
    plan: Plan,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    keys: torch.Tensor,
    stream: str,
) -> Attacked:
    """Let the first run of a plan move every image, those too that the model gets wrong anyway.

    That is what adversarial training trains on: were the images that are wrong left as they are, it
    would train on clean images wherever it has most to learn. The rest is as in `run`.
    """
    with _posed(name, plan, model, images, labels, keys, stream) as problem:
        clean = problem.logits.argmax(1) != problem.labels
        if not plan.epsilon:
            return Attacked(problem.images, {"clean": clean})
        first = plan.runs(problem.logits.shape[1])[0]
        task = problem.named(first.purpose)
        points = first.attack(task)
        _check_outputs(f"{name} ({first.name})", task.images, points, task.epsilon, task.norm)
        wrong = logits_of(model, points).argmax(1) != problem.labels
        return Attacked(points, {"clean": clean, first.name: wrong & ~clean})


@contextmanager
def _posed(
    name: str,
    plan: Plan,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    keys: torch.Tensor,
    stream: str,
) -> Iterator[Problem]:
    """Check what comes in, and pose the problem with the model in evaluation mode."""
    _check_inputs(name, model, images, labels, keys)
    _check_epsilon(name, plan, images)
    plain = torch.autocast(images.device.type, enabled=False)
    with torch.inference_mode(False), repeatable_kernels(), plain, _evaluation(model):
        images, labels = images.detach().clone(), labels.to(images.device)
        logits = _checked_logits(name, plan, model, images, labels)
        yield Problem(
            model,
            images,
            labels,
            keys.to(images.device),
            logits,
            plan.epsilon,
            plan.ball,
            stream,
        )


def _run_all(name: str, runs: Sequence[Run], problem: Problem) -> Attacked:
    points = problem.images.clone()
    clean = problem.logits.argmax(1) != problem.labels
    broken = {"clean": clean, **{part.name: torch.zeros_like(clean) for part in runs}}
    right = (~clean).nonzero().squeeze(1)
    for number, part in enumerate(runs):
        if len(right) == 0:
            break
        task = problem.take(right).named(part.purpose)
        found = part.attack(task)
        _check_outputs(f"{name} ({part.name})", task.images, found, task.epsilon, task.norm)
        wrong = logits_of(task.model, found).argmax(1) != task.labels
        taken = wrong | (number == 0)
        points[right[taken]] = found[taken]
        broken[part.name][right[wrong]] = True
        right = right[~wrong]
    return Attacked(points, broken)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Not model.train(): a part of it may be kept in evaluation mode, as frozen batch norm is.
        for module, mode in modes:
            module.training = mode


def _check_inputs(
    name: str, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor
) -> None:
    if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3:
        found = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"{name} needs float32 images [B, 3, H, W] in [0, 1], found {found}")
    if len(images) == 0:
        raise InputError(f"there are no images for {name} to attack")
    low, high = (float(bound) for bound in images.aminmax())
    if not 0 <= low <= high <= 1:  # false for NaN too
        raise InputError(
            f"{name} needs images in [0, 1], found {low:.4g} to {high:.4g}; "
            "normalisation belongs inside the model"
        )
    for column, values in (("label", labels), ("key", keys)):
        if values.dtype != torch.int64 or values.shape != images.shape[:1]:
            found = f"{values.dtype} {list(values.shape)}"
            raise InputError(
                f"{name} needs one int64 {column} for each of {len(images)} images, found {found}"
            )
    weights = next(model.parameters(), None)
    if weights is not None and weights.device != images.device:
        raise InputError(f"the images are on {images.device}, the model on {weights.device}")


def _check_epsilon(name: str, plan: Plan, images: torch.Tensor) -> None:
    most = plan.ball.most(images[0].numel())
    if plan.epsilon > most:
        shape = list(images.shape[1:])
        raise InputError(
            f"{name}: epsilon is {plan.epsilon}, but no two images {shape} are farther apart "
            f"than {most:.4g} in the norm {plan.norm}"
        )


def _checked_logits(
    name: str, plan: Plan, model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    logits = logits_of(model, images)
    if logits.ndim != 2 or len(logits) != len(images):
        found = f"{list(logits.shape)} for {len(images)} images"
        raise InputError(f"{name} needs a model with logits [B, classes], found {found}")
    if not bool(logits.isfinite().all()):
        raise NotFiniteError(f"{name} needs a model with finite logits, found NaN or infinity")
    classes = logits.shape[1]
    if classes < plan.least_classes:
        hint = f"; ask for {plan.instead}" if plan.instead else ""
        raise InputError(
            f"{name} needs a model of at least {plan.least_classes} classes, found {classes}{hint}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise InputError(f"labels go from {span}, but the model has {classes} classes")
    return logits


def _check_outputs(
    name: str, images: torch.Tensor, points: torch.Tensor, epsilon: float, norm: Norm
) -> None:
    if points.shape != images.shape or points.dtype != torch.float32:
        found = f"{points.dtype} {list(points.shape)}"
        raise RuntimeError(f"{name} must return float32 {list(images.shape)}, returned {found}")
    low, high = (float(bound) for bound in points.aminmax())
    if not 0 <= low <= high <= 1:
        raise RuntimeError(f"{name} left [0, 1]: its points go from {low} to {high}")
    length = float(norm.length(points - images).max())
    if not length <= epsilon * (1 + ROUNDING) + ROUNDING:
        raise RuntimeError(f"{name} broke its budget: {length} > epsilon {epsilon}")
