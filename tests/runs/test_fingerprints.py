"""A fingerprint has what changes a result, by one rule; defaults are stored, and never change."""

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from fairweather.devices import Arithmetic
from fairweather.models.building import ModelSpec
from fairweather.runs import fingerprints as effects
from fairweather.runs.fingerprints import (
    DEFAULTS,
    DEFAULTS_VERSION,
    effective_facts,
    effective_fields,
    to_fact,
)
from fairweather.steps import plan
from fairweather.steps.plan import (
    AppliedVariant,
    ChooseStep,
    EnsembleNetwork,
    FeaturesStep,
    FitStep,
    ForwardPass,
    GivenPredictions,
    GroupStep,
    ImagesReference,
    InterpolatedNetwork,
    PredictStep,
    PretrainStep,
    ReadStep,
    ReportStep,
    SampleStep,
    ScoredModel,
    ScoreStep,
    TrainedNetwork,
    TrainStep,
    step_fingerprint,
)
from fairweather.tasks import TASKS
from fairweather.training import supervised as training
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.types.options import GroupColumns
from fairweather.variants.adaptation.sar import Sar
from fairweather.variants.variant import VARIANTS, variant_class

GOLDEN = Path(__file__).with_name("defaults.json")
OTHERS = (ModelSpec, training.Recipe, Arithmetic, GroupColumns)
KINDS = {
    kind.__name__: kind
    for kind in (*vars(plan).values(), *OTHERS)
    if isinstance(kind, type) and kind.__module__.startswith("fairweather")
}
WHAT_TO_DO = (
    "the default of {0} is {1} in the code and {2} in src/fairweather/defaults.json: finished work "
    "that was made with the old default would count as made with the new one. Write the new one "
    "into that file and raise its version, and bring tests/defaults.json to the same"
)
IMAGES = ImagesReference(digest="images")
STEP = {"id": "id", "task": "task", "leaves": ("file",)}
SPEC = ModelSpec("timm:test_resnet", 3)
RUN = {"precision": "fp32", "own_statistics": True, "weights": "none", "spec": SPEC, "seed": 0}
NETWORK = TrainedNetwork(folder="models/basic/seed-0")
FITTED = {
    "variant": "temperature",
    "validation": "a",
    "network": NETWORK,
    "val": IMAGES,
    "batch_size": 8,
}
PREDICTED = {"model": "basic", "seed": 0, "images": IMAGES, "shift": "gamma,exponent=2"}
PREDICTED |= {"shift_seed": 0, "batch_size": 8}
APPLIED = AppliedVariant(of="a", variant="temperature", fitted="b")
SCORED = {
    "rows": (ScoredModel(model="a", seed=0, shifts=("clean",)),),
    "titles": {},
    "bootstrap": 100,
}
SAMPLED = {"images": IMAGES, "train": None, "models": {}, "shifts": (), "shift_seed": 0}
# Each kind of step with all of its fields in effect.
STEPS = {
    "pretrain": PretrainStep(
        **STEP, **RUN, folder="f", title="t", images=IMAGES, probe=(IMAGES, IMAGES),
        recipe=Pretraining("simclr"), processes=2,
    ),
    "train": TrainStep(
        **STEP, **RUN, folder="f", train=IMAGES, val=IMAGES, recipe=training.Recipe(), label_seed=0,
        processes=2,
    ),
    "choose": ChooseStep(**STEP, title="t", values=({},), folders=("f",), metric="nll"),
    "fit": FitStep(**STEP, **FITTED, stored=False, shifts=("clean", "gamma,exponent=2")),
    "fit of stored": FitStep(**STEP, **FITTED, stored=True),
    "features": FeaturesStep(**STEP, network=NETWORK, images=IMAGES, seed=0, batch_size=8),
    "predict": PredictStep(**STEP, **PREDICTED, how=ForwardPass(network=NETWORK)),
    "predict from stored": PredictStep(**STEP, **PREDICTED, how=APPLIED),
    "given": PredictStep(**STEP, **PREDICTED, how=GivenPredictions(digest="given")),
    "group": GroupStep(**STEP, images=(IMAGES,), digests=("groups",)),
    "read": ReadStep(**STEP, content="calls", digest="calls"),
    "score": ScoreStep(**STEP, **SCORED, validation=True, natural_shift=False),
    "sample": SampleStep(**STEP, **SAMPLED, mixup=False),
    "sample of attacks": SampleStep(**STEP, **SAMPLED, mixup=False, attacks=("fgsm,epsilon=0.1",)),
    "report": ReportStep(**STEP),
}  # fmt: skip
# What stands in every step for people, for the executor, or for where things lie.
OF_NO_STEP = {"id", "task", "needs", "reads", "leaves", "may_leave", "work", "memory"}
MACHINE = {"device", "threads"}
SYNC = {"processes", "sync_batchnorm"}
OF_NETWORKS = {"network", "val", "batch_size", "arithmetic"}
CELL = {"shift", "published", "shift_seed", "batch_size", "arithmetic"}
# Fields without an effect, besides: places, files whose checksums are in the fingerprint, titles.
WITHOUT_EFFECT = {
    "pretrain": {"folder", "title"},
    "train": {"folder", "start", "choice", "tries", "may_diverge"},
    "choose": {"title", "folders", *MACHINE},
    "fit": {"validation", "more", "groups"},
    "fit of stored": {
        "validation",
        "more",
        "groups",
        "shifts",
        "published",
        "shift_seed",
        "source",
        "stream_seed",
        *OF_NETWORKS,
        *MACHINE,
    },
    "features": set(),
    "predict": {"model", "seed", "known", "goes_on", "hands_over"},
    "predict from stored": {
        "model",
        "seed",
        "known",
        "goes_on",
        "hands_over",
        "images",
        *CELL,
        *MACHINE,
    },
    "given": {"model", "seed", "known", "goes_on", "hands_over", *CELL, *MACHINE},
    "group": MACHINE,
    "read": {"content", *MACHINE},
    "score": {"validation", *MACHINE},
    "sample": MACHINE,
    "sample of attacks": set(),
    "report": MACHINE,
}


def changed(value):
    """Another value of the same kind."""
    others = {
        ImagesReference: ImagesReference(digest="other"),
        ModelSpec: ModelSpec("timm:test_resnet", 4),
        training.Recipe: training.Recipe(epochs=3),
        Pretraining: Pretraining("simclr", epochs=3),
        Arithmetic: Arithmetic("bf16"),
        TrainedNetwork: TrainedNetwork(folder="models/other/seed-0"),
        ForwardPass: ForwardPass(network=TrainedNetwork(folder="models/other/seed-0")),
        AppliedVariant: plan.EnsembleAverage(members=("a",)),
        GivenPredictions: GivenPredictions(digest="other"),
        ScoredModel: ScoredModel(model="b", seed=0, shifts=("clean",)),
    }
    if type(value) in others:
        return others[type(value)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "other": 0}
    if isinstance(value, tuple):
        return tuple(map(changed, value)) or ("other",)
    return "other"


@pytest.mark.parametrize("name", STEPS)
def test_the_fingerprint_changes_for_what_has_an_effect_and_for_nothing_else(name, monkeypatch):
    monkeypatch.setitem(TASKS, "other", TASKS["classification"])
    monkeypatch.setitem(VARIANTS, "other", VARIANTS["temperature"])
    step = STEPS[name]
    before, silent = step_fingerprint(step, {}), set()
    for field in type(step).model_fields:
        other = step.model_copy(update={field: changed(getattr(step, field))})
        if field != "kind" and step_fingerprint(other, {}) == before:
            silent.add(field)
    # Prediction sets have metrics of their own: a file with them tells that there are some.
    assert silent == OF_NO_STEP | WITHOUT_EFFECT[name]


def test_a_version_of_mixed_streams_changes_no_other_fingerprint(monkeypatch):
    plain = STEPS["predict"]
    mixed = plain.model_copy(update={"mixed": ("gamma,exponent=3",)})
    before = [step_fingerprint(step, {}) for step in (plain, mixed)]
    monkeypatch.setattr(plan, "MIXED_VERSION", plan.MIXED_VERSION + 1)
    after = [step_fingerprint(step, {}) for step in (plain, mixed)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


@pytest.mark.parametrize("kind", ["sar", "tent"])
def test_a_version_of_a_method_changes_its_own_predictions_alone(monkeypatch, kind):
    plain = STEPS["predict"]
    how = plain.how.model_copy(update={"variant": kind})
    steps = [plain, plain.model_copy(update={"how": how})]
    before = [step_fingerprint(step, {}) for step in steps]
    monkeypatch.setattr(Sar, "version", Sar.version + 1)
    after = [step_fingerprint(step, {}) for step in steps]
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True,
        kind == "tent",
    ]


def test_a_version_of_a_method_changes_the_fits_that_predict_by_it(monkeypatch):
    fits = [
        STEPS[name].model_copy(update={"variant": f"temperature: {{of: {kind}}}"})
        for name, kind in (("fit", "sar"), ("fit", "tent"), ("fit of stored", "sar"))
    ]
    before = [step_fingerprint(step, {}) for step in fits]
    monkeypatch.setattr(Sar, "version", Sar.version + 1)
    after = [step_fingerprint(step, {}) for step in fits]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]


def test_every_kind_of_step_is_tried():
    assert {step.kind for step in STEPS.values()} == set(plan.VERSIONS)


def default_of(kind, name):
    """The default of a field in the code, as JSON."""
    if is_dataclass(kind):
        default = next(each.default for each in fields(kind) if each.name == name)
        assert default is not MISSING, f"{kind.__name__}.{name} has no default in the code"
        return to_fact(default)
    if issubclass(kind, tuple):
        return to_fact(kind._field_defaults[name])
    return to_fact(kind.model_fields[name].get_default(call_default_factory=True))


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_the_code_are_the_stored_ones(name):
    for field, stored in DEFAULTS[name].items():
        assert field in effective_fields(KINDS[name]), f"{name}.{field} has no effect, or is gone"
        found = default_of(KINDS[name], field)
        assert found == stored, WHAT_TO_DO.format(f"{name}.{field}", found, stored)


def test_a_default_that_changes_raises_the_version():
    """The file of the tests has what each option had when it was added."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == DEFAULTS_VERSION, "bring tests/defaults.json to the same version"
    assert {name: list(each) for name, each in golden["defaults"].items()} == {
        name: list(each) for name, each in DEFAULTS.items()
    }, "write what was added, or went, into tests/defaults.json too"
    for name, stored in golden["defaults"].items():
        for field, default in stored.items():
            now = DEFAULTS.get(name, {}).get(field)
            assert now == default, WHAT_TO_DO.format(f"{name}.{field}", now, default)


def test_a_default_of_a_variant_that_changes_raises_the_version_too():
    """Fingerprints have the written form of a variant, without what is at its default."""
    now = {
        kind: {each.name: each.default for each in fields(variant_class(kind))}
        for kind in VARIANTS
        if variant_class(kind).__module__.startswith("fairweather.")
    }
    assert now == json.loads(GOLDEN.read_text())["variants"], WHAT_TO_DO.format("a variant", "", "")


def test_a_raised_version_is_a_fact_of_every_step(monkeypatch):
    before = [step_fingerprint(step, {}) for step in STEPS.values()]
    monkeypatch.setattr(plan, "DEFAULTS_VERSION", DEFAULTS_VERSION + 1)
    after = [step_fingerprint(step, {}) for step in STEPS.values()]
    assert not set(before) & set(after)


def test_a_planted_option_leaves_finished_work_as_it_is(monkeypatch):
    """One that is added with its default in the table counts where it has another value."""
    without = effective_facts(training.Recipe())
    assert "mixup" in without
    assert "cutmix" not in without
    assert effective_facts(training.Recipe(cutmix=0.5)) == {**without, "cutmix": 0.5}
    monkeypatch.setattr(effects, "DEFAULTS", {"Recipe": {}})
    effects.stored_defaults.cache_clear()
    assert effective_facts(training.Recipe())["cutmix"] == 0
    effects.stored_defaults.cache_clear()


def test_what_is_read_from_files_is_not_told_twice():
    members = (NETWORK, TrainedNetwork(folder="models/basic/seed-1"))
    assert to_fact(EnsembleNetwork(members=members)) == "together"
    mixed = (NETWORK, InterpolatedNetwork(folder="models/basic/seed-1", share=0.25))
    assert to_fact(EnsembleNetwork(members=mixed)) == ["together", [1.0, 0.25]]
    assert to_fact(IMAGES) == "images"
    assert to_fact(GroupColumns("table.csv", "patient", ("site",))) == [
        "table.csv", "patient", ["site"], False,
    ]  # fmt: skip
