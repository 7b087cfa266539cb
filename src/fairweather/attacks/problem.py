"""What attacks are made of: losses and their gradients, norms, the images, and the plan of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.attacks import draws
from fairweather.errors import InputError
from fairweather.shifts.ranges import Range, at_most
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import MAX_SIDE, UNKNOWN, Predictions, is_finite

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# The targeted DLR loss uses four logits, so it needs this many classes.
DLR_CLASSES = 4


class Slope(NamedTuple):
    """A loss at some points: whether the model is wrong, bool `[B]`; value `[B]`; gradient."""

    wrong: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of the labels in nats, `[B]`; the targets are not used.

    For labels of findings, `[B, L]`, it is the sum of the binary cross-entropies of the known ones.

    >>> logits, labels = torch.zeros(1, 3), torch.tensor([[1, 0, UNKNOWN]])
    >>> cross_entropy(logits, labels, labels)  # 2 ln 2
    tensor([1.3863])
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    there, known = (labels == 1).float(), labels != UNKNOWN
    losses = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
    return losses.where(known, torch.zeros_like(losses)).sum(1)


def are_wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Tell where the label is not the predicted class, bool `[B]`.

    For labels of findings, `[B, L]`, it tells where no known finding is decided right: as long as
    one is, an attack on their sum can still make something worse.

    >>> labels = torch.tensor([[1, 0], [1, 0], [1, UNKNOWN]])
    >>> are_wrong(torch.tensor([[-2.0, 3.0], [2.0, 3.0], [-2.0, 3.0]]), labels)
    tensor([ True, False,  True])
    """
    if labels.ndim == 1:
        return logits.argmax(1) != labels
    right = (logits >= 0) == (labels == 1)
    return ~(right & (labels != UNKNOWN)).any(1)


def logit_lead(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the target's logit minus the label's, `[B]`."""
    return _pick_logits(logits, targets) - _pick_logits(logits, labels)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targeted difference-of-logits-ratio loss, `[B]`.

    `-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)`, with the logits sorted in descending order. It does
    not change if all logits are scaled or shifted by a number (Croce and Hein, "Reliable evaluation
    of adversarial robustness", 2020, equation 7). It needs at least 4 classes.

    >>> logits = torch.tensor([[5.0, 3.0, 1.0, 1.0]])
    >>> targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    tensor([-0.5000])
    """
    top = logits.topk(DLR_CLASSES, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return logit_lead(logits, labels, targets) / (spread + 1e-12)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the label's logit minus the largest of the others, `[B]`."""
    return _pick_logits(logits, labels) - _mask_labels(logits, labels).amax(1)


def likely_other_classes(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sort the classes other than the label, the most likely first: int64 `[B, classes - 1]`.

    >>> likely_other_classes(torch.tensor([[2.0, 9.0, 4.0]]), torch.tensor([1]))
    tensor([[2, 0]])
    """
    return _mask_labels(logits, labels).argsort(dim=1, descending=True, stable=True)[:, :-1]


@torch.no_grad()
def compute_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the model's float32 logits `[B, classes]`, without gradients.

    The model gets a copy of the images, and its logits are copied: it may write into either.
    """
    logits = model(images.clone())
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"an attack needs a model that returns a tensor, found {type(logits)}")
    return logits.to(torch.float32, copy=True)


def needs_classes_error(name: str) -> InputError:
    """Build the error for an attack on a class, where images have several findings."""
    return InputError(
        f"{name} attacks the one class of each image, and these images have several findings: use "
        "fgsm, pgd or apgd_ce"
    )


def _missing_gradient() -> InputError:
    return InputError(
        "this attack needs gradients with respect to the images, but the model does not give any; "
        "the attack square needs no gradients"
    )


def _pick_logits(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _mask_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, labels[:, None], float("-inf"))


# --- Norms

_TINY = 1e-12  # keeps a direction of length zero at zero
_LEAST = torch.finfo(torch.float32).tiny
_FINE = 2**37  # rows of 3 x 4096 x 4096 numbers in [0, 1] still fit into 64 bits


class Norm(NamedTuple):
    """The functions of a norm that attacks need; perturbations are float32 `[B, 3, H, W]`."""

    length: Callable[[torch.Tensor], torch.Tensor]
    """The norm of each perturbation, `[B, 1, 1, 1]`."""

    steepest: Callable[[torch.Tensor], torch.Tensor]
    """The perturbation of length 1 with the largest product with a gradient."""

    fit: Callable[[torch.Tensor, float], torch.Tensor]
    """The nearest perturbation whose length is at most a radius."""

    noise: Callable[[torch.Tensor, int], torch.Tensor]
    """Numbers `[B, count]` with a uniform direction on the sphere, from the states of sequences and
    a count."""

    weight: Callable[[torch.Tensor], torch.Tensor]
    """How much each pixel moves on the shortest way to a hyperplane, from the absolute values of
    its normal."""

    most: Callable[[int], float]
    """The largest distance of two images with this many numbers."""


def _max_length(perturbation: torch.Tensor) -> torch.Tensor:
    return perturbation.abs().amax((1, 2, 3), keepdim=True)


def _euclidean_length(perturbation: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)


def _unit_direction(perturbation: torch.Tensor) -> torch.Tensor:
    # Scaled first, because the squares of a saturated model's gradients are zero in float32.
    scaled = perturbation / _max_length(perturbation).clamp_min(_LEAST)
    return scaled / _euclidean_length(scaled).clamp_min(_TINY)


def _fit_euclidean(perturbation: torch.Tensor, radius: float) -> torch.Tensor:
    return perturbation * (radius / _euclidean_length(perturbation).clamp_min(_TINY)).clamp_max(1)


def _box_noise(states: torch.Tensor, count: int) -> torch.Tensor:
    return draws.uniform(states, count) * 2 - 1


NORMS: Mapping[str, Norm] = {
    "linf": Norm(
        _max_length,
        torch.sign,
        lambda perturbation, radius: perturbation.clamp(-radius, radius),
        _box_noise,
        lambda normal: (normal > 0).float(),
        lambda count: 1.0,
    ),
    "l2": Norm(
        _euclidean_length,
        _unit_direction,
        _fit_euclidean,
        draws.normal,
        lambda normal: normal,
        lambda count: count**0.5,
    ),
}


def project_into_ball(
    images: torch.Tensor, points: torch.Tensor, epsilon: float, norm: Norm
) -> torch.Tensor:
    """Move points into the ball around their images, then into [0, 1].

    The box contains the centre of the ball, so clipping never makes a perturbation longer. In the
    maximum norm the result is the nearest point of the intersection. In the Euclidean norm it is a
    point of the intersection, but not always the nearest.

    >>> images, points = torch.zeros(1, 3, 1, 1), torch.tensor([3.0, -1, 0]).reshape(1, 3, 1, 1)
    >>> project_into_ball(images, points, 0.5, NORMS["linf"]).flatten()
    tensor([0.5000, 0.0000, 0.0000])
    """
    return (images + norm.fit(points - images, epsilon)).clamp(0, 1)


def project_on_hyperplane(
    points: torch.Tensor, normals: torch.Tensor, offsets: torch.Tensor, norm: Norm
) -> torch.Tensor:
    """Return the shortest perturbations that move points onto hyperplanes inside [0, 1].

    If the hyperplane does not cross the box, the point moves to the corner of the box nearest to
    the hyperplane. Pixel i moves by min(λ v_i, room_i), where v_i is 1 in the maximum norm and
    |w_i| in the Euclidean norm. λ is found from the sorted values at which pixels reach their
    bounds (Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
    attack", 2020, section 2.2).

    Args:
        points: float32 `[B, 3, H, W]` in [0, 1].
        normals: float32 `[B, 3, H, W]`, the normal w of each hyperplane `<w, x> = offset`.
        offsets: float32 `[B]`.

    >>> point, w = torch.full((1, 3, 1, 1), 0.5), torch.tensor([1.0, 0, 3]).reshape(1, 3, 1, 1)
    >>> project_on_hyperplane(point, w, torch.tensor([2.8]), NORMS["linf"]).flatten()
    tensor([0.2000, 0.0000, 0.2000])
    """
    flat, w = points.flatten(1), normals.flatten(1)
    missing = offsets - (w * flat).sum(1)
    towards = w.sign() * missing.sign()[:, None]
    room = torch.where(towards > 0, 1 - flat, flat)
    # Without this, squares of small gradients would be zero, also beside the larger gradients of
    # pixels that cannot move.
    free = torch.where(room > 0, w.abs(), 0.0)
    scale = free.amax(1, keepdim=True).clamp_min(_LEAST)
    size, short = free / scale, missing.abs()[:, None] / scale
    move = norm.weight(size)
    meets = torch.where(size > 0, room / move.clamp_min(_LEAST), 0.0)
    meets, order = meets.sort(dim=1)
    filled, slope = (size * room).gather(1, order), (size * move).gather(1, order)
    total = _running_sum(filled)
    steep = _running_sum(slope.flip(1)).flip(1)  # of this pixel and all that are bounded later
    reached = total + meets * (steep - slope)
    last = torch.searchsorted(reached, short).clamp_max(w.shape[1] - 1)
    before = (total - filled).gather(1, last)
    rate = steep.gather(1, last).clamp_min(_LEAST)
    # Beyond the last bound no pixel can move: the hyperplane does not cross the box.
    length = ((short - before) / rate).clamp_min(0).minimum(meets[:, -1:])
    return (towards * torch.minimum(length * move, room)).reshape(points.shape)


def _running_sum(shares: torch.Tensor) -> torch.Tensor:
    """Add up numbers in [0, 1] along rows, to the last bit the same on every device.

    They are summed as whole multiples of 2**-37, in any order. A GPU that adds up floats in
    parallel may round each time in another way.
    """
    return (shares * _FINE).round().long().cumsum(1).float() / _FINE


# --- The plan of an attack

# Larger values are mistakes: no two images are further apart, and no attack would end.
LARGEST_EPSILON, LARGEST_COUNT = 3 * MAX_SIDE, 1_000_000
_WHOLE_NUMBER = Range(
    "a whole number >= 1",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
)
Budget = Annotated[
    float,
    Range("a finite number >= 0", lambda value: is_finite(value) and float(value) >= 0),
    at_most(LARGEST_EPSILON),
]
StepSize = Annotated[
    float,
    Range("a finite number > 0", lambda value: is_finite(value) and float(value) > 0),
    at_most(LARGEST_EPSILON),
]
Count = Annotated[int, _WHOLE_NUMBER, at_most(LARGEST_COUNT)]


# Croce and Hein (2020), section 5: the published budget of AutoAttack. With less, an attack breaks
# fewer images and the model looks too robust.
STANDARD = {"steps": 100, "queries": 5000, "restarts": 1, "targets": 9}


@dataclass(frozen=True)
class AttackSettings:
    """The parameters of all attacks, in the order of their ids; each attack has some of them."""

    epsilon: Budget
    norm: str = "linf"
    steps: Count = STANDARD["steps"]
    step_size: StepSize | None = None
    queries: Count = STANDARD["queries"]
    targets: Count = STANDARD["targets"]
    restarts: Count = STANDARD["restarts"]
    finding: str | None = None


@dataclass(frozen=True)
class Problem:
    """Images that a model gets right, and the budget of an attack on them."""

    model: nn.Module
    """In evaluation mode."""

    images: torch.Tensor
    """float32 `[B, 3, H, W]` in [0, 1]."""

    labels: torch.Tensor
    """int64 `[B]`, or `[B, L]` of findings: 0, 1 or `UNKNOWN`."""

    keys: torch.Tensor
    """int64 `[B]`."""

    logits: torch.Tensor
    """float32 `[B, classes]` on the unchanged images."""

    epsilon: float
    """The largest length of a perturbation, in units of [0, 1] pixels."""

    norm: Norm
    """The norm that measures length."""

    stream: str
    """The name of this run's random sequences."""

    def take(self, index: torch.Tensor) -> Problem:
        """Keep some of the images."""
        columns = ("images", "labels", "keys", "logits")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def named(self, purpose: str) -> Problem:
        """Return the problem with separate random sequences for the run with this purpose."""
        return replace(self, stream=f"{self.stream}/{purpose}")

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """Move points into the budget around their images and into [0, 1]."""
        return project_into_ball(self.images, points, self.epsilon, self.norm)

    def slope(self, points: torch.Tensor, loss: Loss, targets: torch.Tensor) -> Slope:
        """Compute a loss and its gradient with respect to the images; parameters get no gradients.

        Raises `InputError` if the model has no gradient with respect to its images, or a gradient
        that is not finite.
        """
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            try:
                logits = self.model(leaf.clone()).float()  # it may change its input
            except RuntimeError as error:
                # The model converts a tensor, to numpy for example.
                if "requires grad" in str(error):
                    raise _missing_gradient() from error
                raise
            value = loss(logits, self.labels, targets)
        if not value.requires_grad:
            raise _missing_gradient()
        (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise _missing_gradient()
        if not bool(gradient.isfinite().all()):
            raise InputError("the model's gradient with respect to its images is not finite")
        return Slope(are_wrong(logits.detach(), self.labels), value.detach(), gradient)

    def is_wrong(self, points: torch.Tensor) -> torch.Tensor:
        """Whether the model gets each point wrong, bool `[B]`."""
        return are_wrong(compute_logits(self.model, points), self.labels)

    def draw_direction(self) -> torch.Tensor:
        """Draw a perturbation of length 1 for each image, uniform on the sphere of the norm."""
        noise = self.norm.noise(self.sequences(), self.images[0].numel())
        noise = noise.reshape(self.images.shape)
        return noise / self.norm.length(noise).clamp_min(_TINY)

    def sequences(self) -> torch.Tensor:
        """Return the state of each image's random sequence, int64 `[B]`."""
        return draws.streams(self.keys, self.stream)

    def targets(self, rank: int) -> torch.Tensor:
        """Return the `rank`-th most likely class other than the label, from 0: int64 `[B]`."""
        return likely_other_classes(self.logits, self.labels)[:, rank]


class AttackRun(NamedTuple):
    """One pass of one attack."""

    name: str
    """The attack that is reported for the images that this run breaks."""

    purpose: str
    """The name of this run's random sequences; no other run has the same."""

    attack: Callable[[Problem], torch.Tensor]
    """Returns a point within the budget for each image, `[B, 3, H, W]`: one that the model gets
    wrong, if it found one."""


class AttackPlan(NamedTuple):
    """Runs in order; each attacks only the images that no earlier one has broken."""

    epsilon: float
    norm: str
    """`epsilon`, `norm`: the budget; `norm` is a name in NORMS."""

    runs: Callable[[int], Sequence[AttackRun]]
    """Returns the runs for a number of classes."""

    least_classes: int = 2
    instead: str = ""
    accepts: Sequence[TaskKind] = (Predictions.kind,)
    """`least_classes`, `instead`, `accepts`: as in `AttackKind`."""

    @property
    def ball(self) -> Norm:
        """The norm that measures length."""
        return NORMS[self.norm]
