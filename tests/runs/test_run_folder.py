"""The run folder: files are complete or missing, steps run once, one process at a time."""

import functools
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from fairweather.errors import InputError
from fairweather.inference.prediction import make_predictions
from fairweather.runs import provenance
from fairweather.runs.claims import open_run
from fairweather.runs.folder import (
    RunFolder,
    fingerprint,
    open_finished_run,
    write_atomically,
)
from fairweather.runs.provenance import current_provenance, describe_machine
from fairweather.runs.scores import add_means, estimate_cells, scores_frame, scores_to_csv
from fairweather.shifts.table import CLEAN, sweep
from fairweather.types.measurement import Cell
from fairweather.types.record import COLUMNS, RECORD, StepRecord, parse_record, step_file
from tests.helpers.forking import Program
from tests.helpers.started import started


def predictions_of(images, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, noise, (len(images), 3)).astype(np.float32)
    logits[np.arange(len(images)), images.labels.numpy()] += 1
    return make_predictions(logits, images.labels.numpy(), images.keys.numpy(), images.classes)


def recorded(run, step, *files):
    """Record a step that wrote files with these names."""
    record = StepRecord(
        id=step,
        kind="predict",
        fingerprint="0" * 16,
        depends={"seed": 0},
        files={name: run.checksum(name) for name in files},
    )
    run.finish(record)
    return record


def test_the_record_of_a_step_is_a_file_of_its_own_and_tells_whether_its_files_are_whole(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.write("a/result.txt", "42")
        record = recorded(run, "a/step", "a/result.txt")
    again = RunFolder(tmp_path / "run")
    assert (again.path / "steps/a/step.json").read_text() == record.to_json()
    assert again.step("a/step") == record
    assert again.steps() == [record]
    assert again.step("other") is None
    assert again.has_left(record)
    (again.path / "a/result.txt").write_text("43")
    assert not again.has_left(record)
    (again.path / "a/result.txt").unlink()
    assert not again.has_left(record)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"seconds"', '"secnds"'),
        lambda text: text.replace('"version": 3', '"version": 4'),
        lambda text: "\udcff" + text,
    ],
    ids=["half", "empty", "list", "key", "newer", "not UTF-8"],
)
def test_a_damaged_record_of_a_step_is_none(tmp_path, damage):
    run = RunFolder(tmp_path)
    run.write("result.txt", "42")
    recorded(run, "step", "result.txt")
    path = tmp_path / step_file("step")
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    assert run.step("step") is None
    with pytest.raises(InputError, match=r"step\.json .*(the record of a step|newer)"):
        run.steps()


def test_a_record_under_another_name_is_not_that_of_the_step(tmp_path):
    run = RunFolder(tmp_path)
    run.write("result.txt", "42")
    text = recorded(run, "step", "result.txt").to_json()
    run.write(step_file("other"), text)
    assert run.step("other") is None
    assert run.step("step") is not None


def test_what_is_forgotten_takes_its_files_along(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("a.txt", "b.txt", "other.txt"):
        run.write(name, name)
    recorded(run, "report", "a.txt", "b.txt")
    run.forget("report")
    assert [path.name for path in tmp_path.glob("*.txt")] == ["other.txt"]
    assert run.step("report") is None
    run.forget("report")  # doing it again changes nothing


def test_records_are_held_against_their_checksums(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("scores.csv", "cell.parquet", "model.safetensors", "report.html"):
        run.write(name, name)
        recorded(run, name.partition(".")[0], name)
    assert run.check_files(bool) == []
    (tmp_path / "cell.parquet").unlink()
    assert run.check_files(bool) == ["cell.parquet"]
    run.write("scores.csv", "cut")
    with pytest.raises(InputError, match=r"scores\.csv .*checksum"):
        run.check_files(bool)
    assert run.check_files(lambda name: name != "scores.csv") == ["cell.parquet"]


def test_a_folder_knows_the_steps_that_it_recorded_or_forgot_since(tmp_path):
    run = RunFolder(tmp_path)
    assert run.check_files(bool) == []
    run.write("scores.csv", "a")
    recorded(run, "scores", "scores.csv")
    assert run.holds("scores.csv")
    run.write("scores.csv", "b")
    recorded(run, "scores", "scores.csv")
    assert run.holds("scores.csv")
    run.forget("scores")
    assert not run.holds("scores.csv")


def test_fingerprints_tell_inputs_apart():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_predictions_come_back_as_they_were(tmp_path, toy_images):
    run = RunFolder(tmp_path)
    for name, written in (
        ("with", predictions_of(toy_images)),
        ("without", many_classes()),
    ):
        run.write_predictions(f"{name}.parquet", written)
        read = run.read_predictions(f"{name}.parquet")
        assert read.classes == written.classes
        for column in ("keys", "labels", "predicted", "confidence", "top5_correct", "nll", "brier"):
            found, expected = getattr(read, column), getattr(written, column)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
        assert (read.logits is None) == (written.logits is None)
        assert written.logits is None or np.array_equal(read.logits, written.logits)


def many_classes():
    classes = tuple(map(str, range(101)))
    return make_predictions(np.eye(101, dtype=np.float32), np.arange(101), np.arange(101), classes)


OPENS = """
import sys
from pathlib import Path
from fairweather.errors import InputError
from fairweather.runs.claims import open_run
try:
    with open_run(Path(sys.argv[1])):
        print("opened")
except InputError as error:
    print(error)
"""


def test_one_process_at_a_time(tmp_path):
    command = [sys.executable, "-c", OPENS, str(tmp_path / "run")]
    with open_run(tmp_path / "run"), started(command, Program) as other:
        assert "another process is working in" in other.communicate(timeout=60)[0]
    with open_run(tmp_path / "run"):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty .*no run; .*--out"), open_run(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"), open_run(tmp_path / "thesis.tex"):
        pass
    with pytest.raises(InputError, match=r"no run: .*record\.json"):
        open_finished_run(tmp_path)


def test_a_lock_of_another_program_makes_no_run(tmp_path):
    (tmp_path / ".lock").touch()
    for name in ("scores.csv", "steps/1.json", "claims/report.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=r"not empty .*no run"), open_run(tmp_path):
            pass
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "scores.csv").unlink()
    shutil.rmtree(tmp_path / "steps")
    with pytest.raises(InputError, match=r"not empty .*no run"), open_run(tmp_path):
        pass


def test_a_run_without_its_record_is_taken_up(tmp_path):
    with open_run(tmp_path) as run:
        recorded(run, "report")
    with open_run(tmp_path) as run:
        assert run.step("report") is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"record\.json .*the record of a fairweather run"),
        ("[1]", r"record\.json .*the record of a fairweather run"),
        ('{"version": 4}', r"record\.json .*newer fairweather \(version 4\)"),
        ('{"version": 2}', r"record\.json .*the record of a fairweather run: kind: "),
    ],
)
def test_a_damaged_description_is_one_sentence_and_stops_what_would_write(tmp_path, text, words):
    (tmp_path / RECORD).write_text(text)
    for attempt in (lambda: open_run(tmp_path).__enter__(), lambda: open_finished_run(tmp_path)):
        with pytest.raises(InputError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
    with pytest.raises(InputError, match=words):
        parse_record(text, RECORD)


def test_provenance_is_plain_and_complete():
    found = current_provenance(torch.device("cpu"))
    facts = json.loads(found.model_dump_json())
    assert {"time", "command", "git", "python", "versions", "hardware"} <= facts.keys()
    # What a wheel was built for, such as +cu126, stands in one of them alone.
    stored, loaded = facts["versions"]["torch"], torch.__version__
    assert stored.partition("+")[0] == loaded.partition("+")[0]
    assert facts["hardware"]["threads"] == torch.get_num_threads()


def place_package(folder, monkeypatch):
    module = folder / "fairweather" / "runs" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(module))


def test_git_is_asked_for_the_package_once_and_for_the_working_folder_each_time(
    monkeypatch, tmp_path
):
    def look(folder):
        asked.append(folder)
        return {"revision": folder.name, "dirty": False}

    asked, clone = [], tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    place_package(clone / "src", monkeypatch)
    monkeypatch.setattr(provenance, "_git_revision", look)
    monkeypatch.setattr(
        provenance, "_own_revision", functools.cache(provenance._own_revision.__wrapped__)
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found = current_provenance(torch.device("cpu")).git
        assert found["working_folder"]["revision"] == name
        assert found["fairweather"]["revision"] == clone.name
    assert sorted(asked) == sorted([tmp_path / "first", tmp_path / "second", clone])


@pytest.mark.parametrize(
    ("folder", "repository", "is_own"),
    [
        ("src", True, True),
        # Of somebody's project, in which the environment or the source lies.
        (".venv/lib/python3.12/site-packages", True, False),
        ("fairweather-0.1.0/src", True, False),
        ("src", False, False),  # an unpacked archive, which has none
    ],
)
def test_a_repository_around_the_package_is_asked_only_if_it_is_the_package_s_own(
    monkeypatch, tmp_path, folder, repository, is_own
):
    if repository:
        (tmp_path / ".git").mkdir()
    place_package(tmp_path / folder, monkeypatch)
    asked = []
    monkeypatch.setattr(provenance, "_git_revision", asked.append)
    provenance._own_revision.__wrapped__()
    assert asked == [tmp_path] * is_own


def test_a_machine_says_what_can_change_a_result():
    found = describe_machine(torch.device("cpu"))
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert found.instructions == torch.backends.cpu.get_cpu_capability()
    assert found.model


@pytest.fixture
def cells():
    shifts = [CLEAN, *sweep("brightness_factor", [0.5, 1.5]), *sweep("gaussian_blur", [1])]
    return [Cell(model, seed, shift) for model in "ab" for seed in (0, 1) for shift in shifts]


def test_scores_have_every_mean_of_the_contract(cells, toy_images):
    stored = {
        cell: predictions_of(toy_images, seed=number, noise=0.5 + number / 4)
        for number, cell in enumerate(cells)
    }
    frame = scores_frame(add_means(estimate_cells(cells, stored.__getitem__, resamples=200)))
    assert list(frame) == COLUMNS
    assert (frame.n == len(toy_images)).all()
    too_few = frame.low.isna() & frame.high.isna()
    assert ((frame.low <= frame.value) & (frame.value <= frame.high) | too_few).all()
    assert not too_few[frame.metric == "accuracy"].any()
    accuracy = frame[frame.metric == "accuracy"].set_index(["model", "seed", "shift", "level"])
    levels = {"clean": ["none"], "brightness_factor": ["0.5", "1.5", "mean"]}
    levels |= {"gaussian_blur": ["1", "mean"], "all": ["mean"]}
    expected = {
        (model, seed, shift, level)
        for model in "ab"
        for seed in ("0", "1", "mean")
        for shift, names in levels.items()
        for level in names
    }
    assert set(accuracy.index) == expected
    value = accuracy.value
    bright = [value["a", "0", "brightness_factor", level] for level in ("0.5", "1.5")]
    assert value["a", "0", "brightness_factor", "mean"] == pytest.approx(np.mean(bright))
    by_shift = [np.mean(bright), value["a", "0", "gaussian_blur", "1"]]
    assert value["a", "0", "all", "mean"] == pytest.approx(np.mean(by_shift))
    seeds = [value["a", seed, "all", "mean"] for seed in "01"]
    assert value["a", "mean", "all", "mean"] == pytest.approx(np.mean(seeds))
    first = stored[cells[0]]
    assert value["a", "0", "clean", "none"] == pytest.approx(first.correct.mean())


def test_one_seed_needs_no_mean_over_seeds(cells, toy_images):
    one = [cell for cell in cells if cell.seed == 0]
    frame = scores_frame(add_means(estimate_cells(one, lambda _: predictions_of(toy_images), 100)))
    assert set(frame.seed) == {"0"}
    assert scores_to_csv(frame).startswith("model,seed,shift,level,metric,value,low,high,n\n")


def test_scores_come_back_as_they_were_written(tmp_path, toy_images):
    """Models may be called NA, and levels may be very close."""
    shifts = sweep("brightness_factor", [0.33333333, 0.33333334])
    cells = [Cell("NA", 0, shift) for shift in shifts]
    frame = scores_frame(
        add_means(estimate_cells(cells, lambda _: predictions_of(toy_images), 100))
    )
    run = RunFolder(tmp_path)
    run.write("scores.csv", scores_to_csv(frame))
    assert set(run.scores.model) == {"NA"}
    assert {"0.33333333", "0.33333334", "mean"} <= set(run.scores.level)
    assert scores_to_csv(run.scores) == scores_to_csv(frame)


def test_cells_of_other_images_are_refused(cells, toy_images):
    stored = {cell: predictions_of(toy_images[: 96 - i]) for i, cell in enumerate(cells)}
    with pytest.raises(InputError, match="was predicted on other images than"):
        list(estimate_cells(cells, stored.__getitem__, 100))
