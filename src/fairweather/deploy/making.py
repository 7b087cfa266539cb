"""Make a guard: fit its promise on validation images, measure what test images keep, save it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from fairweather.deploy.choosing import (
    ChosenRule,
    ClassLimit,
    DividedImages,
    apply_temperature,
    choose_for_classes,
    choose_for_finding,
    divide_images,
)
from fairweather.deploy.guard import (
    AnyRecord,
    FindingsGuard,
    Guard,
    GuardOutputs,
    encode_guard,
    guard_of,
)
from fairweather.deploy.promise import (
    AMONG,
    LIMIT_WORDS,
    VALIDATION,
    AnswerCheck,
    FindingCheck,
    FindingFit,
    FindingsFit,
    FindingsGuardRecord,
    Fit,
    GuardRecord,
    ImageKind,
    JudgedUnit,
    LimitCheck,
    LimitFit,
    LimitKind,
    Promise,
    PromiseCheck,
    ShareInterval,
    ValidationChoice,
    format_percent,
)
from fairweather.deploy.tracing import export_onnx, trace
from fairweather.errors import InputError, check_writable, unknown_name
from fairweather.inference.prediction import compute_outputs
from fairweather.metrics import Grouping, fewest_for_risk, one_of_each, softmax
from fairweather.metrics.answer_rules import is_answered_within
from fairweather.metrics.columns import BoolArray, FloatArray
from fairweather.metrics.conformal import conformal_quantile, fewest_images, set_columns
from fairweather.metrics.grouping import Weigh, share_interval
from fairweather.metrics.selective import GuaranteedThreshold
from fairweather.metrics.two_sample import MOST_IMAGES
from fairweather.runs.folder import write_atomically
from fairweather.runs.provenance import package_versions
from fairweather.runs.scores import read_grouping
from fairweather.steps.run_model import RunModel, open_validation_images
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    AnyPredictions,
    Images,
    Predictions,
)
from fairweather.types.options import WrittenShare, read_share
from fairweather.types.positive import read_positive
from fairweather.types.record import CLEAN, NATURAL, TEST, VAL, ModelRecord, predictions_file
from fairweather.types.unit_words import name_units

AskedLimits: TypeAlias = Mapping[str, WrittenShare] | WrittenShare | None


class FittedPromise(NamedTuple):
    """A fitted promise, and the validation predictions that chose its threshold, not yet scaled."""

    fit: Fit
    """The promise."""

    chosen_on: Predictions
    """The predictions."""

    grouping: Grouping | None
    """Of these, if several images of one group are among them."""


def check_asked(model: RunModel, weigh: str | None, coverage: WrittenShare | None) -> None:
    """Raise `InputError` for what the run has no use for.

    That is `weigh` if it does not know which images belong together, and `coverage` for findings.
    """
    if weigh is not None and read_grouping(model.run, VAL) is None:
        raise InputError(
            f"weigh: {model.run.path} does not know which validation images belong together, so "
            "that each counts equally: leave it out"
        )
    if coverage is not None and model.run.task.name == MULTILABEL:
        raise InputError(
            f"coverage is that of sets of classes, and {model.run.path} is about findings: leave "
            "it out, or evaluate with the variant risk_control"
        )


def add_limits(
    promise: Promise, model: RunModel, missed: AskedLimits = None, false_alarms: AskedLimits = None
) -> Promise:
    """Add the limits on missed images and false alarms to a promise, by the names of a run.

    Args:
        promise: without limits.
        model: the model.
        missed: the limit of each class or finding by its name, or one number for every.
        false_alarms: the same, of findings alone.

    Raises:
        InputError: a limit is no share, a class or finding is unknown, or classes have false
            alarms.
    """
    if false_alarms is not None and model.run.task.name != MULTILABEL:
        raise InputError(
            f"false_alarms is about findings, and {model.run.path} is about classes: limit how "
            "often the other classes are missed (missed)"
        )
    return promise.model_copy(
        update={
            "missed": _name_limits(missed, model.classes, "missed"),
            "false_alarms": _name_limits(false_alarms, model.classes, "false_alarms"),
        }
    )


def _name_limits(asked: AskedLimits, names: Sequence[str], option: LimitKind) -> dict[str, float]:
    if asked is None:
        return {}
    limits = asked if isinstance(asked, Mapping) else dict.fromkeys(names, asked)
    for name in limits:
        if name not in names:
            raise unknown_name("class or finding", name, names)
    shares = {name: read_share(limit, f"{option} of {name}") for name, limit in limits.items()}
    return {name: shares[name] for name in names if name in shares}


def fit_promise(model: RunModel, promise: Promise) -> FittedPromise:
    """Fit temperature, threshold and quantile on the validation images of a run.

    Half of the images fit the temperature and propose thresholds. The other half, which is
    independent of the first, chooses among these and gives the quantile. All images of a group
    are in one half. If the promise weighs groups, one image of each chooses: then images are
    independent, as the bounds ask, and the promise is about an image of a new patient. If it weighs
    images, all of them choose, and count as fewer, independent images (`effective_sample`).

    If classes have limits, another class is answered only where the probability of each of them is
    at most its ceiling. Their ceilings are in proportion to limit and frequency. Of the patients
    with images of such a class, one of these images tests its limit.

    Raises:
        InputError: there are no validation images, too few, or no threshold that keeps the risk.
    """
    assert promise.coverage is not None
    group = _find_group(model)
    images = divide_images(model.validation(), read_grouping(model.run, VAL), group, promise.weigh)
    units = images.choosing()
    limits = [
        ClassLimit("missed", name, model.classes.index(name), share)
        for name, share in promise.missed.items()
    ]
    _check_enough(images, promise, limits, model)
    chosen = choose_for_classes(images, limits, promise.risk, promise.certainty)
    if not chosen.answers:
        raise InputError(
            f"no threshold is shown to keep {promise.describe()}: if {model.title} answered "
            f"all, {_describe_errors(images, limits)}; allow more risk, or evaluate with more "
            "validation images"
        )
    scaled = apply_temperature(units.images, chosen.temperature)
    fit = Fit(
        temperature=chosen.temperature,
        others=len(images.proposing),
        quantile=conformal_quantile(_label_scores(scaled), promise.coverage, units.worth),
        group=group,
        chose=_find_choice(model),
        limits=chosen.limits,
        **chosen.counts._asdict() | {"bound": chosen.bound},
    )
    return FittedPromise(fit, *units)


def _find_group(model: RunModel) -> str | None:
    """What validation images that belong together share; None if that is not known."""
    groups = model.run.groups(VAL)
    return None if groups is None or groups.numbers is None else groups.group


def _wrong_share(predictions: Predictions) -> str:
    return format_percent(np.count_nonzero(~predictions.correct) / len(predictions))


def _describe_errors(images: DividedImages, limits: Sequence[ClassLimit]) -> str:
    """Say how many answers would be wrong if all images that choose were answered."""
    every = images.choosing().images
    texts = [f"{_wrong_share(every)} of {len(every):,} {images.units} are wrong"]
    for own in limits:
        among = images.choosing(own.label).images
        named = f"{AMONG[own.kind]} {own.name} are {LIMIT_WORDS[own.kind]}"
        texts.append(f"{_wrong_share(among)} of {len(among):,} {named}")
    return " and ".join(texts)


# The label of the images that a limit of a finding counts.
FINDING_LABELS: Mapping[LimitKind, int] = {"missed": 1, "false_alarms": 0}


def fit_findings(model: RunModel, promise: Promise) -> FindingsFit:
    """Fit temperature and thresholds of each finding on the validation images where it is known.

    Images are divided as in `fit_promise`. The promise about each finding has more certainty than
    asked for, so that all hold together (Bonferroni). The risk and the limits of one finding need
    no more. A finding that cannot be promised is left to a person, and so is one without a promise.

    Raises:
        InputError: there are no validation images, or no finding can be promised.
    """
    every, grouping = _read_validation(model), read_grouping(model.run, VAL)
    group, risk, asked = _find_group(model), promise.risk, promise.limits
    limited = set[str]().union(*asked.values())
    promised = [name for name in every.classes if risk is not None or name in limited]
    certainty = 1 - (1 - promise.certainty) / len(promised)

    def choose_one(column: int, limits: Sequence[ClassLimit]) -> tuple[ChosenRule, int, str]:
        """What is chosen, from how many proposing images, and why a person reviews all."""
        known = np.flatnonzero(every.known[:, column])
        if every.classes[column] not in promised:
            return NO_RULE, 0, "nothing is promised about it"
        if not len(known):
            return NO_RULE, 0, "no validation image is known to have it or to lack it"
        own = None if grouping is None else grouping.select(known)
        images = divide_images(select_finding(every, column), own, group, promise.weigh)
        count, worth = len(images.proposing), images.choosing().worth
        lacking = [text for limit in limits if (text := limit.lacking(images, certainty))]
        if not count or (risk is not None and worth < fewest_for_risk(risk, certainty)):
            return NO_RULE, count, f"{worth:,} {images.units} are too few"
        if lacking:
            return NO_RULE, count, lacking[0]
        chosen = choose_for_finding(images, limits, risk, certainty)
        return chosen, count, "" if chosen.answers else _describe_errors(images, limits)

    findings, shown = list[FindingFit](), list[LimitFit]()
    for column, name in enumerate(every.classes):
        limits = [
            ClassLimit(kind, name, FINDING_LABELS[kind], shares[name])
            for kind, shares in asked.items()
            if name in shares
        ]
        chosen, count, reason = choose_one(column, limits)
        present, absent = chosen.thresholds
        findings.append(
            FindingFit(
                finding=name,
                temperature=chosen.temperature,
                others=count,
                threshold=None if reason else absent,
                present=present if limits and not reason else None,
                images=chosen.counts.images,
                answered=chosen.counts.answered,
                wrong=chosen.counts.wrong,
                bound=chosen.bound,
                reason=reason,
            )
        )
        shown += chosen.limits
    if all(finding.threshold is None for finding in findings):
        first = next(finding for finding in findings if finding.finding in promised)
        raise InputError(
            f"no finding is shown to keep {promise.describe()} by the validation images of "
            f"{model.run.path}, such as {first.finding} ({first.reason}): allow more risk, or "
            "evaluate with more validation images"
        )
    return FindingsFit(
        findings=tuple(findings),
        certainty=certainty,
        group=group,
        chose=_find_choice(model),
        limits=tuple(shown),
    )


NO_RULE = ChosenRule(1.0, (np.inf, np.inf), GuaranteedThreshold(np.inf, 0, 0, 0, np.nan))


def _read_validation(model: RunModel) -> FindingsPredictions:
    predictions = model.run.read_cell(model.validation_file())
    assert isinstance(predictions, FindingsPredictions)
    return predictions


def _find_choice(model: RunModel) -> ValidationChoice:
    """Say what the validation images had already chosen: the epoch, and in a sweep the recipe."""
    settings = model.record.models[model.name].settings
    if model.record.kind != "study":
        return "perhaps" if str(settings.get("source")).startswith("run:") else "unknown"
    recipe = settings.get("recipe")
    last = isinstance(recipe, dict) and recipe.get("select") == "last"
    if settings.get("sweep"):
        return "recipe" if last else "recipe and epoch"
    return "nothing" if last else "epoch"


def _check_enough(
    images: DividedImages, promise: Promise, limits: Sequence[ClassLimit], model: RunModel
) -> None:
    assert promise.coverage is not None
    n, certainty, least = (
        images.choosing().worth,
        promise.certainty,
        fewest_images(promise.coverage),
    )
    if promise.risk is not None:
        least = max(least, fewest_for_risk(promise.risk, certainty))
    if n < least or not len(images.proposing):
        raise InputError(
            f"half of the {images.units} of {model.run.path} are {n:,}, too few to promise "
            f"{promise.describe()} with {format_percent(certainty)} confidence and sets of "
            f"{format_percent(promise.coverage)}: that takes at least {least:,}, and more if any "
            "answer is wrong"
        )
    for limit in limits:
        if text := limit.lacking(images, certainty):
            raise InputError(
                f"{model.run.path}: {text}; allow more, or evaluate with more validation images"
            )


def measure_run(
    model: RunModel, fitted: FittedPromise, weigh: Weigh
) -> Iterator[PromiseCheck | LimitCheck]:
    """Measure how the promise holds on the images of the run, from its stored predictions.

    Args:
        model: the model.
        fitted: from `fit_promise`.
        weigh: as in the promise.
    """
    fit = fitted.fit
    chosen_on = _Place(VALIDATION, "clean", VAL, model.validation_file())

    def measure(
        place: _Place, predictions: Predictions, grouping: Grouping | None
    ) -> Iterator[PromiseCheck | LimitCheck]:
        scaled = apply_temperature(predictions, fit.temperature)
        yield measure_images(place.images, place.kind, scaled, fit, grouping, weigh)
        answered = _answer_classes(scaled, fit)
        for own in fit.limits:
            label = model.classes.index(own.name)
            yield from _measure_limit(place, scaled, answered, own, label, grouping, weigh)

    yield from measure(chosen_on, fitted.chosen_on, fitted.grouping)
    for place in _list_places(model):
        predictions = model.run.read_predictions(place.file)
        yield from measure(place, predictions, read_grouping(model.run, place.part))


def _answer_classes(predictions: Predictions, fit: Fit) -> BoolArray:
    probabilities = None
    if fit.limits and predictions.logits is not None:
        probabilities = softmax(predictions.logits)
    return is_answered_within(
        predictions.known_confidence,
        predictions.predicted,
        probabilities,
        fit.threshold,
        fit.ceilings(predictions.classes),
    )


def _measure_limit(
    place: _Place,
    predictions: Predictions,
    answered: BoolArray,
    fitted: LimitFit,
    label: int,
    grouping: Grouping | None,
    weigh: Weigh,
) -> Iterator[LimitCheck]:
    """Measure how a limit holds on the images with a label, if there are any."""
    places = np.flatnonzero(predictions.labels == label)
    if fitted.bound is None or not len(places):
        return
    own, among = predictions.take(places), None if grouping is None else grouping.select(places)
    share, risk = _measure_answers(own, answered[places], among, _weights(own, among, weigh))
    yield LimitCheck(
        images=place.images,
        kind=place.kind,
        n=len(places),
        answered=share,
        risk=risk,
        limit=fitted.kind,
        name=fitted.name,
    )


class _Place(NamedTuple):
    """Images of the run with stored predictions."""

    images: str
    kind: ImageKind
    part: str
    file: str


def _list_places(model: RunModel) -> Iterator[_Place]:
    """All images of the run with stored predictions, but validation images.

    A guard answers among all classes, so natural shifts with a class mask or other labels are left
    out.
    """
    places: list[tuple[str, ImageKind, str, str]] = [(CLEAN, "clean", TEST, CLEAN)]
    for sweep in model.record.sweeps:
        places += [(cell.id, sweep.kind, TEST, cell.id) for cell in sweep.cells]
    for name in model.record.natural:
        if name not in model.record.choices:
            places.append((f"{NATURAL}{name}", "clean", f"{NATURAL}{name}", CLEAN))
    for images, kind, part, shift in places:
        file = predictions_file(model.name, model.seed, shift, part)
        if model.run.file(file).is_file() and model.run.holds(file):
            yield _Place(images, kind, part, file)


def measure_findings(
    model: RunModel, fit: FindingsFit, weigh: Weigh
) -> Iterator[FindingCheck | LimitCheck]:
    """Measure how the promise about each finding holds on the test images of the run.

    Args:
        model: the model.
        fit: from `fit_findings`.
        weigh: as in the promise.
    """
    for place in _list_places(model):
        every, grouping = model.run.read_cell(place.file), read_grouping(model.run, place.part)
        assert isinstance(every, FindingsPredictions)
        for column, fitted in enumerate(fit.findings):
            known = np.flatnonzero(every.known[:, column])
            if fitted.threshold is None or not len(known):
                continue
            predictions = apply_temperature(select_finding(every, column), fitted.temperature)
            own = None if grouping is None else grouping.select(known)
            assert predictions.logits is not None
            rows = np.arange(len(predictions)), predictions.predicted
            answered = softmax(predictions.logits)[rows] >= np.array(fitted.least)[rows[1]]
            share, risk = _measure_answers(
                predictions, answered, own, _weights(predictions, own, weigh)
            )
            yield FindingCheck(
                images=place.images,
                kind=place.kind,
                n=len(predictions),
                answered=share,
                risk=risk,
                finding=fitted.finding,
            )
            for limit in fit.limits:
                if limit.name == fitted.finding:
                    label = FINDING_LABELS[limit.kind]
                    yield from _measure_limit(
                        place, predictions, answered, limit, label, own, weigh
                    )


def _weights(predictions: Predictions, grouping: Grouping | None, weigh: Weigh) -> FloatArray:
    if grouping is not None and weigh == "groups":
        return grouping.equal_weights
    return np.ones(len(predictions))


def _measure_answers(
    predictions: Predictions, answered: BoolArray, grouping: Grouping | None, weights: FloatArray
) -> tuple[float, ShareInterval]:
    """The share that is answered, and the share of the answers that is wrong."""
    risk = _measure_share(~predictions.correct, answered, grouping, weights)
    return min(float((weights * answered).mean()), 1.0), risk


def measure_images(
    images: str,
    kind: ImageKind,
    predictions: Predictions,
    fit: Fit,
    grouping: Grouping | None,
    weigh: Weigh = "groups",
) -> PromiseCheck:
    """Measure how the promise holds on some images, with intervals over images or groups.

    Args:
        images, kind: as in `PromiseCheck`.
        predictions: after temperature scaling.
        fit: threshold and quantile.
        grouping: which images belong together.
        weigh: what counts alike, as in the promise.
    """
    weights = _weights(predictions, grouping, weigh)
    answered, risk = _measure_answers(
        predictions, _answer_classes(predictions, fit), grouping, weights
    )
    if predictions.logits is None:
        # The most probable class is always in its set, even if its score is too large. Of several
        # equally probable classes, the first counts as that.
        size, covered = None, (_label_scores(predictions) <= fit.quantile) | predictions.correct
    else:
        sets = set_columns(softmax(predictions.logits), predictions.labels, fit.quantile)
        size, covered = float((weights * sets.set_size).mean()), sets.covered
    everywhere = np.ones(len(predictions), dtype=bool)
    return PromiseCheck(
        images=images,
        kind=kind,
        n=len(predictions),
        answered=answered,
        risk=risk,
        covered=_measure_share(covered, everywhere, grouping, weights),
        set_size=size,
    )


def _label_scores(predictions: Predictions) -> FloatArray:
    """1 minus the probability of each label; labels with smaller scores enter the set first."""
    assert predictions.nll is not None, "a network gave the probability of each class"
    return 1 - np.exp(-predictions.nll)


def _measure_share(
    hits: BoolArray, among: BoolArray, grouping: Grouping | None, weights: FloatArray
) -> ShareInterval:
    if not among.any():
        return ShareInterval(value=None, low=None, high=None)
    [low], [high] = share_interval(hits, np.where(among, 0, -1), 1, grouping, weights)
    value = float(np.average(hits[among], weights=weights[among]))
    return ShareInterval(value=value, low=float(low), high=float(high))


UNKNOWN = "unknown"


def make_guard(
    model: RunModel,
    promise: Promise,
    *,
    device: str = "auto",
    root: str | Path | None = None,
    offline: bool = False,
) -> Guard | FindingsGuard:
    """Make a guard of a model: fit the promise, measure what the run keeps of it.

    Args:
        model: the model.
        promise: what is promised.
        device: where the networks run.
        root: the folder with the files of the run's data set, if it is not where it was.
        offline: never use the network.

    Raises:
        InputError: the validation images do not support the promise.
    """
    try:
        record, chosen_on = MAKERS[model.run.task.name](model, promise)
    except InputError as error:
        raise InputError(name_units(str(error), model.record.settings.aggregation)) from None

    def see(images: torch.Tensor) -> GuardOutputs:
        nothing = torch.zeros(len(images), dtype=torch.int64)
        whole = Images(images, nothing, torch.arange(len(images)), model.classes)
        outputs = [compute_outputs(network, whole, device=device) for network in model.networks]
        if len(outputs) == 1:
            return GuardOutputs(*outputs[0])
        return GuardOutputs(model.run.task.combine(output.logits for output in outputs), None)

    images = None  # then features are not compared, as `Likeness` says
    if record.judged is None:  # a patient has no features
        with contextlib.suppress(InputError, OSError):
            images = open_validation_images(model, root=root, offline=offline)
    return guard_of(record, see, _reference(chosen_on, images, see, model))


def _record_classes(model: RunModel, promise: Promise) -> tuple[AnyRecord, AnyPredictions]:
    """The record of a guard of a classifier, and the predictions that chose its threshold."""
    fitted = fit_promise(model, promise)
    facts = _facts(model, promise, measure_run(model, fitted, promise.weigh))
    return GuardRecord(fit=fitted.fit, **facts), fitted.chosen_on


def _record_findings(model: RunModel, promise: Promise) -> tuple[AnyRecord, AnyPredictions]:
    """The record of a guard of findings, and predictions of independent validation images."""
    promise = promise.model_copy(update={"coverage": None})
    fit = fit_findings(model, promise)
    facts = _facts(model, promise, measure_findings(model, fit, promise.weigh))
    grouping, every = read_grouping(model.run, VAL), _read_validation(model)
    independent = np.arange(len(every)) if grouping is None else one_of_each(grouping)
    positive = read_positive(model.record.data.notes)
    return FindingsGuardRecord(fit=fit, positive=positive, **facts), every.take(independent)


MAKERS = {CLASSIFICATION: _record_classes, MULTILABEL: _record_findings}


def _facts(model: RunModel, promise: Promise, checks: Iterable[AnswerCheck]) -> dict[str, Any]:
    """What every guard says of its model, of its promise, and of where it was kept."""
    kept = tuple(checks)
    size = model.record.data.side
    if size is None:
        raise InputError(f"{model.run.path} does not say how large its images are")
    return {
        "model": model.name,
        "title": model.title,
        "run": model.record.name,
        "seed": model.seed,
        "architecture": _name_architecture(model.record.models[model.name]),
        "classes": model.classes,
        "size": size,
        "preparation": model.preparation,
        "scale": model.scale,
        "judged": _describe_unit(model),
        "promise": promise,
        "kept": tuple(check for check in kept if not isinstance(check, LimitCheck)),
        "kept_limits": tuple(check for check in kept if isinstance(check, LimitCheck)),
        "versions": package_versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _describe_unit(model: RunModel) -> JudgedUnit | None:
    """What the run judges in place of images; None for images."""
    if (aggregation := model.record.settings.aggregation) is None:
        return None
    chosen = model.run.choose_aggregate(model.name, model.seed).name
    return JudgedUnit(unit=aggregation.unit, aggregate=chosen, ordered=model.record.data.ordered)


def _name_architecture(model: ModelRecord) -> str:
    named = model.settings.get("backbone") or model.facts.get("architecture")
    return named if isinstance(named, str) else UNKNOWN


def _reference(
    predictions: AnyPredictions,
    images: Images | None,
    see: Callable[[torch.Tensor], GuardOutputs],
    model: RunModel,
) -> GuardOutputs:
    """The network's outputs for the validation images that chose the threshold.

    Logits come from the run if it stored them. Otherwise, and for features, the network predicts at
    most `MOST_IMAGES` of the images again.
    """
    again = None
    if images is not None:
        generator = np.random.default_rng(0)
        drawn = np.sort(generator.permutation(len(predictions))[:MOST_IMAGES])
        place = {key: at for at, key in enumerate(images.keys.tolist())}
        wanted = [place[key] for key in predictions.keys[drawn].tolist() if key in place]
        if wanted:
            again = see(images.images[np.array(wanted)])
    if predictions.logits is not None:
        return GuardOutputs(predictions.logits, None if again is None else again.features)
    if again is None:
        raise InputError(
            f"{model.run.path} stores no logits, and its validation images are not where they "
            "were: name the folder with the files of its data set with --data-root"
        )
    return again


def save_guard(
    guard: Guard | FindingsGuard, model: RunModel, folder: Path, *, replace: bool = False
) -> None:
    """Save a guard as a folder of JSON and safetensors, which `open_guard` opens.

    Raises:
        InputError: the folder holds something already, or the network cannot be traced.
    """
    check_new_folder(folder, replace=replace)
    traced = trace(model.networks, guard.record.size, model.run.task.kinds[0])
    files = encode_guard(guard.record, traced.graph, traced.weights, guard.reference)
    for name, content in files.items():  # checksums last: nothing opens without them
        write_atomically(folder / name, content)


def check_new_folder(folder: Path, *, replace: bool = False) -> None:
    """Raise `InputError` unless a guard can be saved in a folder."""
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise InputError(f"{folder} is not empty: name another folder, or replace it (--replace)")


def save_onnx(guard: Guard | FindingsGuard, model: RunModel, path: Path) -> None:
    """Save the model of a guard, with preprocessing and temperature, as one ONNX graph.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    if (judged := guard.record.judged) is not None:
        raise InputError(
            f"an ONNX file answers images, and this guard answers {judged.aggregation.plural}: "
            "save the guard alone"
        )
    write_atomically(path, export_onnx(model.networks, guard.record))
