"""The manual says what the code does: names, columns, words, commands, examples, notebooks."""

import doctest
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import typer.main
import yaml

import fairweather as fw
from fairweather import metrics
from fairweather.cli.app import app
from fairweather.files.yamlfile import dump_yaml, parse_yaml
from fairweather.judge.rules import read_rules
from fairweather.metrics.robustness import SHIFT_METRICS
from fairweather.report.contents import read_contents
from fairweather.requests.study.run import interpolated_name
from fairweather.requests.study.schema import load_study
from fairweather.runs.folder import RunFolder
from fairweather.training.selfsupervised.pretraining import NeighbourProbe, pretrain
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.types import record
from fairweather.types.measurement import Predictions
from fairweather.variants.variant import VARIANTS, variant_class
from tests import test_artefacts, test_fuzzed_files, test_hostile_names
from tests.cli import test_bad_commands
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import outcomes, run_record, write_run
from tests.test_words import TEXTS
from tests.workers import test_signals

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SITE = DOCS / "site"


def page(name):
    return (DOCS / f"{name}.md").read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def section(text, title):
    """The text below a heading, up against the next heading of any depth, without code blocks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"there is no section {title!r}"
    return found[1]


def first_cells(text):
    """The code in the first cell of each row of a table, in order."""
    cells = re.findall(r"^\| (`[^|]+?) \|", text, flags=re.MULTILINE)
    return [word for cell in cells for word in re.findall("`([^`]+)`", cell)]


# ---- the Python API


def objects_of(module):
    found = re.findall(rf"^```{{objects}} {module}\n(.*?)^```", page("api"), re.DOTALL | re.M)
    return [name for names in found for name in names.split()]


@pytest.mark.parametrize(
    ("module", "names"),
    [("fairweather", set(fw.__all__) - {"metrics"}), ("fairweather.metrics", set(metrics.__all__))],
)
def test_every_public_object_has_one_entry(module, names):
    described = objects_of(re.escape(module))
    assert len(described) == len(set(described))
    assert set(described) == names


# ---- the file formats

FORMATS = page("formats")


def test_the_columns_of_scores_csv_are_defined():
    assert first_cells(section(FORMATS, "scores.csv")) == record.COLUMNS


def test_the_words_of_scores_csv_are_defined():
    def words(column):
        return set(first_cells(section(FORMATS, f"Words in the column {column}")))

    variants = {record.variant_name("NAME", variant_class(kind)().name) for kind in VARIANTS}
    together = f"NAME{record.ENSEMBLE_SUFFIX}"
    assert words("model") == {"NAME", together, interpolated_name("NAME", 0.5)} | variants
    assert words("seed") == {"0", "1", record.ENSEMBLE, *record.SUMMARY_SEEDS}
    kinds = {f"{record.PRIORS}NAME", record.WORST_PRIORS, f"{record.OOD}SOURCE"}
    kinds |= {f"{record.NATURAL}NAME"}
    kinds |= {f"{record.CLEAN_AFTER}{name}" for name in (record.ALL, "NAME")}
    families = {"imagenet_c", "medmnist_c", "imagenet-c-files"}
    plain = {record.CLEAN, "NAME", record.ALL, record.VALIDATION}
    assert words("shift") == plain | kinds | families
    assert words("level") == {"0.4", "3", record.NO_LEVEL, *record.SUMMARY_LEVELS}


def test_no_word_of_the_record_is_left_out():
    """Each constant of record.py that is a word of scores.csv stands somewhere on the page."""
    source = (Path(record.__file__)).read_text(encoding="utf-8")
    words = source[source.index("special values in scores.csv") : source.index("class ShiftLevel")]
    constants = re.findall(r'= "([a-z/]+)"', words) + re.findall(r'"([a-z]+/)"', words)
    assert len(constants) >= 7
    for word in constants:
        assert f"`{word}" in FORMATS, word


def test_the_metrics_of_several_cells_are_defined():
    both = metrics.detection_score([0.9, 0.8], [0.1, 0.2], resamples=5)
    expected = [*SHIFT_METRICS, *both]
    assert first_cells(section(FORMATS, "Metrics of several cells")) == expected


def test_the_columns_of_the_predictions_are_defined(tmp_path):
    run = RunFolder(tmp_path)
    logits = np.zeros((8, 4), dtype=np.float32)
    sets = {"set_size": np.ones(8, dtype=np.int64), "covered": np.ones(8, dtype=bool)}
    sets |= dict.fromkeys(("stream", "place"), np.zeros(8, dtype=np.int64))
    every = replace(outcomes([True] * 8, logits=logits), **sets)
    run.write_predictions("all.parquet", every)
    run.write_unlabelled("other.parquet", outcomes([True] * 8))
    schema = pq.read_schema(tmp_path / "all.parquet")
    table = section(FORMATS, "predictions/NAME/seed-S/PART/SHIFT.parquet")
    assert first_cells(table) == schema.names
    assert schema.metadata.keys() == {b"fairweather"}
    types = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", table, flags=re.MULTILINE))
    shown = {"double": "float64", "fixed_size_list<element: float>[4]": "list of float32"}
    for field in schema:
        assert types[field.name] == shown.get(str(field.type), str(field.type))
    (last,) = re.findall(r"there are only (.*)\.", table)
    assert re.findall("`(.*?)`", last) == pq.read_schema(tmp_path / "other.parquet").names


def columns_of_history(kind):
    table = section(FORMATS, "models/NAME/seed-S/history.csv")
    rows = re.findall(r"^\| `(\w+)` \| ([\w-]+) \|", table, flags=re.MULTILINE)
    return {name for name, of in rows if of in (kind, "both")}


def test_the_columns_of_the_history_of_a_pretraining_are_defined(toy_images):
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 16))
    recipe = Pretraining("rotation", epochs=1, batch_size=32, optimizer="adamw", learning_rate=1e-3)
    probe = NeighbourProbe(toy_images, toy_images)
    (done,) = pretrain(encoder, toy_images, recipe, features=16, probe=probe)
    assert set(done.history[0]) == columns_of_history("pre-training")


def test_the_classes_of_the_record_are_shown():
    shown = re.findall(r"^```{keys} fairweather.types.record\n(.*?)^```", FORMATS, re.DOTALL | re.M)
    names = {name for each in shown for name in each.split()}
    classes = {
        name
        for name, each in vars(record).items()
        if isinstance(each, type)
        and issubclass(each, record.FrozenRecord)
        and each is not record.FrozenRecord
    }
    assert names == classes


# ---- the command line, rules and studies


def commands():
    for path in PAGES:
        for block in blocks(path.read_text(), "sh"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.startswith("fairweather "):
                    yield pytest.param(line, id=f"{path.stem}: {line[12:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_every_command_of_the_manual_exists_with_its_options(line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    program = typer.main.get_command(app)
    if name.startswith("-"):
        assert name in [option for each in program.params for option in each.opts]
        return
    with program.commands[name].make_context(name, arguments):  # parses, and runs nothing
        pass


def test_the_rules_of_the_manual_can_be_read():
    lines = [each for each in blocks(page("check"), "sh") if "check" in each]
    quoted = [rule for block in lines for rule in re.findall("'([^']+)'", block)]
    written = yaml.safe_load(blocks(page("check"), "yaml")[0])["rules"]
    texts = [next(f"{k}: {v}" for k, v in r.items()) if isinstance(r, dict) else r for r in written]
    assert len(read_rules(quoted + texts)) >= 5


def test_the_workflow_of_the_manual_uses_inputs_that_the_action_has():
    (workflow,) = [each for each in blocks(page("check"), "yaml") if "jobs:" in each]
    steps = yaml.safe_load(workflow)["jobs"]["gate"]["steps"]
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    (gate,) = [step for step in steps if step.get("uses") == "./fairweather"]
    assert set(gate["with"]) <= set(inputs)
    assert {name for name, each in inputs.items() if each.get("required")} <= set(gate["with"])
    assert read_rules(gate["with"]["rules"].strip().splitlines())
    assert set(first_cells(section(page("check"), "On GitHub"))) >= set(inputs)
    (measure,) = [step["run"] for step in steps if "run" in step]
    line = measure.strip().splitlines()[-1]
    test_every_command_of_the_manual_exists_with_its_options(line)


def test_the_study_of_the_manual_is_valid(tmp_path):
    (text,), (more,) = blocks(page("study"), "yaml"), blocks(page("study"), "yml")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    study = load_study(path, ["recipe.epochs=2"], models=["pretrained"])
    assert study.models["pretrained"].recipe.epochs == 2
    assert len(study.all_shifts()) == 9 + 15 + 2
    path.write_text(dump_yaml({**parse_yaml(text), **parse_yaml(more)}))
    checked = load_study(path)
    assert checked.models["from_barlow"].pretraining == "barlow"
    assert checked.models["from_barlow"].recipe.augmix.severity == 3


# ---- examples and notebooks


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_example_of_the_quickstart_runs_and_shows_the_fall(tmp_path, monkeypatch, capfd, alone):
    """By day, with one epoch, and without the study's own shifts."""
    (example,) = blocks(page("quickstart"), "python")
    monkeypatch.chdir(tmp_path)
    if alone:
        subprocess.run([sys.executable, "-c", example], check=True)
    else:
        less = '"seeds=1", "recipe.epochs=1", "recipe.warmup_epochs=0", "shifts=[]"'
        assert example.count('"seeds=1"') == 1
        exec(example.replace('"seeds=1"', less), {})
    printed = capfd.readouterr().out
    day, night = re.findall(r"\w+: accuracy ([\d.]+)% \[([\d.]+)%, ([\d.]+)%\]", printed)
    assert float(day[0]) > 90
    assert float(night[2]) < float(day[1])  # the intervals lie apart
    assert float(night[0]) < float(day[0]) - 20


NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?")


def is_shown(line, printed):
    """Whether a line was printed, but for the last digit of its numbers and for blanks."""
    words, numbers = NUMBER.sub("#", line).split(), NUMBER.findall(line)
    for other in printed.splitlines():
        if NUMBER.sub("#", other).split() == words:
            pairs = zip(numbers, NUMBER.findall(other), strict=True)
            if all(len(a) == len(b) and is_rounded(a, b) for a, b in pairs):
                return True
    return False


def is_rounded(shown, value):
    step = 10.0 ** -len(shown.partition(".")[2])
    first, second = (float(each.replace("−", "-").replace(",", "")) for each in (shown, value))
    return abs(first - second) <= (1.001 * step if "." in shown else 0)


def test_the_guide_for_chest_x_rays_shows_what_its_commands_print(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vendors").mkdir()
    text = page("chest-xray")
    (script,), (rules,) = blocks(text, "python"), blocks(text, "yaml")
    exec(script, {})
    Path("rules.yaml").write_text(rules, encoding="utf-8")
    tables = ("vendors/a.csv", "truth.csv")
    vendor, truth = (Path(name).read_text(encoding="utf-8").splitlines() for name in tables)
    _, evaluation, together, check, compare, _ = blocks(text, "sh")
    tables, *shown = blocks(text, "text")
    for number, row in enumerate(tables.splitlines()):
        assert row.split() == [vendor[number], truth[number]]
    codes = []
    for command, lines in zip((evaluation, together, check, compare), shown, strict=True):
        done = fairweather(*shlex.split(command)[1:])
        codes.append(done.returncode)
        missing = [line for line in lines.splitlines() if not is_shown(line, done.stdout)]
        assert not missing, done.stdout
    assert codes == [0, 0, 1, 0]
    scores = pd.read_csv("runs/a/scores.csv").set_index(["unit", "metric"])
    for unit, value, ends in re.findall(r"^\| `(.*?)`.*?\| ([\d.]+)(.*) \|$", text, re.MULTILINE):
        row = scores.loc[(unit, "auc")]
        shown_ends = NUMBER.findall(ends)
        ours = [row["value"], *row[["low", "high"]].dropna()]
        assert [value, *shown_ends] == [f"{number:.3f}" for number in ours]
    effusion = scores.loc["finding=Effusion", "value"]
    assert f"0.5: {effusion['sensitivity']:.3f} for an effusion" in text
    assert f"operating point: {effusion['sensitivity@0.3']:.3f}." in text
    both = pd.read_csv("runs/vendors/scores.csv")
    rows = both[(both["model"] == "a+risk_control-0.1") & (both["metric"] == "missed_findings")]
    for shift, level in (("clean", "none"), ("scanner_2", "1")):
        (row,) = rows[(rows["shift"] == shift) & (rows["level"] == level)].itertuples()
        value, low, high = (f"{number:.1%}".replace("%", " %") for number in row[7:10])
        assert f"{value} [{low}, {high}] on" in " ".join(text.split())


def test_the_guide_for_decisions_shows_what_its_commands_print(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scores").mkdir()
    text = page("decisions")
    (script,), (rules,) = blocks(text, "python"), blocks(text, "yaml")
    exec(script, {})
    Path("rules.yaml").write_text(rules, encoding="utf-8")
    names = ("scores/net.csv", "truth.csv", "readers.csv")
    written = [Path(name).read_text(encoding="utf-8").splitlines() for name in names]
    _, evaluation, costs, patients, check, _ = blocks(text, "sh")
    tables, targets, readers, of_patients, verdicts = blocks(text, "text")
    for number, row in enumerate(tables.splitlines()):
        assert row.split() == [table[number] for table in written]
    shown = (f"{targets}{readers}", "", of_patients, verdicts)
    codes = []
    for command, lines in zip((evaluation, costs, patients, check), shown, strict=True):
        done = fairweather(*shlex.split(command)[1:])
        codes.append(done.returncode)
        missing = [line for line in lines.splitlines() if not is_shown(line, done.stdout)]
        assert not missing, done.stdout
    assert codes == [0, 0, 0, 1]
    scores = pd.read_csv("runs/costs/scores.csv").set_index(["model", "shift", "metric"])
    for name, *cells in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", text, re.MULTILINE):
        for model, cell in zip(("net", "net+vector_scaling"), cells, strict=True):
            row = scores.loc[(model, "clean", name), ["value", "low", "high"]]
            assert NUMBER.findall(cell) == [f"{number:.3f}" for number in row]
    at = pd.read_csv("runs/net/scores.csv").set_index(["shift", "metric"])
    row = at.loc[("priors/stated", "ppv@sensitivity=0.9"), ["value", "low", "high"]]
    value, low, high = (f"{number:.1%}".replace("%", " %") for number in row)
    assert f"{value} [{low}, {high}] of the calls are right" in " ".join(text.split())


def test_the_metric_of_the_manual_is_one():
    function, row = blocks(page("extend"), "python")[:2]
    names = {}
    exec(function + row, names)
    found = names["confidence_when_wrong"]
    confidence, correct = np.array([0.9, 0.8, 0.4, 0.7]), np.array([True, False, False, True])
    assert found(confidence, correct) == pytest.approx(0.6)
    weights = np.array([[1, 2, 1, 0], [0, 0, 3, 1]])
    repeated = [found(np.repeat(confidence, row), np.repeat(correct, row)) for row in weights]
    assert found(confidence, correct, weights).tolist() == pytest.approx(repeated)
    labels = np.zeros(4, dtype=int)
    cell = outcomes(correct, labels, confidence)
    assert isinstance(cell, Predictions)
    sample = metrics.Resamples.from_weights(labels, weights).prepare(cell)
    assert names["row"].evaluate(
        metrics.Sample(sample, sample.order, weights)
    ).tolist() == pytest.approx(repeated)


def test_the_section_of_the_manual_is_one(tmp_path):
    names = {}
    exec(blocks(page("extend"), "python")[2], names)
    score = ("a", "0", "clean", "none", "accuracy", 0.8, 0.7, 0.9, 100)
    contents = read_contents(write_run(tmp_path / "run", run_record({"a": "A"}), [score]))
    [part] = names["SECTION"].parts
    [table] = part.tables(contents)
    assert table.body == [["A", "0.400"]]
    assert part.shown(contents, [table]).heading == "Half of each accuracy"


def test_the_model_of_the_manual_can_be_evaluated(tmp_path):
    (tmp_path / "model.py").write_text(blocks(page("extend"), "python")[-1])
    model = fw.load_model(f"python:{tmp_path}/model.py:build")
    batch = torch.zeros(2, 3, 8, 8)
    batch[0, 1], batch[1, 2] = 0.5, 0.1
    assert model(batch).argmax(1).tolist() == [1, 2]


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))
    return importlib.import_module("notebook")


def shown_by(notebook, name, folder):
    script = (DOCS / "notebooks" / f"{name}.py").read_text()
    cells = list(notebook.run_cells(notebook.split_cells(script), folder))
    texts = "".join(output.text for _, output in cells)
    return texts, "".join(output.html for _, output in cells)


@pytest.mark.nightly  # `make docs` runs it, and shows what it shows
def test_the_notebook_that_evaluates_a_model_shows_its_fall(notebook, tmp_path):
    text, html = shown_by(notebook, "evaluate_my_model", tmp_path)
    assert "report.html" in text
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    scores = pd.read_csv(tmp_path / "runs" / "mine" / "scores.csv")
    accuracy = scores[(scores["metric"] == "accuracy") & (scores["model"] == "Sequential")]
    by_level = accuracy.set_index(["shift", "level"])["value"]
    assert by_level["clean", "none"] > 0.9
    assert by_level["rotation", "45"] < by_level["clean", "none"] - 0.2
    assert f"{by_level['clean', 'none']:.3f}" in html
    assert "<td>rotation</td>" in html


@pytest.mark.nightly  # `make docs` runs it, and shows what it shows
def test_the_notebook_that_compares_recipes_trains_six_networks(notebook, tmp_path):
    text, html = shown_by(notebook, "compare_two_recipes", tmp_path)
    histories = list((tmp_path / "runs").rglob("history.csv"))
    assert len(histories) == 6
    assert set(pd.read_csv(histories[0]).columns) == columns_of_history("training")
    assert re.search(r"train +6\b", text)
    assert "cannot tell" in html
    assert "<strong>mixup</strong>" in html


@pytest.mark.nightly  # `make docs` runs it, and shows what it shows
def test_the_notebook_that_defers_shows_a_threshold_that_does_not_carry_over(notebook, tmp_path):
    text, html = shown_by(notebook, "defer_to_a_person", tmp_path)
    risks = [float(found) for found in re.findall(r"of which ([\d.]+)% are wrong", text)]
    assert risks[0] < 10 < 20 < risks[1]
    assert "risk_above_validation_threshold/0.05" in html
    assert "<th>shift</th><th>rotation</th>" in html


def test_a_notebook_shows_what_it_prints_and_its_last_expression(notebook, tmp_path):
    script = "# %% [markdown]\n# Text\n# %%\nprint('a')\n'b'\n# %%\nx = 1\n# %%\nx / 0\n"
    cells = notebook.run_cells(notebook.split_cells(script), tmp_path)
    assert next(cells) == (notebook.Markdown("Text"), notebook.Output())
    assert next(cells)[1] == notebook.Output("a\n'b'\n")
    assert next(cells)[1] == notebook.Output()
    with pytest.raises(ZeroDivisionError) as failed:
        next(cells)
    assert failed.traceback[-1].lineno == 9 - 1  # counted from 0: the line of the script


# ---- the attack


def test_the_table_of_the_attack_says_how_much_its_tests_try():
    names = test_hostile_names.SHOWN + test_hostile_names.REFUSED
    tried = {
        "signals": test_signals.AT_NIGHT * len(test_signals.SIGNALS),
        "files of a run": len(test_artefacts.CASES),
        "bad commands": len(test_bad_commands.CASES),
        "names": sum(
            len(names) + test_hostile_names.MANY[each] for each in test_hostile_names.SOURCES
        ),
        "parsers": sum(
            test_fuzzed_files.MANY // each.slow for each in test_fuzzed_files.KINDS.values()
        ),
    }
    for name, number in tried.items():
        row = re.search(rf"^\| {name} \|.*", page("reliability"), re.MULTILINE)[0]
        assert f"| {number:,} | {number:,} |" in row
    by_day = {
        "signals": len(test_signals.BY_DAY),
        "files of a run": test_artefacts.SAMPLE,
        "bad commands": len(test_bad_commands.CASES),
        "names": sum(test_hostile_names.SOME.values()),
        "parsers": sum(
            test_fuzzed_files.SOME // each.slow for each in test_fuzzed_files.KINDS.values()
        ),
    }
    for name, number in by_day.items():
        row = re.search(rf"^\| {name} \|.*", page("reliability"), re.MULTILINE)[0]
        assert f"| {number:,} | `tests/" in row


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["processes", "records", "ONNX", "YAML"])
def test_the_commands_of_the_attack_find_as_many_tests_as_its_table_says(name):
    row = re.search(rf"^\| {name} \|.*", page("reliability"), re.MULTILINE)[0]
    tried, held, by_day, words = re.fullmatch(
        r".*\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| `(.*)` \|", row
    ).groups()
    assert held == tried
    for marks, number in (("nightly or not nightly", tried), ("not nightly", by_day)):
        command = f"{sys.executable} -m pytest --collect-only -q -m '{marks}' {words}"
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
        found = re.search(r"^(\d+)(?:/\d+)? tests collected", done.stdout, re.MULTILINE)
        assert found, done.stdout + done.stderr
        assert int(found[1]) == int(number.replace(",", ""))


# ---- the studies behind results


@pytest.mark.parametrize(
    "file",
    sorted(ROOT.glob("results/*/*.yaml")),
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_the_studies_behind_results_can_be_run_again(file):
    assert load_study(file).models


# ---- the site


@pytest.mark.parametrize("name", ["notebook", "fairweather_pages", "search"])
def test_the_examples_in_the_site_s_own_code_hold(monkeypatch, name):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("the extra docs is not installed")
    monkeypatch.syspath_prepend(str(SITE))
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed


def resolve(name):
    """What a dotted name within the package stands for: a module, or something in one."""
    found = fw
    for part in name.split("."):
        path = f"{found.__name__}.{part}"
        is_module = hasattr(found, "__path__") and importlib.util.find_spec(path)
        found = importlib.import_module(path) if is_module else getattr(found, part)
    return found


@pytest.mark.parametrize(
    "page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/extend.md", "docs/extend-shifts.md"]
)
def test_the_places_that_developers_are_sent_to_are_there(page):
    text, package = (ROOT / page).read_text(), ROOT / "src" / "fairweather"
    rooms = {path.stem for path in package.iterdir()}
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text):
        if name.split(".")[0] in rooms and not re.search(r"\.(py|json|md|html)$", name):
            assert resolve(name) is not None
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|json))`", text):
        assert (ROOT / path).exists() or (package / path).exists(), path


def test_every_page_can_be_reached_from_the_index():
    trees = blocks(page("index"), r"\{toctree\}")
    listed = {
        re.sub(r".*<(.*)>", r"\1", line)
        for tree in trees
        for line in tree.splitlines()
        if line and not line.startswith(":")
    }
    own = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    notebooks = {f"notebooks/{path.stem}" for path in (DOCS / "notebooks").glob("*.py")}
    assert own | notebooks <= listed
    for name in listed:
        assert (DOCS / f"{name}.md").is_file(), name


@pytest.mark.parametrize("message", first_cells(page("troubleshooting")))
def test_the_messages_of_the_manual_are_those_of_the_code(message):
    """`…` stands for what the code puts in."""
    said = [text for place, read in TEXTS.items() if place.startswith("src/") for text in read()]
    for part in re.split(r"\s*…\s*", message):
        assert any(part in text for text in said), part


def test_the_coverage_that_the_manual_tells_is_that_of_the_table(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))
    chart = importlib.import_module("coverage_chart")
    measured = pd.read_csv(chart.MEASURED)
    points = chart.coverage_of(measured)
    said = " ".join(page("trust").split())
    inside = points["coverage"] >= 94
    assert f"{inside.sum()} of {len(points)} points are at 94 % or above" in said
    (lowest,) = points[~inside].itertuples()
    assert (lowest.metric, lowest.n) == ("average_confidence", 200)
    assert f"The lowest is {lowest.coverage:.1f} %: the mean confidence with 200 images" in said
    given = (1 - measured["none"]) * measured["trials"]
    outside = (measured["below"] + measured["above"]) * measured["trials"]
    assert f"{1 - outside.sum() / given.sum():.1%}".replace("%", " %") + " of the 95 %" in said
    drawn = (DOCS / "coverage.svg").read_text()
    assert all(name in drawn for name in set(points["metric"]))
