"""What is learned from labels: one row for each kind of labels, with its loss and its metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import level_sums, rank_area
from fairweather.training.augmentation import soft_labels
from fairweather.training.policies import jensen_shannon
from fairweather.training.recipe import BALANCED, AsymmetricLoss, Metric, Recipe
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import UNKNOWN, Images, Predictions

Weights = torch.Tensor | None  # of the findings that are there, float `[L]`
LEAST_PROBABILITY = 1e-8  # below, a power of it has no finite gradient


class LabelLoss(NamedTuple):
    """How the labels of one kind of predictions are learned, and what validation measures."""

    accepts: TaskKind
    """The kind of predictions that it trains for."""

    metric: Metric
    """What validation measures: the end of two columns of history.csv, and a value of `select`."""

    shown: Callable[[float], str]
    """Writes that number with its name."""

    compute: Callable[[torch.Tensor, torch.Tensor, Recipe, Weights, torch.Tensor], torch.Tensor]
    """The mean loss of a batch from its logits `[B, C]`, labels or soft labels, recipe, weights and
    the share of its labels that are known."""

    entropy: Callable[..., torch.Tensor]
    """`(logits, labels, reduction="mean")` to the cross-entropy in nats, whatever the recipe."""

    count: Callable[[torch.Tensor], int]
    """How many labels the sum of that cross-entropy is over."""

    divergence: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    """How much the predictions for three views of the same images differ."""

    outcomes: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """What the metric needs of each image, `[B, ...]`, from logits and labels."""

    measure: Callable[[torch.Tensor], float]
    """The metric of the outcomes of all images."""

    vote: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
    """The logits of images whose K neighbours have these weights, int64 `[B, K]`, and labels."""

    check: Callable[[Images, Images], None] = lambda train, val: None
    """Raises `InputError` for training and validation images from which nothing can be learned."""

    weigh: Callable[[Recipe, Images], Weights] = lambda recipe, train: None
    """The weights of findings that are there, from the training images."""

    refused: Mapping[str, str] = MappingProxyType({})
    """Settings of a recipe without a meaning for these labels, and why."""

    def complete(self, recipe: Recipe) -> Recipe:
        """Let a recipe select by the metric of these labels; raises `InputError` if it cannot."""
        for name, reason in self.refused.items():
            if getattr(recipe, name):
                raise InputError(f"recipe: {name} {reason}")
        return recipe.selecting(self.metric)

    def selected(self) -> tuple[str, ...]:
        """The columns of history.csv that say how good a checkpoint is."""
        return "epoch", f"val_{self.metric}", "val_loss"


# --- One class of an image


def _class_loss(
    logits: torch.Tensor, targets: torch.Tensor, recipe: Recipe, *_: object
) -> torch.Tensor:
    return F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)


def _vote_for_classes(weights: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    votes = torch.zeros(len(weights), classes, device=weights.device, dtype=torch.int64)
    return votes.scatter_add_(1, labels, weights)


ONE_CLASS = LabelLoss(
    accepts=Predictions.kind,
    metric="accuracy",
    shown=lambda value: f"accuracy {value:.1%}",
    compute=_class_loss,
    entropy=F.cross_entropy,
    count=len,
    divergence=jensen_shannon,
    outcomes=lambda logits, labels: logits.argmax(1) == labels,
    measure=lambda right: int(right.sum()) / len(right),
    vote=_vote_for_classes,
    refused=dict.fromkeys(
        ("asymmetric_loss", "positive_weights"),
        "is for several findings of an image, and these data have one class of each: leave it out",
    ),
)


# --- Several findings of an image

PLAIN = AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0)  # cross-entropy


def finding_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    focus: AsymmetricLoss = PLAIN,
    weights: Weights = None,
) -> torch.Tensor:
    """Compute the loss of each finding of each image, 0 where the finding is unknown.

    With p the probability of a finding and m the clip, p_m = max(p - m, 0). A finding that is there
    costs -(1 - p)^gamma_pos log p, times its weight. One that is not costs
    -p_m^gamma_neg log(1 - p_m). Without focus and clip, this is binary cross-entropy. A soft label
    y costs y times the first and 1 - y times the second.

    Source: Ben-Baruch et al. 2021, Asymmetric Loss For Multi-Label Classification, section 2. The
    gradient is that of the whole formula, as in their analysis; their code can also take the powers
    as constants.

    Args:
        logits: float `[B, L]`.
        targets: float `[B, L]` in [0, 1], NaN where unknown.
        focus: the exponents and the clip.
        weights: float `[L]`, what a finding that is there counts; None for 1.

    Returns:
        float `[B, L]`, in nats.

    >>> logits, targets = torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1.0, 0.0, math.nan]])
    >>> finding_losses(logits, targets)
    tensor([[0.6931, 2.1269, 0.0000]])
    """
    known = targets.isfinite()
    there, absent = torch.where(known, targets, 0), torch.where(known, 1 - targets, 0)
    log_there, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
    clip = logits.new_full((), focus.clip)
    log_spared = torch.logaddexp(log_absent, clip.log()).clamp(max=0)
    shifted = (logits.sigmoid() - clip).clamp(min=LEAST_PROBABILITY)
    positive = there * (focus.gamma_pos * log_absent).exp() * log_there
    negative = absent * shifted**focus.gamma_neg * log_spared
    return -((positive if weights is None else weights * positive) + negative)


def _finding_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    recipe: Recipe,
    weights: Weights,
    known: torch.Tensor,
) -> torch.Tensor:
    if not targets.is_floating_point():
        targets = soft_labels(targets, logits.shape[1])
    smoothed = torch.lerp(targets, torch.full_like(targets, 0.5), recipe.label_smoothing)
    losses = finding_losses(logits, smoothed, recipe.asymmetric_loss or PLAIN, weights)
    # A batch without a known label has the loss 0.
    return losses.mean() / known.clamp(min=1 / targets.numel())


def finding_entropy(
    logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """Compute the binary cross-entropy of known findings, in nats.

    Args:
        logits: float `[B, L]`.
        labels: int64 `[B, L]`: 1, 0 or unknown.
        reduction: `mean` over the known labels, 0 if there is none, or `sum`.

    >>> logits, labels = torch.zeros(2, 2), torch.tensor([[1, UNKNOWN], [0, 1]])
    >>> finding_entropy(logits, labels), finding_entropy(logits, labels, "sum")
    (tensor(0.6931), tensor(2.0794))
    """
    total = finding_losses(logits, soft_labels(labels, labels.shape[1])).sum()
    return total if reduction == "sum" else total / (labels != UNKNOWN).sum().clamp(min=1)


def _finding_divergence(*logits: torch.Tensor) -> torch.Tensor:
    """That of each finding, mean over all: a finding is one of two classes, with logits 0 and z."""
    pairs = (F.pad(view.reshape(-1, 1), (1, 0)) for view in logits)
    return jensen_shannon(*pairs)


def mean_auc(outcomes: torch.Tensor) -> float:
    """Average the area under the ROC curve over the findings with known labels of both sides.

    Args:
        outcomes: float `[N, 2, L]`, the logit and the label of each finding.

    Returns NaN if no finding has both, or a logit is not finite.

    >>> logits = torch.tensor([[1.0, 5.0], [3.0, 6.0], [2.0, 7.0]])
    >>> labels = torch.tensor([[0, 1], [1, 1], [1, UNKNOWN]])
    >>> mean_auc(torch.stack((logits, labels), 1))
    1.0
    """
    if not outcomes.isfinite().all():
        return math.nan
    areas = []
    for score, label in outcomes.cpu().double().permute(2, 1, 0).numpy():
        known = label != UNKNOWN
        if len(set(label[known])) == 2:
            areas.append(float(rank_area(level_sums(score[known], label[known] == 1))[0]))
    return float(np.mean(areas)) if areas else math.nan


def _vote_for_findings(weights: torch.Tensor, labels: torch.Tensor, _: int) -> torch.Tensor:
    """The weighted share of the neighbours that have the finding, where they know."""
    heavy = weights[:, :, None]
    there, known = ((heavy * mask).sum(1) for mask in (labels == 1, labels != UNKNOWN))
    return there.double() / known.clamp(min=1)


def check_findings(train: Images, val: Images) -> None:
    """Raise `InputError` if a finding cannot be learned, or validation cannot measure any.

    >>> labels, pixels = torch.tensor([[1], [1]]), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> both = Images(pixels, labels, torch.arange(2), ("Mass",))
    >>> check_findings(both, both)
    Traceback (most recent call last):
    fairweather.errors.InputError: the validation images have no finding that some have and ...
    """
    for name, labels in zip(train.classes, train.labels.T, strict=True):
        if bool((labels == UNKNOWN).all()):
            raise InputError(f"no training image has a known label of {name}: leave it out")
    if not any({0, 1} <= set(labels.tolist()) for labels in val.labels.T):
        raise InputError(
            "the validation images have no finding that some have and others have not, so no "
            "checkpoint can be chosen by the mean AUC: add images"
        )


def weigh_findings(recipe: Recipe, train: Images) -> Weights:
    """Give the weight of each finding that is there, float32 `[L]`; None if all count 1.

    `balanced` is the number of images without the finding, divided by that with it.

    Raises `InputError` for a finding that the data do not have, and where `balanced` has no value.

    >>> labels = torch.tensor([[1], [0], [0], [UNKNOWN]])
    >>> pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    >>> four = Images(pixels, labels, torch.arange(4), ("Mass",))
    >>> weigh_findings(Recipe(positive_weights="balanced"), four)
    tensor([2.])
    """
    setting = recipe.positive_weights
    if setting is None:
        return None
    if isinstance(setting, Mapping):
        for name in setting:
            if name not in train.classes:
                error = unknown_name("finding", name, train.classes)
                raise InputError(f"recipe: positive_weights: {error}")
        return torch.tensor([setting.get(name, 1.0) for name in train.classes])
    there, absent = ((train.labels == value).sum(0) for value in (1, 0))
    for name, *counts in zip(train.classes, there.tolist(), absent.tolist(), strict=True):
        if not all(counts):
            raise InputError(
                f"recipe: positive_weights: {BALANCED} needs training images with and without "
                f"each finding, found {counts[0]} with {name} and {counts[1]} without it"
            )
    return absent / there


SEVERAL_FINDINGS = LabelLoss(
    accepts=FINDINGS,
    metric="auc",
    shown=lambda value: f"mean AUC {value:.3f}",
    compute=_finding_loss,
    entropy=finding_entropy,
    count=lambda labels: int((labels != UNKNOWN).sum()),
    divergence=_finding_divergence,
    outcomes=lambda logits, labels: torch.stack((logits, labels.to(logits)), 1),
    measure=mean_auc,
    vote=_vote_for_findings,
    check=check_findings,
    weigh=weigh_findings,
    refused={
        "cutmix": "mixes labels by the area of a box, and a finding may lie anywhere in an image: "
        "use mixup"
    },
)

LOSSES = {loss.accepts: loss for loss in (ONE_CLASS, SEVERAL_FINDINGS)}


def find_loss(kinds: Iterable[TaskKind]) -> LabelLoss | None:
    """Find the loss that accepts one of the kinds of a task; None if none does.

    >>> find_loss([FINDINGS]).metric, find_loss([FINDINGS._replace(unit="lesion")])
    ('auc', None)
    """
    return next((LOSSES[kind] for kind in kinds if kind in LOSSES), None)
