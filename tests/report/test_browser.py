"""The page in a real browser: what it draws, what one can do with it, and what it never does."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from fairweather.report.building import build_joint_report, build_report
from fairweather.report.samples import ATTACKED, ATTACKED_COLUMNS, read_samples
from fairweather.runs.folder import RunFolder
from tests.conftest import figures_left_out, pngs_left_out
from tests.helpers.browser import Opened, browser, missing, opened
from tests.helpers.run_folders import change_record, write_scores
from tests.report.test_report import (
    HOSTILE,
    HOSTILE_CLASS,
    MODELS,
    crowded,
    make_run,
    split_sentences,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

# So many that there are heat maps.
SUITE = [
    {"brightness_factor": [0.7, 0.9, 1.2]},
    *({f"imagenet_c/{name}": [1, 5]} for name in ("shot_noise", "fog", "contrast", "pixelate")),
]
ROWS = "[...document.querySelectorAll('#summary table')[0].tBodies[0].rows]"
PHONE = 360  # pixels, the width of a narrow window
CELL = "document.getElementById('chosen').textContent"


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page with many shifts, hostile names, pictures, and validation images."""
    run = make_run(tmp_path_factory.mktemp("browser") / "run", shifts=SUITE)
    for model in MODELS:
        clean = run.read_predictions(run.predictions(model, 0, "clean"))
        run.write_predictions(run.predictions(model, 0, "clean", "val"), clean)
    with pngs_left_out():
        build_report(run)
    return run.path / "report.html"


@pytest.fixture(scope="module")
def page(chromium, report):
    """The page as it opens: tests look at it, point at it, and change nothing."""
    with opened(chromium, report) as page:
        yield page


@pytest.fixture(scope="module")
def used(chromium, report):
    """The page in use: each test begins with what it needs, and follows no model at its end."""
    granted = ["clipboard-read", "clipboard-write"]
    with opened(chromium, report, permissions=granted) as page:
        yield page


@pytest.fixture(scope="module")
def window(chromium, report, page) -> Iterator[Callable[[str, int], Opened]]:
    """The page as it opens in other windows; each is opened once, and the narrow one is touched."""
    with ExitStack() as stack:

        @functools.cache
        def window(scheme: str, width: int) -> Opened:
            if (scheme, width) == ("light", 1280):
                return page
            context = {"color_scheme": scheme, "has_touch": width == PHONE}
            return stack.enter_context(opened(chromium, report, width=width, **context))

        yield window


MARKUP = ("<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>")


@pytest.fixture(scope="module")
def odd(chromium, tmp_path_factory) -> Iterator[Opened]:
    """A page of several oddities, none of which is in the way of another.

    It has two seeds, small errors, names that mean something to the script, names that are markup,
    and a cell that was not measured.
    """
    models = {"basic": "focus", "other": "datum.label", "third": "x"}
    made = make_run(tmp_path_factory.mktemp("odd") / "run", models=models, seeds=(0, 1), n=60)
    scores = made.scores
    small = scores["metric"].str.startswith("rms_calibration_error")
    scores.loc[small, ["value", "low", "high"]] *= 0.2
    write_scores(made, scores)
    run = rename_classes(made, ("focus", "focus", "datum.value \\ ' \"", *MARKUP))
    [cell] = [cell for cell in run.record.sweeps[1].cells if cell.level == 0.9]
    (run.path / run.predictions("third", 0, cell.id)).unlink()
    with figures_left_out():
        build_report(run)
    with opened(chromium, run.path / "report.html") as page:
        yield page


@pytest.fixture(scope="module")
def joint(chromium, tmp_path_factory) -> Iterator[Opened]:
    """A page of three runs: two with other shifts, and one without pictures."""
    folder = tmp_path_factory.mktemp("joint")
    brightness, blur = [{"brightness_factor": [0.7]}], [{"gaussian_blur": [0.9]}]
    runs = [
        make_run(folder / name, models={"basic": name}, shifts=shifts, n=60, size=size)
        for name, shifts, size in (
            ("one", brightness, (28, 28)),
            ("two", blur, (28, 28)),
            ("three", blur, None),
        )
    ]
    with figures_left_out():
        build_joint_report(runs, folder / "joint")
    with opened(chromium, folder / "joint/report.html") as page:
        yield page


# How many pictures under attack each model has on the next page; the third model has none.
SHOWN = {"basic": 3, "mixup_aug": 1}


@pytest.fixture(scope="module")
def attacked_run(tmp_path_factory) -> RunFolder:
    """A shift and an attack, with pictures that two of three models saw under it."""
    shifts = [{"gaussian_blur": [0.9]}, {"pgd": {"epsilon": [2 / 255, 8 / 255], "steps": 2}}]
    run = make_run(tmp_path_factory.mktemp("attacked") / "run", shifts=shifts, n=60)
    samples = read_samples(run)
    rows = [
        (model, cell.id, key, samples.pictures["clean", key])  # in the place of what was attacked
        for model, count in SHOWN.items()
        for cell in run.record.sweeps[1].cells
        for key in samples.strip[:count]
    ]
    columns = [
        pa.array(column, field.type)
        for column, field in zip(zip(*rows, strict=True), ATTACKED_COLUMNS, strict=True)
    ]
    pa.parquet.write_table(
        pa.Table.from_arrays(columns, schema=ATTACKED_COLUMNS), run.path / ATTACKED
    )
    with figures_left_out():
        build_report(run)
    return run


@pytest.fixture(scope="module")
def attacked(chromium, attacked_run) -> Iterator[Opened]:
    with opened(chromium, attacked_run.path / "report.html") as page:
        yield page


@pytest.fixture(scope="module")
def bare_report(tmp_path_factory) -> Path:
    """A small page, without shifts and pictures, of many classes."""
    run = make_run(
        tmp_path_factory.mktemp("bare") / "run",
        models={"basic": "Basic"},
        shifts=[],
        n=300,
        classes=60,
        size=None,
    )
    with figures_left_out():
        build_report(run)
    return run.path / "report.html"


@pytest.fixture(scope="module")
def bare(chromium, bare_report) -> Iterator[Opened]:
    with opened(chromium, bare_report) as page:
        yield page


def test_the_page_opens_from_disk_in_silence(page):
    assert page.all("document.documentElement.dataset.ready") == "yes"
    assert page.said == []
    assert page.asked == []


def test_every_chart_has_drawn_marks(page):
    drawn = page.all(
        """Object.fromEntries([...document.querySelectorAll('[data-chart]')].map(place => [
            place.dataset.chart,
            [...place.querySelectorAll('.role-mark path, .role-mark rect')].filter(mark => {
                const {width, height} = mark.getBoundingClientRect();
                return width + height > 2;
            }).length,
        ]))"""
    )
    shifts = len(SUITE)
    names = set(drawn)
    assert len([name for name in names if name.startswith("accuracy-")]) == shifts
    assert len([name for name in names if name.startswith("rms_calibration_error-")]) == shifts
    assert {"overview-accuracy", "overview-gap"} <= names
    assert {"heat-accuracy", "heat-rms_calibration_error", "scatter"} <= names
    assert {"training-accuracy", "training-loss", "training-learning-rate"} <= names
    assert {"reliability", "counts", "confidence", "risk-coverage", "hand-over"} <= names
    assert {"classes", "confusion"} <= names
    lines = {"risk-coverage": 2}  # a line is one mark
    assert {name for name, marks in drawn.items() if marks < lines.get(name, 3)} == set()


def test_the_answer_is_on_the_first_screen(page):
    bottoms = page.all(
        """['.verdict', '[data-chart=overview-accuracy]', '[data-chart=overview-gap]'].map(place =>
            document.querySelector(place).getBoundingClientRect().bottom + scrollY)"""
    )
    assert max(bottoms) < 900


def test_the_rows_of_the_first_two_charts_are_at_the_same_height(page):
    heights = page.all(
        """['overview-accuracy', 'overview-gap'].map(name => [...document.querySelectorAll(
            `[data-chart=${name}] .mark-symbol.role-mark path`)].map(mark => {
            const {top, bottom} = mark.getBoundingClientRect();
            return Math.round((top + bottom) / 2);
        }))"""
    )
    assert len(heights[0]) == 3 * len(MODELS)
    assert all(abs(a - b) <= 1 for a, b in zip(*heights, strict=True))


def test_a_row_has_its_title_beside_it_also_where_charts_stand_below_each_other(page, window):
    for shown, named in ((page, 1), (window("light", PHONE), 2)):
        texts = shown.tab.locator("[data-chart^=overview-] .role-axis-label text")
        assert sum(text == "Basic" for text in texts.all_text_contents()) == named


def test_no_two_ticks_of_an_axis_read_the_same(page):
    axes = page.all(
        """[...document.querySelectorAll('[data-chart] .role-axis-label')].map(axis =>
            [axis.closest('[data-chart]').dataset.chart,
             [...axis.querySelectorAll('text')].filter(text => text.style.opacity !== '0'
                && text.getAttribute('opacity') !== '0').map(text => text.textContent)])"""
    )
    assert len(axes) > 20
    # In the histogram of confidence, wrong answers are counted downwards from 0.
    numbers = [
        (name, [text for text in texts if re.search(r"\d", text)])
        for name, texts in axes
        if name != "confidence"
    ]
    assert [(name, texts) for name, texts in numbers if len(set(texts)) < len(texts)] == []


def test_small_errors_have_ticks_that_differ(odd):
    labels = odd.tab.locator(
        "[data-chart=rms_calibration_error-brightness_factor] .role-axis-label text"
    )
    texts = labels.all_text_contents()
    assert texts
    assert len(set(texts)) == len(texts)


def test_no_sentence_that_the_script_writes_has_more_than_three_numbers(page):
    said = page.all(
        """['#chosen', '#lost > p', '#mistakes > p', '#attacked'].flatMap(place =>
            [...document.querySelectorAll(place)].map(each => each.textContent))"""
    )
    assert len(said) > 1
    assert crowded([each for text in said for each in split_sentences(text)]) == []


def test_a_limit_is_chosen_without_the_script(chromium, report):
    place = chromium.new_context(java_script_enabled=False)
    tab = place.new_page()
    tab.goto(report.as_uri())
    tables = tab.locator(".limits > .wide")
    for at in (0, 3, 5):
        tab.locator(f"#limit-{at}").check()
        assert [tables.nth(each).is_visible() for each in range(6)] == [
            each == at for each in range(6)
        ]
    place.close()


def test_a_limit_is_chosen_by_keyboard(used):
    used.tab.locator("#limit-0").focus()
    used.tab.keyboard.press("ArrowRight")
    assert used.tab.locator(".limit-1").is_visible()
    assert not used.tab.locator(".limit-0").is_visible()


def test_charts_do_not_lie_over_their_frame(page):
    wide = page.all(
        """[...document.querySelectorAll('[data-chart]')].filter(place =>
            place.querySelector('svg').getBoundingClientRect().width > place.clientWidth + 1)
            .map(place => place.dataset.chart)"""
    )
    assert wide == []


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_table_is_sorted(used, by):
    head = used.tab.locator("#summary table").first.locator("th[aria-sort]").nth(1)
    values = f"{ROWS}.map(row => Number(row.cells[1].dataset.value))"
    for direction in ("ascending", "descending"):
        if by == "mouse":
            head.locator("button").click()
        else:
            head.locator("button").focus()
            used.tab.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        found = used.all(values)
        assert len(found) == len(MODELS)
        assert found == sorted(found, reverse=direction == "descending")


def test_sorting_by_name_follows_the_letters(used):
    used.tab.locator("#summary table").first.locator("th[aria-sort] button").first.click()
    titles = used.all(f"{ROWS}.map(row => row.cells[0].dataset.value)")
    assert sorted(titles) == sorted(MODELS.values())
    assert used.all(
        f"{json.dumps(titles)}.every((t, i, a) => !i || a[i - 1].localeCompare(t) <= 0)"
    )


@pytest.mark.parametrize(
    ("at", "words", "suffix"), [(0, "CSV", "csv"), (1, "Markdown", "md"), (2, "LaTeX", "tex")]
)
def test_a_table_is_copied_as_its_file(used, report, at, words, suffix):
    button = used.tab.locator("#summary .copy").first.get_by_role("button").nth(at)
    assert button.inner_text() == words
    button.click()
    button.filter(has_text="copied").wait_for()
    copied = used.all("navigator.clipboard.readText()")
    assert copied == (report.parent / f"tables/summary_accuracy.{suffix}").read_text()


def test_where_copying_is_forbidden_the_text_can_be_taken_by_hand(used, report):
    used.all("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    used.tab.locator("#summary .copy").first.get_by_role("button", name="CSV").click()
    text = used.tab.locator("#copy-text")
    text.wait_for(state="visible")
    assert text.input_value() == (report.parent / "tables/summary_accuracy.csv").read_text()
    used.tab.keyboard.press("Escape")
    text.wait_for(state="hidden")
    used.all("delete navigator.clipboard.writeText")


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_choosing_changes_numbers_charts_and_pictures(used, by):
    def state():
        marks = "place => place.querySelector('svg').innerHTML"
        charts = used.tab.locator("#closer [data-chart]").evaluate_all(f"all => all.map({marks})")
        return used.all(CELL), charts, used.tab.locator("#strip").inner_html()

    before, charts, strip = state()
    chosen = {}
    for name in ("model", "shift"):
        select = used.tab.locator(f"#{name}")
        last = select.locator("option").count() - 1
        chosen[name] = 1 if select.input_value() != "1" else last
        if by == "mouse":
            select.select_option(str(chosen[name]))
        else:
            select.focus()
            way = chosen[name] - int(select.input_value())
            for _ in range(abs(way)):
                used.tab.keyboard.press("ArrowDown" if way > 0 else "ArrowUp")
    used.tab.wait_for_timeout(600)
    after, other_charts, other_strip = state()
    title = list(MODELS.values())[chosen["model"]]
    assert after.startswith(f"{title}, ")
    assert after != before
    assert all(new != old for new, old in zip(other_charts, charts, strict=True))
    assert other_strip != strip


def test_the_risk_that_is_asked_for_changes_what_is_handed_over(used):
    rows = """[...document.querySelectorAll('#hand-over-rows tr')]
        .map(row => parseFloat(row.cells[1].textContent))"""
    shares = []
    for at in range(5):
        used.tab.locator("#risk").select_option(str(at))
        used.tab.wait_for_timeout(100)
        shares.append(used.all(rows))
    for stricter, looser in itertools.pairwise(shares):
        assert all(more >= less for more, less in zip(stricter, looser, strict=True))
    assert shares[0] != shares[-1]


def test_a_model_is_followed_through_all_charts(used):
    quiet = """[...document.querySelectorAll('[data-chart^="accuracy-"]')].slice(0, 3).map(place =>
        [...place.querySelectorAll('.mark-line path')].filter(line =>
            Number(getComputedStyle(line).opacity) < 0.5).length)"""
    assert used.all(quiet) == [0, 0, 0]
    used.tab.locator("[data-chart^='accuracy-']").first.scroll_into_view_if_needed()
    button = used.tab.locator("button.model").first
    button.focus()
    used.tab.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    used.tab.wait_for_timeout(300)
    assert used.all(quiet)[0] == len(MODELS) - 1
    used.tab.keyboard.press("Enter")
    used.tab.wait_for_timeout(300)
    assert used.all(quiet)[0] == 0


def test_what_was_followed_out_of_sight_is_let_go(used):
    dim = """['scatter', 'training-loss'].map(name => [...document.querySelectorAll(
        `[data-chart=${name}] :is(.mark-symbol, .mark-line) path`)].filter(mark =>
        Number(getComputedStyle(mark).opacity) < 0.2).length)"""

    def look_at_both():
        for name in ("scatter", "training-loss"):
            used.tab.locator(f"[data-chart={name}]").scroll_into_view_if_needed()
            used.tab.wait_for_timeout(200)

    def soon(is_so):
        """A busy machine may draw later than at the first look."""
        for _ in range(20):
            look_at_both()
            if is_so(used.all(dim)):
                return True
        return False

    # A pointer that rests where a chart comes would follow a model itself.
    used.tab.mouse.move(0, 0)
    assert soon(lambda dimmed: dimmed == [0, 0])
    button = used.tab.locator("button.model").first
    button.press("Enter")
    assert soon(lambda dimmed: min(dimmed) > 0)
    button.press("Enter")
    assert soon(lambda dimmed: dimmed == [0, 0])


def test_a_button_pressed_twice_has_its_word_back(used):
    button = used.tab.locator("#summary .copy button").first
    used.all("void (navigator.clipboard.writeText = () => Promise.resolve())")
    button.click()
    button.click()
    used.tab.wait_for_timeout(1800)
    assert button.inner_text() == "CSV"
    used.all("delete navigator.clipboard.writeText")


def rename_classes(run, names):
    """Give the first classes of a run other names."""

    def rename(facts):
        facts["data"]["classes"][: len(names)] = names

    return change_record(run, rename)


def test_a_class_name_is_text_wherever_it_is_shown(odd):
    bars = odd.tab.locator("[data-chart=classes] .mark-rect path")
    for at, name in enumerate(MARKUP, 3):
        bars.nth(at).hover(force=True)
        tip = odd.tab.locator("#vg-tooltip-element.visible", has_text=name)
        tip.wait_for()
    for at in range(odd.tab.locator("#shift option").count()):
        odd.tab.locator("#shift").select_option(str(at))
        odd.tab.wait_for_timeout(100)
    assert MARKUP[0] in odd.tab.locator("#closer").inner_text()
    assert odd.all("window.hacked") is None
    assert odd.all("document.querySelectorAll('script').length") == 2
    assert odd.said == []
    assert odd.asked == []


def test_names_that_mean_something_to_the_script_are_names(odd):
    odd.tab.locator("button.model").first.click()
    odd.tab.wait_for_timeout(300)
    assert odd.said == []
    names = odd.tab.locator("[data-chart=classes] .role-axis-label text").all_text_contents()
    at = names.index("focus")
    assert names[at : at + 3] == ["focus", "focus", "datum.value \\ ' \""]
    assert odd.tab.locator("[data-chart=classes] .mark-rect path").count() == 10
    odd.tab.locator("button.model").first.click()  # nothing is followed any more


def test_what_was_not_measured_shows_nothing_of_another(odd):
    odd.tab.locator("#model").select_option("2")
    odd.tab.locator("#shift").select_option("2")
    gone = odd.tab.locator("#level option:disabled")
    assert gone.all_inner_texts() == ["σ = 0.9"]
    odd.tab.wait_for_timeout(300)
    assert ", σ = 0.3. Accuracy " in odd.all(CELL).replace("\xa0", " ")
    assert odd.tab.locator("#confusions").is_visible()
    blur = odd.tab.locator("#hand-over-rows tr", has_text="σ = 0.9")
    assert blur.locator("td").first.inner_text() == "not measured"
    odd.tab.locator("#model").select_option("0")
    assert odd.tab.locator("#level option:disabled").count() == 0


def test_of_several_runs_only_what_was_measured_can_be_chosen(joint):
    for model, gone in (("1", "Brightness"), ("0", "Gaussian blur")):
        joint.tab.locator("#model").select_option(model)
        joint.tab.wait_for_timeout(300)
        assert joint.tab.locator("#shift option:disabled").all_inner_texts() == [gone]
        assert "Accuracy" in joint.all(CELL)
        assert "not searched among the models" in joint.tab.locator("#lost").inner_text()
    assert joint.said == []


def test_a_run_without_pictures_is_not_said_to_make_no_mistakes(joint):
    for model, words in (("0", ""), ("2", "The run of this model has no pictures.")):
        joint.tab.locator("#model").select_option(model)
        joint.tab.wait_for_timeout(300)
        assert joint.tab.locator("#mistakes > p").all_inner_texts() == [words] * bool(words)


def test_of_attacks_there_are_no_pictures_and_it_says_so(attacked):
    attacked.tab.locator("#model").select_option(str(len(SHOWN)))
    attacked.tab.locator("#shift").select_option(label="PGD")
    attacked.tab.wait_for_timeout(300)
    assert attacked.tab.locator("#level option").all_inner_texts() == ["ε = 2/255", "ε = 8/255"]
    for place in ("lost", "mistakes"):
        words = attacked.tab.locator(f"#{place}").inner_text()
        assert words.startswith("Chosen for shifts only: under attack")
    labels = attacked.tab.locator("[data-chart=accuracy-pgd] .role-axis-label text")
    assert "8/255" in labels.all_text_contents()


def test_under_attack_the_images_that_the_chosen_model_saw_are_shown(attacked, attacked_run):
    clean = len(read_samples(attacked_run).strip)
    attacked.tab.locator("#shift").select_option(label="PGD")
    for model, count in enumerate([*SHOWN.values(), 0]):
        attacked.tab.locator("#model").select_option(str(model))
        attacked.tab.wait_for_timeout(300)
        strip = attacked.tab.locator("#strip .row")
        pictures = [strip.nth(at).locator("img").count() for at in range(strip.count())]
        assert pictures == [clean, *([count] * 2 if count else [])]
        assert attacked.tab.locator("#attacked").is_visible() == bool(count)
        answers = strip.nth(1).locator("figcaption li") if count else None
        assert answers is None or answers.count() == count
    assert attacked.said == []


def test_the_risk_has_its_band_and_the_diamond_says_its_numbers(page):
    chart = page.tab.locator("[data-chart=risk-coverage]")
    assert chart.locator(".mark-area path").count() == 2
    page.tab.locator("#closer form.choose").scroll_into_view_if_needed()
    symbols = chart.locator(".mark-symbol.role-mark path")
    sizes = symbols.evaluate_all("all => all.map(each => each.getBoundingClientRect().width)")
    assert sum(size > 5 for size in sizes) == 1
    diamond = symbols.nth(next(at for at, size in enumerate(sizes) if size > 5))
    diamond.scroll_into_view_if_needed()
    diamond.hover(force=True)
    tip = page.tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"Risk\s+[\d.]+ % \[[\d.]+, [\d.]+\]", tip.inner_text())
    rows = page.tab.locator("#hand-over-rows tr")
    overs = [
        float(text.partition(" ")[0]) for text in rows.locator("td:nth-child(3)").all_inner_texts()
    ]
    coverage = float(re.search(r"Coverage\s+([\d.]+) %", tip.inner_text())[1])
    assert min(abs(100 - over - coverage) for over in overs) < 0.11


def test_a_finger_makes_a_mark_say_its_numbers(window):
    page = window("light", PHONE)
    chart = page.tab.locator("[data-chart^='accuracy-']").first
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-symbol path").nth(1).tap(force=True)
    tip = page.tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "[" in tip.inner_text()
    chart.locator("svg").tap(position={"x": 2, "y": 2}, force=True)  # beside all marks
    tip.wait_for(state="hidden")


def test_what_is_followed_holds_in_every_chart_that_is_printed(used):
    dim = """[...document.querySelectorAll('[data-chart^="accuracy-"]')].map(place =>
        [...place.querySelectorAll('.mark-line path')].filter(line =>
            Number(getComputedStyle(line).opacity) < 0.5).length)"""
    for quiet in (len(MODELS) - 1, 0):
        used.tab.locator("button.model").first.click()
        used.all("void dispatchEvent(new Event('beforeprint'))")
        assert used.all(dim) == [quiet] * len(SUITE)


def test_on_a_phone_no_column_hides_the_others(window):
    page = window("light", PHONE)
    kinds = page.all("""[...document.querySelectorAll('.wide tbody th[scope=row]')].map(head =>
        getComputedStyle(head).position)""")
    assert set(kinds) == {"static"}


def test_names_are_kept_from_turning_what_stands_beside_them(page):
    assert page.tab.locator("#strip figcaption .label bdi").count() > 0
    assert page.tab.locator("#strip figcaption li bdi").count() > 0


def test_pointing_at_a_curve_makes_the_others_quiet_and_says_its_numbers(page):
    chart = page.tab.locator("[data-chart^='accuracy-']").first
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-symbol path").nth(1).hover(force=True)
    tip = page.tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert any(title in tip.inner_text() for title in MODELS.values())
    assert "[" in tip.inner_text()


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", PHONE),
        ("dark", 768),
        pytest.param("dark", 1280, marks=pytest.mark.nightly),
        pytest.param("light", 1280, marks=pytest.mark.nightly),
    ],
)
def test_axe_finds_nothing(window, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    tab = window(scheme, width).tab
    tab.mouse.move(0, 0)  # no tooltip stays from a test that pointed at a mark
    found = Axe().run(tab).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"][:200]) for each in found] == []


def test_hostile_names_are_inert(page):
    assert page.all("[...document.querySelectorAll('script')].length") == 2
    assert page.all("document.querySelectorAll('main b, main i.x, main img[onerror]').length") == 0
    text = page.all("document.body.innerText")
    assert HOSTILE in text
    assert HOSTILE_CLASS in text
    assert page.all("window.hacked") is None


def test_a_script_that_is_not_the_pages_own_does_not_run(used):
    before = len(used.said)
    used.all(
        """(() => { const script = document.createElement('script');
        script.textContent = 'window.hacked = true'; document.body.append(script); })()"""
    )
    used.all(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')"
    )
    used.tab.wait_for_timeout(200)
    assert used.all("window.hacked") is None
    assert any("Content Security Policy" in said for said in used.said[before:])


@pytest.mark.parametrize(("scheme", "width"), [("light", PHONE), ("dark", 768), ("light", 1280)])
def test_nothing_overflows(window, scheme, width):
    page = window(scheme, width)
    assert page.all("document.documentElement.scrollWidth") <= width
    paper = page.all("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    line = page.all("getComputedStyle(document.querySelector('.mark-line path')).stroke")
    assert line.startswith("rgb(")
    assert page.said == []


def test_it_prints_in_ink_on_paper(window, tmp_path):
    tab = window("dark", 768).tab
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = tab.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert printed.startswith(b"%PDF")
    tab.emulate_media(media="null", color_scheme="dark")


def test_a_run_without_shifts_and_pictures_has_a_page_that_works(bare):
    assert bare.all("document.documentElement.dataset.ready") == "yes"
    assert bare.said == []
    assert bare.all(CELL).startswith("Basic, Clean images. Accuracy ")


def test_a_browser_that_cannot_unpack_says_so(chromium, bare_report):
    place = chromium.new_context()
    place.add_init_script("delete window.DecompressionStream")
    tab = place.new_page()
    tab.goto(bare_report.as_uri())
    tab.wait_for_selector("html[data-ready=no]", state="attached")
    assert tab.locator("#broken").is_visible()
    place.close()


def test_many_classes_are_listed_instead_of_drawn(bare):
    assert bare.said == []
    assert bare.tab.locator("[data-chart=confusion]").count() == 0
    assert bare.tab.locator("[data-chart=classes] .mark-rect path").count() == 20
    assert bare.tab.locator("#confusions tr").count() == 8


def test_several_seeds_show_the_first_and_say_so(odd):
    assert odd.said == []
    assert "seed 0" in odd.all(CELL)
