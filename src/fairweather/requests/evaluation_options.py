"""The options of an evaluation: one definition for Python, the command line and the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairweather.errors import InputError, check_name
from fairweather.types.options import (
    DataOptions,
    LoadOptions,
    ModelOptions,
    option,
    read_options,
    shared_option,
)
from fairweather.variants.variant import VARIANTS, Variant, complete_variants
from fairweather.workers.options import Sharing


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(ModelOptions):
    """All options of an evaluation besides model, data and shifts.

    The descriptions are the help of the command line. Its options have these names with dashes,
    unless `flag` names another. Where Python takes a mapping, the command line takes a file.
    """

    labels: Mapping[str, object] | Path | None = option(
        None,
        "Label mapping: a YAML, JSON or CSV file with each class of the data and the model's name "
        "for it.",
    )
    label_column: str | None = option(
        None,
        "The column of predictions: with the true labels; without a header its number, from 0.",
    )
    key_column: str | None = option(
        None,
        "The column of predictions: with the keys or file names of the images; without a header "
        "its number, from 0.",
    )
    classes: tuple[str, ...] = option(
        (),
        "The class of each column of predictions:, in order, separated by commas; or a text file "
        "with one class per line.",
    )
    size: int | None = shared_option(
        DataOptions,
        "size",
        description="Resize and crop images to this many pixels, instead of as the model is "
        "configured.",
    )
    root: str | None = shared_option(DataOptions, "root")
    limit: int | None = shared_option(LoadOptions, "limit")
    validation_fraction: float = shared_option(
        DataOptions, "validation_fraction", default=0.0, within="[0, 1)"
    )
    skip_unreadable: bool = shared_option(DataOptions, "skip_unreadable")
    metadata: Path | None = option(
        None,
        "A CSV or parquet file with a row for each image: the column file (or key), and columns "
        "such as patient and site. Without it, the columns are those of parquet:PATH itself.",
    )
    group: str | None = option(
        None,
        "The column of the metadata that says which images belong together, such as patient: "
        "intervals then cover other patients.",
    )
    slices: tuple[str, ...] = option(
        (),
        "A column of the metadata whose values are subgroups that are scored alone, such as site; "
        "crossed ones as site*sex. Repeatable.",
        flag="--slice",
    )
    allow_shared_groups: bool = option(
        False, "Allow images of one group among the validation and the test images."
    )
    allow_duplicates: bool = shared_option(DataOptions, "allow_duplicates")
    scale: str | None = shared_option(
        DataOptions,
        "scale",
        description="Which gray values become black and white: LOW..HIGH, or percentile:LOW..HIGH "
        "of each image. By default that of the run that trained the model.",
    )
    variants: tuple[str | Mapping[str, object], ...] = option(
        (),
        f"Also measure a variant of the model: {', '.join(VARIANTS)}. One with parameters is "
        "written 'KIND: {PARAMETER: VALUE}', such as 'conformal: {method: aps, coverage: 0.9}' or "
        "'temperature: {of: batchnorm}'. Repeatable.",
        flag="--variant",
    )
    fit_on: tuple[str | Mapping[str, object], ...] = option(
        (),
        "Also fit thresholds and calibrations on validation images under this: clean, or a suite "
        "or shifts that are not tested, written as in --shifts. Repeatable.",
    )
    ood: tuple[str, ...] = option(
        (),
        "A data source of other images (out of distribution), on which the model should be less "
        "confident. Repeatable.",
    )
    natural: Mapping[str, str] | tuple[str, ...] = option(
        (),
        "Other images of the same classes as NAME=SOURCE, such as another hospital: they are rows "
        "natural/NAME. Repeatable.",
    )
    priors: Mapping[str, object] | Path | None = option(
        None, "A YAML file of class priors to evaluate for, NAME: {CLASS: probability}."
    )
    operating_points: tuple[str, ...] = option(
        (),
        "CLASS=PROBABILITY: also measure the class as called where its probability is at least "
        "this. Repeatable.",
        flag="--operating-point",
    )
    ordered_classes: bool = option(
        False, "The classes are in an order, such as grades: also compute the quadratic kappa."
    )
    batch_size: int = option(256, "Images per forward pass.", least=1)
    precision: str = option(
        "fp32", "fp32; tf32, faster products on CUDA devices; or bf16 (autocast)."
    )
    cudnn_benchmark: bool = option(
        False, "Let cuDNN choose its kernels by speed; another run may differ in the last digits."
    )
    bootstrap: int = option(
        1000, "How many resamples every interval is made from.", least=100, most=100_000
    )
    shift_seed: int = option(0, "Random seed of stochastic shifts and attacks.")
    threads: int | None = option(
        None, "Threads that torch uses; by default its own choice.", least=1, most=1024
    )
    executor: str = shared_option(Sharing, "executor")
    worker: bool = shared_option(Sharing, "worker")
    jobs: int | None = shared_option(Sharing, "jobs")
    workers: int | None = shared_option(Sharing, "workers")
    networks: int | None = shared_option(Sharing, "networks")
    devices: int = shared_option(
        Sharing,
        "devices",
        description="How many devices of this machine predict side by side, each in a process of "
        "its own.",
        shown="1",
    )
    partition: str | None = shared_option(Sharing, "partition")
    gpus: str | None = shared_option(Sharing, "gpus")
    time: str | None = shared_option(Sharing, "time")
    setup: tuple[str, ...] = shared_option(Sharing, "setup")
    title: str | Mapping[str, str] | tuple[str, ...] | None = option(
        None,
        "The name of the model in tables and figures; of several models NAME=TITLE. Repeatable.",
    )
    device: str = option("auto", "The device: auto, cpu, cuda, cuda:1 or mps.")
    offline: bool = option(False, "Never use the network.")

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The variants, with those that `fit_on` adds.

        Raises `InputError` for one that is unknown, listed twice, or needs `fit_on`.
        """
        return complete_variants(self.variants, fit_on=bool(self.fit_on))


def check_options(given: Mapping[str, object]) -> EvaluationOptions:
    """Check options by name; raises `InputError` with one sentence for the first wrong one.

    >>> check_options({"batch_size": 32}).batch_size
    32
    """
    root = {"root": str(given["root"])} if given.get("root") is not None else {}
    options = read_options(EvaluationOptions, {**given, **root})
    titles = options.title
    if titles is not None and not titles:
        raise InputError(f"title must name at least one model, found {titles!r}")
    named = titles.values() if isinstance(titles, Mapping) else titles or ()
    for title in [named] if isinstance(named, str) else named:
        check_name(title, "the title")
    _ = options.all_variants  # checks them
    return options


def read_natural_sources(asked: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """The sources of other images of the same classes, by name.

    Raises `InputError` for what is not NAME=SOURCE, and for a name that is given twice.

    >>> read_natural_sources(["b=folder:hospital_b"])
    {'b': 'folder:hospital_b'}
    """
    if isinstance(asked, Mapping):
        pairs = list(asked.items())
    else:
        parted = [text.partition("=") for text in asked]
        pairs = [(name.strip(), source.strip()) for name, _, source in parted]
    sources: dict[str, str] = {}
    for name, source in pairs:
        if not source or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise InputError(
                "natural must be NAME=SOURCE, with a name of letters, digits, _, . and -, found "
                f"{name!r} with the source {source!r}"
            )
        if name in sources:
            raise InputError(f"natural: the name {name!r} is given twice")
        sources[name] = source
    return sources
