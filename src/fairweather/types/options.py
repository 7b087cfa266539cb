"""The options of data and of models, declared once with their help and limits.

Python's signatures, the command line, studies, plans and records have these names and defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeVar

from fairweather.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
Channels = tuple[float, float, float]
SPLITS = ("train", "val", "test")
CROSS = "*"  # between the columns of a slice, and between their values


def option(
    default: Any,  # noqa: ANN401 - of any option
    description: str,
    *,
    flag: str = "",
    least: int | None = None,
    most: int | None = None,
    within: str = "",
    shown: str = "",
    metavar: str | None = None,
) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Describe an option: its default, its help, its name on the command line, and its limits.

    `least` and `most` are for whole numbers; `within` is an interval of shares, such as `[0, 1)`.
    The command line shows `shown` as the default, and `metavar` as the form of a value.
    """
    told = {"help": description, "flag": flag, "least": least, "most": most, "within": within}
    told |= {"shown": shown, "metavar": metavar}
    return field(default=default, metadata=told)


def shared_option(kind: type, name: str, **changed: object) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare an option as another type has it; what is named here is different."""
    found = next(each for each in fields(kind) if each.name == name)
    told = {"default": found.default, "description": found.metadata["help"], **found.metadata}
    del told["help"]
    return option(**{**told, **changed})


def takes(kind: type) -> Callable[[F], F]:
    """Name the options of a type in the signature of a function, in place of its `**options`."""

    def naming(function: F) -> F:
        own = inspect.signature(function)
        given = [each for each in own.parameters.values() if each.kind != each.VAR_KEYWORD]
        named = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=each.default,
                annotation=each.type,
            )
            for each in fields(kind)
        ]
        signature = own.replace(parameters=[*given, *named])
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return naming


def option_flag(name: str, told: Any) -> str:  # noqa: ANN401 - the metadata of a field
    """How an option is written on the command line."""
    return str(told["flag"] or f"--{name.replace('_', '-')}")


def check_limits(options: Any) -> None:  # noqa: ANN401 - a dataclass of options
    """Raise `InputError` for the first option that is outside its limits.

    >>> check_limits(DataOptions(imbalance=0.0))
    Traceback (most recent call last):
    fairweather.errors.InputError: imbalance must be in (0, 1], found 0.0
    """
    for each in fields(options):
        value, told = getattr(options, each.name), each.metadata
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if told.get("least") is not None and value < told["least"]:
            raise InputError(f"{each.name} must be at least {told['least']}, found {value}")
        if told.get("most") is not None and value > told["most"]:
            raise InputError(f"{each.name} must be at most {told['most']}, found {value}")
        if (within := told.get("within")) and not _contains(within, value):
            raise InputError(f"{each.name} must be in {within}, found {value}")


def _contains(interval: str, value: float) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


# ---------------------------------------------------------------- data


class GroupColumns(NamedTuple):
    """Which columns of a table say what belongs together; see `fairweather.load_data`.

    Attributes:
        metadata: the path of the table: a CSV or parquet file with one row for each image; None for
            the columns of the data set itself, if it is `parquet:PATH`.
        cluster: the column that says which images belong together, such as `patient`.
        slices: columns whose values are subgroups, such as `site`; crossed ones as `site*sex`.
        allow_shared: allow images of one cluster in several splits.
        natural: the name of a set of other images of the same classes, if the columns are about it:
            then only rows with `natural/NAME` in the column `split` count, which otherwise do not.

    >>> GroupColumns("patients.csv", cluster="patient", slices=("site", "site*sex")).columns
    ['patient', 'site', 'sex']
    """

    metadata: str | None = None
    cluster: str | None = None
    slices: tuple[str, ...] = ()
    allow_shared: bool = False
    natural: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        crossed = [name for each in self.slices for name in split_slice(each)]
        return list(dict.fromkeys([*([self.cluster] if self.cluster else []), *crossed]))


def split_slice(slice_: str) -> list[str]:
    """The columns of a slice: one, or several that are crossed.

    >>> split_slice("site * sex")
    ['site', 'sex']
    """
    return [name.strip() for name in slice_.split(CROSS)]


def slice_name(slice_: str) -> str:
    """Write a slice in one form.

    >>> slice_name("site * sex")
    'site*sex'
    """
    return CROSS.join(split_slice(slice_))


class Preparation(NamedTuple):
    """How images are made square before any shift: they are resized, then cropped at the center.

    Attributes:
        size: height and width of the model's input, in pixels, at least 8.
        resize: length of the shorter side after resizing, in pixels; None means `size`.
        interpolation: the resizing filter, with Pillow's antialiasing.
        fit: `crop` keeps the aspect ratio; `squash` resizes both sides to `resize`.

    >>> Preparation(224, resize=256)
    Preparation(size=224, resize=256, interpolation='bilinear', fit='crop')
    """

    size: int
    resize: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fit: Literal["crop", "squash"] = "crop"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is loaded, as a study's `data` says it too; see `fairweather.load_data`."""

    size: int | None = option(None, "Resize and crop the images to this many pixels.")
    root: str | None = option(
        None, "The folder with the files of the data set.", flag="--data-root"
    )
    seed: int = option(0, "Random seed of the splits, the limit, and what is done to labels.")
    validation_fraction: float = option(
        0.1,
        "Share of the images that becomes the validation split, if the data have none.",
        within="[0, 1]",
    )
    test_fraction: float = option(
        0.2, "Share of the images of a set without splits that is tested.", within="(0, 1]"
    )
    skip_unreadable: bool = option(False, "Leave out damaged files, and say how many and which.")
    label_noise: float = option(
        0.0, "Probability that a training image gets a random label.", within="[0, 1]"
    )
    imbalance: float = option(
        1.0, "Share of its training images that the last class keeps.", within="(0, 1]"
    )
    verify: bool = option(True, "The files of a named set must have the published checksums.")
    allow_duplicates: bool = option(
        False, "Use images that have the same pixels in two splits, and say how many."
    )
    scale: str | None = option(
        None,
        "Which gray values become black and white: LOW..HIGH, or percentile:LOW..HIGH of each "
        "image.",
    )


@dataclass(frozen=True, kw_only=True)
class LoadOptions(DataOptions):
    """All options of `fairweather.load_data` besides the source."""

    preparation: Preparation | None = option(None, "How images become squares, instead of a size.")
    limit: int | None = option(None, "Use a stratified subset of this many test images.", least=1)
    parts: tuple[str, ...] = option(SPLITS, "The splits to load.")
    groups: GroupColumns | None = option(
        None, "Which columns of a table say what belongs together."
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are loaded that a model of a finished run is asked about."""

    limit: int | None = shared_option(LoadOptions, "limit", description="At most this many images.")
    root: str | None = shared_option(DataOptions, "root")
    skip_unreadable: bool = shared_option(DataOptions, "skip_unreadable")
    scale: str | None = shared_option(DataOptions, "scale", shown="as for the run")


# ---------------------------------------------------------------- models


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is opened; its row of `models.opening.SOURCES` says which a source takes."""

    architecture: str | None = option(
        None, "The architecture of a checkpoint: timm:NAME or torchvision:NAME."
    )
    weights: str | None = option(
        None, "Weights of a model by name: imagenet (default), none, lite0, a file or an address."
    )
    mean: Channels | None = option(
        None, "Mean of the normalisation as R,G,B, for images in [0, 1]; needs std."
    )
    std: Channels | None = option(
        None, "Standard deviation of the normalisation as R,G,B; needs mean."
    )
    input_size: int | None = option(
        None, "Resize images to this many pixels inside the model, after the shifts."
    )
    outputs: str = option(
        "auto",
        "What an onnx: or python: model gives: logits, or probabilities, whose logarithm is "
        "taken; auto finds out from the first images. Likewise what predictions: are; logarithms "
        "of probabilities are logits.",
    )
