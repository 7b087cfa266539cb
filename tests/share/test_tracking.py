"""Run folders in a tracker: the records are right, and a real MLflow server receives them."""

import csv
import importlib.util
import json
import logging
import os
import posixpath
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fairweather.cli import runs as evaluating
from fairweather.cli import runs as running
from fairweather.errors import InputError
from fairweather.report import building as report
from fairweather.report.finished_run import Run
from fairweather.requests.evaluation import run as evaluation
from fairweather.requests.study import run as study
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.share import tracking as to_mlflow
from fairweather.share.tracker_rows import (
    FILES,
    allowed_names,
    flatten,
    read_tracked_run,
    score_metrics,
)
from fairweather.share.tracking import check_tracker, track
from fairweather.types.record import (
    COLUMNS,
    DataRecord,
    Machine,
    ModelRecord,
    Provenance,
    RunSettings,
)
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import change_record, finish, run_record, sweep_record
from tests.helpers.run_folders import write_run as write_folder

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None,
    reason="MLflow is not installed: pip install 'fairweather[dev]'",
)
HOSTILE = 'priors/a "b"/../<script>;x\' OR 1=1'
SEEDS, SWEPT = (0, 1), ("fog", "imagenet_c/contrast")
METRICS = ("accuracy", "brier_score", "rms_calibration_error/10-equal-width")
HISTORY = "epoch,train_loss,learning_rate,val_accuracy\n1,0.9,0.001,\n2,0.25,0.0005,0.75\n"
RECIPE = {"epochs": 2, "learning_rate": 0.001, "mixup": None}
PROVENANCE = {
    "time": "2026-11-25T02:09:41+00:00",
    "command": "fairweather run small",
    "git": {"working_folder": {"revision": "0e18648", "dirty": True}},
    "python": "3.11.7",
    "platform": "Linux",
    "hardware": {"device": "cpu"},
}
NOTES = {"size": [28, 28], "skipped_names": ["not-utf8-\udcff.png"]}
SHIFTS = {number / 2: f"fog,thickness={number / 2:g}" for number in range(1, 101)}


def record(digests=None, settings=None, **provenance):
    """A study of two models, one of which starts from a pre-training."""
    entry = {"backbone": "timm:resnet18", "recipe": RECIPE}
    start = {"seed": None, "recipe": {"epochs": 2}}
    return run_record(
        {
            "basic": ModelRecord(title="Basic & <i>plain</i>", settings=entry),
            "other": ModelRecord(title="Other", settings=entry | {"backbone": "timm:resnet34"}),
        },
        [
            sweep_record(SWEPT[0], SHIFTS),
            sweep_record(SWEPT[1], {1: "imagenet_c/contrast,severity=1"}),
            sweep_record("pgd", {0.1: "pgd,epsilon=0.1"}, kind="attack"),
        ],
        name="small",
        title="A <b>small</b> study",
        description="Does it arrive?",
        data=DataRecord(
            name="mnist5k",
            classes=("0", "1"),
            digests=digests or {},
            arguments={"source": "mnist5k", "size": None},
            notes=NOTES,
        ),
        pretraining={"barlow": ModelRecord(title="Barlow", settings=start)},
        seeds=SEEDS,
        settings=RunSettings(**(settings or {})),
        provenance=Provenance(**(PROVENANCE | provenance)),
    )


def score_rows():
    """Rows like those of scores.csv: every value is different, and some are no numbers."""
    places = [("clean", "none"), ("all", "mean"), ("all", "worst"), (HOSTILE, "none")]
    places += list(product(SWEPT, ["0.5", "1", "mean", "worst"]))
    models = [*product(["basic", "basic+temperature"], ["0", "1", "mean", "sd"]), ("other", "0")]
    rows = product(models, places, METRICS)
    for number, ((model, seed), (shift, level), metric) in enumerate(rows, 1):
        value = number / 7
        ends = ("", "") if seed == "sd" else (f"{value - 0.1:.8g}", f"{value + 0.1:.8g}")
        yield model, seed, shift, level, metric, f"{value:.8g}", *ends, 100
    yield "basic", "0", "clean", "none", "macro_auc", "", "", "", 100
    yield "basic", "0", "clean", "none", "negative_log_likelihood", "inf", "0.5", "inf", 100


def make_run(path, described=None, **where):
    """A finished run folder with all files that are sent, and some that are not."""
    table = pd.DataFrame(score_rows(), columns=COLUMNS)
    run = write_folder(path, described or record())
    run.write("scores.csv", table.to_csv(index=False))
    run.write("report.html", "<p>report</p>")
    run.write("tables/summary.csv", "a,b\n1,2\n")
    run.write("figures/accuracy.png", bytes(range(256)))
    run.write("predictions/basic/seed-0/test/clean.parquet", b"large")
    for place in ("models/basic/seed-0", "models/basic/seed-1", "pretraining/barlow/seed-0"):
        run.write(f"{place}/history.csv", HISTORY)
    tuned = RECIPE | {"learning_rate": 0.5}  # as a sweep writes it
    run.write("models/basic/seed-1/model.json", json.dumps({"recipe": tuned}))
    finish(run, "models/basic/seed-0", ["models/basic/seed-0/history.csv"], **where)
    finish(run, "report", ["report.html"], kind="report", **where)
    return open_finished_run(path)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "small")


def expected(run, model, seed):
    """The expected scores of a run, read from the text of scores.csv one row at a time."""
    found = {}
    with (run.path / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            followed = (
                row["metric"] in ("accuracy", "rms_calibration_error") or row["shift"] not in SWEPT
            )
            if row["model"] != model or not followed:
                continue
            parts = [row["metric"], row["shift"], row["level"]]
            name = "/".join(part for part in parts if part != "none")
            if row["shift"] == HOSTILE:  # b and .. leave the path
                name = f"{row['metric']}/priors/_script__x__OR_1_1"
            for column, word in (("value", ""), ("low", " low"), ("high", " high")):
                if row["seed"] == seed and row[column] not in ("", "inf"):
                    found[name + word] = float(row[column])
            if row["seed"] == "sd" and seed == "mean":
                found[name + " sd"] = float(row["value"])
    return found


def test_records_are_the_rows_of_scores_csv(small_run):
    records = read_tracked_run(small_run)
    parts = {part.name: part for part in records.parts}
    names = [f"{m}/seed-{s}" for m in ("basic", "basic+temperature") for s in ("0", "1", "mean")]
    assert list(parts) == ["pretraining/barlow/seed-0", *names, "other/seed-0"]
    for name in (*names, "other/seed-0"):
        scores = {m.key: m.value for m in parts[name].metrics if not m.step}
        assert scores == expected(small_run, *name.split("/seed-"))
        assert len(scores) > 30


def test_epochs_are_those_of_the_history(small_run):
    parts = {part.name: part for part in read_tracked_run(small_run).parts}
    epochs = {
        ("train_loss", 0.9, 1),
        ("train_loss", 0.25, 2),
        ("learning_rate", 0.001, 1),
        ("learning_rate", 0.0005, 2),
        ("val_accuracy", 0.75, 2),
    }
    for name in ("basic/seed-0", "basic/seed-1", "pretraining/barlow/seed-0"):
        assert {tuple(metric) for metric in parts[name].metrics if metric.step} == epochs
    for name in ("basic/seed-mean", "basic+temperature/seed-0", "other/seed-0"):
        assert not any(metric.step for metric in parts[name].metrics)


def test_parameters_are_those_that_trained_the_model(small_run):
    records = read_tracked_run(small_run)
    parts = {part.name: part.parameters for part in records.parts}
    assert parts["basic/seed-0"] == {
        "title": "Basic & <i>plain</i>",
        "backbone": "timm:resnet18",
        "recipe.epochs": "2",
        "recipe.learning_rate": "0.001",
        "recipe.mixup": "null",
        "model": "basic",
        "seed": "0",
    }
    assert parts["basic/seed-1"]["recipe.learning_rate"] == "0.5"
    assert parts["basic+temperature/seed-0"]["variant"] == "temperature"
    assert records.study.parameters["data.source"] == "mnist5k"
    assert records.study.parameters["bootstrap"] == "1000"
    assert records.study.parameters["attacks"] == '["pgd,epsilon=0.1"]'
    assert records.study.parameters["shifts"].endswith(', "imagenet_c/contrast,severity=1"]')
    assert not any(key.startswith(("models", "pretraining")) for key in records.study.parameters)
    assert records.study.tags["data.notes.size"] == "[28, 28]"
    assert records.study.tags["provenance.git.working_folder.revision"] == "0e18648"


def test_files_are_the_report_and_not_the_predictions(small_run):
    names = ["report.html", "record.json", "scores.csv"]
    assert read_tracked_run(small_run).files == (
        *names,
        "figures/accuracy.png",
        "tables/summary.csv",
    )


def test_the_documentation_names_every_file_that_goes_along():
    text = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| files |")]
    assert set(re.findall("`(.+?)`", row)) == {*FILES, "figures/", "tables/"}


# Values that differ on another day, another machine, or with other versions.
ELSEWHERE = {
    "time": "2026-11-26T02:09:41+00:00",
    "command": "fairweather run small --device cuda",
    "git": {"working_folder": None},
    "python": "3.13.1",
    "platform": "Linux-7",
    "versions": {"torch": "3.0.0"},
    "hardware": {"device": "NVIDIA H100", "threads": 16},
}
H100 = Machine(device="cuda", model="NVIDIA H100", instructions="AVX512", threads=16)


def test_the_same_study_is_the_same_run_wherever_it_ran(small_run, tmp_path):
    known = read_tracked_run(small_run).id
    assert read_tracked_run(make_run(tmp_path / "copy")).id == known
    others = [record(**{key: fact}) for key, fact in ELSEWHERE.items()]
    others += [record(settings={"threads": 16})]
    runs = [make_run(tmp_path / str(number), each) for number, each in enumerate(others)]
    runs += [make_run(tmp_path / "machine", machine=H100)]
    assert {read_tracked_run(each).id for each in runs} == {known}


def test_other_words_for_a_shift_are_no_other_run(small_run, tmp_path):
    run = make_run(tmp_path / "run")
    change_record(run, lambda facts: facts["sweeps"][0].update(title="Mist", note="Reworded."))
    assert read_tracked_run(open_finished_run(run.path)).id == read_tracked_run(small_run).id


def test_other_data_and_other_parameters_are_another_run(small_run, tmp_path):
    data = make_run(tmp_path / "data", record(digests={"test": "1"}))
    general = make_run(tmp_path / "general", record(settings={"bootstrap": 5000}))
    recipe, level, model = (make_run(tmp_path / name) for name in ("recipe", "level", "model"))
    recipe.write("models/basic/seed-1/model.json", json.dumps({"recipe": RECIPE}))
    change_record(level, lambda facts: facts["sweeps"][0]["cells"].pop())
    change_record(model, lambda facts: facts["models"]["basic"]["facts"].update(digest="1"))
    runs = [small_run, data, general, *(open_finished_run(r.path) for r in (recipe, level, model))]
    assert len({read_tracked_run(each).id for each in runs}) == 6


def test_machines_and_threads_are_said_beside(tmp_path):
    run = make_run(tmp_path / "run", record(settings={"threads": 4}), machine=H100)
    finish(run, "scores", ["scores.csv"], kind="score")
    tags = read_tracked_run(run).study.tags
    assert tags["threads"] == "4"
    assert tags["machines"] == (
        "NVIDIA H100 (cuda, AVX512, 16 threads); a processor (cpu, AVX2, 1 threads)"
    )


def test_a_run_ends_when_its_last_step_was_recorded(tmp_path):
    run = make_run(tmp_path / "run")
    for number, path in enumerate(sorted((run.path / "steps").rglob("*.json"))):
        os.utime(path, ns=(0, (number + 1) * 10**9))
    assert read_tracked_run(run).ended == 2000
    for path in (run.path / "steps").rglob("*.json"):
        path.unlink()
    with pytest.raises(InputError, match=r"run .*only a finished run can be tracked"):
        read_tracked_run(run)


def test_a_model_that_the_run_has_not_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    text = (run.path / "scores.csv").read_text()
    run.write("scores.csv", text.replace("other,0,", "../other,0,"))
    with pytest.raises(InputError, match=r"scores\.csv .*\.\./other, .*run"):
        read_tracked_run(run)


def test_the_order_of_rows_changes_no_number(small_run):
    scores = small_run.scores
    shuffled = scores.sample(frac=1, random_state=0).reset_index(drop=True)
    order = ["model", "seed", "key"]
    there, back = (score_metrics(each, SWEPT).sort_values(order) for each in (scores, shuffled))
    assert there.to_numpy().tolist() == back.to_numpy().tolist()
    assert not there.duplicated(order).any()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("scores.csv", r"no scores\.csv: .*finished"),
        ("report.html", r"no report\.html: .*finished"),
        ("record.json", r"no run: .*record\.json"),
    ],
)
def test_an_unfinished_run_is_refused(missing, words, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # nothing may be sent anywhere
    run = RunFolder(make_run(tmp_path / "run").path)
    (run.path / missing).unlink()
    with pytest.raises(InputError, match=words):
        track(run, "mlflow")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("record.json", '{"time": "2026', "not the record of a fairweather run"),
        ("record.json", "[]", "not the record of a fairweather run"),
        ("steps/report.json", "[]", "not the record of a step"),
        ("models/basic/seed-1/model.json", '{"time": "2026', "not JSON: Unterminated string"),
        ("models/basic/seed-1/model.json", "[]", "mapping, .*list"),
    ],
)
def test_a_damaged_file_gets_one_sentence(name, content, words, tmp_path):
    run = RunFolder(make_run(tmp_path / "run").path)
    run.write(name, content)
    with pytest.raises(InputError, match=f"{name} .*{words}") as caught:
        read_tracked_run(run)
    assert "\n" not in str(caught.value)


def test_names_stay_apart_and_inside():
    hostile = ["a/b", "a//b", "a/./b", "../a/b", "/a/b", "a b", "a,b", "", "..", "/", "x" * 300,
               "x" * 301, "Ünïcode", "a\nb", "a:b"]  # fmt: skip
    names = allowed_names(hostile)
    assert names["a/b"] == "a/b"
    assert names["Ünïcode"] == "Ünïcode"
    assert len(set(names.values())) == len(hostile)
    assert all(0 < len(name) <= 250 for name in names.values())


def test_a_long_name_leaves_room_for_what_stands_around_it():
    names = allowed_names([f"{'x' * 299}{end}" for end in "ab"]).values()
    assert len(set(names)) == 2
    # Our longest suffix of a metric's name, and our prefix of a tag's.
    assert all(len(f"{name} high") <= 250 for name in names)
    assert all(len(f"fairweather.{name}") <= 250 for name in names)


@pytest.mark.parametrize("end", ["/./a", "/../a", "//a", "/a"])
def test_a_name_that_is_cut_stays_a_path_inside(end):
    for length in range(200, 260):
        (name,) = allowed_names(["x" * length + end]).values()
        assert name == posixpath.normpath(name) != "."


@needs_mlflow
def test_mlflow_takes_the_names():
    from mlflow.utils.validation import _validate_metric_name

    for name in allowed_names(
        ["a//b", "..", "/", "", "a/../../b", "é:<>\0\n", "x/" * 200, "x" * 300, "x" * 301]
    ).values():
        _validate_metric_name(name)
        _validate_metric_name(f"{name} high")


def test_values_are_text_that_yaml_reads_back():
    value = {"a": {"b": [1, 2.5, None]}, "c": {}, "d": True, "e": 1e-05}
    flat = dict(flatten(value))
    assert {key: yaml.safe_load(text) for key, text in flat.items() if key != "e"} == {
        "a.b": [1, 2.5, None], "c": {}, "d": True}  # fmt: skip
    assert float(flat["e"]) == 1e-05


def test_an_unknown_tracker_names_the_closest():
    with pytest.raises(InputError, match=r"'mlflwo'.*'mlflow'"):
        check_tracker("mlflwo")


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'fairweather\[track\]'"):
        check_tracker("mlflow")


@pytest.mark.parametrize("command", ["run", "evaluate", "report"])
def test_the_command_asks_first_and_sends_last(command, small_run, monkeypatch, capsys):
    done = []

    def work(*_, **__):
        done.append("work")
        return Run(small_run.path)

    def take(tracked, folder):
        done.append("send")
        return f"at {tracked.study.name} of {folder.path.name}"

    monkeypatch.setattr(to_mlflow, "check_tracker", lambda _: done.append("check"))
    monkeypatch.setattr(to_mlflow, "send_run", take)
    monkeypatch.setattr(study, "run", work)
    monkeypatch.setattr(report, "build_report", work)
    monkeypatch.setattr(evaluation, "run_request", work)
    if command == "run":
        running.run("quickstart", track="mlflow")
    elif command == "report":
        running.report([small_run.path], track="mlflow")
    else:
        evaluating.evaluate("timm:resnet18", "mnist5k", out=small_run.path, track="mlflow")
    assert done == ["check", "work", "check", "send"]
    assert capsys.readouterr().out.splitlines()[-1] == "mlflow  at small of small"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real MLflow server on SQLite without telemetry, stopped afterwards."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artefacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment = {**os.environ, **quiet, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    place = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"{place}/health", process, folder / "log")
            yield place
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()


def wait_for(address, process, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def client(server, monkeypatch, request):
    """A client of the server; each test sends to an experiment of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    with to_mlflow.mlflow_session(to_mlflow.HURRIED) as mlflow:
        yield mlflow.MlflowClient()


def runs_of(client):
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in runs}, len(runs)


@needs_mlflow
def test_a_server_has_what_the_folder_has(client, small_run, tmp_path, capfd):
    address = track(small_run, "mlflow")
    assert capfd.readouterr() == ("", "")
    records, (runs, count) = read_tracked_run(small_run), runs_of(client)
    assert sorted(runs) == sorted(["small", *(part.name for part in records.parts)])
    assert count == len(runs) == 9
    parent = runs["small"]
    assert address.endswith(f"/runs/{parent.info.run_id}")
    assert parent.data.tags["mlflow.note.content"] == "Does it arrive?"
    assert parent.data.tags["fairweather.provenance.command"] == "fairweather run small"
    assert parent.data.params["title"] == "A <b>small</b> study"
    assert len(parent.data.params["shifts"]) == 500
    assert parent.info.start_time == 1795572581000
    for part in records.parts:
        run = runs[part.name]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params == part.parameters
        if part.name != "pretraining/barlow/seed-0":
            scores = {key: x for key, x in run.data.metrics.items() if "/" in key}
            assert scores == expected(small_run, *part.name.split("/seed-"))
    history = client.get_metric_history(runs["basic/seed-0"].info.run_id, "train_loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.9), (2, 0.25)]
    here = client.download_artifacts(parent.info.run_id, "", str(tmp_path))
    found = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert sorted(str(path.relative_to(here)) for path in found) == sorted(records.files)
    for path in found:
        assert path.read_bytes() == (small_run.path / path.relative_to(here)).read_bytes()


@needs_mlflow
def test_sending_again_changes_nothing_and_new_numbers_win(client, tmp_path):
    run = make_run(tmp_path / "run")
    first = track(run, "mlflow")
    before, _ = runs_of(client)
    assert track(run, "mlflow") == first
    after, count = runs_of(client)
    assert count == len(before)
    assert {name: each.to_dictionary() for name, each in after.items()} == {
        name: each.to_dictionary() for name, each in before.items()
    }
    place = "basic,0,clean,none,accuracy,"
    text = (run.path / "scores.csv").read_text()
    run.write("scores.csv", text.replace(place, f"{place}-"))  # lower than the value on the server
    run.write("report.html", "another")
    assert track(run, "mlflow") == first
    after, count = runs_of(client)
    assert count == len(before)
    run_id = after["basic/seed-0"].info.run_id
    assert after["basic/seed-0"].data.metrics == before["basic/seed-0"].data.metrics | {
        "accuracy/clean": expected(run, "basic", "0")["accuracy/clean"]
    }
    assert len(client.get_metric_history(run_id, "train_loss")) == 2
    assert len(client.get_metric_history(run_id, "brier_score/clean")) == 1
    parent = after["small"].info.run_id
    there = Path(client.download_artifacts(parent, "report.html", str(tmp_path)))
    assert there.read_text(encoding="utf-8") == "another"


@needs_mlflow
def test_the_same_study_from_elsewhere_is_brought_up_to_date(client, tmp_path):
    first = track(make_run(tmp_path / "here"), "mlflow")
    before, count = runs_of(client)
    there = make_run(tmp_path / "there", record(**ELSEWHERE))
    assert track(there, "mlflow") == first
    after, again = runs_of(client)
    assert again == count
    start = "fairweather.provenance."
    found = {key: tag for key, tag in after["small"].data.tags.items() if key.startswith(start)}
    tags = {f"fairweather.{key}": tag for key, tag in read_tracked_run(there).study.tags.items()}
    # The revision of the first is removed.
    assert found == {key: tag for key, tag in tags.items() if key.startswith(start)}
    assert found[f"{start}hardware.device"] == "NVIDIA H100"
    for own in ("fairweather.id", "fairweather.name", "mlflow.source.name", "mlflow.note.content"):
        assert after["small"].data.tags[own] == before["small"].data.tags[own]
    seal = "fairweather.sent"
    assert after["small"].data.tags[seal] != before["small"].data.tags[seal]
    for name in set(after) - {"small"}:
        assert after[name].to_dictionary() == before[name].to_dictionary()


@needs_mlflow
def test_what_was_interrupted_is_taken_up(client, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(to_mlflow, "_BATCH", 20)
    whole, sent = type(client).log_batch, []

    def breaks(self, *arguments, **more):
        sent.append(1)
        if len(sent) == 6:
            raise ConnectionError("the cable")
        return whole(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_batch", breaks)
        with pytest.raises(InputError, match=r"run .*the cable"):
            track(run, "mlflow")
    half, _ = runs_of(client)
    assert half["basic/seed-0"].info.status == "RUNNING"
    assert 0 < len(half["basic/seed-0"].data.metrics) < 90
    track(run, "mlflow")
    runs, count = runs_of(client)
    assert count == len(runs) == 9
    for name, seed in (("basic", "0"), ("basic+temperature", "mean")):
        found = runs[f"{name}/seed-{seed}"].data.metrics
        assert {key: x for key, x in found.items() if "/" in key} == expected(run, name, seed)
    for key in ("train_loss", "accuracy/clean"):
        history = client.get_metric_history(runs["basic/seed-0"].info.run_id, key)
        assert len(history) == len({each.step for each in history})
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@needs_mlflow
def test_a_run_deleted_there_is_sent_anew(client, small_run):
    track(small_run, "mlflow")
    before, count = runs_of(client)
    client.delete_run(before["small"].info.run_id)
    client.delete_run(before["other/seed-0"].info.run_id)
    track(small_run, "mlflow")
    after, again = runs_of(client)
    assert again == count
    assert after["small"].info.run_id != before["small"].info.run_id
    assert after["basic/seed-0"].info.run_id == before["basic/seed-0"].info.run_id
    for name in set(after) - {"small"}:
        assert after[name].data.tags["mlflow.parentRunId"] == after["small"].info.run_id


@needs_mlflow
def test_a_deleted_experiment_is_refused(client, monkeypatch):
    name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    client.delete_experiment(client.create_experiment(name))
    with pytest.raises(InputError, match=f"'{name}' .*MLFLOW_EXPERIMENT_NAME"):
        check_tracker("mlflow")


@needs_mlflow
def test_a_dead_server_is_said_before_anything_runs(tmp_path):
    place = {"MLFLOW_TRACKING_URI": f"http://me:secret@127.0.0.1:{free_port()}"}
    words = ("run", "quickstart", "--out", "run", "--track", "mlflow")
    done = fairweather(*words, cwd=tmp_path, env=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fairweather: no MLflow server answers at http://127.0.0.1:")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert not list(tmp_path.iterdir())


@needs_mlflow
@pytest.mark.parametrize("place", [None, ""])
def test_mlflow_without_an_address_is_refused_and_makes_no_file(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if place is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    with pytest.raises(InputError) as caught:
        check_tracker("mlflow")
    assert str(caught.value) == (
        "MLflow needs the address of a server: set MLFLOW_TRACKING_URI, "
        "as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
    )
    assert not list(tmp_path.iterdir())


@needs_mlflow
def test_an_evaluation_asks_before_it_loads_anything(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match=r"127\.0\.0\.1.*MLFLOW_TRACKING_URI"):
        evaluating.evaluate("timm:nothing", "nowhere", out=tmp_path / "run", track="mlflow")
    assert not list(tmp_path.iterdir())


@needs_mlflow
@pytest.mark.parametrize("name", ["mlflow.store", "alembic.runtime.migration"])
def test_mlflow_is_quiet_for_a_while_only(name, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    before = dict(os.environ), logging.getLogger(name).getEffectiveLevel()
    with to_mlflow.mlflow_session(to_mlflow.HURRIED):
        logging.getLogger(name).error("chatter")
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert caplog.records == []
    assert (dict(os.environ), logging.getLogger(name).getEffectiveLevel()) == before


@needs_mlflow
def test_a_database_needs_the_whole_package(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "sqlalchemy" else find(name)
    )
    with pytest.raises(InputError, match=r"sqlite:.*MLFLOW_TRACKING_URI, or pip install mlflow"):
        check_tracker("mlflow")


def test_a_finished_run_stands_wherever_a_path_may(small_run, monkeypatch):
    monkeypatch.setattr(to_mlflow, "check_tracker", lambda _: None)
    monkeypatch.setattr(to_mlflow, "send_run", lambda _, folder: str(folder.path))
    for run in (Run(small_run.path), small_run, small_run.path, str(small_run.path)):
        assert track(run, "mlflow") == str(small_run.path)
