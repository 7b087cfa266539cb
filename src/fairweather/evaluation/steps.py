"""An evaluation's steps in order: predict, score, report; each done once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fairweather.devices import resolve_device
from fairweather.errors import InputError
from fairweather.evaluation.loading import Brought, bring_together, digests
from fairweather.evaluation.priors import complete_priors
from fairweather.evaluation.request import Request
from fairweather.measuring import (
    Setting,
    Subject,
    check_variants,
    describe_run,
    predict_subject,
    report_step,
    samples_step,
    score_run,
)
from fairweather.metrics import wilson_interval
from fairweather.models import describe_preprocessing
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder, open_run
from fairweather.types import Attack, Cell, Shift
from fairweather.variants import check_names
from fairweather.yamlfile import dump_yaml, read_yaml

SEED = 0  # of a model from elsewhere


class Prepared(NamedTuple):
    """An evaluation that can begin: everything was tried out, and nothing written.

    Attributes:
        request: what was asked for.
        brought: the model and its data.
        name: `MODEL-on-DATA`, as a folder can be called.
    """

    request: Request
    brought: Brought
    name: str


def prepare(request: Request, progress: Notify | None = None) -> Prepared:
    """Load model and data, and try on one image whatever was asked for.

    `progress` is called with what happens while the data are loaded.

    Raises:
        InputError: model, data or shifts are not as asked.
    """
    check_names(request.variants)
    resolve_device(request.device)
    brought = bring_together(request, progress)
    _try_out(request, brought)
    data = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(brought.dataset.name).name).strip("-.")
    return Prepared(request, brought, f"{brought.opened.name}-on-{data or 'data'}")


def execute(prepared: Prepared, out: Path, tell: Callable[[str], None]) -> Iterator[Event]:
    """Do every step that does not stand in the run folder yet, and report progress.

    Args:
        prepared: what is evaluated.
        out: the run folder.
        tell: called with what a person wants to know before the shifts run, a line at a time: how
            the model's images are prepared, how labels were matched, and the clean accuracy.

    Raises:
        InputError: the folder holds something else.
    """
    request, brought, name = prepared
    for line in brought.lines():
        tell(line)
    with open_run(out) as run:
        setting = replace(
            _setting(request, brought, run, resolve_device(request.device)),
            when_halved=lambda size: tell(f"note           memory ran out: batches of {size}"),
        )
        subject = Subject(
            name=brought.opened.name,
            seed=SEED,
            title=request.title or brought.opened.name,
            label=request.title or brought.opened.name,
            digest=brought.digest,
            load=lambda: brought.model,
        )
        _check_folder(run, brought, name)
        document = _document(request, brought, setting, name, subject)
        if _differs(run, document):
            tell("note           other options than before: what depends on them is done again")
        model = {**brought.opened.facts, "digest": brought.opened.digest}
        model["outputs_as"] = {"kind": brought.outputs.kind, "from": brought.outputs.origin}
        facts = {"model": model | {"labels": brought.labels.note}}
        describe_run(setting, document, {subject.name: subject.title}, facts)
        clean = replace(setting, shifts=setting.shifts[:1], variants=(), others={})
        yield from predict_subject(clean, subject)
        for line in clean_lines(setting, subject):
            tell(line)
        yield from predict_subject(setting, subject)
        samples_step(setting, [subject], mixup=False)
        yield from score_run(setting, [subject])
        yield from report_step(setting)


def _check_folder(run: RunFolder, brought: Brought, name: str) -> None:
    """Refuse a folder with the numbers of another model or of other data under the same names."""
    document, facts = run.path / "study.yaml", run.path / "provenance.json"
    if not facts.is_file() or read_yaml(document)["name"] != name:
        return  # a run of another name is refused where it would be overwritten
    stored = json.loads(facts.read_text())
    dataset, theirs = brought.dataset, stored["data"]
    if stored["model"]["digest"] != brought.opened.digest:
        what = f"another model called {brought.opened.name!r}"
    elif theirs["notes"].get("source") != dataset.notes.get("source"):
        what = f"another data set called {dataset.name!r}"
    else:
        return
    raise InputError(f"{run.path} holds the evaluation of {what}; name another folder with --out")


def _differs(run: RunFolder, document: dict[str, Any]) -> bool:
    path = run.path / "study.yaml"
    return path.is_file() and path.read_text() != dump_yaml(document)


def clean_lines(setting: Setting, subject: Subject) -> list[str]:
    """Say how accurate the model is on the images as they are, and warn where it knows nothing."""
    cell = Cell(subject.name, subject.seed, setting.shifts[0])
    predictions = setting.run.read_predictions(str(cell.path))
    accuracy, n = predictions.correct.mean(), len(predictions)
    low, high = map(float, wilson_interval(accuracy, n))
    lines = [f"clean          accuracy {accuracy:.1%} [{low:.1%}, {high:.1%}], n = {n:,}"]
    counts = np.bincount(predictions.labels)
    share, largest = counts.max() / n, predictions.classes[counts.argmax()]
    if low <= share:
        lines.append(
            f"warning        that is not above chance ({share:.1%}, what a model that always says "
            f"{largest} gets): the preprocessing or the labels are probably wrong; see --size, "
            "--mean with --std, and --labels"
        )
    return lines


def _setting(request: Request, brought: Brought, run: RunFolder, device: torch.device) -> Setting:
    return Setting(
        run=run,
        dataset=brought.dataset,
        digests=digests(brought.dataset, brought.others),
        device=device,
        shifts=request.shifts,
        shift_seed=request.shift_seed,
        batch_size=request.batch_size,
        bootstrap=request.bootstrap,
        variants=request.variants,
        priors=complete_priors(request.priors, brought.dataset.test),
        others=brought.others,
    )


def _try_out(request: Request, brought: Brought) -> None:
    """Shift and attack one image every way: mistakes show before anything is written."""
    image, dataset = brought.dataset.test[:1], brought.dataset
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only one class: an evaluation needs two")
    check_variants(request.variants, dataset, brought.model)
    complete_priors(request.priors, dataset.test)
    for shift in request.shifts:
        if isinstance(shift, Shift):
            shift(image.images, image.keys, request.shift_seed)
    attacks = [each for each in request.shifts if isinstance(each, Attack)]
    if attacks:
        inputs = image.images.float() / 255
        with torch.inference_mode():
            wrong = (brought.model(inputs).argmax(1) + 1) % len(dataset.classes)
        for attack in attacks:  # wrong anyway: all is checked, and nothing searched for
            attack(brought.model, inputs, wrong, image.keys, request.shift_seed)
        if any(attack.name != "square" for attack in attacks):
            brought.model(inputs.requires_grad_())  # what gives no gradients says so


def _document(
    request: Request, brought: Brought, setting: Setting, name: str, subject: Subject
) -> dict[str, Any]:
    """The content of study.yaml: what a report reads, and what was asked for."""
    asked = {
        "architecture": request.architecture,
        "weights": request.weights,
        "mean": request.mean and list(request.mean),
        "std": request.std and list(request.std),
        "input_size": request.input_size,
        "outputs": None if request.outputs == "auto" else request.outputs,
    }
    entry = {
        "title": subject.title,
        "source": str(brought.opened.facts.get("source", subject.name)),
        "preprocessing": describe_preprocessing(brought.opened),
        **{key: value for key, value in asked.items() if value is not None},
    }
    return {
        "name": name,
        "title": f"{subject.title} on {setting.dataset.name}",
        "description": "",
        "data": {"source": setting.dataset.name},
        "seeds": [SEED],
        "shift_seed": setting.shift_seed,
        "shifts": [shift.id for shift in setting.shifts[1:]],
        "models": {subject.name: entry},
        "prediction_batch_size": setting.batch_size,
        "bootstrap": setting.bootstrap,
        "variants": list(setting.variants),
        "priors": {name: list(values) for name, values in setting.priors.items()},
        "ood": list(setting.others),
    }
