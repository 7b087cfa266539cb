"""The disk use of a run, and which files can be removed."""

import json
from itertools import chain

import pytest
from typer.testing import CliRunner

from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.runs.claims import open_run
from fairweather.runs.cleaning import (
    _STEPS,
    format_disk_use,
    measure_disk_use,
    remove_files,
)
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import VERSIONS
from fairweather.types.record import ModelRecord, RunSettings, predictions_file
from tests.helpers.run_folders import finish, run_record, sweep_record

FOG = "imagenet_c/fog,severity=1"
# Steps that belong to the run: id, kind, and the files that each wrote.
OWN = {
    "pretraining/start/seed-5": ("pretrain", ["pretraining/start/seed-5/model.safetensors"]),
    "models/a/seed-0": ("train", ["models/a/seed-0/model.safetensors"]),
    "models/a/sweep": ("choose", ["models/a/sweep.csv"]),
    "models/a/sweep/try-1": ("train", ["models/a/sweep/try-1/model.safetensors"]),
    "variants/a+temperature/seed-0/temperature": (
        "fit",
        ["variants/a+temperature/seed-0/temperature.json"],
    ),
    **{
        file.removesuffix(".parquet"): ("predict", [file])
        for file in (
            predictions_file("a", 0, "clean"),
            predictions_file("a", 0, FOG),
            predictions_file("a", 0, "clean", "val"),
            predictions_file("a", 0, "clean", "mnist5k"),
            predictions_file("a", "ensemble", FOG),
            predictions_file("a+temperature", 0, FOG),
        )
    },
    "groups": ("group", ["groups/test.parquet"]),
    "scores": ("score", ["scores.csv", "warnings.json"]),
    "samples": ("sample", ["samples/index.json", "samples/pictures.parquet"]),
    "report": ("report", ["report.html", "summary.csv", "tables/accuracy.csv"]),
}
# Steps that no longer belong to it: other model, seed, try, pre-training, shift, data, variant.
LEFT = {
    "pretraining/start/seed-0": ("pretrain", ["pretraining/start/seed-0/model.safetensors"]),
    "pretraining/other/seed-5": ("pretrain", ["pretraining/other/seed-5/model.safetensors"]),
    "models/b/seed-0": ("train", ["models/b/seed-0/model.safetensors"]),
    "models/a/sweep/try-2": ("train", ["models/a/sweep/try-2/model.safetensors"]),
    "models/a/seed-7": ("train", ["models/a/seed-7/model.safetensors"]),
    "variants/a+batchnorm/seed-0/x": ("fit", ["variants/a+batchnorm/seed-0/x.json"]),
    **{
        file.removesuffix(".parquet"): ("predict", [file])
        for file in (
            predictions_file("b", 0, "clean"),
            predictions_file("a", 7, "clean"),
            predictions_file("a", 0, "gamma,exponent=2"),
            predictions_file("a", 0, "clean", "svhn"),
            predictions_file("a+batchnorm", 0, "clean"),
        )
    },
}
INTERRUPTED = ["models/a/seed-1/resume/state.pt", f"predictions/.{'0' * 16}.partial"]


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    start = ModelRecord(title="Start", settings={"seed": 5})
    swept = ModelRecord(title="A", settings={"sweep": {"learning_rate": [0.1]}})
    folder.describe(
        run_record(
            {"a": "A"},
            [sweep_record("imagenet_c/fog", {1: FOG})],
            pretraining={"start": start},
            seeds=(0, 1),
            ensemble=True,
            variants={"a+temperature": "A + temperature scaling"},
            ood=("mnist5k",),
            settings=RunSettings(variants=("temperature",)),
        ).model_copy(update={"models": {"a": swept}})
    )
    for step, (kind, files) in (OWN | LEFT).items():
        for file in files:
            folder.write(file, f"{1000 * 'x'}{file}")
        finish(folder, step, files, kind=kind)
    for file in INTERRUPTED:
        folder.write(file, 500 * "x")
    return folder


def files_of(run):
    return {
        path.relative_to(run.path).as_posix()
        for path in run.path.rglob("*")
        if path.is_file() and path.name not in ("record.json", ".lock")
    }


def left_by(steps, *kinds):
    return {
        file
        for step, (kind, files) in steps.items()
        if not kinds or kind in kinds
        for file in (f"steps/{step}.json", *files)
    }


def test_the_files_of_all_kinds_of_steps_are_counted():
    # The last one is of earlier versions.
    assert sorted(chain(*_STEPS.values())) == sorted({*VERSIONS, "conform"})


def test_every_file_is_of_one_kind_and_counted(run):
    uses = {use.kind: use for use in measure_disk_use(run)}
    assert list(uses) == ["models", "predictions", "scores", "samples", "report", "left-over"]
    models = left_by(OWN, "pretrain", "train", "choose")
    assert set(uses["models"].files) == {name for name in models if not name.startswith("steps/")}
    predictions = {name for name in left_by(OWN, "fit", "predict") if name[:6] != "steps/"}
    assert set(uses["predictions"].files) == predictions
    left = {name for name in left_by(LEFT) if not name.startswith("steps/")}
    interrupted = {"models/a/seed-1/resume", INTERRUPTED[1]}
    assert set(uses["left-over"].files) == left | interrupted
    sizes = {file: (run.path / file).stat().st_size for file in files_of(run)}
    scores = ("groups/test.parquet", "scores.csv", "warnings.json")
    assert uses["scores"].bytes == sum(sizes[name] for name in scores)
    assert uses["left-over"].bytes == sum(sizes[file] for file in (*left, *INTERRUPTED))


@pytest.mark.parametrize(
    ("kinds", "gone"),
    [
        (["left-over"], left_by(LEFT) | set(INTERRUPTED)),
        (["report"], left_by(OWN, "report")),
        (["samples"], left_by(OWN, "sample")),
        (["predictions"], left_by(OWN, "predict", "fit")),
        (["report", "samples"], left_by(OWN, "report", "sample")),
    ],
    ids=["left-over", "report", "samples", "predictions", "report and samples"],
)
def test_what_is_asked_for_goes_with_its_records_and_nothing_else(run, kinds, gone):
    before = files_of(run)
    freed = sum((run.path / f).stat().st_size for f in gone if not f.startswith("steps/"))
    freed -= (run.path / INTERRUPTED[1]).stat().st_size if INTERRUPTED[1] in gone else 0
    removed = remove_files(run.path, kinds)
    # Who begins to work in a run removes what is half written, and so does this.
    assert before - files_of(run) == gone | {INTERRUPTED[1]}
    assert removed.bytes == freed
    assert not [path for path in run.path.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert {use.kind: use.files for use in measure_disk_use(run)}[kinds[0]] == ()


def test_no_link_is_followed(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (run.path / "models/a/seed-9").mkdir()
    (run.path / "models/a/seed-9/resume").symlink_to(tmp_path / "mine")
    remove_files(run.path, ["left-over"])
    assert (tmp_path / "mine" / "thesis.tex").is_file()


def test_the_record_of_a_step_of_an_unknown_kind_is_a_damaged_one(run):
    file = next((run.path / "steps").rglob("clean.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "x"}))
    name = file.relative_to(run.path).as_posix()
    assert (
        name in {use.kind: use.files for use in measure_disk_use(RunFolder(run.path))}["left-over"]
    )
    remove_files(run.path, ["left-over"])
    assert not file.exists()


@pytest.mark.parametrize("kind", ["models", "scores", "reprot"])
def test_what_cannot_be_made_again_in_a_run_is_not_removed(run, kind):
    before = files_of(run)
    with pytest.raises(InputError, match=f"'{kind}'.*left-over"):
        remove_files(run.path, [kind])
    assert files_of(run) == before


def test_a_run_that_is_worked_on_is_left_alone(run):
    with open_run(run.path):
        before = files_of(run)
        with pytest.raises(InputError, match=f"process .*{run.path.name}"):
            remove_files(run.path, ["report"])
        assert files_of(run) == before


def test_a_folder_that_holds_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"no run: .*record\.json"):
        remove_files(tmp_path, ["left-over"])
    with pytest.raises(InputError, match=r"nowhere .*no run: there is no such folder"):
        remove_files(tmp_path / "nowhere", ["left-over"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_command_shows_and_removes(run):
    def clean(*words):
        done = CliRunner().invoke(app, ["clean", str(run.path), *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    table = format_disk_use(measure_disk_use(run))
    assert clean() == f"{table}\n"
    printed = clean("--remove", "report", "--remove", "samples")
    assert printed.splitlines()[0] == "removed 5 files, 0.0 MB"
    assert printed.endswith(f"{format_disk_use(measure_disk_use(run))}\n")
