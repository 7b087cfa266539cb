"""What a person may ask of a measurement: one definition for Python, command line and studies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairweather.errors import InputError, check_name, unknown_name
from fairweather.types.options import (
    DataOptions,
    LoadOptions,
    ModelOptions,
    Named,
    option,
    read_options,
    shared_option,
)
from fairweather.variants.variant import Variant, complete_variants
from fairweather.workers.options import Sharing


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """How models are measured: the same options in evaluations and in studies.

    The descriptions are the help of the command line. Its options have these names with dashes,
    unless `flag` names another. Where Python takes a mapping, the command line takes a file.
    """

    variants: Named = option(
        (),
        "Also measure a variant, such as temperature, tent or 'conformal: {coverage: 0.9}': "
        "`fairweather list variants` has all. Repeatable.",
        flag="--variant",
    )
    fit_on: Named = option(
        (),
        "Also fit thresholds and calibrations on validation images under a shift that is not "
        "tested, or clean. Repeatable.",
    )
    unit: str | None = option(
        None, "Judge groups, not images: the --group column with one decision each, as patient."
    )
    aggregate: tuple[str, ...] = option(
        (),
        "How a unit's images become one decision: mean, max, any or noisy-or. Of several, or "
        "auto, validation chooses. Repeatable.",
        shown="mean",
    )
    operating_points: tuple[str, ...] = option(
        (),
        "Also call a class or finding from a probability on, or from one that keeps a target: 0.3, "
        "sensitivity=0.95, NAME=0.3. Repeatable.",
        flag="--operating-point",
    )
    costs: Mapping[str, float] | tuple[str, ...] | str | Path = option(
        (),
        "Cost of an error, such as 'missed melanoma: 20', or of a 'review: 3'; or a CSV matrix. "
        "Repeatable.",
        flag="--cost",
    )
    ordered_classes: bool = option(
        False, "Classes are in an order, such as grades: also score how far off answers are."
    )
    batch_size: int = option(256, "Images per forward pass.", least=1)
    precision: str = option("fp32", "Number format: fp32, tf32, bf16 or fp16.")
    cudnn_benchmark: bool = option(
        False, "Let cuDNN choose the fastest kernels; last digits may then differ between runs."
    )
    compile: bool = option(
        False, "Compile models by torch.compile: minutes at first, and other last digits."
    )
    bootstrap: int = option(1000, "Bootstrap resamples of each interval.", least=100, most=100_000)
    shift_seed: int = option(0, "Random seed of shifts and attacks.")
    threads: int | None = option(
        None, "CPU threads of PyTorch.", least=1, most=1024, shown="PyTorch's own choice"
    )

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The variants, with those that `fit_on` adds.

        Raises `InputError` for one that is unknown, listed twice, or needs `fit_on`.
        """
        return complete_variants(self.variants, fit_on=bool(self.fit_on))


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(MeasurementOptions, ModelOptions):
    """All options of an evaluation besides model, data and shifts."""

    class_map: Mapping[str, object] | Path | None = option(
        None, "YAML, JSON or CSV file from each class of the data to the model's name for it."
    )
    label_column: str | None = option(
        None, "Column of the predictions with the true labels: its name, or its number from 0."
    )
    key_column: str | None = option(
        None, "Column of the predictions with image keys or file names: its name or number."
    )
    predicted_columns: tuple[str, ...] = option(
        (),
        "Column of the predictions with the predicted class. Repeatable, for one of each model.",
        flag="--predicted-column",
    )
    confidence_column: str | None = option(
        None, "Column of the predictions with the confidence in the predicted class."
    )
    classes: tuple[str, ...] = option(
        (), "Classes of the predictions' columns, in order: names with commas, or a file of lines."
    )
    findings: tuple[str, ...] = option(
        (), "Findings to judge of the predictions, each with outputs and labels: names with commas."
    )
    empty_labels: str = option(
        "unknown", "Meaning of an empty label of a finding: unknown or absent."
    )
    size: int | None = shared_option(DataOptions, "size", shown="as the model is configured")
    root: str | None = shared_option(DataOptions, "root")
    limit: int | None = shared_option(LoadOptions, "limit")
    validation_fraction: float = shared_option(
        DataOptions, "validation_fraction", default=0.0, within="[0, 1)"
    )
    skip_unreadable: bool = shared_option(DataOptions, "skip_unreadable")
    metadata: Path | None = option(
        None, "CSV or parquet table with a row for each image: file (or key), patient, site, ..."
    )
    group: str | None = option(
        None, "Metadata column of what belongs together, such as patient; intervals allow for it."
    )
    slices: tuple[str, ...] = option(
        (),
        "Metadata column whose values are scored separately: site, crossed site*sex, or numbers "
        "cut at points age:40,65. Repeatable.",
        flag="--slice",
    )
    sites: tuple[str, ...] = option(
        (),
        "Metadata column of sites, such as hospital: scored separately, and predicted for an "
        "unseen one. Repeatable.",
    )
    allow_shared_groups: bool = option(
        False, "Allow a group to have both validation and test images."
    )
    allow_duplicates: bool = shared_option(DataOptions, "allow_duplicates")
    scale: str | None = shared_option(DataOptions, "scale", shown="as in the model's own run")
    positive: str | tuple[str, ...] = shared_option(DataOptions, "positive")
    ood: tuple[str, ...] = option(
        (), "Out-of-distribution images, on which confidence should be low. Repeatable."
    )
    natural: Mapping[str, str] | tuple[str, ...] = option(
        (),
        "Other images of the same classes, such as another hospital's, or a published natural "
        "shift: imagenet-r:FOLDER. Repeatable.",
    )
    priors: Mapping[str, object] | Path | None = option(
        None,
        "Class priors or prevalences to evaluate for: 'CLASS: 0.01', or a YAML file of "
        "NAME: {CLASS: 0.01}.",
    )
    executor: str = shared_option(Sharing, "executor")
    worker: bool = shared_option(Sharing, "worker")
    jobs: int | None = shared_option(Sharing, "jobs")
    shift_processes: int | None = shared_option(Sharing, "shift_processes")
    models_in_memory: int | None = shared_option(Sharing, "models_in_memory")
    partition: str | None = shared_option(Sharing, "partition")
    gpus: str | None = shared_option(Sharing, "gpus")
    time: str | None = shared_option(Sharing, "time")
    setup: tuple[str, ...] = shared_option(Sharing, "setup")
    title: str | Mapping[str, str] | tuple[str, ...] | None = option(
        None, "Model name in tables and figures; with several models, NAME=TITLE. Repeatable."
    )
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps or xpu.")
    offline: bool = option(False, "Never use the network.")


def check_options(given: Mapping[str, object]) -> EvaluationOptions:
    """Check options by name; raises `InputError` with one sentence for the first wrong one.

    >>> check_options({"batch_size": 32}).batch_size
    32
    """
    options = read_options(EvaluationOptions, given)
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

    A published natural shift needs no NAME: it has its own, and so have its stated domains.

    Raises `InputError` for what is not NAME=SOURCE, and for a name that is given twice.

    >>> read_natural_sources(["b=folder:hospital_b", "imagenet-r:data/imagenet-r"])
    {'b': 'folder:hospital_b', 'imagenet-r': 'imagenet-r:data/imagenet-r'}
    """
    if isinstance(asked, Mapping):
        pairs = list(asked.items())
    else:
        pairs = [pair for text in asked for pair in _name_source(text.strip())]
    sources: dict[str, str] = {}
    for name, source in pairs:
        if not source and ":" in name:
            raise _unknown_natural(name)
        if not source or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise InputError(
                "natural must be NAME=SOURCE, with a name of letters, digits, _, . and -, found "
                f"{name!r} with the source {source!r}"
            )
        if name in sources:
            raise InputError(f"natural: the name {name!r} is given twice")
        sources[name] = source
    return sources


def _name_source(text: str) -> list[tuple[str, str]]:
    """Part NAME=SOURCE; a published natural shift names itself, and each of its stated domains.

    >>> _name_source("pacs:PACS,domains=photo|sketch")
    [('pacs-photo', 'pacs:PACS,domains=photo'), ('pacs-sketch', 'pacs:PACS,domains=sketch')]
    """
    from fairweather.data.natural_sets import find_natural_set  # not for `--help`: loads pandas

    if own := find_natural_set(text.partition(":")[0]):
        start, stated, domains = text.partition(",domains=")
        if not stated:
            return [(own, text)]
        names = domains.split("|")
        return [(f"{own}-{'_'.join(name.split())}", f"{start}{stated}{name}") for name in names]
    name, _, source = text.partition("=")
    return [(name.strip(), source.strip())]


def _unknown_natural(text: str) -> InputError:
    """Build the error for a source without a name that is no published natural shift.

    >>> print(_unknown_natural("imagnet-r:renditions"))
    unknown natural shift 'imagnet-r'; did you mean 'imagenet-r'? ...; your own images need a name:
    NAME=imagnet-r:renditions
    """
    from fairweather.data.loading import DATA_SOURCES
    from fairweather.data.natural_sets import NATURAL_SETS

    kind, named = text.partition(":")[0], f"your own images need a name: NAME={text}"
    if f"{kind}:PATH" in DATA_SOURCES:
        return InputError(f"natural must be NAME=SOURCE: {named}")
    return InputError(f"{unknown_name('natural shift', kind, NATURAL_SETS)}; {named}")
