"""The command line and the façade: fast, quiet, and clear about mistakes."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import typer.main
from scipy.stats import binomtest

import fairweather as fw
from fairweather.attacks.shift_lists import expand_with_clean
from fairweather.cli.app import COMMANDS, app, main
from fairweather.cli.help import PANELS, shows_colour
from fairweather.cli.options import SHIFT_HELP, progress
from fairweather.cli.runs import evaluate, run
from fairweather.errors import RENAMED, InputError, check_writable
from fairweather.judge.rules import read_rules
from fairweather.progress import Event, FinishedStep
from fairweather.requests.study.schema import load_study
from fairweather.shifts.table import SUITES
from fairweather.types.options import read_share
from tests.conftest import write_pictures
from tests.helpers.commands import fairweather
from tests.helpers.forking import Program
from tests.helpers.refusing import SLOW, run_without
from tests.helpers.run_folders import copy_run, outcomes, run_record, sweep_record, write_run
from tests.helpers.started import started


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quickstrat"], "unknown study 'quickstrat'; did you mean 'quickstart'?"),
        (["run", "no/such.yaml"], "there is no study file no/such.yaml"),
        (["run", "quickstart", "--model", "basik"], "did you mean 'basic'?"),
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
        (["evaluate", "mymodel.pt", "folder:photos"], "there is no file mymodel.pt"),
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
    assert (done.returncode, done.stderr[:8]) == (0, b"next    ")
    assert b"Gaussian blur: standard deviation ? (pixels)" in done.stdout


PROGRAM = typer.main.get_command(app)
HELPS = {name: fairweather(name, "-h").stdout for name in PROGRAM.commands}
HELPS[""] = fairweather("-h").stdout
EXAMPLES = [line for command in PROGRAM.commands.values() for line in command.explained()[1]]


def options():
    """Every option of every command as `COMMAND --OPTION`, with what it is."""
    for name, command in PROGRAM.commands.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            for option in command.get_params(context):
                if option.param_type_name == "option":
                    yield pytest.param(
                        max(option.opts, key=len), option, id=f"{name} {option.name}"
                    )


@pytest.mark.parametrize(("flag", "option"), list(options()))
def test_every_option_stands_in_one_panel_under_a_plain_name(flag, option):
    (metavar,) = [panel[flag] for panel in PANELS.values() if flag in panel]
    assert bool(metavar) != option.is_flag
    assert re.fullmatch(r"[A-Z.,=|]*", metavar)
    assert len(flag) > 1


def test_a_panel_has_no_option_that_no_command_has():
    known = {row.values[0] for row in options()} | {"--version"}
    assert {flag for panel in PANELS.values() for flag in panel} == known


@pytest.mark.parametrize("name", HELPS)
def test_the_help_has_examples_first_plain_names_and_short_sentences(name):
    text = HELPS[name]
    assert text == fairweather(name, "--help").stdout if name else fairweather("--help").stdout
    assert "\x1b" not in text
    assert not re.search(r"<\w+>|\{\w+\}|: \(", text.replace("NAME: {CLASS", ""))
    if name:
        order = ["\nExamples:\n", "\nOutput:\n", "--help"]
        assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)
        assert text.startswith(f"fairweather {name} ")
        assert "Arguments" not in text or text.index("Examples") < text.index("Arguments")


def sentences():
    for name, command in PROGRAM.commands.items():
        texts = [*command.explained()[0], *(parameter.help for parameter in command.params)]
        for text in texts:
            for sentence in re.split(r"(?<=[.?]) (?=[A-Z])", " ".join(text.split())):
                yield pytest.param(sentence, id=f"{name}: {sentence[:40]}")


@pytest.mark.parametrize("sentence", list(sentences()))
def test_a_sentence_of_the_help_has_at_most_20_words(sentence):
    assert sentence
    assert sentence[-1] in ".?"
    assert len(sentence.split()) <= 20


def test_the_commands_to_begin_with_come_first_and_each_has_a_line():
    shown = [line.split()[0] for line in HELPS[""].splitlines() if re.match("  [a-z]", line)]
    assert shown == [name for panel in COMMANDS.values() for name in panel]
    places = [
        HELPS[""].index(f"\n{panel}:\n  {next(iter(row))}") for panel, row in COMMANDS.items()
    ]
    assert places == sorted(places)
    assert {"evaluate", "check", "predict"} <= {*next(iter(COMMANDS.values()))}


def test_a_call_without_a_command_shows_the_help_with_status_2():
    assert fairweather() == (2, HELPS[""], "")


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_in_the_help_is_accepted(line):
    program, name, *words = shlex.split(line)
    assert program == "fairweather"
    with PROGRAM.commands[name].make_context(name, words) as context:  # parses, and runs nothing
        given = context.params
    if name == "check" and not given["rules"][0].endswith(".yaml"):
        assert [str(rule) for rule in read_rules(given["rules"])] == [*given["rules"]]
    assert expand_with_clean(given.get("shift") or ())
    if given.get("set_"):
        study = load_study("quickstart", given["set_"], given["models"])
        assert study.models["basic"].recipe.epochs == 2
    if given.get("risk"):
        assert read_share(given["risk"], "--risk") == 0.05


def test_what_the_help_of_options_says_is_accepted():
    (shift,) = re.findall(r"'(gamma.*?)'", SHIFT_HELP)
    assert len(expand_with_clean(shift)) == 3
    assert len(expand_with_clean("imagenet_c/fog,severity=3")) == 2
    text = " ".join(HELPS["evaluate"].split())
    names = ("gaussian_noise", "motion_blur", "fog", "contrast", "jpeg_compression")
    assert SUITES["quick"] == {f"imagenet_c/{name}": (1, 3, 5) for name in names}
    assert "quick: noise, motion blur, fog, contrast and JPEG, at levels 1, 3 and 5]" in text
    text = " ".join(HELPS["run"].split())
    overrides = re.search(r"of the study: (\S+), (\S+)\. Repeatable", text).groups()
    assert load_study("quickstart", overrides).models["basic"].recipe.epochs == 2


OLD = {old: new for old, new in RENAMED.items() if old.startswith("--")}


@pytest.mark.parametrize("old", OLD)
def test_the_old_name_of_an_option_gives_a_sentence_with_the_new_one(old, tmp_path):
    takers = {row.id.split()[0] for row in options() if row.values[0] == OLD[old]}
    assert takers
    for name in PROGRAM.commands:
        done = fairweather(name, "a", "b", old, "c", cwd=tmp_path)
        assert done.returncode == 2
        assert (f"{old} is now called {OLD[old]}; see: fairweather {name}" in done.stderr) == (
            name in takers
        )


def test_no_new_name_is_an_old_one_and_no_old_one_is_left():
    assert not OLD.keys() & {*OLD.values(), *(row.values[0] for row in options())}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"only": ["basic"]}, "the option .only. is now called .models."),
        ({"workers": 2}, "the option .workers. is now called .shift_processes."),
        ({"networks": 2}, "the option .networks. is now called .models_in_memory."),
    ],
)
def test_the_old_name_of_an_option_of_python_gives_such_a_sentence_too(given, words):
    with pytest.raises(InputError, match=words):
        fw.run("quickstart", **given)


def test_labels_are_those_of_predictions_and_no_mapping_of_classes():
    with pytest.raises(InputError, match="a mapping of classes is class_map"):
        fw.evaluate("timm:test_resnet", "mnist5k", labels={"0": 0})
    with pytest.raises(InputError, match="a mapping of classes is class_map"):
        fw.evaluate(predictions=[[0.1, 0.9]], labels={"0": 0})


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_has_colours_unless_no_color_is_set(variables, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert shows_colour(Terminal()) == coloured
    assert not shows_colour(io.StringIO())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of one model, predictions, and a few images."""
    place = tmp_path_factory.mktemp("place")
    fog = sweep_record("imagenet_c/fog", {1: "imagenet_c/fog,severity=1"})
    rows = [
        ("a", "0", "clean", "none", "accuracy", 0.7, 0.6, 0.8, 20),
        ("a", "0", "imagenet_c/fog", "1", "accuracy", 0.5, 0.4, 0.6, 20),
    ]
    predictions = {
        ("a", 0, "clean"): outcomes([True, False] * 10),
        ("a", 0, "imagenet_c/fog,severity=1"): outcomes([False, False] * 10),
    }
    run = write_run(place / "run", run_record({"a": "Model A"}, [fog]), rows, predictions)
    copy_run(run, place / "other")
    copy_run(run, place / "reported").write("report.html", "the page")
    write_pictures(place / "photos", test=2)
    (place / "right.csv").write_text("label,x,y\n" + "x,0.9,0.1\ny,0.2,0.8\n" * 10)
    return place


ENDS = {
    "evaluate predictions:right.csv --bootstrap 100": "open runs/right/report.html, or: ",
    "check run 'accuracy[clean] >= 10%'": "fairweather report run",
    "check reported 'accuracy[clean] >= 90%'": "open reported/report.html",
    "compare run other": "open run/tables/",
    "card run": "open run/cards/a.html",
    "plan-test 'accuracy >= 80%' --expect 90%": "fairweather check NEW 'accuracy[clean] >= 80%'",
    "plan-test 'accuracy better' --expect 1% --discordant 5%": "fairweather compare NEW OLD",
    "report run": "open run/report.html, or: fairweather check run",
    # The run of all its models would be another one than was planned.
    "plan quickstart --model basic": "the same command with run in place of plan",
    "view .": "open index.html",
    "preview folder:photos --shift gamma,exponent=2": "open preview.png",
    "export folder:photos --out out --shift clean": "fairweather evaluate MODEL folder:out/clean",
    "pack run --out small": "fairweather report small OTHER --join-seeds",
    "clean run": "fairweather clean run --remove left-over",
    "cancel run": "fairweather clean run",
    "list suites": "fairweather preview --shift NAME",
    "list studies": "fairweather run STUDY",
    "list models": "fairweather evaluate MODEL DATA --shift NAME",
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("line", ENDS)
def test_a_command_ends_with_what_to_open_or_run_next(line, runs, tmp_path, monkeypatch):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    words = shlex.split(line)
    done = fairweather(*words, cwd=tmp_path)
    assert done.returncode == (line.startswith("check reported"))
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"next    {ENDS[line]}")
    opened = re.match("next +open ([^, ]+)", last)
    assert not opened or (tmp_path / opened[1]).exists()
    if "--quiet" in HELPS[words[0]]:
        again = ("--replace",) if "--replace" in HELPS[words[0]] else ()
        quiet = fairweather(*words, *again, "--quiet", cwd=tmp_path)
        assert (quiet.returncode, quiet.stderr) == (done.returncode, "")


def test_the_next_command_quotes_names_as_a_shell_takes_them(runs, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "my run; {x}")
    done = fairweather("clean", "my run; {x}", cwd=tmp_path)
    assert done.stderr == "next    fairweather clean 'my run; {x}' --remove left-over\n"


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_several_runs_leads_to_its_page_and_to_no_check(runs, tmp_path):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    done = fairweather("report", "run", "other", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "next    open reports/run+other/report.html"


def test_the_help_of_the_program_fits_into_60_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, fairweather("--help", cwd=tmp_path).stdout.splitlines())) < 60


def test_every_command_has_such_an_end():
    # Tested where they are: by tests/deploy/test_guard.py, tests/judge/test_estimation.py,
    # tests/judge/test_verification.py, tests/requests/test_study.py and
    # tests/requests/test_demonstration.py.
    elsewhere = {"predict", "guard", "estimate", "verify", "run", "demo"}
    assert {line.split()[0] for line in ENDS} == {*HELPS} - {"", *elsewhere}


def test_json_has_no_such_end(tmp_path):
    done = fairweather("plan", "quickstart", "--model", "basic", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)
    assert "next" not in done.stderr


@pytest.mark.parametrize("coloured", [False, True])
def test_a_check_has_words_per_cent_and_colours_on_a_terminal(coloured, runs, monkeypatch):
    monkeypatch.setattr("fairweather.cli.judge.shows_colour", lambda _: coloured)
    rules = ("accuracy[clean] >= 90%", "accuracy[clean] >= 50%")
    lines = fairweather("check", "run", *rules, "--on", "value", cwd=runs).stdout.splitlines()
    assert (
        lines[1].startswith("\x1b[31mfailed  a: ")
        == lines[2].startswith("\x1b[32mpass")
        == coloured
    )
    assert ("\x1b" in "".join(lines)) == coloured
    plain = [re.sub(r"\x1b\[\d+m", "", line).split() for line in lines]
    assert plain[1][0] == "failed"
    ends = [f"{end:.2%}" for end in binomtest(14, 20).proportion_ci()]  # Clopper and Pearson's
    assert plain[1][-8:] == ["70.00%", *ends, "20", "20.00", "points", "too", "low"]
    assert plain[2][0] == "passed"


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
    done = fairweather("plan", "quickstart", "--model", "basic", "--json", *options, cwd=tmp_path)
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
        "fisher_weight: 2000",
        "order: shuffled",
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


EVALUATED = """
import sys, torch
import fairweather as fw
from fairweather.workers import executors, jobs

torch.set_num_threads(1)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
pixels, keys = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8)
images = fw.Images(pixels, keys % 2, keys, ("cat", "dog"))
data = fw.Dataset("toys", None, None, images, (0.5,) * 3, (0.5,) * 3)
options = {"out": "run", "outputs": "logits", "progress": False}
run = fw.evaluate(network, data, ["brightness_factor: [0.5]"], **options)
print(len(run.scores) > 0)
"""


def test_evaluating_a_module_loads_no_library_of_networks(tmp_path):
    done = run_without(SLOW, EVALUATED, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


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
    Event("steps", 5, 24, finished=FinishedStep("train Basic, seed 1", 41.3)),
    Event("steps", 6, 24, finished=FinishedStep("predict Basic, seed 1, test/clean", 0.42, 720.0)),
]


def test_where_there_is_no_terminal_a_line_is_printed_for_each_stage(capsys):
    with progress() as show:
        for event in TOLD:
            show(event)
    said = capsys.readouterr()
    assert said.out == "clean          accuracy 97.0%\n"
    assert said.err.splitlines() == [
        "done  train Basic, seed 0  41 s  (3 of 24)",
        "done  predict Basic, seed 0, test/clean  0.4 s  (4 of 24, about 12 min to go)",
    ]


def test_a_run_of_a_hundred_steps_is_a_line_for_each_stage_and_minute(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("fairweather.progress.time.monotonic", lambda: seconds[0])
    with progress() as show:
        for number in range(100):
            seconds[0] += 3.0
            stage = ("train", "predict", "score")[number // 40]
            show(Event("steps", number + 1, 100, finished=FinishedStep(f"{stage} {number}", 3.0)))
    told = [line.split()[1:3] for line in capsys.readouterr().err.splitlines()]
    # 300 s: a line for each of the three stages, and others a minute after the one before.
    assert told == [
        ["train", "0"],
        ["train", "20"],
        ["predict", "40"],
        ["predict", "60"],
        ["score", "80"],
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
