"""Runs with different seeds are joined into one, as if one run had had all seeds."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.cli.judge import _join_sides
from fairweather.errors import InputError
from fairweather.inference.prediction import make_predictions
from fairweather.metrics import METRICS
from fairweather.metrics.metric import find_class_metric_row
from fairweather.progress import silent
from fairweather.report.samples import ATTACKED, INDEX, PICTURES, read_samples
from fairweather.requests.execution import describe_run
from fairweather.requests.inputs import make_plan
from fairweather.requests.seeds.joining import describe_joined_run, plan_remaining
from fairweather.requests.seeds.parts import (
    _seedless_settings,
    check_parts,
    collect_samples,
    open_part,
)
from fairweather.requests.study.run import open_study, plan, run
from fairweather.requests.study.schema import load_study, write_study
from fairweather.runs import cleaning
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder, shrink_predictions
from fairweather.steps.ledger import begin_run
from fairweather.steps.plan import ImagesReference, SampleStep
from fairweather.steps.worker import Worker
from fairweather.types.record import JOINED, SCORES, STUDY
from fairweather.workers.schedule import Schedule, finish_locally
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.run_folders import change_record, copy_run, finish

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY_FILE = """
name: tiny
data: {{source: "folder:{folder}", size: 16}}
threads: 1
shifts:
  - brightness_factor: [0.3]
  - fgsm: [8/255]
variants: [temperature, batchnorm]
bootstrap: 100
pretraining:
  views: {{recipe: {{method: barlow_twins, epochs: 1, batch_size: 16, projector: [16, 16]}}}}
defaults:
  backbone: {backbone}
  recipe: {{epochs: 1, batch_size: 16, learning_rate: 1e-2}}
models:
  started:
    title: Started
    weights: pretraining:views
    recipe: {{epochs: 2, probe_epochs: 1}}
    interpolations: [0.5]
  swept: {{title: Swept, sweep: {{learning_rate: [0.01, 0.001]}}}}
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Run the study with some seeds, without a report and then without its weights."""
    root = tmp_path_factory.mktemp("runs")
    file = root / "tiny.yaml"
    pictures = write_pictures(root / "pictures", train=12, test=8)
    for part in ("train", "test"):  # two classes have fewer rows than three
        shutil.rmtree(pictures / part / "green")
    file.write_text(STUDY_FILE.format(folder=pictures, backbone=TINY_RESNET))
    torch.set_num_threads(1)
    cpu = torch.device("cpu")

    def of(name, seeds):
        study = load_study(file, [f"seeds={seeds}"])
        inputs = open_study(study, cpu, offline=True, tell=silent)
        planned = make_plan(inputs)
        with open_run(root / name) as folder:
            begin_run(planned, folder, describe_run(inputs), replace=False)
            folder.write(STUDY, write_study(study))
            worker = Worker(planned, device="cpu", datasets=inputs.datasets)
            for step in ("samples", "scores"):
                only = planned.needed_for(step)
                finish_locally(Schedule(planned, folder, silent, only=only), worker)
        for weights in (root / name).rglob("*.safetensors"):
            weights.unlink()
        return folder

    return of


@pytest.fixture(scope="module")
def whole(make):
    """Both seeds in one run."""
    return make("whole", [0, 1])


@pytest.fixture(scope="module")
def halves(make):
    """Each seed in a run of its own."""
    return [make(f"seed-{seed}", [seed]) for seed in (0, 1)]


@pytest.fixture(scope="module")
def joined(halves, tmp_path_factory):
    """The two runs, given in the other order."""
    out = tmp_path_factory.mktemp("joined") / "both"
    return fw.join_seeds(halves[::-1], out=out).folder


@pytest.fixture
def copies(halves, tmp_path):
    """The two runs, to be changed."""
    return [copy_run(RunFolder(half.path), tmp_path / half.path.name) for half in halves]


def files_of(run, *folders):
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes()
        for folder in folders
        for path in (run.path / folder).rglob("*")
        if path.is_file()
    }


def change_steps(run, prefix, change):
    """Edit the records of some steps by hand."""
    for step in run.steps():
        if step.id.startswith(prefix):
            facts = json.loads(step.to_json())
            change(facts)
            run.write(f"steps/{step.id}.json", json.dumps(facts))
    return RunFolder(run.path)


def try_to_join(*runs):
    """Everything that joining does before it writes a file."""
    parts = [open_part(run) for run in runs]
    held = check_parts(parts)
    record = describe_joined_run(parts)
    return record, plan_remaining(record, parts, held)


# ---------------------------------------------------------------- what comes out


def test_two_runs_of_a_seed_each_are_one_run_of_two_seeds(whole, joined):
    for name in ("scores.csv", "warnings.json", "absent_metrics.json"):
        assert (joined.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    small = ("predictions", "variants", "samples")
    assert files_of(joined, *small) == files_of(whole, *small)
    assert joined.step("scores").fingerprint == whole.step("scores").fingerprint
    ours, theirs = (each.record.model_dump(exclude={"provenance"}) for each in (joined, whole))
    assert ours == theirs
    assert load_study(joined.path / STUDY) == load_study(whole.path / STUDY)


def test_trainings_go_along_without_weights(whole, joined):
    trained = {
        name: each
        for name, each in files_of(whole, "models", "pretraining").items()
        if not name.endswith("history.csv")  # it has the speed of training
    }
    assert trained.keys() == {
        name for name in files_of(joined, "models", "pretraining") if "history" not in name
    }
    assert "models/swept/sweep/try-2/model.json" in trained
    assert "pretraining/views/seed-1/correlation.json" in trained


def test_the_folder_says_of_what_it_was_joined(joined, halves):
    told = json.loads((joined.path / JOINED).read_text())
    assert [each["path"] for each in told["runs"]] == [str(half.path) for half in halves]
    assert [each["seeds"] for each in told["runs"]] == [[0], [1]]


def test_joined_again_nothing_is_done_again(joined, halves):
    def times():
        kept = {JOINED, STUDY, ".lock"}
        return {p: p.stat().st_mtime_ns for p in joined.path.rglob("*") if p.name not in kept}

    before, told = times(), []
    fw.join_seeds(halves, out=joined.path, progress=told.append)
    assert times() == before
    assert [event.note for event in told[-2:]] == ["done before", "done before"]


def test_an_interrupted_joining_has_no_scores_and_goes_on(joined, halves, tmp_path):
    """Before it continues, a copied file is damaged, and there is a step that no run has."""

    def stop(event):
        if event.done == 9:
            raise KeyboardInterrupt

    other = copy_run(joined, tmp_path / "joined")
    left = "models/swept/seed-7/history.csv"
    other.write(left, "of a run that is not joined any more")
    finish(other, "models/swept/seed-7", [left])
    other.write("steps/models/swept/seed-9.json", "{")
    with pytest.raises(KeyboardInterrupt):
        fw.join_seeds(halves, out=other.path, progress=stop)
    for name in (SCORES, "report.html", left, "steps/models/swept/seed-7.json"):
        assert not (other.path / name).exists(), name
    prediction = "predictions/swept/seed-1/test/clean.parquet"
    other.write(prediction, b"damaged")
    fw.join_seeds(halves, out=other.path)
    for name in (prediction, SCORES):
        assert (other.path / name).read_bytes() == (joined.path / name).read_bytes()
    assert RunFolder(other.path).damaged_steps() == []


def test_every_reader_takes_a_joined_run_as_a_run(joined, tmp_path):
    other = copy_run(joined, tmp_path / "joined")
    shown = CliRunner().invoke(app, ["check", str(other.path), "accuracy[clean] >= 0"])
    assert shown.exit_code == 0, shown.output
    told = CliRunner().invoke(app, ["compare", f"{other.path}:started", f"{other.path}:swept"])
    assert told.exit_code == 0, told.output
    assert "(sd" in told.output
    uses = {use.kind: use for use in cleaning.measure_disk_use(other)}
    assert uses["models"].files  # and no weights, since the runs have none
    assert all(other.file(name).is_file() for name in uses["models"].files)
    cleaning.remove_files(other.path, ["left-over"])
    assert files_of(other, "predictions") == files_of(joined, "predictions")
    assert set(fw.Run(other.path).scores["seed"]) == {"0", "1", "mean", "sd"}


def test_nothing_is_trained_in_a_joined_run(joined):
    words = r"several runs .*fairweather report --join-seeds"
    for attempt in (run, plan):
        with pytest.raises(InputError, match=words):
            attempt(joined.path / STUDY, out=joined.path, device="cpu")


def test_machines_and_builds_of_libraries_may_differ(copies):
    one, other = copies
    change_steps(one, "", lambda facts: facts["depends"].update(threads=1, device="cpu"))
    change_steps(
        other,
        "",
        lambda facts: (
            facts["depends"].update(threads=2, device="cuda"),
            facts["machine"].update(instructions="OTHER"),
        ),
    )
    change_record(
        other,
        lambda facts: (
            facts["settings"].update(threads=2),
            facts["provenance"]["versions"].update(torch=_build("cu126", facts)),
        ),
    )
    record, _ = try_to_join(one.path, other.path)
    assert record.settings.threads is None


def _build(name, facts):
    return f"{facts['provenance']['versions']['torch'].partition('+')[0]}+{name}"


def test_models_of_different_runs_are_one_study(copies, whole, tmp_path):
    """Each model and seed in a run of its own."""
    single = {}
    for half in copies:
        for model in ("started", "swept"):
            part = copy_run(half, tmp_path / f"{model}-{half.record.seeds[0]}")
            single[part.path.name] = change_record(
                part,
                lambda facts, model=model: facts.update(
                    models={model: facts["models"][model]},
                    variants={n: t for n, t in facts["variants"].items() if n.startswith(model)},
                ),
            ).path
    record, rest = try_to_join(*single.values())
    assert list(record.models) == ["started", "swept"]
    assert record.seeds == (0, 1)
    assert rest.plan.steps[0].depends() == whole.step("scores").depends
    first = [single[name] for name in ("started-0", "swept-1")]
    with pytest.raises(
        InputError,
        match=r"started, swept .*seeds 0, 1, .*seed 1 of started \(1 more",
    ):
        try_to_join(*first)


def test_pictures_of_several_runs_are_put_together(whole, halves, tmp_path):
    """Two runs show the mistakes of some models each, under the same shifts."""
    models = whole.step("samples").depends["models"]
    parts = []
    for number, model in enumerate(("started", "swept")):
        part = copy_run(RunFolder(halves[0].path), tmp_path / str(number))
        own = {name: each for name, each in models.items() if name.startswith(model)}
        table = pyarrow.parquet.read_table(part.file(ATTACKED))
        pyarrow.parquet.write_table(
            table.filter([name in own for name in table["model"].to_pylist()]), part.file(ATTACKED)
        )
        change_steps(part, "samples", set_in("depends", "models", value=own))
        change_steps(part, "samples", set_in("files", ATTACKED, value=part.checksum(ATTACKED)))
        parts.append(open_part(part.path))
    planned = SampleStep(
        id="samples",
        task="samples",
        leaves=(INDEX, PICTURES),
        images=ImagesReference(),
        train=None,
        models={name: tuple(each) for name, each in models.items()},
        shifts=tuple(whole.step("samples").depends["shifts"]),
        shift_seed=0,
        mixup=False,
    )
    taken = collect_samples(planned, parts)
    together = RunFolder(tmp_path / "together")
    for name in taken.files:
        together.write(name, taken.read(name))
        assert together.checksum(name) == taken.step.files[name]
    found, expected = read_samples(together), read_samples(whole)
    assert found.mistakes == expected.mistakes
    assert (found.strip, found.labels) == (expected.strip, expected.labels)
    assert found.pictures.items() <= expected.pictures.items()
    assert found.lost is None
    assert {model for model, *_ in expected.attacked} > {"started", "swept"}
    assert found.attacked == expected.attacked
    alone = collect_samples(planned, [*parts, open_part(halves[0].path)])
    assert alone.step == halves[0].step("samples")


# ---------------------------------------------------------------- what is refused


def set_in(*keys, value):
    """Set one value in nested mappings."""

    def change(facts):
        for key in keys[:-1]:
            facts = facts[key]
        facts[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("prefix", "keys", "value", "words"),
    [
        (
            "models/swept/seed",
            ["recipe"],
            {"epochs": 9},
            r"recipe.* of swept .*None .*9",
        ),
        (
            "models/started",
            ["recipe", "epochs"],
            9,
            r"recipe.epochs of started .*2 .* 9 ",
        ),
        ("models/started", ["spec", "width"], 0.5, r"spec.width of started .* 0\.5 "),
        ("models/started", ["weights"], "none", "weights of started .*pretraining:views .*none "),
        ("models/started", ["precision"], "bf16", "precision of started .*fp32 .*bf16 "),
        ("models/started", ["label_fraction"], 0.5, r"label_fraction of started .*1\.0 .* 0\.5 "),
        ("models/swept/sweep/", ["version"], 9, "version of the steps that train .*2 .* 9 "),
        ("models/swept/sweep", ["metric"], "nll", "metric of swept .*accuracy .* nll "),
        ("pretraining/views", ["recipe", "epochs"], 9, "recipe.epochs of views .*1 .* 9 "),
        ("predictions/", ["version"], 9, "version of the steps that predict .* 9 "),
        ("predictions/", ["batch_size"], 9, "batch_size of started .*256 .* 9 "),
        (
            "predictions/started/seed-1/test/brightness",
            ["libraries", "opencv"],
            "3.1",
            r"version of opencv .* 3\.1 ",
        ),
    ],
)
def test_other_recipes_and_versions_are_refused(prefix, keys, value, words, copies):
    one, other = copies
    changed = 0

    def change(facts):
        nonlocal changed
        if keys[0] in facts["depends"] or value == {"epochs": 9}:
            changed += 1
            set_in("depends", *keys, value=value)(facts)

    change_steps(other, prefix, change)
    assert changed
    for runs in ((one.path, other.path), (other.path, one.path)):
        with pytest.raises(InputError, match=re.escape(str(other.path))):
            try_to_join(*runs)
    with pytest.raises(InputError, match=words):
        try_to_join(one.path, other.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in("data", "digests", "test", value="0" * 64), "digest of the test images .*0{12}"),
        (set_in("data", "digests", "train", value="0" * 64), "digest of the training .*0{12}"),
        (set_in("data", "classes", value=["a", "b", "c"]), "classes .*blue, red .* a, b"),
        (set_in("settings", "shift_seed", value=7), "shift_seed .*0 .* 7 "),
        (set_in("settings", "bootstrap", value=7), "bootstrap .*100 .* 7 "),
        (set_in("settings", "batch_size", value=7), "batch_size .*256 .* 7 "),
        (set_in("settings", "variants", value=["batchnorm"]), "variants .*temperature, batchnorm"),
        (
            set_in("provenance", "versions", "fairweather", value="9.9"),
            r"version of fairweather .* 9\.9 ",
        ),
        (
            lambda facts: facts["sweeps"].pop(0),
            "brightness_factor,factor=0.3 .*seed-0",
        ),
        (
            lambda facts: facts["variants"].pop("started+interpolated-0.5"),
            "variants of started ",
        ),
    ],
)
def test_other_data_and_settings_are_refused(change, words, copies):
    one, other = copies
    change_record(other, change)
    with pytest.raises(InputError, match=words):
        try_to_join(one.path, other.path)
    with pytest.raises(InputError, match=re.escape(str(other.path))):
        try_to_join(other.path, one.path)


def test_each_variant_of_a_model_that_is_called_like_a_seed_is_compared():
    names = ["seed-a", "seed-a+temperature"]
    ids = [f"predictions/{name}/seed-{seed}/test/clean" for seed in (0, 1) for name in names]
    steps = {id: SimpleNamespace(id=id, kind="predict", depends={"of": id}) for id in ids}
    settings = _seedless_settings("seed-a", SimpleNamespace(steps=steps))
    assert settings == {
        f"predictions/{name}/seed/test/clean": {"of": id}
        for name, id in zip(names, ids[:2], strict=True)
    }


def test_sweeps_that_chose_otherwise_are_refused(copies):
    one, other = copies
    chosen = "models/swept/chosen.json"
    recipe = json.loads(other.file(chosen).read_text()) | {"learning_rate": 7.0}
    other.write(chosen, json.dumps(recipe))
    with pytest.raises(InputError, match=r"chosen\.json .*checksum"):
        try_to_join(one.path, other.path)
    change_steps(other, "models/swept/sweep", lambda facts: _checksum_anew(other, facts, chosen))
    words = r"learning_rate .*sweep of swept .*0\.0\d+ .* 7\.0 "
    with pytest.raises(InputError, match=words):
        try_to_join(one.path, other.path)


def _checksum_anew(run, facts, name):
    if name in facts["files"]:
        facts["files"][name] = run.checksum(name)


def test_a_pretraining_for_all_seeds_is_one(copies):
    """Two machines made it, and the same seed gave different weights."""
    one, other = copies
    for each in copies:
        step = each.step("pretraining/views/seed-0") or each.step("pretraining/views/seed-1")
        facts = json.loads(step.to_json())
        facts["id"] = "pretraining/views/seed-5"
        facts["files"] = {"pretraining/views/seed-5/model.safetensors": "0" * 64}
        each.write("steps/pretraining/views/seed-5.json", json.dumps(facts))
        change_record(each, set_in("pretraining", "views", "settings", "seed", value=5))
    try_to_join(one.path, other.path)
    change_steps(
        other,
        "pretraining/views/seed-5",
        set_in("files", "pretraining/views/seed-5/model.safetensors", value="1" * 64),
    )
    with pytest.raises(InputError, match=r"views/seed-5 .*same file.*leave out its seed"):
        try_to_join(one.path, other.path)


def test_a_seed_counts_once(copies, tmp_path):
    again = copy_run(copies[0], tmp_path / "again")
    words = r"seed 0 of started .*seed-0 and .*again: leave one"
    with pytest.raises(InputError, match=words):
        try_to_join(copies[0].path, again.path, copies[1].path)
    with pytest.raises(InputError, match=r"again.* twice"):
        fw.join_seeds([again, again], out=tmp_path / "out")


def test_predictions_that_are_missing_or_damaged_are_refused(copies, tmp_path):
    one, other = copies
    prediction = "predictions/swept+batchnorm/seed-1/test/clean.parquet"
    content = other.file(prediction).read_bytes()
    other.write(prediction, b"other")
    with pytest.raises(InputError, match=re.escape(prediction)):
        fw.join_seeds([one, other], out=tmp_path / "out")
    other.file(prediction).unlink()
    words = rf"seed-1 has no {re.escape(prediction)}: .*finish"
    with pytest.raises(InputError, match=words):
        fw.join_seeds([one, other], out=tmp_path / "out")
    other.write(prediction, content)
    other.forget(prediction.removesuffix(".parquet"))
    with pytest.raises(InputError, match=words):
        fw.join_seeds([one, other], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_seeds_to_join_is_refused(copies, tmp_path):
    one, other = copies
    with pytest.raises(InputError, match=r"at least two runs.* 1$"):
        fw.join_seeds([one], out=tmp_path / "out")
    change_record(other, set_in("kind", value="evaluation"))
    with pytest.raises(InputError, match=r"is an evaluation.*fw\.evaluate\(\{'NAME-seed0'"):
        fw.join_seeds([one, other], out=tmp_path / "out")
    with pytest.raises(InputError, match=r"no run: .*record\.json"):
        fw.join_seeds([one, tmp_path], out=tmp_path / "out")


def test_no_other_folder_is_written_over(copies, joined, tmp_path):
    one, other = copies
    thesis = tmp_path / "thesis" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for place, words in (
        (thesis, "is a file"),
        (thesis.parent, "something other than .*--out"),
        (other.path, "is one of the runs"),
        (joined.path.parent, "something other than .*--out"),
    ):
        before = files_of(RunFolder(place), "") if place.is_dir() else {}
        with pytest.raises(InputError, match=words):
            fw.join_seeds([one, other], out=place)
        assert before == (files_of(RunFolder(place), "") if place.is_dir() else {})
    assert thesis.read_text() == "years of work"


# ---------------------------------------------------------------- the command line


def test_the_command_joins_and_says_where(halves, joined, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(joined.path, tmp_path / "runs" / "seed-0+seed-1")
    folders = [str(half.path) for half in halves]
    told = CliRunner().invoke(app, ["report", *folders, "--join-seeds"])
    assert told.exit_code == 0, told.output
    place = Path("runs") / "seed-0+seed-1"
    assert f"page    {place / 'report.html'}" in told.output
    compared = CliRunner().invoke(
        app, ["compare", f"{','.join(folders)}:started", f"{','.join(folders)}:swept"]
    )
    assert compared.exit_code == 0, compared.output
    assert f"joined  {place}" in compared.stderr
    assert "compare_started_seed-0+seed-1_swept.csv" in compared.output
    with pytest.raises(InputError, match="at least two runs"):
        CliRunner().invoke(app, ["report", folders[0], "--join-seeds"], catch_exceptions=False)


def test_a_joined_folder_is_not_overwritten_by_a_joining_of_other_runs(joined, copies, tmp_path):
    place = tmp_path / "place"
    shutil.copytree(joined.path, place)
    for half in copies:  # the same study, begun at another time
        record = json.loads((half.path / "record.json").read_text())
        record["provenance"]["time"] = "2001-01-01T00:00:00+00:00"
        (half.path / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"place .*other runs, .*; .*--out"):
        fw.join_seeds([half.path for half in copies], out=place)
    assert files_of(RunFolder(place)) == files_of(joined)


def test_both_sides_of_a_comparison_are_told_apart(monkeypatch, tmp_path):
    joined = []

    def join(runs, out, *, quiet):
        joined.append((runs, str(out)))
        return out

    monkeypatch.setattr("fairweather.cli.judge.join_runs", join)
    monkeypatch.chdir(tmp_path)
    sides = _join_sides("a/s0,a/s1:basic", "b/s0,b/s1", quiet=True)
    assert sides == ["runs/a-s0+a-s1:basic", "runs/b-s0+b-s1"]
    assert joined == [(["a/s0", "a/s1"], "runs/a-s0+a-s1"), (["b/s0", "b/s1"], "runs/b-s0+b-s1")]
    assert _join_sides("a", "paper", quiet=True) == ["a", "paper"]


# ---------------------------------------------------------------- small copies


def test_seeds_of_small_copies_are_joined_as_those_of_their_runs(halves, joined, tmp_path):
    packed = [
        fw.pack_run(half, tmp_path / f"packed-{n}", models=["swept"])
        for n, half in enumerate(halves)
    ]
    both = fw.join_seeds([each.path for each in packed], out=tmp_path / "both")
    assert not list(tmp_path.rglob("*.safetensors"))
    at = ["model", "seed", "shift", "level", "metric"]
    small, large = (run.scores.set_index(at) for run in (both, fw.Run(joined)))
    assert set(small.index.levels[0]) == {"swept", "swept+temperature", "swept+batchnorm"}
    large = large[large.index.get_level_values("model").isin(small.index.levels[0])]
    lost = {metric for *_, metric in large.index.difference(small.index)}
    named = set(large.index.get_level_values("metric"))
    needing = {metric.name for metric in METRICS.values() if metric.accepts.column == "logits"}
    of_class = {name: find_class_metric_row(name) for name in named}
    needing |= {name for name, row in of_class.items() if row and row.accepts.column == "logits"}
    assert lost == named & needing
    assert small.index.isin(large.index).all()
    # Rounded columns: 6e-8 of each value, less where bins or ties decide.
    columns = ["value", "low", "high"]
    pd.testing.assert_frame_equal(
        small[columns], large.loc[small.index, columns], rtol=1e-5, atol=1e-6
    )


def test_units_of_long_trainings_are_read_and_joined_by_later_versions(tmp_path):
    """Scores are computed again from predictions of networks that an earlier commit trained."""
    units = Path(__file__).parents[2] / "results/pathmnist/units"
    pair = [units / name for name in ("basic-80-s0", "mixup_aug-80-s0")]
    run = fw.join_seeds(pair, out=tmp_path / "joined", progress=False)
    key = ["model", "seed", "shift", "level", "metric"]
    made, stored = (
        pd.concat(pd.read_csv(folder / "scores.csv", dtype={"level": str}) for folder in folders)
        .set_index(key)
        .sort_index()
        for folders in ([run.path], pair)
    )
    assert len(stored) == 1160
    # Later versions add metrics. Scores are stored with eight digits.
    again = made.loc[stored.index]
    np.testing.assert_allclose(again["value"], stored["value"], rtol=1e-6, atol=1e-8)
    for metric in ("accuracy", "rms_calibration_error"):
        ours, theirs = (table.xs(metric, level="metric") for table in (again, stored))
        for end in ("low", "high"):
            np.testing.assert_allclose(ours[end], theirs[end], rtol=1e-6, atol=1e-8)


def test_a_small_copy_needs_no_pictures(copies, tmp_path):
    part = copies[0]
    part.file(PICTURES).write_bytes(b"damaged")
    packed = fw.pack_run(part.path, tmp_path / "out", models=["swept"], variants=())
    assert not (packed.path / "samples").exists()


def test_a_small_copy_keeps_what_is_named(halves, tmp_path):
    packed = fw.pack_run(
        halves[0], tmp_path / "out", models=["swept"], shifts=["brightness_factor"], variants=()
    )
    assert set(packed.scores["model"]) == {"swept"}
    assert set(packed.scores["shift"]) == {"clean", "brightness_factor", "all"}
    stored = sorted(path.name for path in (tmp_path / "out/predictions").rglob("*.parquet"))
    assert stored == ["brightness_factor,factor=0.3.parquet", "clean.parquet", "clean.parquet"]
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    fw.pack_run(
        halves[0], tmp_path / "out", models=["swept"], shifts=["brightness_factor"], variants=()
    )
    assert again == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}


def test_a_small_copy_names_no_folder_of_the_machine(halves, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["fairweather", "pack", f"{halves[0].path}/", f"--out={out}"]
    monkeypatch.setattr("sys.argv", arguments)
    fw.pack_run(f"{halves[0].path}/", out)
    record = RunFolder(out).record
    source = halves[0].record.data.arguments["source"]
    assert record.data.arguments["source"] == f"folder:.../{Path(source).name}"
    assert record.provenance.command == "fairweather pack .../seed-0 --out=.../out"
    # Recipes stay as they are: this one names the file of its network.
    for path in out.rglob("*.json"):
        told = path.read_text().replace(json.dumps(TINY_RESNET), "")
        assert str(tmp_path.parent) not in told, path
    assert fw.pack_run(halves[0].path, out).folder.record == record


def test_a_small_copy_of_another_run_of_the_same_name_is_refused(halves, tmp_path):
    for name, half in zip("ab", halves, strict=True):
        shutil.copytree(half.path, tmp_path / name / "run")
    change_record(
        RunFolder(tmp_path / "b/run"),
        lambda facts: facts["provenance"].update(time="2026-01-01T00:00:00+00:00"),
    )
    only = {"models": ["swept"], "variants": ()}
    fw.pack_run(tmp_path / "a/run", tmp_path / "out", **only)
    with pytest.raises(InputError, match=r"joined from other runs, such as \.\.\./run"):
        fw.pack_run(tmp_path / "b/run", tmp_path / "out", **only)
    # The run itself may move.
    (tmp_path / "a").rename(tmp_path / "c")
    fw.pack_run(tmp_path / "c/run", tmp_path / "out", **only)


def test_small_predictions_are_small_and_read_as_before(tmp_path, many_predictions):
    whole, small = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "small")
    whole.write_predictions("a.parquet", many_predictions)
    small.write("a.parquet", shrink_predictions(whole.file("a.parquet").read_bytes()))
    assert small.file("a.parquet").stat().st_size < 13 * len(many_predictions)
    found = small.read_predictions("a.parquet")
    assert found.logits is None
    assert found.classes == many_predictions.classes
    for name in ("keys", "labels", "predicted", "top5_correct"):
        before, after = getattr(many_predictions, name), getattr(found, name)
        assert after.dtype == before.dtype
        assert (after == before).all()
    pairs = [(getattr(many_predictions, n), getattr(found, n)) for n in ("nll", "brier")]
    pairs.append((1 - many_predictions.confidence, 1 - found.confidence))
    for before, after in pairs:
        assert after.dtype == np.float64
        # Single precision has 24 bits; 1 - x of doubles adds half a unit in the last place of 1.
        np.testing.assert_allclose(after, before, rtol=2.0**-24, atol=2.0**-52)
    in_order = found.confidence[np.argsort(many_predictions.confidence)]
    assert (np.diff(in_order) >= 0).all()
    assert (small.read_column("a.parquet", "nll") == found.nll).all()


@pytest.fixture
def many_predictions():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (2000, 9)).astype(np.float32)
    labels = generator.integers(0, 9, 2000)
    return make_predictions(logits, labels, np.arange(2000), tuple("abcdefghi"))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"models": ["swpt"]}, "swpt.*swept"),
        ({"shifts": ["brightness"]}, "brightness.*brightness_factor"),
        ({"variants": ["temprature"]}, "temprature.*temperature"),
        ({"models": []}, "name a model"),
    ],
)
def test_an_unknown_name_in_a_small_copy_is_refused(chosen, words, halves, tmp_path):
    with pytest.raises(InputError, match=words):
        fw.pack_run(halves[0], tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()


def test_the_command_packs_and_says_how_much_it_is(halves, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "pack",
        str(halves[0].path),
        "--out",
        str(out),
        "--model",
        "swept",
        "--no-variants",
    ]
    result = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    assert "MB" in result.output
    assert set(fw.Run(out).scores["model"]) == {"swept"}
    refused = CliRunner().invoke(app, ["pack", str(halves[0].path), "--out", str(halves[1].path)])
    assert isinstance(refused.exception, InputError)
