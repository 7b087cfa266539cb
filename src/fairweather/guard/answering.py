"""What a guard says of images: a class, how sure, whether to defer, and what else it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from fairweather.errors import InputError
from fairweather.guard.facts import GuardRecord, percent
from fairweather.intensity import Scale
from fairweather.metrics.columns import softmax
from fairweather.metrics.conformal import prediction_sets
from fairweather.metrics.two_sample import (
    FEWEST_IMAGES,
    differ_p,
    features_differ_p,
    outputs_differ_p,
)
from fairweather.pixels import Square, decode_image
from fairweather.types import check_images

# The share of batches of images like the validation images that are warned of all the same.
FALSE_ALARMS = 0.05
Batch: TypeAlias = "torch.Tensor | npt.NDArray[np.uint8] | Sequence[PIL.Image.Image]"


class Seen(NamedTuple):
    """What a network says of images.

    Attributes:
        logits: float32 `[B, classes]`.
        features: float32 `[B, D]`, what its last layer sees; None if that is not linear.
    """

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None


class Answers(NamedTuple):
    """The answers of a guard to a batch of images.

    Attributes:
        classes: the name of the most probable class of each image.
        confidence: float64 `[B]`, its probability after temperature scaling.
        answered: bool `[B]`; where it is false, a person should decide.
        sets: for each image the names of the classes that it may be, the most probable first, and
            at least that one.
        probabilities: float64 `[B, classes]`, in the order of `Guard.record.classes`.
    """

    classes: tuple[str, ...]
    confidence: npt.NDArray[np.float64]
    answered: npt.NDArray[np.bool_]
    sets: tuple[tuple[str, ...], ...]
    probabilities: npt.NDArray[np.float64]


class Likeness(NamedTuple):
    """Whether images are like the validation images, as far as the model sees.

    Attributes:
        images: how many were compared.
        p: chance of a difference as large as this one, or larger, if they were drawn like the
            validation images; NaN if they are too few to be compared.
        features: whether the features were compared too, and not only the probabilities.
    """

    images: int
    p: float
    features: bool

    @property
    def unlike(self) -> bool:
        """Whether to warn; of batches like the validation images at most 5 % are warned of."""
        return self.p < FALSE_ALARMS  # NaN is not

    def __str__(self) -> str:
        what = "probabilities and features" if self.features else "probabilities"
        if np.isnan(self.p):
            few = "1 image is" if self.images == 1 else f"{self.images} images are"
            return (
                f"{few} too few to tell whether they are like the validation "
                f"images: that takes {FEWEST_IMAGES}"
            )
        shown = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        if self.unlike:
            return (
                f"these images are unlike the validation images ({what}, {shown}): what is "
                "promised need not hold for them"
            )
        few = ". Fewer than 100 images show only large differences" if self.images < 100 else ""
        return f"no significant difference from the validation images ({what}, {shown}){few}"


@dataclass(frozen=True)
class Guard:
    """A classifier that answers where a risk is kept, and defers the other images to a person.

    Call it with a batch: 8-bit images `[B, 3, H, W]` of the size `record.size`, as an array or a
    tensor, or a list of Pillow's images, which are prepared as the model's own were.

    Attributes:
        record: what is promised, what that rests on, and what was kept under each shift.
        see: 8-bit images `[B, 3, H, W]` to what the network says of them.
        reference: what it says of validation images; the features are of some of them.
    """

    record: GuardRecord
    see: Callable[[torch.Tensor], Seen]
    reference: Seen

    def __call__(self, batch: Batch) -> Answers:
        """Answer a batch of images, or defer them.

        Raises:
            InputError: they are no images of the right size.
        """
        return self.answers(self.see(self.prepared(batch)))

    def check(self, batch: Batch) -> Likeness:
        """Say whether a batch of images is like the validation images; many images show more.

        The images must be independent: of a video or of one patient, give one image.

        Raises:
            InputError: they are no images of the right size.
        """
        return self.likeness(self.see(self.prepared(batch)))

    def prepared(self, batch: Batch) -> torch.Tensor:
        """Give the images of a batch: uint8 `[B, 3, H, W]`."""
        if isinstance(batch, np.ndarray):
            batch = torch.from_numpy(np.ascontiguousarray(batch))
        if isinstance(batch, PIL.Image.Image):
            raise InputError("a batch is a list of PIL images: put the one image into a list")
        if not isinstance(batch, torch.Tensor):
            batch = self._decoded(list(batch))
        check_images(batch)
        if len(batch) == 0:
            raise InputError("a batch has at least one image, found none")
        if tuple(batch.shape[2:]) != self.record.size:
            height, width = self.record.size
            raise InputError(
                f"this guard takes images [B, 3, {height}, {width}], found {list(batch.shape)}"
            )
        return batch

    def answers(self, seen: Seen) -> Answers:
        """Answer or defer the images of which a network says this."""
        fit, names = self.record.fit, self.record.classes
        probabilities = self._probabilities(seen)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        confidence = probabilities.max(axis=1)
        held = prediction_sets(probabilities, fit.quantile)
        return Answers(
            tuple(names[place] for place in order[:, 0]),
            confidence,
            confidence >= fit.threshold,
            tuple(
                tuple(names[place] for place in places if row[place])
                for places, row in zip(order, held, strict=True)
            ),
            probabilities,
        )

    def likeness(self, seen: Seen) -> Likeness:
        """Compare what a network says of images with what it says of validation images."""
        known = self.reference
        p_values = [outputs_differ_p(self._probabilities(known), self._probabilities(seen))]
        both = known.features is not None and seen.features is not None
        if both:
            p_values.append(features_differ_p(known.features, seen.features))  # type: ignore[arg-type]
        return Likeness(len(seen.logits), differ_p(*p_values), both)

    def _probabilities(self, seen: Seen) -> npt.NDArray[np.float64]:
        if not np.isfinite(seen.logits).all():
            raise InputError("the model gives numbers for these images that are not finite")
        return softmax(seen.logits / np.float32(self.record.fit.temperature))

    def _decoded(self, images: list[PIL.Image.Image]) -> torch.Tensor:
        record = self.record
        if not images or not all(isinstance(each, PIL.Image.Image) for each in images):
            raise InputError("a batch is an array or tensor [B, 3, H, W], or a list of PIL images")
        square = None
        if (of := record.preparation) is not None:
            square = Square(of.size, of.resize or of.size, of.interpolation, of.fit)
        scale = None if record.scale is None else Scale.parse(record.scale)
        height, width = record.size
        if square is None and any(each.size != (width, height) for each in images):
            raise InputError(
                f"the run does not say how images become {height} x {width}: prepare them first"
            )
        pixels = [decode_image(each, square, scale) for each in images]
        return torch.from_numpy(np.stack(pixels))

    def __repr__(self) -> str:
        promise = self.record.promise
        return f"Guard({self.record.title!r}, risk <= {percent(promise.risk)})"
