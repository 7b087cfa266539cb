"""The progress of a run: done steps, steps to be replaced, and the time for the rest."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.data import cache as decode
from fairweather.requests.study.schema import load_study
from fairweather.runs.folder import RunFolder
from fairweather.steps.ledger import Ledger, standings
from fairweather.steps.outlook import Speeds, sum_work
from fairweather.steps.plan import FitStep, ImagesReference, OpenedNetwork, StepResult, link_steps
from fairweather.types.record import StepRecord, step_file
from fairweather.workers.schedule import list_written
from tests.conftest import TINY_RESNET
from tests.requests.test_evaluate import write_model

pytestmark = pytest.mark.usefixtures("undrawn")

# ---------------------------------------------------------------- steps that only write a text


def step(name, *reads, digest="one"):
    return FitStep(
        id=name,
        task="fit",
        reads=reads,
        leaves=(f"{name}.csv",),
        variant="temperature",
        validation="",
        network=OpenedNetwork(digest=digest),
        val=ImagesReference(digest="d"),
        stored=False,
        batch_size=16,
    )


def chain(**settings):
    """Steps `a`, `b` that reads `a`, `c` that reads `b`, and `d` alone."""
    reads = {"a": (), "b": ("a.csv",), "c": ("b.csv",), "d": ()}
    steps = [
        step(name, *files, **({"digest": settings[name]} if name in settings else {}))
        for name, files in reads.items()
    ]
    return link_steps({}, [], steps)


def do(run, plan, names="abcd", text=""):
    ledger = Ledger(run)
    for each in plan.steps:
        if each.id in names:
            (file,) = each.leaves
            run.write(file, f"{each.id}{text}")
            ledger.finish(
                StepRecord(
                    id=each.id,
                    kind=each.kind,
                    fingerprint=ledger.fingerprint(each),
                    depends=each.depends(),
                    files={file: run.checksum(file)},
                )
            )


def states(run, plan):
    return {each.step.id: each.state for each in standings(plan, run)}


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path)
    do(folder, chain())
    return folder


def test_nothing_is_done_in_an_empty_folder_and_everything_after_it_was(run, tmp_path):
    assert set(states(RunFolder(tmp_path / "other"), chain()).values()) == {"missing"}
    assert set(states(run, chain()).values()) == {"done"}


def test_other_settings_make_a_step_stale_and_what_is_made_of_it(run):
    assert states(run, chain(b="other")) == {"a": "done", "b": "stale", "c": "stale", "d": "done"}


@pytest.mark.parametrize("what", ["b.csv", step_file("b")])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_what_is_damaged_is_missing_and_what_is_made_of_it_waits(run, what, how):
    path = run.path / what
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    expected = {"a": "done", "b": "missing", "c": "missing", "d": "done"}
    assert states(run, chain()) == expected
    # If its settings change, its existing files would be replaced.
    assert states(run, chain(c="other")) == expected | {"c": "stale"}


def test_what_was_made_of_files_that_are_gone_is_missing(run):
    do(run, chain(), "b", text=" anew")
    assert states(run, chain()) == {"a": "done", "b": "done", "c": "missing", "d": "done"}
    do(run, chain(), "b")  # the same bytes as before
    assert set(states(run, chain()).values()) == {"done"}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([step("b", "a.csv"), step("a")], r"no step before b .*a\.csv"),
        ([step("b", "x.csv")], r"no step before b .*x\.csv"),
        ([step("a"), step("a")], r"a and a .*a\.csv"),
    ],
)
def test_a_plan_that_cannot_be_done_is_a_mistake_of_whoever_made_it(steps, words):
    with pytest.raises(ValueError, match=words):
        link_steps({}, [], steps)


def test_a_step_that_does_not_leave_what_it_says_is_not_done(tmp_path):
    with pytest.raises(RuntimeError, match=r"^a .*a\.csv"):
        list_written(step("a"), StepResult(), RunFolder(tmp_path))


def record(name, seconds, work, kind="predict"):
    return StepRecord(
        id=name, kind=kind, fingerprint="", depends={}, files={}, seconds=seconds, work=work
    )


def test_the_time_that_remains_is_told_by_what_is_alike(planned):
    place = "predictions/basic/seed-0/test"
    dark, bright, fog = (
        planned.plan.step(f"{place}/{each}")
        for each in (
            "brightness_factor,factor=0.3",
            "brightness_factor,factor=2",
            "gamma,exponent=2",
        )
    )
    done = [record(dark.id, 3.0, 30), record(f"{place}/clean", 1.0, 70)]
    speeds = Speeds.from_records(done)
    assert speeds.estimate_seconds(sum_work([bright])) == pytest.approx(
        0.1 * bright.work
    )  # the same shift
    assert speeds.estimate_seconds(sum_work([fog])) == pytest.approx(
        0.04 * fog.work
    )  # any prediction
    assert speeds.estimate_seconds(sum_work([fog, bright])) == pytest.approx(
        0.04 * fog.work + 0.1 * bright.work
    )
    assert speeds.estimate_seconds(sum_work([planned.plan.step("models/basic/seed-0")])) is None
    assert speeds.estimate_seconds(sum_work([planned.plan.step("scores")])) is None  # moments


# ---------------------------------------------------------------- studies

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: [0]
shifts:
  - brightness_factor: [0.3, 2]
  - gamma: [2]
bootstrap: 100
models:
  basic:
    title: Basic
    backbone: {backbone}
    recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
"""


@pytest.fixture(scope="module")
def study(colour_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    torch.set_num_threads(1)
    return fw.run(study, out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


@pytest.fixture(scope="module")
def planned(study, finished):
    return fw.plan(study, out=finished, device="cpu")


def test_a_plan_of_a_finished_run_is_all_done(planned, finished):
    table = planned.table
    assert list(table) == ["id", "kind", "state", "work", "needs"]
    assert set(table["state"]) == {"done"}
    assert table["kind"].value_counts().to_dict() == {
        "train": 1,
        "predict": 5,
        "score": 1,
        "sample": 1,
        "report": 1,
    }
    rows = table.set_index("id")
    for step in planned.plan.steps:
        assert finished.folder.step(step.id).depends == step.depends()
    assert rows.loc["models/basic/seed-0", "work"] == 2 * 81
    assert rows.loc["predictions/basic/seed-0/val/clean", "work"] == 9
    assert rows.loc["predictions/basic/seed-0/test/clean", "needs"] == ("models/basic/seed-0",)
    assert planned.seconds is None
    lines = str(planned).splitlines()
    assert lines[0].split() == ["task", "done", "images", "x", "passes"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "train Basic",
        "predict Basic",
        "samples",
        "score",
        "report",
    ]
    assert lines[2].split() == ["predict", "Basic", "5/5"]
    assert lines[-1] == f"9 of 9 steps done in {finished.path}"


def test_what_other_settings_made_is_told_with_the_work_and_the_time(study, finished):
    other = fw.plan(study, out=finished, overrides=["recipe.epochs=4"], device="cpu")
    by_kind = other.table.groupby("kind")["state"].unique().map(list).to_dict()
    assert by_kind.keys() == {"train", "predict", "score", "sample", "report"}
    assert all(states == ["stale"] for states in by_kind.values())
    steps = {each.id: each for each in finished.folder.steps()}
    trained = steps["models/basic/seed-0"].seconds
    predicted = sum(each.seconds for each in steps.values() if each.kind == "predict")
    # Twice as many epochs as before, and the same predictions.
    assert other.seconds == pytest.approx(2 * trained + predicted, rel=0.01)
    lines = str(other).splitlines()
    assert lines[1].split(maxsplit=4) == [
        "train",
        "Basic",
        "0/1",
        "324",
        "done with other settings",
    ]
    assert lines[2].split(maxsplit=4)[2:4] == ["0/5", "249"]
    assert lines[-1].startswith("0 of 9 steps done in ")
    assert lines[-1].endswith("to go")


def test_more_shifts_are_what_is_left(study, finished):
    more = fw.plan(study, out=finished, overrides=["shifts=[{gamma: [2, 3]}]"], device="cpu")
    rest = more.table[more.table["state"] != "done"]
    assert dict(zip(rest["id"], rest["state"], strict=True)) == {
        "predictions/basic/seed-0/test/gamma,exponent=3": "missing",
        "samples": "stale",
        "scores": "stale",
        "report": "stale",
    }
    assert more.seconds > 0


def test_the_plan_of_a_program(planned):
    read = json.loads(planned.to_json())
    assert read["name"] == "colours"
    assert read["seconds"] is None
    assert read["model"] is None
    assert read["data"]["data"]["digests"].keys() == {"train", "val", "test"}
    assert [each["id"] for each in read["steps"]] == list(planned.table["id"])
    trained = read["steps"][0]
    assert (trained["kind"], trained["state"], trained["work"]) == ("train", "done", 162)
    assert trained["depends"]["recipe"]["epochs"] == 2
    assert trained["leaves"][0] == "models/basic/seed-0/model.safetensors"


def test_planning_decodes_nothing_writes_nothing_and_says_what_it_cannot_know(
    study, finished, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decode, "decode_image", None)
    for out in (tmp_path / "nowhere", finished.path):
        found = fw.plan(study, out=out, device="cpu")
        states = found.table.groupby("kind")["state"].unique().map(list).to_dict()
        unknown = ["unknown until decoded"]
        assert states["train"] == states["predict"] == states["sample"] == unknown
        assert states["score"] == states["report"] == ["missing"]
        assert found.plan.data["data"].digests == {}
        assert "unknown until decoded" in str(found).splitlines()[1]
        first = json.loads(found.to_json())["steps"][0]
        assert (first["state"], first["depends"]["train"]) == (*unknown, None)
    # The number of images and the last speed are still known.
    assert list(found.table["work"][:3]) == [162, 9, 60]
    assert found.seconds > 0
    assert not (tmp_path / "nowhere").exists()
    assert not list((tmp_path / "cache").rglob("*.pixels"))


def test_the_plan_of_a_folder_without_its_record_leaves_the_report_to_do(study, finished, tmp_path):
    copy = RunFolder(tmp_path / "copy")
    for path in finished.path.rglob("*"):
        if path.is_file() and path.name not in ("record.json", ".lock"):
            copy.write(path.relative_to(finished.path).as_posix(), path.read_bytes())
    table = fw.plan(study, out=copy.path, device="cpu").table
    assert list(table[table["state"] != "done"]["id"]) == ["report"]


def test_every_step_is_done_with_the_threads_of_the_study_and_they_are_recorded(study, tmp_path):
    seen = []
    two = load_study(study, ["threads=2", "shifts=[]", "recipe.epochs=1"])
    run = fw.run(
        two,
        out=tmp_path / "run",
        device="cpu",
        progress=lambda event: seen.append((event.task, torch.get_num_threads())),
    )
    assert {threads for task, threads in seen if task.startswith("train") or task == "score"} == {2}
    assert torch.get_num_threads() == 1
    assert {each.machine.threads for each in run.folder.steps()} == {2}
    assert run.record.settings.threads == 2


# ---------------------------------------------------------------- the command line


def invoke(*words):
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_prints_the_plan_as_a_table_and_for_programs(study, finished, planned):
    words = ["plan", study, "--out", finished.path, "--device", "cpu"]
    assert invoke(*words) == f"{planned}\n"
    assert json.loads(invoke(*words, "--json")) == json.loads(planned.to_json())


def test_a_dry_run_of_an_evaluation_prints_its_plan_and_writes_nothing(colour_folder, tmp_path):
    model = write_model(tmp_path)
    words = ["evaluate", model, f"folder:{colour_folder}", "--shift", "gamma: [2]"]
    words += ["--out", tmp_path / "run", "--bootstrap", "100", "--device", "cpu"]
    printed = invoke(*words, "--dry-run")
    assert printed.splitlines()[-1] == f"0 of 5 steps done in {tmp_path / 'run'}"
    assert not (tmp_path / "run").exists()
    invoke(*words)
    read = json.loads(invoke(*words, "--dry-run", "--json"))
    assert {each["state"] for each in read["steps"]} == {"done"}
    assert read["model"]["source"].startswith("python:")


def said(*words):
    """The output of a command on stderr, which is not a terminal."""
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stderr.splitlines()


def test_where_there_is_no_terminal_each_stage_is_a_line_with_the_time_of_its_first_step(
    study, tmp_path
):
    words = ["run", study, "--out", tmp_path / "run", "--device", "cpu"]
    time = r"\d+(\.\d)? s"
    *lines, end = said(*words)
    assert end.startswith("next  ")
    assert len(RunFolder(tmp_path / "run").steps()) == 9
    assert [line.split()[1] for line in lines] == ["train", "predict", "samples", "score", "report"]
    assert re.fullmatch(rf"done  train Basic  {time}  \(1 of 9\)", lines[0])
    # Nothing was predicted before the first of these lines, so its duration was unknown.
    left = rf", about {time} to go"
    assert re.fullmatch(rf"done  predict Basic, val/clean  {time}  \(2 of 9{left}\)", lines[1])
    assert re.fullmatch(rf"done  report  {time}  \(9 of 9\)", lines[-1])
    # Steps that were done before are counted but have no line.
    assert said(*words) == [end]
    *more, _ = said(*words, "--set", "shifts=[{brightness_factor: [0.3, 2]}, {gamma: [2, 3]}]")
    assert [line.split("  ")[1] for line in more] == [
        "predict Basic, test/gamma,exponent=3",
        "samples",
        "score",
        "report",
    ]
    assert [re.search(r"\((\d+) of 10", line)[1] for line in more] == ["7", "8", "9", "10"]


def test_quiet_commands_say_nothing_of_their_steps(study, colour_folder, tmp_path):
    words = ["run", study, "--out", tmp_path / "run", "--device", "cpu", "--quiet"]
    assert said(*words, "--set", "recipe.epochs=1") == []
    evaluation = ["evaluate", write_model(tmp_path), f"folder:{colour_folder}", "--device", "cpu"]
    evaluation += ["--shift", "gamma: [2]", "--bootstrap", "100", "--out"]
    *lines, note, end = said(*evaluation, tmp_path / "one")
    assert note.startswith("note    estimate and predict need validation images")
    stages = [line.split()[1] for line in lines]
    assert len({*stages}) == len(stages) >= 4
    numbers = [int(re.search(r"\((\d+) of", line)[1]) for line in lines]
    assert numbers == sorted(numbers)
    assert end.startswith("next  ")
    assert said(*evaluation, tmp_path / "two", "--quiet") == []
