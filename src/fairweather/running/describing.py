"""The record of a run: what describes it is built here, whatever asked for it."""

from __future__ import annotations

import json

from fairweather.effects import facts
from fairweather.record import (
    ENSEMBLE,
    NATURAL,
    NO_IMAGES,
    TEST,
    DataRecord,
    RunRecord,
    RunSettings,
    variant_name,
)
from fairweather.running.inputs import Inputs, measurement_of
from fairweather.runs import provenance
from fairweather.steps.describing import describe_shifts
from fairweather.steps.measuring import Measurement
from fairweather.steps.plan import DATA, NATURAL_DATA


def record_of(inputs: Inputs) -> RunRecord:
    """Describe a run whose data sets are open."""
    measurement, trainings, settings = measurement_of(inputs), inputs.trainings, inputs.settings
    side = measurement.data.side
    return RunRecord(
        kind=inputs.kind,
        name=inputs.name,
        title=inputs.title,
        description=inputs.description,
        data=_data(inputs, measurement),
        models=dict(inputs.described),
        pretraining=dict(trainings.pretraining),
        seeds=inputs.seeds,
        ensemble=any(each.seed == ENSEMBLE for each in inputs.models),
        sweeps=describe_shifts(settings.shifts, None if side is None else min(side)),
        variants=_variant_titles(inputs, measurement),
        seen_shifts={name: dict(seen) for name, seen in trainings.seen_shifts.items()},
        priors=dict(measurement.priors),
        ood=tuple(measurement.others),
        natural={
            name: inputs.sources[f"{NATURAL_DATA}{name}"].source
            for name in (part.removeprefix(NATURAL) for part in measurement.natural)
        },
        settings=RunSettings(
            shift_seed=settings.shift_seed,
            bootstrap=settings.bootstrap,
            batch_size=settings.batch_size,
            precision=settings.arithmetic.precision,
            cudnn_benchmark=settings.arithmetic.cudnn_benchmark,
            training_precision=trainings.precision,
            variants=tuple(each.text for each in settings.variants),
            threads=settings.threads,
            operating_points=dict(measurement.operating_points),
            fit_on=tuple(shift.id for shift in settings.fit_on),
        ),
        provenance=provenance(settings.device),
    )


def _data(inputs: Inputs, measurement: Measurement) -> DataRecord:
    """Describe the data, with the digests of everything that is predicted."""
    own, dataset = measurement.data, inputs.datasets.get(DATA)
    others = {**measurement.others, **measurement.natural}
    digests = {**own.digests, **{name: each.digests[TEST] for name, each in others.items()}}
    ordered = {"ordered_classes": True} if inputs.settings.classes.ordered else {}
    if dataset is None:
        return DataRecord(
            name=own.name,
            classes=own.classes,
            digests=digests,
            notes={"images": dict(own.images), NO_IMAGES: True, **ordered},
        )
    return DataRecord(
        name=own.name,
        classes=own.classes,
        digests=digests,
        mean=dataset.mean,
        std=dataset.std,
        arguments=facts(inputs.sources[DATA]),
        notes=json.loads(json.dumps({**dataset.notes, **ordered})),
        task=own.task,
    )


def _variant_titles(inputs: Inputs, measurement: Measurement) -> dict[str, str]:
    """The titles of variants, and before those of an interpolation its own."""
    titles = {each.name: each.title for each in inputs.models}
    images, found = measurement.data.images[TEST], dict[str, str]()
    for name in sorted(titles, key=lambda each: each not in inputs.described):
        if name not in inputs.described:
            found[name] = titles[name]
        for variant in measurement.variants:
            phrase = variant.phrase(images, measurement.batch_size)
            found[variant_name(name, variant.name)] = f"{titles[name]} + {phrase}"
    return found
