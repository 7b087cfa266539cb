"""What a variant is, and its two kinds: what changes stored predictions, what adapts the network.

A class of these has everything that the rest of the package asks about a variant. No other part
knows one by its name or its type.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from fairweather.errors import InputError
from fairweather.kinds import Kind

if TYPE_CHECKING:  # `--help` should not wait for these
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from fairweather.metrics.clusters import Clusters
    from fairweather.types import AnyPredictions
    from fairweather.variants.conformal import Conformal
    from fairweather.variants.fitted import Fitted

FIT_ON = "-fit_on"  # suffix of the names of variants that are fitted on what `fit_on` lists
FITTED_UNDER_SHIFTS = "fitted under shifts"


@dataclass(frozen=True)
class Variant:
    """A variant; each kind is a class with its parameters as fields, which it checks.

    Attributes:
        kind: how studies and the command line call it.
        is_fitted: whether it is fitted on validation images.
        fitted: the type of what is fitted, in a file of its own; None for nothing.
        differs: what reports say of it where its answers are those of its model.
        accepts: the kind of predictions that it changes.
    """

    kind: ClassVar[str]
    is_fitted: ClassVar[bool]
    fitted: ClassVar[type[Fitted] | None] = None
    differs: ClassVar[str] = "only its confidence differs"
    accepts: ClassVar[Kind] = Kind()

    @property
    def name(self) -> str:
        """What stands behind `MODEL+`, also in the names of folders."""
        return self.kind

    @property
    def title(self) -> str:
        """What reports add to the title of the model."""
        raise NotImplementedError

    def phrase(self, images: int, batch_size: int) -> str:
        """The title with what a result depends on besides, given images and those in a batch."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """How the record of a run writes it; `read_variant` reads it back.

        Parameters at their defaults are left out, so that the text of a kind stays the same where
        it gets a new parameter.
        """
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        given = {name: value for name, (value, default) in values.items() if value != default}
        written = json.dumps(given, default=lambda of: of.text)
        return f"{self.kind}: {written}" if given else self.kind

    @property
    def adapting(self) -> Adapting | None:
        """What changes the network; None where it is that of the model.

        Attacks are made for the model, so that their images are not for what is adapted.
        """
        return None

    @property
    def post_hoc(self) -> PostHoc | None:
        """What changes the predictions of the network; None where they are its own."""
        return None

    @property
    def uses_fit_on(self) -> bool:
        """Whether it is fitted on the images that `fit_on` lists, not on clean ones alone."""
        return False

    def with_fit_on(self) -> Sequence[Variant]:
        """The variant, and the one that is fitted on what `fit_on` lists instead, if it has one."""
        return [self]

    def file(self, model: str, seed: int | str) -> str | None:
        """The file of a run with what is fitted for a model; None if nothing is."""
        return None

    @property
    def sets(self) -> Conformal | None:
        """What makes prediction sets; None where there are none."""
        return None

    def check_network(self, network: nn.Module) -> None:
        """Raise `InputError` for a network that the variant cannot be of."""

    def check_images(
        self,
        keys: npt.NDArray[np.int64],
        labels: npt.NDArray[np.integer],
        classes: Sequence[str],
        clusters: Clusters | None,
    ) -> None:
        """Raise `InputError` for validation images, all clean, that it cannot be fitted on."""


@dataclass(frozen=True)
class PostHoc(Variant):
    """It reads the predictions of a model, or of one that is adapted, and changes them.

    What it does is fitted once, on validation images, and stored (`Fitted`). Under attack, the
    images are those of the attack on the model itself.

    Attributes:
        of: what the model is adapted by before.
    """

    is_fitted: ClassVar[bool] = True
    of: Adapting | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if self.of is not None and not isinstance(self.of, Adapting):
            raise InputError(
                f"variants: of of {self.kind} must be a variant that adapts the network, such as "
                f"batchnorm, found {getattr(self.of, 'text', self.of)}"
            )

    @property
    def name(self) -> str:
        return self.own_name if self.of is None else f"{self.of.name}+{self.own_name}"

    @property
    def own_name(self) -> str:
        """Its name without that of what it is fitted on."""
        return self.kind

    def phrase(self, images: int, batch_size: int) -> str:
        before = [] if self.of is None else [self.of.phrase(images, batch_size)]
        return " + ".join([*before, self.title])

    @property
    def adapting(self) -> Adapting | None:
        return self.of

    @property
    def post_hoc(self) -> PostHoc:
        return self

    def fit(self, predictions: AnyPredictions, clusters: Clusters | None) -> Fitted:
        """Fit it on validation images.

        Args:
            predictions: of these images, with logits for any number of classes.
            clusters: which images belong together, if that is known.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Adapting(Variant):
    """It changes a copy of the network by the test images that this sees, without labels.

    The copy sees the images of a cell in an order that is shuffled once, by a fixed seed: a data
    set that is sorted by class would give batches of one class. Batches are of nearly equal size.
    They are never halved where memory runs out, since smaller ones would give other results. What
    is predicted for an image depends on others, so that attacks, which treat each alone, are not
    for it. Each cell begins with a new copy, and one process predicts it whole.
    """

    is_fitted: ClassVar[bool] = False

    def adapt(self, network: nn.Module) -> nn.Module:
        """Copy a network, so that the copy adapts to the batches that it predicts.

        Args:
            network: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.

        Returns:
            The same. It is called in evaluation mode and without gradients, with one batch after
            the other.

        Raises:
            InputError: the network has nothing to adapt.
        """
        raise NotImplementedError

    def phrase(self, images: int, batch_size: int) -> str:
        return f"{self.title} ({even_batches(images, batch_size)} images)"

    @property
    def adapting(self) -> Adapting:
        return self

    def check_network(self, network: nn.Module) -> None:
        self.adapt(network)


def even_batches(images: int, batch_size: int) -> int:
    """Return a batch size, at most the given one, without a small batch at the end.

    >>> even_batches(1000, 256)
    250
    """
    return math.ceil(images / math.ceil(images / batch_size))
