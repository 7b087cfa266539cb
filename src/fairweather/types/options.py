"""The options of data and of models, declared once with their help and limits.

Python's signatures, the command line, studies, plans and records have these names and defaults.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NewType, TypeVar, get_type_hints

from fairweather.errors import InputError, check_text, show_value, unknown_name

if TYPE_CHECKING:
    import pydantic
    from _typeshed import DataclassInstance
    from pydantic_core import ErrorDetails

Options = TypeVar("Options", bound="DataclassInstance")
F = TypeVar("F", bound=Callable[..., Any])
Channels = tuple[float, float, float]
WrittenNumber = NewType("WrittenNumber", float)  # may be given as a text, such as 5%
WrittenShare = float | str  # of functions, whose types are not options
# Such as variants: each a name, or a name with its parameters.
Named = tuple[str | Mapping[str, object], ...]
SPLITS = ("train", "val", "test")
CROSS = "*"  # between the columns of a slice, and between their values
MISSING = "missing"  # the slice of images whose row has no value
BELOW = "below "  # of numbers under the first point where a column is cut
_POINT = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_CUT = re.compile(rf"\s*(?P<name>\S|\S.*\S)\s*:\s*(?P<points>{_POINT}(?:\s*,\s*{_POINT})*)\s*")


def option(
    default: Any,  # noqa: ANN401 - of any option
    description: str,
    *,
    flag: str = "",
    least: int | None = None,
    most: int | None = None,
    within: str = "",
    shown: str = "",
    factory: Callable[[], object] | None = None,
) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Describe an option: its default, its help, its name on the command line, and its limits.

    `least` and `most` are for whole numbers; `within` is an interval of shares, such as `[0, 1)`.
    The command line shows `shown` as the default. A default that can change, such as a list, is
    made by `factory`.
    """
    metadata = {"description": description, "flag": flag, "shown": shown}
    limits = {"least": least, "most": most, "within": within}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata | limits)
    return field(default=default, metadata=metadata | limits)


def shared_option(kind: type, name: str, **changed: object) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare an option as in another type, with some changes."""
    declared = next(declaration for declaration in fields(kind) if declaration.name == name)
    return option(**{"default": declared.default, **declared.metadata, **changed})


def takes(kind: type) -> Callable[[F], F]:
    """Name the options of a type in the signature of a function, in place of its `**options`.

    A call with another name raises `InputError`, which has the closest one.
    """

    def naming(function: F) -> F:
        declared = inspect.signature(function)
        *given, _ = declared.parameters.values()  # the last is `**options`
        named = inspect.signature(kind).parameters.values()
        signature = declared.replace(parameters=[*given, *named])

        @wraps(function)
        def checking(*values: object, **options: object) -> object:
            for name in options:
                if name not in signature.parameters:
                    raise unknown_name("option", name, signature.parameters)
            return function(*values, **options)

        checking.__signature__ = signature  # type: ignore[attr-defined]
        return checking  # type: ignore[return-value]

    return naming


def option_flag(name: str, metadata: Any) -> str:  # noqa: ANN401 - the metadata of a field
    """How an option is written on the command line."""
    return str(metadata["flag"] or f"--{name.replace('_', '-')}")


def read_options(kind: type[Options], values: Mapping[str, object]) -> Options:
    """Check options by name; raises `InputError` with one sentence for the first wrong one.

    One text, or one name with its parameters, for an option that takes several stands for itself.

    >>> read_options(DataOptions, {"size": "32"}).size
    32
    """
    import pydantic  # not needed for the help of the command line

    known, given = get_type_hints(kind), dict(values)
    for name, value in values.items():
        if name not in known:
            raise unknown_name("option", name, list(known))
        if known[name] == Path | None and hasattr(value, "to_csv"):
            raise InputError(f"{name} is a path; found {show_value(value)}: save it with to_csv")
        if isinstance(value, str):
            check_text(value, name)
            given[name] = (value,) if known[name] in (tuple[str, ...], Named) else value
        if isinstance(value, os.PathLike) and known[name] == str | None:
            given[name] = os.fspath(value)
        if isinstance(value, GroupColumns) and isinstance(value.metadata, os.PathLike):
            given[name] = value._replace(metadata=os.fspath(value.metadata))
        if isinstance(value, Mapping) and known[name] == Named:
            given[name] = (value,)
    try:
        options: Options = _adapter(kind).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        first["loc"] = first["loc"][:1]  # without the types of a union
        name = str(first["loc"][0])
        if name in ("mean", "std"):
            raise InputError(
                f"{name} needs a tuple of three numbers, one per channel R, G and B (for a gray "
                f"model the same one three times), found "
                f"{show_value(values[name])}"
            ) from None
        if known[name] == Named:
            raise InputError(
                f"{name}: each must be a name, or a mapping of a name to its parameters, found "
                f"{show_value(first['input'])}"
            ) from None
        raise InputError(describe_invalid(first)) from None
    check_limits(options)
    return options


def describe_invalid(error: ErrorDetails) -> str:
    """Say where the value is that pydantic refuses, why, and what it is."""
    place, reason = ".".join(map(str, error["loc"])), error["msg"][:1].lower() + error["msg"][1:]
    value = "" if error["type"] == "missing" else f", found {show_value(error['input'])}"
    return f"{place}: {reason}{value}"


@cache
def _adapter(kind: type) -> pydantic.TypeAdapter[Any]:
    import pydantic

    return pydantic.TypeAdapter(kind)


def parse_share(written: object) -> float | None:
    """Read a share between 0 and 1, as a number or in per cent; None for anything else.

    >>> parse_share("5%"), parse_share(0.05), parse_share(1), parse_share("many")
    (0.05, 0.05, None, None)
    """
    number, percent, rest = str(written).strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        return None
    return share if not rest and 0 < share < 1 else None  # nor NaN


def read_share(written: object, name: str) -> float:
    """Read a share as `parse_share` does; raises `InputError` for anything else.

    >>> read_share("5%", "--risk"), read_share(0.05, "risk")
    (0.05, 0.05)
    """
    share = parse_share(written)
    if share is None:
        raise InputError(f"{name} must be a share such as 5% or 0.05, found {show_value(written)}")
    return share


def check_limits(
    options: Any,  # noqa: ANN401 - a dataclass of options
    written: Mapping[str, object] | None = None,
) -> None:
    """Raise `InputError` for the first option that is outside its limits.

    It says what was `written`, such as 120%, where that is not the number.

    >>> check_limits(DataOptions(imbalance=0.0))
    Traceback (most recent call last):
    fairweather.errors.InputError: imbalance must be in (0, 1], found 0.0
    """
    for declared in fields(options):
        value, metadata = getattr(options, declared.name), declared.metadata
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if metadata.get("least") is not None and value < metadata["least"]:
            raise InputError(f"{declared.name} must be at least {metadata['least']}, found {value}")
        if metadata.get("most") is not None and value > metadata["most"]:
            raise InputError(f"{declared.name} must be at most {metadata['most']}, found {value}")
        if (within := metadata.get("within")) and not _contains(within, value):
            given = (written or {}).get(declared.name, value)
            raise InputError(f"{declared.name} must be {_in_words(within)}, found {given}")


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if high == "inf":
        return f"above {low}" if interval[0] == "(" else f"at least {low}"
    return f"between {low} and {high}" if interval in ("(0, 1)", "[0, 1]") else f"in {interval}"


def _contains(interval: str, value: float) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


# ---------------------------------------------------------------- data


class GroupColumns(NamedTuple):
    """Which columns of a table say what belongs together; see `fairweather.load_data`.

    >>> GroupColumns("patients.csv", group="patient", slices=("site", "site*sex")).columns
    ['patient', 'site', 'sex']
    """

    metadata: str | None = None
    """The path of the table, CSV, parquet or JSON lines, with one row for each image; None for the
    columns of the data set itself, if it has any."""

    group: str | None = None
    """The column that says which images belong together, such as `patient`."""

    slices: tuple[str, ...] = ()
    """Columns whose values are subgroups, such as `site`; crossed ones as `site*sex`. A column of
    numbers is cut as `age:40,65`."""

    allow_shared: bool = False
    """Allow images of one group in several splits."""

    natural: str | None = None
    """The name of a set of other images of the same classes, if the columns are about it. Then only
    rows with `natural/NAME` in the column `split` count; otherwise these rows do not."""

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        crossed = [name for column in self.slices for name in split_slice(column)]
        return list(dict.fromkeys([*([self.group] if self.group else []), *crossed]))

    @property
    def slice_names(self) -> tuple[str, ...]:
        """The slices as in tables: without the points where columns are cut."""
        return tuple(map(slice_name, self.slices))


class SliceColumn(NamedTuple):
    """A column whose values are subgroups; numbers such as ages can be cut into intervals."""

    name: str
    cuts: tuple[float, ...] = ()
    """The points where the next interval begins, each larger than the one before."""

    def __str__(self) -> str:
        cuts = ",".join(f"{cut:.15g}" for cut in self.cuts)
        return f"{self.name}:{cuts}" if cuts else self.name


def parse_slice(slice_: str) -> list[SliceColumn]:
    """The columns of a slice: one, or several that are crossed.

    Raises `InputError` for points of a cut that do not increase.

    >>> list(map(str, parse_slice("site * age: 0, 40, 65")))
    ['site', 'age:0,40,65']
    """
    columns = []
    for written in slice_.split(CROSS):
        cut = _CUT.fullmatch(written)
        if cut is None:
            columns.append(SliceColumn(written.strip()))
            continue
        points = tuple(map(float, cut["points"].split(",")))
        if any(low >= high for low, high in itertools.pairwise(points)):
            raise InputError(
                f"the slice {written.strip()!r} must have points that increase, such as "
                f"{cut['name']}:40,65"
            )
        columns.append(SliceColumn(cut["name"], points))
    return columns


def split_slice(slice_: str) -> list[str]:
    """The names of the columns of a slice.

    >>> split_slice("site * age:40,65")
    ['site', 'age']
    """
    return [column.name for column in parse_slice(slice_)]


def slice_name(slice_: str) -> str:
    """The name of a slice in tables.

    >>> slice_name("site * age:40,65")
    'site*age'
    """
    return CROSS.join(split_slice(slice_))


def normalize_slice(slice_: str) -> str:
    """Write a slice in one form.

    >>> normalize_slice("site * age: 40, 65")
    'site*age:40,65'
    """
    return CROSS.join(map(str, parse_slice(slice_)))


class Aggregation(NamedTuple):
    """What is judged in place of images, and how its images become one decision."""

    unit: str
    """The column of groups, such as `patient`."""

    names: tuple[str, ...] = ("mean",)
    """Names of `metrics.aggregates.AGGREGATES`; of several, one is chosen on validation images."""

    @property
    def plural(self) -> str:
        """What several units are called.

        >>> Aggregation("patient").plural, Aggregation("study").plural
        ('patients', 'studies')
        """
        ends_in_y = self.unit.endswith("y") and self.unit[-2:-1] not in (*"aeiou", "")
        return f"{self.unit[:-1]}ies" if ends_in_y else f"{self.unit}s"

    def count_units(self, number: int) -> str:
        """Write how many there are.

        >>> Aggregation("patient").count_units(1), Aggregation("patient").count_units(1200)
        ('1 patient', '1,200 patients')
        """
        return f"{number:,} {self.unit if number == 1 else self.plural}"


class Preparation(NamedTuple):
    """How images are made square before any shift: they are resized, then cropped at the center.

    >>> Preparation(224, resize=256)
    Preparation(size=224, resize=256, interpolation='bilinear', fit='crop')
    """

    size: int
    """Height and width of the model's input, in pixels, at least 8."""

    resize: int | None = None
    """Length of the shorter side after resizing, in pixels; None means `size`."""

    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """The resizing filter, with Pillow's antialiasing."""

    fit: Literal["crop", "squash"] = "crop"
    """`crop` keeps the aspect ratio; `squash` resizes both sides to `resize`."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is loaded, as in a study's `data`; see `fairweather.load_data`."""

    size: int | None = option(None, "Resize and crop the images to this many pixels.")
    root: str | None = option(None, "Folder with the files of the data set.", flag="--data-root")
    seed: int = option(0, "Random seed of splits, subsets and changed labels.")
    validation_fraction: float = option(
        0.1,
        "Share of images for the validation split, if the data set has no such split.",
        within="[0, 1]",
    )
    test_fraction: float = option(
        0.2, "Share of images to test, if the data set has no splits.", within="(0, 1]"
    )
    skip_unreadable: bool = option(False, "Skip damaged files, and name them.")
    label_noise: float = option(
        0.0, "Probability that a training image gets a random label.", within="[0, 1]"
    )
    imbalance: float = option(
        1.0, "Share of its training images that the last class keeps.", within="(0, 1]"
    )
    verify: bool = option(True, "Check the files of a named set against their published checksums.")
    allow_duplicates: bool = option(False, "Allow identical images in two splits, and count them.")
    scale: str | None = option(
        None,
        "Intensity window of 12- and 16-bit images: LOW..HIGH or percentile:LOW..HIGH.",
    )
    positive: str | tuple[str, ...] = option(
        (),
        "The class that is a finding, such as malignant; A|B or '>=2' for several classes. "
        "Repeatable.",
    )


@dataclass(frozen=True, kw_only=True)
class LoadOptions(DataOptions):
    """All options of `fairweather.load_data` besides the source."""

    preparation: Preparation | None = option(None, "How images become squares, instead of a size.")
    limit: int | None = option(
        None, "Maximum number of test images (a stratified subset).", least=1
    )
    parts: tuple[str, ...] = option(SPLITS, "The splits to load.")
    groups: GroupColumns | None = option(None, "Columns of a table with groups and slices.")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are loaded for a model of a finished run."""

    limit: int | None = shared_option(LoadOptions, "limit", description="Maximum number of images.")
    root: str | None = shared_option(DataOptions, "root")
    skip_unreadable: bool = shared_option(DataOptions, "skip_unreadable")
    scale: str | None = shared_option(DataOptions, "scale", shown="as for the run")


# ---------------------------------------------------------------- models


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is opened; `models.opening.MODEL_SOURCES` says which options a source takes."""

    architecture: str | None = option(None, "Architecture of a checkpoint, such as timm:resnet18.")
    weights: str | None = option(
        None,
        "Weights of a timm: or torchvision: model: imagenet, none, lite0, a file or a URL.",
        shown="imagenet",
    )
    mean: Channels | None = option(
        None, "Mean of the normalisation, for images in [0, 1]; needs std."
    )
    std: Channels | None = option(None, "Standard deviation of the normalisation; needs mean.")
    input_size: int | None = option(
        None, "Resize images to this many pixels after the shifts, inside the model."
    )
    outputs: str = option(
        "auto", "Type of model output: logits, probabilities, or auto (from the first images)."
    )


# ---------------------------------------------------------------- plans


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is known of a test that is planned; see `fairweather.plan_test`."""

    expect: WrittenNumber | None = option(
        None, "True value that you expect; of two models, by how much the new one is better."
    )
    power: WrittenNumber = option(0.8, "Share of studies that show the claim.", within="(0, 1)")
    prevalence: WrittenNumber | None = option(
        None, "Share of the images that are of the class.", within="(0, 1)"
    )
    discordant: WrittenNumber | None = option(
        None, "Share of images that only one of two models gets right.", within="(0, 1)"
    )
    sd: float | None = option(
        None, "Standard deviation over images of a loss, or of its difference.", within="(0, inf)"
    )
    images_per_patient: float | None = option(
        None, "All images of each patient, or other group.", within="[1, inf)"
    )
    icc: float | None = option(
        None, "Correlation between two images of a patient.", within="[0, 1]"
    )
    seeds: int | None = option(None, "Trainings of each of two recipes.", least=1)
    seed_sd: WrittenNumber | None = option(
        None, "Standard deviation between trainings of a recipe.", within="(0, inf)"
    )
    seed_discordant: WrittenNumber | None = option(
        None,
        "Share of images that only one of two trainings of a recipe gets right.",
        within="[0, 1)",
    )
    reference: WrittenNumber | None = option(
        None, "Value of the old of two recipes, where it is near a bound.", within="(0, 1)"
    )
    tests: int = option(1, "Number of tests that share the 5 %, as compare corrects for all.")
    pilot: str | tuple[str, ...] = option(
        (), "Run that the variances come from. Repeatable: two models."
    )
    images: int | None = option(None, "Size of a given test set: what can it show?")
    have: str | None = option(None, "Run whose test set is given: what can it show?")


def order_of_value(value: str) -> list[tuple[bool, list[str | int]]]:
    """A key to sort values of slices with numbers in their order.

    >>> sorted(["40 to 64", "5 to 39", "below 5", "missing"], key=order_of_value)
    ['below 5', '5 to 39', '40 to 64', 'missing']
    """
    return [
        (
            not part.startswith(BELOW),
            [int(piece) if piece.isdecimal() else piece for piece in re.split(r"([0-9]+)", part)],
        )
        for part in value.split(CROSS)
    ]
