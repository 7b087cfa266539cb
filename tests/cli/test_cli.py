"""The command line and the façade: fast, quiet, and clear about mistakes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import fairweather as fw
from fairweather.attacks.shift_lists import expand_with_clean
from fairweather.cli.app import main
from fairweather.cli.options import progress
from fairweather.cli.runs import evaluate, run
from fairweather.errors import InputError, check_writable
from fairweather.judge.rules import read_rules
from fairweather.progress import Event, FinishedStep
from fairweather.requests.study.schema import load_study
from tests.helpers.commands import fairweather
from tests.helpers.forking import Program
from tests.helpers.started import started


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quickstrat"], "unknown study 'quickstrat'; did you mean 'quickstart'?"),
        (["run", "no/such.yaml"], "there is no study file no/such.yaml"),
        (["run", "quickstart", "--only", "basik"], "did you mean 'basic'?"),
        (["run", "quickstart", "--set", "recipe.epoch=2"], "did you mean 'epochs'?"),
        (["run", "quickstart", "--set", "epochs"], "--set takes KEY=VALUE"),
        (
            ["run", "quickstart", "--seeds", "two"],
            "seeds: must be the number of seeds, from 1 to 100",
        ),
        (["run", "quickstart", "--seeds", "3,3"], "seeds must be different"),
        (["run", "quickstart", "--device", "tpu9"], "unknown device 'tpu9'"),
        (["list", "everything"], "unknown list 'everything'"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["evaluate", "torchvision:resnet19", "mnist5k"], "did you mean 'resnet18'?"),
        (["run", "--nonsense"], "No such option: --nonsense"),
        (["rum"], "No such command 'rum'"),
    ],
)
def test_mistakes_end_with_status_2_and_one_sentence(arguments, words, tmp_path):
    done = fairweather(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_a_program_of_its_own_with_status_2(tmp_path):
    command = [sys.executable, "-m", "fairweather", "report", "nowhere"]
    with started(command, Program, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        printed, errors = process.communicate()
    assert (process.returncode, printed) == (2, "")
    assert "nowhere holds no run" in errors


def test_a_mistyped_study_is_told_before_anything_heavy_is_imported(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "fairweather", "run", "quickstrat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'quickstart'" in done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "pandas", "numpy", "timm", "scipy"}


@pytest.mark.parametrize(
    ("name", "command"), [("studies", run), ("study", run), ("weights", evaluate)]
)
def test_where_nothing_can_be_written_is_told_first(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("a file")
    arguments = ("timm:resnet18", "mnist5k") if command is evaluate else ("quickstart",)
    with pytest.raises(InputError, match=f"'{name}/run'.* is not a folder; name another folder"):
        command(*arguments, out=Path(name, "run"))


def test_a_folder_without_permission_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=f"'{tmp_path}/runs/a': permission denied for {tmp_path}"):
        check_writable(tmp_path / "runs" / "a")


@pytest.mark.parametrize(
    ("file", "folder", "way_out"),
    [
        ("runs/a/tables/.0f1e2d.partial", "runs/a/tables", ""),
        ("/cache/weights/0f/w.pth.part", "/cache/weights/0f", "FAIRWEATHER_CACHE"),
        ("/cache/weights", "/cache/weights", "FAIRWEATHER_CACHE"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(file, folder, way_out, monkeypatch, capsys):
    def refused(**_):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setenv("FAIRWEATHER_CACHE", "/cache")
    monkeypatch.setattr("fairweather.cli.app.app", refused)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"'{folder}': permission denied" in said
    assert ("FAIRWEATHER_CACHE" in said) == bool(way_out)
    assert "Errno" not in said
    assert ".part" not in said


def test_what_a_terminal_cannot_show_is_replaced(tmp_path):
    command = [sys.executable, "-m", "fairweather", "list"]
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env=latin)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Gaussian blur: standard deviation ? (pixels)" in done.stdout


def helped(command):
    """The help of a command, its boxes taken off and its lines joined."""
    done = fairweather(command, "--help", env={"COLUMNS": "160"})
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())


def test_every_example_in_the_help_is_accepted():
    (rule,) = re.findall(r"'(.*?)'", helped("check").split("such as")[1])
    assert [str(each) for each in read_rules([rule])] == [rule]
    (shift,) = re.findall(r"are written '(.*?)'", helped("evaluate"))
    assert len(expand_with_clean(shift)) == 3
    overrides = re.findall(r"\S+=\S+?(?=[. ]+(?:or|Repeatable))", helped("run"))
    assert len(overrides) == 2
    assert load_study("quickstart", overrides).models["basic"].recipe.epochs == 2
    assert "[,parameter=value...]" in helped("preview")


def test_missing_data_leaves_no_run_behind(tmp_path):
    done = fairweather("run", "quickstart", "--set", "data.source=folder:nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ((), [0, 1, 2]),
        (("--seeds", "2"), [0, 1]),
        (("--seeds", "4,3"), [4, 3]),
        (("--seeds", "7,"), [7]),
        (("--set", "seeds=[5]"), [5]),
    ],
)
def test_the_command_line_says_how_many_seeds_or_which(options, seeds, tmp_path):
    done = fairweather("plan", "quickstart", "--only", "basic", "--json", *options, cwd=tmp_path)
    trainings = [each for each in json.loads(done.stdout)["steps"] if each["kind"] == "train"]
    assert [each["id"] for each in trainings] == [f"models/basic/seed-{seed}" for seed in seeds]


def test_list_names_everything():
    done = fairweather("list")
    assert done.returncode == 0
    for name in (
        "quickstart",
        "gaussian_blur",
        "paper_pets",
        "macro_auc",
        "ppv/CLASS",
        "onnx:FILE",
        "parquet:PATH",
    ):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments", [["-c", "import fairweather"], ["-m", "fairweather", "--help"]]
)
def test_importing_and_helping_load_nothing_heavy(arguments):
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "pandas", "numpy", "timm", "altair", "pydantic_core", "scipy"}


# In a program that was forked, the package itself is imported once more; packages that are loaded
# there already are not, so that at night a new process looks at them too.
WITHOUT_THE_HEADLESS_DISTRIBUTION = """
import importlib.metadata as metadata
import socket
import sys

for name in [name for name in sys.modules if name.split(".")[0] == "fairweather"]:
    del sys.modules[name]
def refuse(*a, **k): raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
known = metadata.version

def version(name):
    if "opencv" in name:
        raise metadata.PackageNotFoundError(name)
    return known(name)

metadata.version = version
import fairweather.cli.app, fairweather.report.contact_sheet, fairweather.share.export
import fairweather.requests.evaluation.run, fairweather.requests.study.run
from fairweather.steps.plan import LIBRARY_VERSIONS
print(LIBRARY_VERSIONS["opencv"])
late = {"torchmetrics", "matplotlib", "transformers", "onnx", "mlflow", "ray", "lightly"}
print(*late & set(sys.modules))
"""


@pytest.mark.parametrize(
    "begin", [Program, pytest.param(subprocess.Popen, marks=pytest.mark.nightly)]
)
def test_any_distribution_of_opencv_will_do_and_nothing_loads_what_only_some_commands_need(begin):
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THE_HEADLESS_DISTRIBUTION]
    with started(command, begin) as process:
        printed, _ = process.communicate()
    assert (process.returncode, printed.splitlines()) == (0, [cv2.__version__, ""])


def test_what_only_reads_runs_loads_no_torch():
    parts = "fairweather.report.building, fairweather.judge.comparison, fairweather.judge.verdicts"
    code = f"import sys, {parts}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", fw.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(fw, name).__doc__
    assert name in dir(fw)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'"):
        fw.frobnicate  # noqa: B018


def test_no_module_bears_the_name_of_a_public_function():
    package = fw.__path__[0]
    import pathlib

    modules = {path.stem for path in pathlib.Path(package).iterdir()}
    functions = {name for name in fw.__all__ if name != "metrics"}
    assert not modules & functions


def test_a_terminal_shows_every_task_with_its_numbers(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes any stream a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with progress() as show:
        show(Event("download digits.npz, MB", 3, None))
        show(Event("decode test", 7, 40, "halfway"))
    shown = capsys.readouterr().err
    for words in ("download digits.npz, MB", "3/?", "decode test", "7/40", "halfway"):
        assert words in shown


@pytest.mark.parametrize("columns", [40, 60, 66, 80, 109, 110, 150])
def test_numbers_are_whole_on_a_terminal_of_any_width(columns, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress() as show:
        note = "gaussian_blur,sigma=2.5: accuracy 87.5%"
        show(Event("predict MobileNet with AugMix + temperature scaling, seed 2", 8, 15, note))
        show(Event("decode test", 12_000, 100_000))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    lines = [line.split() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    named = [line for line in lines if line[0] == "predict"]
    assert all("8/15" in line or "0/15" in line for line in named)
    assert any("8/15" in line for line in named)
    decoded = "".join(next(reversed([line for line in lines if line[0] == "decode"])))
    assert "12000/100000" in decoded


TOLD = [
    Event("train", 1, 2, "validation accuracy 97.0%"),
    Event("evaluate", 0, None, line="clean          accuracy 97.0%"),
    Event("steps", 3, 24, finished=FinishedStep("train Basic, seed 0", 41.3)),
    Event("steps", 4, 24, finished=FinishedStep("predict Basic, seed 0, test/clean", 0.42, 725.0)),
]


def test_where_there_is_no_terminal_lines_for_people_and_finished_steps_are_said(capsys):
    with progress() as show:
        for event in TOLD:
            show(event)
    said = capsys.readouterr()
    assert said.out == "clean          accuracy 97.0%\n"
    assert said.err.splitlines() == [
        "done  train Basic, seed 0  41 s  (3 of 24)",
        "done  predict Basic, seed 0, test/clean  0.4 s  (4 of 24, about 12 min to go)",
    ]


def test_a_step_that_takes_long_is_told_about_once_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 0.0, 30.0, 61.0, 90.0, 122.0])
    monkeypatch.setattr("fairweather.progress.time.monotonic", lambda: next(clock))
    with progress() as show:
        for part in (0.0, 0.25, 0.5, 0.75, 0.875):
            show(Event("train Basic, seed 0", 2, 8, "validation accuracy 93.1%", part=part))
    # After 61 s half an epoch is done, and 5.5 are left; after 122 s 0.875 are done.
    assert capsys.readouterr().err.splitlines() == [
        "...   train Basic, seed 0  2.5 of 8, about 11 min to go  validation accuracy 93.1%",
        "...   train Basic, seed 0  2.9 of 8, about 12 min to go  validation accuracy 93.1%",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_no_progress(terminal, monkeypatch, capsys):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(quiet=True) as show:
        for event in TOLD:
            show(event)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("clean          accuracy 97.0%\n", "")


def test_a_terminal_shows_bars_and_no_lines_of_steps(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress() as show:
        for event in TOLD:
            show(event)
    said = capsys.readouterr().err
    assert "validation accuracy 97.0%" in said
    assert "done  train" not in said
    assert "steps" not in said
