"""The variants of a model: their two kinds, and how each is written and read.

A variant is a model plus something that is fitted or changed when it is tested. It has its own
predictions but no checkpoint, and its name is `MODEL+VARIANT`. `PostHoc` variants change stored
predictions, `Adapting` ones the network. Its class answers everything that other parts ask about a
variant; no other part knows variants by name or type.
"""

from __future__ import annotations

import json
import math
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import parse_yaml
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind

if TYPE_CHECKING:
    # `--help` should not wait for these
    from collections.abc import Collection, Sequence

    import torch
    from torch import nn

    from fairweather.metrics.columns import IntArray, LabelArray
    from fairweather.metrics.grouping import Grouping
    from fairweather.types.measurement import AnyPredictions
    from fairweather.variants.adaptation.networks import AdaptedNetwork, Tensors
    from fairweather.variants.fitted import FittedParameters


EVERY_KIND = (CLASSES, FINDINGS)
# The suffix of names of variants that are fitted on the images that `fit_on` lists.
FIT_ON = "-fit_on"
FITTED_UNDER_SHIFTS = "fitted under shifts"
SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Variant:
    """A variant; each kind is a class with its parameters as fields, which it checks."""

    kind: ClassVar[str]
    """How studies and the command line call it."""

    kind_title: ClassVar[str]
    """The title of the kind."""

    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {}
    """The type of what is fitted and stored in a file, for each kind of predictions; empty if
    nothing is."""

    makes_sets: ClassVar[bool] = False
    """Whether its predictions have prediction sets."""

    difference: ClassVar[str] = "only its confidence differs"
    """The words of reports if it gives the same answers as its model."""

    @property
    def name(self) -> str:
        """What follows `MODEL+`, also in the names of folders."""
        return self.kind

    @property
    def title(self) -> str:
        """What reports add to the title of the model."""
        return self.kind_title

    @property
    def needs_order(self) -> bool:
        """Whether it is for classes in an order, such as grades."""
        return False

    @property
    def accepts(self) -> Collection[TaskKind]:
        """The kinds of predictions that it changes."""
        return self.fitted_types or EVERY_KIND

    def phrase(self, images: int, batch_size: int, kind: TaskKind = CLASSES) -> str:
        """The title, with further facts that results depend on, such as the size of batches.

        Args:
            images: the number of test images.
            batch_size: how many are predicted at once.
            kind: what the predictions are of.
        """
        raise NotImplementedError

    @property
    def changed(self) -> Mapping[str, Any]:
        """The parameters that are not at their defaults, by name."""
        values = ((p.name, getattr(self, p.name), p.default) for p in fields(self))
        return {name: value for name, value, default in values if value != default}

    @property
    def text(self) -> str:
        """The written form, as in the record of a run; `read_variant` reads it back.

        Parameters at their defaults are left out, so that the text stays the same if the kind gets
        a new parameter.
        """
        return self._write(self.changed) if self.changed else self.kind

    def _write(self, parameters: Mapping[str, Any]) -> str:
        return f"{self.kind}: {json.dumps(parameters, default=lambda variant: variant.text)}"

    @property
    def adapting(self) -> Adapting | None:
        """The part that changes the network; None if the network is the model's own.

        Attacks search with the model's own network, so that a network that adapts is not attacked.
        """
        return None

    @property
    def post_hoc(self) -> PostHoc | None:
        """The part that changes the predictions of the network; None if they stay as they are."""
        return None

    @property
    def cell_order(self) -> str:
        """The order in which its network sees cells, one of `CELL_ORDERS`."""
        return EPISODIC if self.adapting is None else self.adapting.cells

    @property
    def uses_fit_on(self) -> bool:
        """Whether it is fitted on the images that `fit_on` lists, not on clean ones alone."""
        return False

    def with_fit_on(self) -> Sequence[Variant]:
        """The variant, and if it has one, its counterpart that is fitted on what `fit_on` lists."""
        return [self]

    def file(self, model: str, seed: int | str) -> str | None:
        """The file of a run that stores what is fitted for a model; None if nothing is fitted."""
        return None

    def check_network(self, network: nn.Module, images: torch.Tensor) -> None:
        """Raise `InputError` for a network that the variant does not work with.

        Args:
            network: float images in [0, 1] to logits.
            images: one of them, `[1, 3, H, W]`.
        """

    def check_images(
        self, keys: IntArray, labels: LabelArray, classes: Sequence[str], grouping: Grouping | None
    ) -> None:
        """Raise `InputError` for validation images, all clean, that it cannot be fitted on."""


@dataclass(frozen=True)
class PostHoc(Variant):
    """A variant that changes stored predictions, of the model or of an adapted copy of it.

    Its parameters are fitted once, on validation images, and stored as `FittedParameters`. Under
    attack, the images are those of the attack on the model itself.
    """

    of: Adapting | None = field(default=None, kw_only=True)
    """The variant whose predictions it changes; None for those of the model."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if self.of is not None and not isinstance(self.of, Adapting):
            raise InputError(
                f"variants: `of` in {self.kind} must be a variant that adapts the network, such as "
                f"batchnorm, found {getattr(self.of, 'text', self.of)}"
            )

    @property
    def name(self) -> str:
        return self.own_name if self.of is None else f"{self.of.name}+{self.own_name}"

    @property
    def own_name(self) -> str:
        """Its name without that of the variant in `of`."""
        return self.kind

    def phrase(self, images: int, batch_size: int, kind: TaskKind = CLASSES) -> str:
        before = [] if self.of is None else [self.of.phrase(images, batch_size)]
        return " + ".join([*before, self.title_of(kind)])

    def title_of(self, kind: TaskKind) -> str:
        """The title for predictions of this kind."""
        return self.title

    @property
    def adapting(self) -> Adapting | None:
        return self.of

    @property
    def post_hoc(self) -> PostHoc:
        return self

    def fit(self, predictions: AnyPredictions, grouping: Grouping | None) -> FittedParameters:
        """Fit the parameters on validation images.

        Args:
            predictions: of the validation images, with logits for any number of classes.
            grouping: which images belong together, if that is known.
        """
        raise NotImplementedError


# The order of cells: each with a new copy, one copy along all shifts, one along the levels of a
# shift, or one that sees the images of all cells in a single order.
EPISODIC, CONTINUAL, GRADUAL, MIXED = "episodic", "continual", "gradual", "mixed"
CELL_ORDERS = (EPISODIC, CONTINUAL, GRADUAL, MIXED)
# Of the numbers that shape an order of classes: far beyond it, sums lose the small weights, and
# overflow in the end.
MOST_WEIGHT = 1e9


def check_choice(kind: str, name: str, value: object, allowed: Collection[str]) -> None:
    """Raise `InputError` unless a parameter of a kind is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:  # a list has no hash
        raise unknown_name(f"{name} of {kind}", str(value), allowed)


def check_number(
    kind: str,
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise `InputError` unless a parameter of a kind is a number in its range.

    >>> check_number("tent", "steps", 0, least=1, whole=True)
    Traceback (most recent call last):
    fairweather.errors.InputError: steps of tent must be a whole number >= 1, found 0
    """
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    in_range = is_number and least <= value <= most and value > above  # type: ignore[operator]
    if in_range and abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        return
    limits = {">=": least, ">": above, "<=": most}
    texts = [f"{sign} {limit:g}" for sign, limit in limits.items() if math.isfinite(limit)]
    number = "a whole number" if whole else "a number"
    raise InputError(f"{name} of {kind} must be {number} {' and '.join(texts)}, found {value!r}")


@dataclass(frozen=True)
class Adapting(Variant):
    """A variant that changes a copy of the network while it predicts test images, without labels.

    The fields of the protocol say which images a copy sees, and in which order. The prediction for
    an image depends on the images before it and beside it. So one process predicts a whole cell.
    Batches are of nearly equal size. They are not halved if memory runs out, since smaller ones
    would give other results. An attack treats each image alone, so adapting networks are not
    attacked.
    """

    batch_size: int | None = field(default=64, kw_only=True)
    """The maximum of images in a batch; None for the batch size of the evaluation."""

    order: str = field(default=SHUFFLED, kw_only=True)
    """The order of the images, one of `streams.IMAGE_ORDERS`."""

    concentration: float = field(default=0.1, kw_only=True)
    """The parameter of the Dirichlet distribution of `order: dirichlet`; small ones keep the images
    of a class together."""

    imbalance: float = field(default=100.0, kw_only=True)
    """How much likelier one class is than each other one, for a time, with `order: imbalanced`."""

    orders: int = field(default=5, kw_only=True)
    """The number of streams; each has every image once."""

    order_seed: int = field(default=0, kw_only=True)
    """The seed of the orders of images."""

    cells: str = field(default=EPISODIC, kw_only=True)
    """`episodic`: each cell begins with a new copy. `continual`: one copy sees all shifts, in their
    order. `gradual`: one copy sees the levels of a shift, and the next shift begins with a new one.
    Both then see the test images as they are once more. `mixed`: a stream is the images of all
    cells in one order; after a kill, it begins again."""

    takes_steps: ClassVar[bool] = False
    """Whether it steps along gradients."""

    passes: ClassVar[float] = 1
    """About how often an image goes through the network in a step, to estimate the duration."""

    copies: ClassVar[int] = 1
    """How many times its weights are in memory, besides those of the network itself."""

    version: ClassVar[int] = 1
    """Raise it when the method gives other answers or counts for the same images."""

    alone: ClassVar[bool] = False
    """Whether it predicts each image by itself, so that nothing of the network need change."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        from fairweather.variants.streams import IMAGE_ORDERS

        if self.batch_size is not None:
            check_number(self.kind, "batch_size", self.batch_size, least=1, whole=True)
        check_choice(self.kind, "order", self.order, IMAGE_ORDERS)
        check_choice(self.kind, "cells", self.cells, CELL_ORDERS)
        check_number(self.kind, "concentration", self.concentration, above=0, most=MOST_WEIGHT)
        check_number(self.kind, "imbalance", self.imbalance, least=1, most=MOST_WEIGHT)
        for name, order in (("concentration", "dirichlet"), ("imbalance", "imbalanced")):
            self.check_effect(name, self.order == order, f"it goes with order: {order}")
        for name in ("order", "orders", "order_seed"):
            self.check_effect(name, not self.alone, "each image is predicted by itself")
        check_number(self.kind, "orders", self.orders, least=1, whole=True)
        check_number(self.kind, "order_seed", self.order_seed, least=0, whole=True)

    def check_effect(self, name: str, has_effect: bool, reason: str) -> None:
        """Raise `InputError` if a parameter that has no effect is not at its default."""
        if not has_effect and name in self.changed:
            raise InputError(f"{name} of {self.kind} has no effect: {reason}")

    @property
    def accepts(self) -> Collection[TaskKind]:
        return (CLASSES,)

    @property
    def name(self) -> str:
        texts = [_write_value(name, value) for name, value in self.changed.items()]
        return "-".join([self.kind, *texts])

    @property
    def own_title(self) -> str:
        """The title of the method, without its protocol."""
        return self.kind_title

    @property
    def untitled(self) -> Collection[str]:
        """The changed fields that its title need not say: `own_title` or `phrase` does."""
        return ("batch_size",)

    @property
    def title(self) -> str:
        """The method, and all of its protocol that is not at its defaults, but the batch size."""
        texts = [
            _write_value(f"{name} ", value).replace("_", " ")
            for name, value in self.changed.items()
            if name not in self.untitled
        ]
        return ", ".join([self.own_title, *texts])

    @property
    def full_text(self) -> str:
        """The written form with all parameters, also those at their defaults.

        >>> tent = read_variant("tent")
        >>> '"optimiser": "adam", "learning_rate": 0.001' in tent.full_text
        True
        >>> read_variant(tent.full_text) == tent
        True
        """
        return self._write({p.name: getattr(self, p.name) for p in fields(self)})

    @property
    def work(self) -> float:
        """About how often an image goes through the network in a stream."""
        return self.passes

    @property
    def source_images(self) -> int:
        """How many clean validation images the method learns from at most, before it adapts."""
        return 0

    @property
    def remembers(self) -> bool:
        """Whether earlier batches change later answers."""
        return True

    def remark(self, images: int, batch_size: int) -> str:
        """What must be known of streams of so many images; "" for nothing."""
        return ""

    def fewest(self, network: nn.Module) -> int:
        """The smallest batch that the method works with: two images with batch norm, else one."""
        from fairweather.variants.adaptation.networks import has_batch_norm

        return 2 if has_batch_norm(network) else 1

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        """What it changes of a network, such as which layers; "" if the method does not say.

        Args:
            network: as in `adapt`, in evaluation mode.
            images: one of its images, `[1, 3, H, W]`, to try it on.
        """
        return ""

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        """Copy a network, so that the copy adapts to the batches that it predicts.

        Args:
            network: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
            seed: of random numbers, if the method draws any.

        Returns:
            A module with the same inputs and outputs. It is called in evaluation mode, with one
            batch after the other.

        Raises:
            InputError: the network has nothing to adapt.
        """
        from fairweather.variants.adaptation.networks import AdaptedNetwork, copy_network

        return AdaptedNetwork(copy_network(network), self.predict)

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch, and adapt to it."""
        raise NotImplementedError

    def learn(self, adapted: AdaptedNetwork, batches: Iterable[torch.Tensor]) -> Tensors:
        """Learn from `source_images` what all copies remember, with a copy that is not used again.

        Args:
            adapted: a new copy, in evaluation mode.
            batches: float images `[B, 3, H, W]` in [0, 1].
        """
        return {}

    def once(self) -> Self:
        """The same method with a single stream and a new copy for each cell.

        Images that thresholds are fitted on, and other data sets, are predicted so.
        """
        return replace(self, orders=1, cells=EPISODIC)

    def draw_streams(self, labels: LabelArray, seed: int = 0) -> list[IntArray]:
        """Draw the places of the images of each stream, in the order in which they are seen.

        Args:
            labels: of all images.
            seed: of the model. Orders of their own keep seeds independent, as intervals over seeds
                take them.
        """
        from fairweather.variants.streams import draw_stream

        how = {"concentration": self.concentration, "imbalance": self.imbalance}
        seeds = [(self.order_seed, number, seed) for number in range(self.orders)]
        return [draw_stream(labels, self.order, own, **how) for own in seeds]

    def count_batches(self, images: int, batch_size: int, network: nn.Module) -> int:
        """The number of batches of a stream, given the batch size of the evaluation.

        Raises `InputError` if a batch would be too small for the method.
        """
        batches = math.ceil(images / (self.batch_size or batch_size))
        if images // batches < (fewest := self.fewest(network)):
            raise InputError(
                f"{self.kind} needs at least {fewest} images in a batch, found "
                f"{images // batches}: choose a larger batch_size, or give more images"
            )
        return batches

    def phrase(self, images: int, batch_size: int, kind: TaskKind = CLASSES) -> str:
        most = self.batch_size or batch_size
        if self.cells == MIXED:  # how many cells there are is not known here
            return f"{self.title} (batches of at most {most})"
        return f"{self.title} (batches of {even_batches(images, most)})"

    @property
    def adapting(self) -> Adapting:
        return self

    def check_network(self, network: nn.Module, images: torch.Tensor) -> None:
        import torch

        adapted, batch = self.adapt(network).eval(), images.repeat(self.fewest(network), 1, 1, 1)
        if self.source_images:
            adapted.memory |= self.learn(self.adapt(network).eval(), [batch])
        with torch.no_grad():
            adapted(batch)


def _write_value(name: str, value: object) -> str:
    """Write a changed parameter with all of its digits; words need no name.

    >>> _write_value("order_seed", 1234567), _write_value("batch_size", None)
    ('order_seed1234567', 'batch_sizenull')
    """
    if isinstance(value, str):
        return value
    return f"{name}{json.dumps(value).removesuffix('.0')}"  # NumPy's numbers too


def even_batches(images: int, batch_size: int) -> int:
    """Return a batch size, at most the given one, without a small batch at the end.

    >>> even_batches(1000, 256)
    250
    """
    return math.ceil(images / math.ceil(images / batch_size))


# --- Thresholds that are fitted under shifts ---


@dataclass(frozen=True)
class Thresholds(PostHoc):
    """The model as it is, but thresholds of deferral and ATC are fitted on what `fit_on` lists.

    The step that scores fits them, so that no file stores them. Predictions stay the same.
    """

    kind: ClassVar[str] = f"thresholds{FIT_ON}"
    kind_title: ClassVar[str] = f"thresholds {FITTED_UNDER_SHIFTS}"
    difference: ClassVar[str] = "only the threshold of its confidence differs"

    @property
    def uses_fit_on(self) -> bool:
        return True


# --- How variants are written and read ---

FORM = "KIND, or KIND: {PARAMETER: VALUE}"
# The class of each kind, imported on demand: most need SciPy, which `--help` should not load.
VARIANTS = {
    "temperature": "fairweather.variants.scaling:Temperature",
    "batchnorm": "fairweather.variants.batchnorm:BatchNorm",
    "vector_scaling": "fairweather.variants.scaling:VectorScaling",
    "isotonic": "fairweather.variants.curves:Isotonic",
    "top_versus_all": "fairweather.variants.curves:TopVersusAll",
    "tent": "fairweather.variants.adaptation.tent:Tent",
    "eata": "fairweather.variants.adaptation.eata:Eata",
    "sar": "fairweather.variants.adaptation.sar:Sar",
    "cotta": "fairweather.variants.adaptation.cotta:Cotta",
    "lame": "fairweather.variants.adaptation.lame:Lame",
    "t3a": "fairweather.variants.adaptation.t3a:T3a",
    "views": "fairweather.variants.adaptation.views:AveragedViews",
    "thresholds-fit_on": "fairweather.variants.variant:Thresholds",
    "conformal": "fairweather.variants.prediction_sets:Conformal",
    "risk_control": "fairweather.variants.risk_control:RiskControl",
}


def variant_class(kind: str) -> type[Variant]:
    """The class of a kind of variant.

    >>> variant_class("temperature")().title
    'temperature scaling'
    """
    variant: type[Variant] = pkgutil.resolve_name(VARIANTS[kind])
    return variant


def read_variant(written: object) -> Variant:
    """Make a variant of its written form.

    Args:
        written: a kind such as `temperature`; a kind with its parameters, as a mapping or as text
            (`conformal: {method: aps, coverage: 0.95}`); or a `Variant`. Kinds that are fitted on
            predictions take the parameter `of`, a variant that adapts the network (`temperature:
            {of: batchnorm}`).

    Raises:
        InputError: the kind or a parameter is unknown, or a value is not allowed.

    >>> read_variant("conformal: {method: raps, coverage: 0.8}").title
    'RAPS sets for 80 %'
    >>> read_variant("temperature: {of: batchnorm}").name
    'batchnorm+temperature'
    """
    if isinstance(written, Variant):
        return written
    if isinstance(written, str) and ":" in written:
        written = parse_yaml(written, f"variants: {written!r}")
    if isinstance(written, str):
        written = {written: {}}
    if not isinstance(written, Mapping) or len(written) != 1:
        raise InputError(f"variants: each must be {FORM}, found {written!r}")
    ((kind, parameters),) = written.items()
    if kind not in VARIANTS:
        raise unknown_name("variant", str(kind), VARIANTS)
    if not isinstance(parameters, Mapping):
        raise InputError(f"variants: each must be {FORM}, found {written!r}")
    variant = variant_class(kind)
    names = sorted(parameter.name for parameter in fields(variant))
    for name in parameters:
        if name not in names:
            raise unknown_name(f"parameter of {kind}", str(name), names)
    adapting = {"of": read_variant(parameters["of"])} if "of" in parameters else {}
    return variant(**{**parameters, **adapting})


def read_variants(written: Iterable[object]) -> tuple[Variant, ...]:
    """Make variants of their written forms; see `read_variant`.

    Raises:
        InputError: as `read_variant`, and if one is listed twice.

    >>> [v.name for v in read_variants(["temperature", {"conformal": {"method": "aps"}}])]
    ['temperature', 'conformal-aps-0.9']
    """
    variants = tuple(map(read_variant, written))
    _check_names(variants, "is listed twice")
    return variants


def _check_names(variants: Iterable[Variant], problem: str) -> None:
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"variants: {name} {problem}")


def complete_variants(written: Iterable[object], *, fit_on: bool) -> tuple[Variant, ...]:
    """Make variants of their written forms, and add those that they need or that `fit_on` adds.

    A variant with `of` comes after the variant that it names. A variant that is fitted on the
    images that `fit_on` lists comes after its counterpart that is fitted on clean ones.

    Args:
        written: as in `read_variants`.
        fit_on: whether the study or the command has a list `fit_on`.

    Raises:
        InputError: as `read_variants`, and if a variant needs `fit_on` and there is none.

    >>> [v.name for v in complete_variants(["temperature"], fit_on=True)]
    ['temperature', 'temperature-fit_on', 'thresholds-fit_on']
    >>> [v.name for v in complete_variants(["temperature: {of: batchnorm}"], fit_on=False)]
    ['batchnorm', 'batchnorm+temperature']
    """
    variants: list[Variant] = []
    for variant in read_variants(written):
        if variant.uses_fit_on and not fit_on:
            raise InputError(
                f"variants: {variant.name} is fitted on the images that fit_on lists, and there is "
                "no fit_on"
            )
        if variant.adapting is not None:
            variants.append(variant.adapting)
        variants += variant.with_fit_on() if fit_on else [variant]
    if fit_on:
        variants.append(Thresholds())
    unique = tuple(dict.fromkeys(variants))
    _check_names(unique, "is asked for with different parameters")
    return unique


def find_variant(name: str, variants: Iterable[Variant]) -> Variant | None:
    """The variant whose name follows `MODEL+`; None for a model itself.

    >>> listed = read_variants(["temperature", "temperature: {of: batchnorm}"])
    >>> find_variant("basic+batchnorm+temperature", listed).text
    'temperature: {"of": "batchnorm"}'
    """
    fitting = (variant for variant in variants if name.endswith(f"+{variant.name}"))
    return max(fitting, key=lambda variant: len(variant.name), default=None)


def write_adapting(variants: Iterable[Variant]) -> tuple[str, ...]:
    """Write each variant that adapts with all of its parameters, also what others have as `of`.

    >>> write_adapting(read_variants(["temperature"]))
    ()
    """
    adapting = (variant.adapting for variant in variants)
    return tuple(dict.fromkeys(variant.full_text for variant in adapting if variant is not None))


def keeps_network(added: str) -> bool:
    """Say whether a variant has the model's own network, given what follows `MODEL+` in its name.

    An attack on the model is then an attack on the variant.

    >>> [keeps_network(name) for name in ("isotonic-fit_on", "batchnorm", "interpolated-0.5")]
    [True, False, False]
    """
    kinds = [kind for kind in VARIANTS if added == kind or added.startswith(f"{kind}-")]
    return bool(kinds) and issubclass(variant_class(kinds[0]), PostHoc)
