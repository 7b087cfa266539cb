"""The page that lists runs: what it says of each, and what a reader can do with it."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.report.runs_page import find_runs, read_run
from fairweather.types.record import VERSION, DataRecord
from tests.helpers.browser import INSERTED, browser, missing, opened, refused
from tests.helpers.run_folders import change_record, copy_run, run_record, sweep_record, write_run

HOSTILE = "<img src=x onerror='window.hacked = 1'> & \"b\" </script>"
FOG = sweep_record(
    "imagenet_c/fog", {1: "imagenet_c/fog,severity=1", 5: "imagenet_c/fog,severity=5"}
)
DARK = sweep_record(
    "gamma", {2: "gamma,gamma=2"}, title="Gamma", level_title="gamma γ", neutral=1.0
)
ATTACK = sweep_record(
    "pgd", {0.1: "pgd,epsilon=0.1"}, kind="attack", title="PGD", level_title="budget ε"
)


def score_rows(model, seed, clean, fog, dark=0.6, sure=0.9):
    """Rows of scores.csv of a model: accuracy on clean images, in two levels of fog, and darker."""
    cells = [("clean", "none", clean), ("imagenet_c/fog", "1", (clean + fog) / 2)]
    cells += [("imagenet_c/fog", "5", fog), ("imagenet_c/fog", "mean", fog), ("gamma", "2", dark)]
    cells += [("gamma", "mean", dark), ("all", "mean", (fog + dark) / 2), ("pgd", "0.1", 0.01)]
    for shift, level, accuracy in cells:
        for metric, value in (("accuracy", accuracy), ("confidence_gap", sure - accuracy)):
            low, high = value - 0.02, value + 0.02
            yield (model, seed, shift, level, metric, value, low, high, 100)
        yield (model, seed, shift, level, "brier_score", 0.5, 0.4, 0.6, 100)


def make_run(path, title="A run", clean=0.9, fog=0.3, time="2026-01-02T03:04:05+00:00", **facts):
    """A run of two models with two seeds each, and a variant of the first."""
    record = run_record(
        {"plain": "Plain", "mixed": f"Mixed {HOSTILE}"},
        [FOG, DARK, ATTACK],
        title=title,
        seeds=(0, 1),
        variants={"plain+temperature": "Plain, temperature"},
        **facts,
    )
    changed = record.provenance.model_copy(update={"time": time})
    rows = [
        row
        for model, less in (("plain", 0.0), ("plain+temperature", 0.0), ("mixed", 0.05))
        for seed, more in (("0", 0.01), ("1", -0.01), ("mean", 0.0))
        for row in score_rows(model, seed, clean + more - less, fog + more)
    ]
    run = write_run(path, record.model_copy(update={"provenance": changed}), rows)
    run.write("report.html", "<!doctype html>")
    return run


@pytest.fixture
def folder(tmp_path):
    """Two runs with numbers, one of them deeper, and one of each kind without."""
    root = tmp_path / "runs"
    first = make_run(root / "first", "The first")
    make_run(root / "deeper" / "second", fog=0.2, clean=0.95, time="2026-02-03T00:00:00+00:00")
    for name in ("going", "damaged", "changed", "newer"):
        copy_run(first, root / name)
    (root / "going/scores.csv").unlink()
    (root / "damaged/record.json").write_text("{")
    with (root / "changed/scores.csv").open("a") as file:
        file.write("plain,0,clean,none,accuracy,1,1,1,100\n")
    change_record(fw.Run(root / "newer").folder, lambda facts: facts.update(version=VERSION + 1))
    return root


def test_the_numbers_are_those_of_the_table_of_scores(folder):
    run = read_run(folder / "first")
    assert run.trouble == ""
    assert [row.title for row in run.rows][:2] == ["Plain", "Plain, temperature"]
    assert [row.is_variant for row in run.rows] == [False, True, False]
    plain = run.rows[0]
    assert plain.seeds == 2
    scores = fw.Run(folder / "first").scores.query("model == 'plain' and seed == 'mean'")
    expected = scores.query("shift == 'clean' and metric == 'accuracy'").iloc[0]
    assert plain.clean.accuracy[:3] == (expected["value"], expected["low"], expected["high"])
    # Attacks are no shifts: the level with the lowest accuracy is of the fog, not of PGD.
    assert plain.worst.title == "Imagenet_c/fog, level 5".replace("Imagenet_c/fog", FOG.title)
    assert plain.worst.accuracy.value == pytest.approx(0.3)
    assert plain.worst.gap.value == pytest.approx(0.6)
    assert [place.accuracy is None for place in plain.means] == [False, False, True, False]


def test_one_seed_is_shown_as_it_is(tmp_path):
    record = run_record({"plain": "Plain"}, [FOG])
    run = write_run(tmp_path / "run", record, score_rows("plain", "7", 0.8, 0.4))
    [row] = read_run(run.path).rows
    assert (row.seeds, row.clean.accuracy.value) == (1, pytest.approx(0.8))


def test_what_rounds_to_zero_has_no_minus(tmp_path):
    rows = [
        (*row[:5], -0.0001, -0.02, 0.02, 100) if row[4] == "confidence_gap" else row
        for row in score_rows("plain", "0", 0.9, 0.3)
    ]
    write_run(tmp_path / "run", run_record({"plain": "Plain"}, [FOG]), rows)
    text = fw.view(tmp_path).read_text()
    assert "+0.0 <small>[−2.0, +2.0]" in text
    assert "−0.0" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("going", "Not finished. To continue: fairweather run synthetic"),
        ("damaged", "is not the record of a fairweather run"),
        ("changed", "was changed after the run wrote it"),
        ("newer", f"was written by a newer fairweather (version {VERSION + 1})"),
    ],
)
def test_a_run_without_numbers_is_one_sentence(folder, name, words):
    run = read_run(folder / name)
    assert words in run.trouble
    assert not run.rows
    page = fw.view(folder).read_text()
    assert page.count('class="trouble"') == 4
    assert words in page


@pytest.mark.parametrize(
    "scores",
    [
        b"",
        b"\xff\xfe",
        b"a,b\n1,2\n,accuracy,\n",
        b"model,seed,shift,level,metric,value,low,high,n\nm,0,clean,none,accuracy,good,,,1\n",
        b'model,metric\n"m,accuracy,\n',
    ],
)
def test_scores_that_are_no_table_are_one_sentence(tmp_path, scores):
    run = make_run(tmp_path / "runs/one")
    run.path.joinpath("scores.csv").write_bytes(scores)
    shutil.rmtree(run.path / "steps")
    listed = read_run(run.path)
    assert not listed.rows
    assert "one" in fw.view(tmp_path / "runs").read_text()


def test_numbers_that_are_not_finite_do_no_harm(tmp_path):
    rows = [("plain", "0", "clean", "none", "accuracy", 1e999, float("nan"), 1e999, 9)]
    write_run(tmp_path / "runs/one", run_record({"plain": "Plain"}), rows)
    assert "Plain" in fw.view(tmp_path / "runs").read_text()


def test_links_lead_from_the_page_to_the_reports(folder, tmp_path):
    import re
    from urllib.parse import unquote, urljoin, urlparse

    odd = folder / "javascript:alert(1)"
    copy_run(fw.Run(folder / "first").folder, odd / 'a b#c?"<d')
    for out in (None, tmp_path / "elsewhere/list.html"):
        page = fw.view(folder, out)
        links = re.findall(r'<a href="([^"#][^"]*)"', page.read_text())
        assert len(links) == 3 * 3 + 4  # also of runs whose numbers cannot be shown
        for link in links:
            address = urlparse(urljoin(page.as_uri(), link))
            assert address.scheme == "file"
            assert Path(unquote(address.path)).is_file()
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    (tmp_path / "elsewhere/list.html").unlink()
    assert (moved / "index.html").exists()  # its links are relative, so they lead where it is now
    assert "file:" not in (moved / "index.html").read_text()


def test_runs_behind_links_are_found_once_and_circles_end(folder, tmp_path):
    (folder / "circle").symlink_to(folder)
    elsewhere = make_run(tmp_path / "elsewhere")
    (folder / "linked").symlink_to(elsewhere.path)
    (folder / "again").symlink_to(elsewhere.path)
    (folder / ".hidden").mkdir()
    copy_run(elsewhere, folder / ".hidden/run")
    names = [path.relative_to(folder).as_posix() for path in find_runs(folder)]
    assert len(names) == len(set(names)) == 7
    assert "deeper/second" in names


def test_what_is_not_our_page_is_not_replaced(folder):
    (folder / "index.html").write_text("<!doctype html><title>Mine</title>")
    with pytest.raises(InputError, match="name another file"):
        fw.view(folder)
    assert "Mine" in (folder / "index.html").read_text()
    (folder / "index.html").unlink()
    page = fw.view(folder)
    before = page.read_bytes()
    assert fw.view(folder).read_bytes() == before


@pytest.mark.parametrize("what", ["missing", "empty", "run"])
def test_bad_folders_are_one_sentence(tmp_path, what):
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    if what == "run":
        make_run(folder)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["view", str(folder)])
    assert isinstance(done.exception, InputError)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_where_the_page_is_and_opens_it(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda address: asked.append(address) or False)
    done = CliRunner().invoke(app, ["view", str(folder), "--open"])
    assert done.exit_code == 0
    assert done.stdout == f"page    {folder}/index.html\n"
    assert asked == [(folder / "index.html").resolve().as_uri()]
    assert done.stderr == f"next    open {folder}/index.html\n"  # no browser opened


def test_a_name_that_is_no_utf_8_can_be_shown(tmp_path):
    run = make_run(tmp_path / "runs/one")
    change_record(run, lambda facts: facts["data"].update(notes={"skipped_files": "a\udcff.png"}))
    folder = (tmp_path / "runs").rename(tmp_path / "r\udcff")
    page = fw.view(folder, tmp_path / "page.html")
    assert "\ufffd" in page.read_text()
    assert "U+DCFF" in read_run(folder / "one").trouble


def test_of_a_run_only_its_record_and_its_scores_are_read(tmp_path):
    """A run may have thousands of other files, and a page lists hundreds of runs."""
    run = make_run(tmp_path / "runs/one")
    before = read_run(run.path)
    (run.path / "steps/models").mkdir()
    for name in ("steps/models/plain.json", "predictions.parquet"):
        (run.path / name).write_text("{")
    assert read_run(run.path) == before


# ---------------------------------------------------------------- in a browser


in_browser = pytest.mark.skipif(bool(missing()), reason=missing())
SHOWN = "[...document.querySelectorAll('.runs tbody tr')].filter((line) => !line.hidden)"
MODELS = f"{SHOWN}.map((line) => line.cells[2].textContent)"


@pytest.fixture(scope="module")
def chromium():
    if missing():
        pytest.skip(missing())
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    """A page of three runs, two of them on the same images, and of an unfinished one."""
    root = tmp_path_factory.mktemp("listing") / "runs"
    make_run(root / "one", clean=0.9, fog=0.3)
    other = DataRecord(name=f"other {HOSTILE}", classes=("w", "x"), digests={"test": "beef"})
    make_run(root / "two", f"Two {HOSTILE}", clean=0.8, fog=0.1, data=other)
    make_run(root / "three", clean=0.7, fog=0.2, bootstrap=500)
    copy_run(fw.Run(root / "one").folder, root / "unfinished")
    (root / "unfinished/scores.csv").unlink()
    return fw.view(root)


@pytest.fixture
def page(chromium, listing):
    with opened(chromium, listing) as page:
        yield page


def test_it_opens_in_silence_and_shows_names_as_text(page):
    assert page.said == []
    assert page.asked == []
    assert HOSTILE in page.all("document.body.innerText")
    assert page.all("document.querySelectorAll('img').length") == 0
    assert page.all("window.hacked") is None
    assert page.all("document.querySelectorAll('script').length") == 2


def test_its_policy_allows_its_own_script_alone(page):
    with refused(page):
        page.all(INSERTED)
    assert page.all("window.hacked") is None


def test_rows_are_filtered(page):
    assert page.all("document.getElementById('count').textContent") == "7 of 10 rows"
    page.tab.fill("#words", "PLAIN three")
    assert page.all(f"{MODELS}") == ["Plain"]
    page.tab.fill("#words", "")
    page.tab.check("#variants")
    assert page.all(f"{SHOWN}.length") == 10
    page.tab.select_option("#data", label=f"other {HOSTILE}")
    assert page.all(f"{SHOWN}.length") == 3
    page.tab.select_option("#shift", label="PGD")
    assert page.all(f"{SHOWN}.length") == 3


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("Clean accuracy (%)", [0.65, 0.7, 0.75, 0.8, 0.85, 0.9, ""]),
        ("Worst accuracy (%)", [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, ""]),
        ("Data", ["digits"] * 4 + [f"other {HOSTILE}"] * 2),
    ],
)
def test_columns_are_sorted_by_keyboard_with_what_is_unknown_last(page, column, expected):
    button = page.tab.locator("th button", has_text=column)
    for direction, wanted in (("ascending", 1), ("descending", -1)):
        button.press("Enter")
        head = button.locator("..")
        assert head.get_attribute("aria-sort") == direction
        values = page.all(
            f"{SHOWN}.map((line) => [...line.cells].find((cell) => cell.dataset.label === "
            f"{json.dumps(column)})?.dataset.value ?? '')"
        )
        known = [float(value) if value[0] in "01" else value for value in values if value]
        assert known == pytest.approx([v for v in expected if v != ""][::wanted])


def test_two_rows_are_compared(page):
    for name in ("Compare Plain of one", "Compare Plain of three", "Compare Plain of two"):
        page.tab.get_by_label(name, exact=True).check()
    assert page.tab.locator(".runs input:checked").count() == 2  # the first is let go
    page.tab.get_by_label("Compare Plain of two", exact=True).uncheck()
    assert page.tab.locator("#show").is_disabled()
    page.tab.get_by_label("Compare Plain of one", exact=True).check()
    page.tab.click("#show")
    rows = page.all(
        "[...document.querySelectorAll('#numbers table')].map((table) => "
        "[...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent)))"
    )
    assert rows[0][0] == ["Clean images", "70.0 [68.0, 72.0]", "90.0 [88.0, 92.0]", "+20.0"]
    assert rows[0][-1] == [
        "Worst level",
        "20.0 [18.0, 22.0] Fog, level 5",
        "30.0 [28.0, 32.0] Fog, level 5",
        "+10.0",
    ]
    assert rows[1][0] == ["Clean images", "+20.0 [+18.0, +22.0]", "+0.0 [−2.0, +2.0]", "−20.0"]
    settings = page.all("document.getElementById('settings').innerText")
    assert "settings.bootstrap" in settings
    assert "(1)" in settings  # nothing else differs
    command = page.all("document.getElementById('command').textContent")
    assert command.startswith("fairweather compare ")
    assert command.endswith("one:plain")
    page.tab.get_by_label("Compare Plain of two", exact=True).check()
    page.tab.click("#show")
    assert "test images differ" in page.all("document.getElementById('test').textContent")
    assert page.all("document.getElementById('command').textContent") == ""
    page.tab.click("#clear")
    assert page.tab.locator("#beside").is_hidden()


@pytest.mark.parametrize(("scheme", "width"), [("light", 375), ("dark", 375), ("light", 1400)])
def test_axe_finds_nothing_and_nothing_overflows(chromium, listing, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    with opened(chromium, listing, width=width, color_scheme=scheme) as page:
        for at in (0, 1):
            page.tab.locator(".runs input:visible").nth(at).check()
        page.tab.click("#show")
        wrong = Axe().run(page.tab).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in wrong] == []
        assert page.all("document.documentElement.scrollWidth") <= width
        cut = page.all(
            "[...document.querySelectorAll('.runs tbody :is(td, th)')].filter((cell) => "
            "cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)"
        )
        assert cut == []
        assert page.said == []
