"""What all measurements of a run share, and the models that are measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import torch
from torch import nn

from fairweather.runs import RunFolder
from fairweather.types import Attack, Dataset, Images, Shift

# Raised when predicting makes something else of the same inputs.
PREDICT_VERSION = 1
PRECISION = "fp32"
# Other versions of these make other images of the same shift. OpenCV is asked itself, since several
# distributions hold the same build of it.
LIBRARIES = {
    "opencv": cv2.__version__,
    **{n: importlib.metadata.version(n) for n in ("numpy", "pillow", "torch", "torchvision")},
}


@dataclass(frozen=True)
class Setting:
    """The data, the weather and the precision that every model of a run is measured in.

    Attributes:
        run: the folder.
        dataset: its test images are predicted, and its validation images for fitting.
        digests: of the parts of the data set, by name.
        device: where models are evaluated.
        shifts: clean first, then every shift and attack at every level.
        shift_seed: of stochastic shifts and attacks, shared by all models and seeds.
        batch_size: images in a forward pass.
        bootstrap: resamples behind every interval.
        variants: names in `fairweather.variants.VARIANTS`.
        priors: class probabilities in label order, by the name of each changed set of priors.
        others: other data sets that a model's confidence should tell from this one, by name.
        when_halved: called with the new batch size when memory has run out.
    """

    run: RunFolder
    dataset: Dataset
    digests: Mapping[str, str]
    device: torch.device
    shifts: tuple[Shift | Attack, ...]
    shift_seed: int = 0
    batch_size: int = 256
    bootstrap: int = 1000
    variants: tuple[str, ...] = ()
    priors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    others: Mapping[str, Images] = field(default_factory=dict)
    when_halved: Callable[[int], None] | None = None

    def images(self, part: str) -> Images:
        """The images of a part, which must be there: `val`, `test` or the name of another set."""
        if part in self.others:
            return self.others[part]
        images = self.dataset.val if part == "val" else self.dataset.test
        assert images is not None
        return images

    @property
    def parts(self) -> list[str]:
        """The parts that are predicted, in this order; only `test` under shifts."""
        return [*(["val"] if self.dataset.val is not None else []), "test", *self.others]

    @property
    def machine(self) -> dict[str, object]:
        """What of the machine can change a result: part of every fingerprint."""
        return {"device": self.device.type, "threads": torch.get_num_threads()}

    def inputs(self, model: str, data: str | None, shift: Shift | Attack) -> dict[str, Any]:
        """Everything that the predictions of a model, known by its digest, depend on."""
        return {
            "version": PREDICT_VERSION,
            "model": model,
            "data": data,
            "shift": shift.id,
            **({} if shift.level is None else {"libraries": LIBRARIES}),
            "seed": self.shift_seed,
            "batch_size": self.batch_size,
            "precision": PRECISION,
            **self.machine,
        }


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Attributes:
        name: in the run; it names folders.
        seed: that it was trained with; 0 for a model from elsewhere, `ensemble` for several.
        title: of the model.
        label: what progress calls it: the title, and the seed where there are several.
        digest: of what decides its outputs.
        load: gives it, from images in [0, 1] to logits of the data's classes.
        members: of an ensemble; they are measured before it.
    """

    name: str
    seed: int | str
    title: str
    label: str
    digest: str
    load: Callable[[], nn.Module]
    members: tuple[Subject, ...] = ()
