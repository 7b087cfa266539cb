"""What a comparison with published numbers shows, what it does not show, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fairweather.comparison.matching import Pair, same_images
from fairweather.comparison.published import PublishedStudy
from fairweather.report.contents import Contents
from fairweather.report.tables import CORRECTED, describe_metric
from fairweather.report.words import MEAN

# Settings that no published run had, with the values at which they do nothing.
NOTHING: tuple[object, ...] = (None, False, 0, [], {})
LATER_KEYS: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        ("train_shifts", "label_noise", "probe_epochs", "trivial_augment", "rand_augment"), NOTHING
    ),
    **dict.fromkeys(
        ("augmix", "gaussian_noise", "random_erasing", "cutmix", "adversarial"), NOTHING
    ),
    **dict.fromkeys(("rotation_prediction", "ema_decay", "label_smoothing"), NOTHING),
    "label_fraction": (None, 1),
    "width": (None, 1),
    "norm": (None, "batch"),
    "pooling": (None, "average"),
}


def notes(pairs: Sequence[Pair], contents: Contents, study: PublishedStudy) -> list[str]:
    """Say how many published numbers lie in the run's intervals, and what that does not mean."""
    measured = [pair for pair in pairs if pair.measured]
    return [
        _count(measured, missing=len(pairs) - len(measured)),
        _uncertainty(measured, contents, study),
        f"The intervals of calibration errors are {CORRECTED}; the values themselves, "
        "measured and published, are not corrected, so a small published error lies above the "
        "interval more often than below it.",
        study.note,
        *_model_notes(contents, study),
        *_other_training(contents, study),
        *_own_training(contents, study),
        *_other_labels(contents),
        *_other_images(measured, contents, study),
        *_other_models(contents, study),
        *_other_shifts(contents, study),
    ]


def _count(measured: Sequence[Pair], missing: int) -> str:
    parts = []
    for metric in dict.fromkeys(pair.published.metric for pair in measured):
        inside = [pair.inside for pair in measured if pair.published.metric == metric]
        parts.append(f"{sum(inside)} of {len(inside)} for {describe_metric(metric)}")
    total = sum(pair.inside for pair in measured)
    return (
        f"{total} of the {len(measured)} published numbers that the run measured too lie in its "
        f"95 % intervals: {', '.join(parts)}; {missing} were not measured."
    )


def _uncertainty(measured: Sequence[Pair], contents: Contents, study: PublishedStudy) -> str:
    errors = [100 * p.standard_error for p in measured if p.standard_error == p.standard_error]
    theirs = "The published numbers have an uncertainty of their own"
    if errors:
        theirs += (
            f": the accuracies at one level a binomial standard error of {min(errors):.1f} to "
            f"{max(errors):.1f} percentage points (n = {study.test_images:,})"
        )
    return (
        "The intervals say what other test images would have done to the run's numbers "
        f"({contents.sample()}), not what another training would have. {theirs}. On the same test "
        "images, what separates the two is mostly another training, which neither describes. So a "
        "published number outside an interval is no proof of another method, and one inside no "
        "proof of the same; and since all cells share images and a model, they are no independent "
        "trials."
    )


def _model_notes(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    for name, model in study.models.items():
        if model.note and name in contents.titles:
            yield model.note


def _other_training(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    for name, model in study.models.items():
        if name in contents.titles:
            entry = contents.study["models"][name]
            ours = {**entry, **entry["recipe"]}
            others = [
                f"{key} {_plain(ours.get(key))} instead of {_plain(theirs)}"
                for key, theirs in model.training.items()
                if ours.get(key) != theirs
            ]
            if others:
                yield f"Other training: {name} has {', '.join(others)}."


def _own_training(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    """What of a model's training the published runs had no key for, where it does something."""
    for name, model in study.models.items():
        if name not in contents.titles:
            continue
        entry = contents.study["models"][name]
        ours = {**{key: entry.get(key) for key in LATER_KEYS}, **entry["recipe"]}
        others = [
            f"{key} {_plain(value)}"
            for key, value in ours.items()
            if key in LATER_KEYS and key not in model.training and value not in LATER_KEYS[key]
        ]
        if others:
            yield f"Other training: {name} has {', '.join(others)}; the published runs had not."


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _other_labels(contents: Contents) -> Iterator[str]:
    facts = contents.provenance["data"]["notes"]
    if facts.get("label_noise", 0) > 0 or facts.get("imbalance", 1) < 1:
        yield (
            f"Other training labels: label_noise {facts['label_noise']:g} and imbalance "
            f"{facts['imbalance']:g}; the published runs had neither."
        )
    if facts.get("verified") is False:
        yield "The run's files were not verified against the published checksum."


def _other_images(
    measured: Sequence[Pair], contents: Contents, study: PublishedStudy
) -> Iterator[str]:
    size = tuple(contents.provenance["data"]["notes"].get("size", ()))
    if study.size and size and size != study.size:
        theirs, ours = (" x ".join(map(str, each)) for each in (study.size, size))
        yield f"Other images: the published numbers are on {theirs} pixels, the run's on {ours}."
    _, at, made_from = contents.provenance["data"]["name"].partition("@")
    if study.size and at and made_from != str(study.size[0]):
        yield f"Other images: the run's were made from {made_from} pixels a side."
    counts = sorted({pair.measured.n for pair in measured if pair.measured})
    if study.test_images and counts != [study.test_images]:
        found = " or ".join(f"{count:,}" for count in counts)
        yield (
            f"Other images: the published numbers are on {study.test_images:,} test images, the "
            f"run's on {found}."
        )


def _other_models(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    if absent := [name for name in study.models if name not in contents.titles]:
        yield f"Published, not in the run: the models {', '.join(absent)}."
    if extra := [name for name in contents.titles if name not in study.models]:
        yield f"In the run, not published: the models {', '.join(extra)}."


def _other_shifts(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    sweeps = {sweep.name: sweep for sweep in contents.sweeps}
    for shift, title in study.shifts.items():
        if not same_images(contents, study, shift, MEAN):
            theirs = "; ".join(study.cells(shift).values())
            ours = "; ".join(sweeps[shift].cells.values()) if shift in sweeps else "none"
            yield (
                f"{title}: published for {theirs}; the run has {ours}. Only the same are compared, "
                "and the mean only where all are the same."
            )
    if others := [sweep.title for sweep in contents.sweeps if sweep.name not in study.shifts]:
        yield f"In the run, not published: the shifts {', '.join(others)}."
