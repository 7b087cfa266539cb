"""The plan and the record of an evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue

from fairweather.devices import Arithmetic, resolve_device
from fairweather.errors import InputError
from fairweather.evaluation.inputs import EvaluationInputs, check_task, check_variants, model_source
from fairweather.evaluation.request import Request, titles_of
from fairweather.evaluation_options import EvaluationOptions, natural_sources
from fairweather.metrics.class_metrics import read_points
from fairweather.models import describe_preprocessing, given_options
from fairweather.models.onnx_network import OnnxNetwork
from fairweather.record import NATURAL, TEST, VAL, ModelRecord, RunRecord, RunSettings
from fairweather.runs import fingerprint, provenance
from fairweather.steps.describing import describe_shifts, variant_titles
from fairweather.steps.measuring import (
    OOD_DATA,
    DataFacts,
    Measured,
    Measurement,
    check_points,
    conclude,
    data_record,
    facts_of,
    predict_models,
)
from fairweather.steps.one_image import try_attacks, try_fitting, try_shifts
from fairweather.steps.plan import DATA, NATURAL_DATA, OpenedNetwork, Plan, in_order
from fairweather.steps.worker import digests_of
from fairweather.types import Attack


def try_out(request: Request, inputs: EvaluationInputs) -> None:
    """Raise `InputError` for anything that would make the evaluation fail later."""
    dataset, options = inputs.dataset, request.options
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only one class: an evaluation needs at least two")
    check_variants(options, dataset.name, has_validation=dataset.val is not None)
    check_task(dataset, options, request.shifts)
    titles_of(options.title, [each.name for each in inputs.models])
    for variant in options.all_variants:
        for each in inputs.models:
            variant.check_network(each.model)
    if options.precision == "bf16" and any(
        isinstance(module, OnnxNetwork) for each in inputs.models for module in each.model.modules()
    ):
        raise InputError(
            "precision bf16 is for PyTorch models; an ONNX file says itself which of its numbers "
            "have 16 bits"
        )
    try_fitting(options.all_variants, dataset.val)
    image = dataset.test[:1]
    try_shifts([*request.shifts, *request.fit_on_shifts()], image, options.shift_seed)
    attacks = [each for each in request.shifts if isinstance(each, Attack)]
    for each in inputs.models:
        tensors = (*each.model.parameters(), *each.model.buffers())
        if attacks and any(tensor.is_inference() for tensor in tensors):
            raise InputError(
                f"{each.source} was made in torch.inference_mode(), so that attacks find no "
                "gradients: make it outside of it"
            )
        try_attacks(attacks, each.model, image, options.shift_seed)


def measurement_of(
    request: Request, facts: Mapping[str, DataFacts], priors: Mapping[str, tuple[float, ...]]
) -> Measurement:
    """What the model is measured on, and how."""
    options = request.options
    return Measurement(
        data=replace(facts[DATA], ordered=facts[DATA].ordered or options.ordered_classes),
        shifts=request.shifts,
        threads=options.threads or torch.get_num_threads(),
        device=resolve_device(options.device).type,
        shift_seed=options.shift_seed,
        batch_size=options.batch_size,
        arithmetic=Arithmetic(options.precision, options.cudnn_benchmark),
        bootstrap=options.bootstrap,
        variants=options.all_variants,
        others={name: facts[f"{OOD_DATA}{name}"] for name in options.ood},
        natural={
            f"{NATURAL}{name}": facts[f"{NATURAL_DATA}{name}"]
            for name in natural_sources(options.natural)
        },
        priors=priors,
        operating_points=check_points(read_points(options.operating_points), facts[DATA].classes),
        fit_on=request.fit_on_shifts(),
    )


def all_facts(inputs: EvaluationInputs) -> dict[str, DataFacts]:
    """What a plan needs to know about the data sets, with the digests of their images."""
    found = {}
    for name, dataset in inputs.datasets.items():
        own = digests_of(dataset)
        digests = {part: own[part] for part in (VAL, TEST) if part in own}
        facts = facts_of(dataset, digests)
        images = {part: n for part, n in facts.images.items() if part in (VAL, TEST)}
        found[name] = replace(facts, images=images)
    return found


def measured_models(request: Request, inputs: EvaluationInputs) -> list[Measured]:
    """The models of an evaluation."""
    titles = titles_of(request.options.title, [each.name for each in inputs.models])
    several = len(inputs.seeds) > 1
    models = []
    for each in inputs.models:
        title, network = titles[each.name], OpenedNetwork(digest=each.digest)
        label = f"{title}, seed {each.seed}" if several else title
        models.append(Measured(each.name, each.seed, title, label, network))
    return models


def plan_evaluation(request: Request, inputs: EvaluationInputs, measurement: Measurement) -> Plan:
    """Plan everything that an evaluation asks for."""
    models = measured_models(request, inputs)
    facts = {
        DATA: measurement.data,
        **{f"{OOD_DATA}{name}": each for name, each in measurement.others.items()},
        **{
            f"{NATURAL_DATA}{name.removeprefix(NATURAL)}": each
            for name, each in measurement.natural.items()
        },
    }
    sources = {
        name: replace(source, digests=dict(facts[name].digests))
        for name, source in inputs.sources.items()
    }
    steps = [*predict_models(measurement, models), *conclude(measurement, models)]
    return in_order(sources, [model_source(request, each) for each in inputs.models], steps)


def describe_evaluation(
    request: Request, inputs: EvaluationInputs, measurement: Measurement, plan: Plan
) -> RunRecord:
    """Make the record of an evaluation."""
    options, dataset = request.options, inputs.dataset
    titles = {each.name: each.title for each in measured_models(request, inputs)}
    return RunRecord(
        kind="evaluation",
        name=run_name(inputs),
        title=f"{', '.join(titles.values())} on {dataset.name}",
        data=data_record(
            dataset,
            plan.data[DATA],
            {
                name: each.digests[TEST]
                for name, each in {**measurement.others, **measurement.natural}.items()
            },
            ordered=options.ordered_classes,
        ),
        models={name: _described(inputs, name, title, options) for name, title in titles.items()},
        seeds=inputs.seeds,
        sweeps=describe_shifts(request.shifts, min(dataset.test.images.shape[2:])),
        variants=variant_titles(
            titles, {}, options.all_variants, len(dataset.test), options.batch_size
        ),
        priors=dict(measurement.priors),
        ood=options.ood,
        natural=natural_sources(options.natural),
        settings=RunSettings(
            shift_seed=options.shift_seed,
            bootstrap=options.bootstrap,
            batch_size=options.batch_size,
            precision=options.precision,
            cudnn_benchmark=options.cudnn_benchmark,
            variants=tuple(each.text for each in options.all_variants),
            threads=measurement.threads,
            operating_points=dict(measurement.operating_points),
            fit_on=tuple(shift.id for shift in measurement.fit_on),
        ),
        provenance=provenance(resolve_device(options.device)),
    )


def _described(
    inputs: EvaluationInputs, name: str, title: str, options: EvaluationOptions
) -> ModelRecord:
    """Describe a model; of several seeds, all say where they are from, and the first the rest."""
    members = [each for each in inputs.models if each.name == name]
    model, several = members[0], len(members) > 1
    asked = given_options(options)
    if options.outputs == "auto":
        del asked["outputs"]
    settings = {
        "source": ", ".join(dict.fromkeys(each.source for each in members)),
        "preprocessing": "; ".join(
            dict.fromkeys(describe_preprocessing(each.opened) for each in members)
        ),
        **{key: _plain(value) for key, value in asked.items() if value is not None},
    }
    facts = {
        **model.opened.facts,
        "digest": fingerprint({str(each.seed): each.opened.digest for each in members})
        if several
        else model.opened.digest,
        "outputs_as": {"kind": model.outputs.kind, "from": model.outputs.origin},
        "labels": model.labels.note,
    }
    if options.labels is not None:
        classes = inputs.dataset.classes
        facts["label_map"] = dict(zip(classes, model.labels.columns, strict=True))
    return ModelRecord(title=title, settings=settings, facts=json.loads(json.dumps(facts)))


def _plain(value: object) -> JsonValue:
    plain: JsonValue = json.loads(json.dumps(value))
    return plain


def run_name(inputs: EvaluationInputs) -> str:
    """`MODEL-on-DATA`, as a name for a folder; of several models, it has the first two."""
    names = list(dict.fromkeys(each.name for each in inputs.models))
    more = [f"{len(names) - 2}-more"] if len(names) > 2 else []
    data = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(inputs.dataset.name).name).strip("-.")
    return f"{'-and-'.join([*names[:2], *more])}-on-{data or 'data'}"
