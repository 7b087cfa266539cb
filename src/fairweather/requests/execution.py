"""Begin and execute a run for any kind of request: its record, its plan, and clean accuracy."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from fairweather.data.natural_sets import find_natural_facts
from fairweather.errors import InputError, check_writable
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.grouping import Grouping, number_groups
from fairweather.models.labels import rename_choices
from fairweather.progress import Event, Notify
from fairweather.report.finished_run import Run
from fairweather.requests.finding_lines import CHANCE_AUC, clean_finding_lines, describe_rows
from fairweather.requests.inputs import Inputs, make_measurement, make_plan
from fairweather.runs.claims import check_run_path
from fairweather.runs.fingerprints import effective_facts
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import current_provenance
from fairweather.steps.measurement import Measurement
from fairweather.steps.outlook import Outlook
from fairweather.steps.plan import DATA, NATURAL_DATA
from fairweather.steps.sweeps import describe_shifts
from fairweather.types.measurement import CLASSIFICATION, MULTILABEL, Groups, Score
from fairweather.types.positive import NOTE
from fairweather.types.record import (
    CLEAN,
    ENSEMBLE,
    NATURAL,
    NO_IMAGES,
    ORDERED_CLASSES,
    RECORD,
    TEST,
    ChoicesRecord,
    DataRecord,
    RunRecord,
    RunSettings,
    predictions_file,
    variant_name,
)
from fairweather.variants.variant import write_adapting
from fairweather.workers import executors
from fairweather.workers.options import Sharing
from fairweather.workers.work import Work

# ---------------------------------------------------------------- record


def describe_run(inputs: Inputs) -> RunRecord:
    """Describe a run whose data sets are open."""
    measurement, trainings, settings = make_measurement(inputs), inputs.trainings, inputs.settings
    side = measurement.data.side
    return RunRecord(
        kind=inputs.kind,
        name=inputs.name,
        title=inputs.title,
        description=inputs.description,
        data=_describe_data(inputs, measurement),
        models=dict(inputs.records),
        pretraining=dict(trainings.pretraining),
        seeds=inputs.seeds,
        ensemble=any(model.seed == ENSEMBLE for model in inputs.models),
        sweeps=describe_shifts(settings.shifts, None if side is None else min(side)),
        variants=_variant_titles(inputs, measurement),
        seen_shifts={name: dict(seen) for name, seen in trainings.seen_shifts.items()},
        priors=dict(measurement.priors),
        ood=tuple(measurement.others),
        natural={
            name: inputs.sources[f"{NATURAL_DATA}{name}"].source
            for name in (part.removeprefix(NATURAL) for part in measurement.natural)
        },
        choices=dict(_describe_choices(inputs, measurement)),
        settings=RunSettings(
            shift_seed=settings.shift_seed,
            bootstrap=settings.bootstrap,
            batch_size=settings.batch_size,
            precision=settings.arithmetic.precision,
            cudnn_benchmark=settings.arithmetic.cudnn_benchmark,
            compile=settings.arithmetic.compile,
            training_precision=trainings.precision,
            variants=tuple(variant.text for variant in settings.variants),
            adapting=write_adapting(settings.variants),
            threads=settings.threads,
            operating_points=dict(measurement.operating_points),
            costs=dict(measurement.costs),
            sites=measurement.sites,
            unit=measurement.aggregation.unit if measurement.aggregation else "",
            aggregates=measurement.aggregation.names if measurement.aggregation else (),
            fit_on=tuple(shift.id for shift in settings.fit_on),
        ),
        provenance=current_provenance(settings.device),
    )


def _describe_choices(
    inputs: Inputs, measurement: Measurement
) -> Iterator[tuple[str, ChoicesRecord]]:
    """How models answer on published natural shifts with a class mask or other labels, by name."""
    for part, facts in measurement.natural.items():
        if facts.choices is None:
            continue
        name = part.removeprefix(NATURAL)
        published = find_natural_facts(inputs.sources[f"{NATURAL_DATA}{name}"].source)
        yield (
            name,
            ChoicesRecord(
                classes=len(rename_choices(facts.choices, measurement.data.classes).names),
                judged=facts.choices.judged,
                same_images=published is not None and published.same_images,
            ),
        )


def _describe_data(inputs: Inputs, measurement: Measurement) -> DataRecord:
    """Describe the data, with the digests of everything that is predicted."""
    facts, dataset = measurement.data, inputs.datasets.get(DATA)
    others = {**measurement.others, **measurement.natural}
    digests = {**facts.digests, **{name: facts.digests[TEST] for name, facts in others.items()}}
    ordered = {ORDERED_CLASSES: True} if facts.ordered else {}
    made = {} if facts.positive is None else json.loads(json.dumps({NOTE: facts.positive.note()}))
    if dataset is None:
        return DataRecord(
            name=facts.name,
            classes=facts.classes,
            digests=digests,
            notes={"images": dict(facts.images), NO_IMAGES: True, **ordered, **made},
            task=facts.task,
        )
    return DataRecord(
        name=facts.name,
        classes=facts.classes,
        digests=digests,
        mean=dataset.mean,
        std=dataset.std,
        arguments=effective_facts(inputs.sources[DATA]),
        notes=json.loads(json.dumps({**dataset.notes, **ordered})),
        task=facts.task,
    )


def _variant_titles(inputs: Inputs, measurement: Measurement) -> dict[str, str]:
    """The titles of variants, and of interpolations before those of their variants."""
    titles = {model.name: model.title for model in inputs.models}
    images, all_titles = measurement.data.images[TEST], dict[str, str]()
    for name in sorted(titles, key=lambda model: model not in inputs.records):
        if name not in inputs.records:
            all_titles[name] = titles[name]
        for variant in measurement.variants:
            phrase = variant.phrase(images, measurement.batch_size, measurement.kind)
            all_titles[variant_name(name, variant.name)] = f"{titles[name]} + {phrase}"
    return all_titles


# ---------------------------------------------------------------- what a person reads

MOST_NAMED_VALUES = 6  # of a column of slices, in a line


def clean_steps(inputs: Inputs) -> dict[str, str]:
    """Find the step that predicts clean images with each model, and the model's label.

    Empty if the accuracy on clean images is not reported.
    """
    return {
        predictions_file(model.name, model.seed, CLEAN).removesuffix(".parquet"): model.label
        for model in (inputs.models if inputs.advice else ())
    }


def add_clean_accuracy(inputs: Inputs, folder: RunFolder, tell: Notify) -> Notify:
    """Also report the accuracy of each model on clean images, as soon as they are predicted."""
    waiting, dataset = clean_steps(inputs), inputs.datasets.get(DATA)
    several, judges_units = len(waiting) > 1, inputs.settings.aggregation is not None
    grouping = None if dataset is None else number_groups(dataset.test.groups)
    if TEST in inputs.groups and (numbers := inputs.groups[TEST].numbers) is not None:
        grouping = Grouping(numbers)

    def notify(event: Event) -> None:
        tell(event)
        # Patients need more files than the predictions of their images.
        done = [event.step] if not judges_units else [*waiting] if event.step == SCORES_STEP else []
        if event.step == SCORES_STEP and waiting:
            for line in aggregate_lines(inputs, folder):
                tell(Event("evaluate", 0, None, line=line))
        for step in done:
            if (label := waiting.pop(step, None)) is None:
                continue
            file, prefix = f"{step}.parquet", label if several else ""
            describe = CLEAN_LINES.get(folder.task.name, lambda *_: [])
            own_grouping = None if judges_units else grouping
            for line in describe(folder, file, inputs.advice, prefix, own_grouping):
                tell(Event("evaluate", 0, None, line=line))

    return notify


def aggregate_lines(inputs: Inputs, folder: RunFolder) -> Iterator[str]:
    """Say which aggregate was chosen for each model; nothing if only one was named."""
    aggregation = inputs.settings.aggregation
    if aggregation is None or len(aggregation.names) == 1:
        return
    for model in inputs.models:
        chosen = folder.choose_aggregate(model.name, model.seed)
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in chosen.losses.items())
        prefix = f"{model.label}: " if len(inputs.models) > 1 else ""
        yield (
            f"aggregate      {prefix}{chosen.name}, by the negative log-likelihood of validation "
            f"{aggregation.plural}: {losses}"
        )


def suggest_positive(inputs: Inputs) -> Iterator[str]:
    """Say what else can be measured of an evaluation with two classes."""
    facts = inputs.facts[DATA]
    if inputs.kind != "evaluation" or facts.task != CLASSIFICATION or len(facts.classes) != 2:
        return
    first, second = map(repr, facts.classes)
    yield (
        f"note           with --positive, {second} or {first}, it also measures sensitivity, "
        "specificity, ROC and the calibration of this probability"
    )


def describe_groups(groups: Groups | None) -> str:
    """Say how many groups and subgroups there are.

    >>> import numpy as np
    >>> describe_groups(Groups("patient", np.array(["a", "b", "a"], dtype=object)))
    '2 by patient, 1 to 2 images each'
    >>> describe_groups(Groups(None, None, {"site": np.array([
    ...     "north", "south", "north"
    ... ], dtype=object)}))
    '2 by site (north 2, south 1)'
    """
    if groups is None:
        return ""
    phrases = []
    if (grouping := number_groups(groups)) is not None:
        few, most = grouping.sizes.min(), grouping.sizes.max()
        images = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        phrases.append(f"{grouping.count:,} by {groups.group}, {images} images each")
    for name, values in groups.slices.items():
        sizes = Counter(values.tolist())
        counted = [f"{value} {count:,}" for value, count in sorted(sizes.items())]
        counts = f" ({', '.join(counted)})" if len(counted) <= MOST_NAMED_VALUES else ""
        phrases.append(f"{len(sizes):,} by {name}{counts}")
        if groups.names is not None:
            pairs = {(group, value) for group, value in zip(groups.names, values, strict=True)}
            several = sum(count > 1 for count in Counter(group for group, _ in pairs).values())
            if several:
                phrases.append(f"{several:,} {groups.group} in several values of {name}")
    return "; ".join(phrases)


def clean_accuracy_lines(
    folder: RunFolder, file: str, advice: str, model: str = "", grouping: Grouping | None = None
) -> list[str]:
    """Say how accurate the model is on clean images, and warn if it is not better than chance.

    The interval is the one of scores.csv: from the same resamples of the images.

    Args:
        folder: the run.
        file: the predictions of clean images.
        advice: what is probably wrong, and how to settle it.
        model: the model that made them, if there are several.
        grouping: which images belong together, if that is known.
    """
    predictions = folder.read_predictions(file)
    resamples = folder.record.settings.bootstrap
    shared = Resamples.draw(predictions.strata, resamples, grouping=grouping)
    accuracies = evaluate_resamples(predictions, shared, names=["accuracy"])["accuracy"]
    accuracy, low, high, n = to_score(accuracies, (0.0, 1.0))
    rows, row = ("images", "image")
    if folder.aggregation is not None:
        rows, row = folder.aggregation.plural, folder.aggregation.unit
    edges = {0.0: f"; every {row} is wrong", 1.0: f"; no {row} is wrong"}
    prefix = f"{model}: " if model else ""
    ends = "no interval" if np.isnan(low) else f"{low:.1%}, {high:.1%}"
    lines = [
        f"clean          {prefix}accuracy {accuracy:.1%} [{ends}], n = {n:,}"
        f"{describe_rows(folder, grouping)}{edges.get(accuracy, '')}"
    ]
    counts = np.bincount(predictions.labels)
    share, largest = counts.max() / n, predictions.classes[counts.argmax()]
    if low <= share or (np.isnan(low) and accuracy <= share):
        chance = f"({share:.1%}, what a model that always says {largest} gets)"
        if accuracy > share:
            lines.append(
                f"note           {n:,} {rows} cannot confirm that it is above chance {chance}"
            )
        else:
            areas = evaluate_resamples(predictions, shared, names=["macro_auc"])
            auc = to_score(areas["macro_auc"], (0.0, 1.0)) if areas else None
            reason = explain_chance(auc, len(predictions.classes), advice)
            lines.append(f"warning        that is not above chance {chance}{reason}")
    return lines


def explain_chance(auc: Score | None, classes: int, advice: str) -> str:
    """Say what is probably wrong if accuracy is not above chance.

    A model with an AUC above 0.5 separates the classes. Then the thresholds between classes are to
    blame, not the order of rows or the preprocessing. Only an interval of the AUC can show that.

    Args:
        auc: the mean over classes of the area under the ROC curve; None where it is not known.
        classes: how many there are.
        advice: what is probably wrong otherwise.

    >>> explain_chance(Score(0.5, 0.4, 0.6, 90), 2, "the order of the rows is probably wrong")
    ': the order of the rows is probably wrong'
    >>> explain_chance(Score(0.97, math.nan, math.nan, 9), 2, "the preprocessing may be wrong")
    ': the preprocessing may be wrong'
    >>> explain_chance(Score(0.97, 0.95, 0.98, 90), 2, "")
    ', but its AUC is 0.97: it tells the classes apart, and calls one too often; see
    operating_points, and the calibration of its probabilities'
    >>> explain_chance(Score(0.03, 0.02, 0.05, 90), 2, "")
    ', and its AUC is 0.03, below 0.5: the two classes are probably exchanged; see
    --class-map and --classes'
    """
    if auc is None or math.isnan(auc.low) or auc.low <= CHANCE_AUC <= auc.high:
        return f": {advice}"
    if auc.low > CHANCE_AUC and classes == 2:
        return (
            f", but its AUC is {auc.value:.2f}: it tells the classes apart, and calls one too "
            "often; see operating_points, and the calibration of its probabilities"
        )
    if auc.low > CHANCE_AUC:
        return (
            f", but its mean AUC is {auc.value:.2f}: it tells classes apart, and calls some too "
            "often or by the name of another; see the confusion matrix on the page, and --class-map"
        )
    if classes == 2:
        return (
            f", and its AUC is {auc.value:.2f}, below {CHANCE_AUC}: the two classes are "
            "probably exchanged; see --class-map and --classes"
        )
    return f": {advice}"


SCORES_STEP = "scores"
# What is said of clean predictions, by the task.
CLEAN_LINES: Mapping[str, Callable[..., list[str]]] = {
    CLASSIFICATION: clean_accuracy_lines,
    MULTILABEL: clean_finding_lines,
}


# ---------------------------------------------------------------- execution


def check_run_folder(out: Path | None) -> None:
    """Raise `InputError` if the run folder cannot be written or holds something else."""
    if out is not None:
        check_writable(out)
        check_run_path(out)
    elif not Path("runs").exists():  # a folder in it may be writable even if `runs` is not
        check_writable(Path("runs"))


def execute_run(
    inputs: Inputs,
    out: Path | None,
    sharing: Sharing,
    tell: Notify,
    *,
    offline: bool = False,
    replace: bool = False,
) -> Run:
    """Begin or continue a run, by default in `runs/NAME`, and do all steps that are not done.

    Args:
        inputs: what is measured, with open data sets.
        out: the run folder.
        sharing: who does the steps; already checked.
        tell: called for every step, and for events within long ones.
        offline: never use the network.
        replace: replace finished work that was made with other settings.

    Raises:
        InputError: the folder cannot be used, a step refuses its input, or a process that did steps
            was killed.
        JobFailedError: a step failed in another process.
        NeedsMissingError: jobs of a cluster were cancelled.
    """
    path = out or Path("runs") / inputs.name
    check_writable(path)
    for line in (*inputs.lines, *suggest_positive(inputs)):
        tell(Event("evaluate", 0, None, line=line))
    record = describe_run(inputs)
    work = Work(
        path=path,
        # This shows within moments whether a model is used correctly.
        plan=make_plan(inputs).put_first(clean_steps(inputs)),
        record=record,
        device=inputs.settings.device,
        offline=offline,
        datasets=inputs.datasets,
        replace=replace,
        files=inputs.files,
        check=partial(_check_same_inputs, record=record) if inputs.networks else lambda _: None,
        models={planned.digest: network for planned, network in inputs.networks},
        given=inputs.read_predictions,
        groups=inputs.groups,
    )
    executors.carry_out(work, sharing, add_clean_accuracy(inputs, RunFolder(path), tell))
    return Run(path)


def make_outlook(inputs: Inputs, out: Path | None) -> Outlook:
    """Plan a run and say how far it is; nothing is written."""
    path = out or Path("runs") / inputs.name
    if RunFolder(path).is_joined:
        check_run_path(path)
    return Outlook.from_plan(inputs.name, path, make_plan(inputs))


def _check_same_inputs(folder: RunFolder, record: RunRecord) -> None:
    """Refuse a folder with results of another model or data set of the same name."""
    if not (folder.path / RECORD).is_file() or folder.record.name != record.name:
        return  # a run of another name is refused later, before any overwriting
    before = folder.record.models
    changed = [
        name
        for name, model in record.models.items()
        if name in before and before[name].facts.get("digest") != model.facts.get("digest")
    ]
    if changed:
        subject = f"another model called {changed[0]!r}"
    elif folder.record.data.source != record.data.source:
        subject = f"another data set called {record.data.name!r}"
    else:
        return
    raise InputError(
        f"{folder.path} contains the evaluation of {subject}; replace it with --replace, "
        "or name another folder with --out"
    )
