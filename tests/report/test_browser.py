"""The page in a real browser: what it draws, what one can do with it, and what it never does."""

from __future__ import annotations

import base64
import functools
import gzip
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
from fairweather.report.gallery import CONFUSIONS
from fairweather.report.review import RISKS
from fairweather.report.samples import ATTACKED, ATTACKED_COLUMNS, read_samples
from fairweather.runs.folder import RunFolder
from tests.conftest import figures_left_out, pngs_left_out
from tests.helpers.browser import INSERTED, Opened, browser, missing, opened, refused
from tests.helpers.run_folders import change_record, write_scores
from tests.report.test_report import (
    HOSTILE,
    HOSTILE_CLASS,
    MODELS,
    carried,
    crowded,
    make_run,
    split_sentences,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SUITE = [
    {"brightness_factor": [0.7, 0.9, 1.2]},
    *({f"imagenet_c/{name}": [1, 5]} for name in ("shot_noise", "fog", "contrast", "pixelate")),
]
COPY = ".copy:has([data-copy=summary_accuracy])"
SUMMARY = ".wide:has(+ .copy [data-copy=summary_accuracy]) table"
ROWS = f"[...document.querySelector('{SUMMARY}').tBodies[0].rows]"
PHONE = 360  # pixels, the width of a narrow window


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


def open_details(page):
    page.all("document.querySelectorAll('details').forEach(own => { own.open = true; })")


@pytest.fixture(scope="module")
def used(chromium, report):
    """The page in use, with its details open."""
    granted = ["clipboard-read", "clipboard-write"]
    with opened(chromium, report, permissions=granted) as page:
        open_details(page)
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


FRONT = ["verdict", "sees", "breaks", "knows", "review", "hurt", "compare"]
WORDS_OF_FRONT = ".front :is(p, li > p, .note)"


def test_the_front_has_its_seven_sections_and_details_are_closed(page):
    sections = page.all("[...document.querySelectorAll('main section')].map(own => own.id)")
    assert sections == [*FRONT, "details"]
    links = page.all("[...document.querySelectorAll('nav a')].map(own => own.hash)")
    assert links == [f"#{anchor}" for anchor in sections]
    assert page.all("document.querySelectorAll('details').length") > 4
    assert page.all("document.querySelectorAll('details[open]').length") == 0


def test_the_page_is_short(chromium, report):
    with opened(chromium, report, width=1400) as page:
        assert page.all("document.documentElement.scrollHeight") <= 8000
        bottom = "document.getElementById('tiles').getBoundingClientRect().bottom"
        assert page.all(bottom) < 400


def test_every_row_of_marks_is_drawn_with_its_numbers(page):
    rows = page.all(
        """Object.fromEntries(['breaks', 'review', 'hurt', 'compare'].map(id => [id,
            [...document.querySelectorAll(`#${id}-rows tbody tr`)].map(row => [
                row.querySelectorAll('svg.line path.mark').length,
                [...row.querySelectorAll('td:not(.plot)')].map(cell => cell.textContent)])]))"""
    )
    assert {name: len(own) for name, own in rows.items()} == {
        "breaks": len(SUITE),
        "review": 1 + len(SUITE),
        "hurt": 5,
        "compare": len(MODELS) - 1,
    }
    for own in rows.values():
        assert all(marks == len([text for text in texts if text != "–"]) for marks, texts in own)
        assert all(re.fullmatch(r"[+−]?[\d.]+(\s%)?", text) for _, texts in own for text in texts)


def test_marks_stand_where_their_numbers_are(page):
    places = page.all(
        """[...document.querySelectorAll('#breaks-rows tbody tr')].flatMap(row => {
            const frame = row.querySelector('svg.line').getBoundingClientRect();
            const cells = [...row.querySelectorAll('td:not(.plot)')];
            return [...row.querySelectorAll('path.mark')].map((mark, at) => {
                const {left, right} = mark.getBoundingClientRect();
                return [((left + right) / 2 - frame.left) / frame.width * 100,
                        parseFloat(cells[at].textContent)];
            });
        })"""
    )
    assert len(places) == 3 * len(SUITE)
    assert all(abs(place - number) < 1.5 for place, number in places)


def test_kinds_of_marks_differ_in_shape(page):
    shapes = page.all(
        """Object.fromEntries([...document.querySelectorAll(
            '#breaks-rows path.mark, #knows-chart path.mark')]
            .map(mark => [mark.getAttribute('class'), mark.getAttribute('d')]))"""
    )
    assert set(shapes) == {f"mark {kind}" for kind in ("clean", "mean", "worst", "right", "sure")}
    assert len({shapes[f"mark {kind}"] for kind in ("clean", "mean", "worst")}) == 3
    assert shapes["mark right"] != shapes["mark sure"]


def test_a_colour_and_a_shape_mean_one_thing(page):
    """Of accuracy, of confidence, of images to review, and of a wrong answer."""
    marks = page.all(
        """[...document.querySelectorAll('path.mark')].map(mark => {
            const kind = mark.getAttribute('class').split(' ')[1];
            return [kind, getComputedStyle(mark).fill, mark.getAttribute('d')];
        })"""
    )
    meanings = dict.fromkeys(("clean", "mean", "worst", "right"), "accuracy") | {
        "sure": "confidence",
        "needed": "review",
        "sent": "review",
    }
    shown = {(meanings[kind], colour, shape) for kind, colour, shape in marks}
    for column in (1, 2):
        looks = {(own[0], own[column]) for own in shown}
        assert len(looks) == len({look for _, look in looks})
    wrong = page.all(
        """(() => {
            const answer = document.getElementById('strip').appendChild(
                Object.assign(document.createElement('i'), {style: 'color: var(--wrong)'}));
            const {color} = getComputedStyle(answer);
            answer.remove();
            return color;
        })()"""
    )
    assert wrong not in {colour for _, colour, _ in shown}


def test_no_column_has_a_hole(window):
    """A section stands right below the one above it, and the columns end close to each other."""
    places = window("light", 1280).all(
        """[...document.querySelectorAll('.front > section:not(#verdict)')].map(section => {
            const {left, top, bottom} = section.getBoundingClientRect();
            return [left, top, bottom];
        })"""
    )
    columns = [
        sorted(own[1:] for own in places if own[0] == left) for left in {own[0] for own in places}
    ]
    assert len(columns) == 2
    for column in columns:
        for (_, bottom), (top, _) in itertools.pairwise(column):
            assert 0 <= top - bottom <= 2
    first, second = (column[-1] for column in columns)
    top, bottom = max(first, second, key=lambda own: own[1])
    assert abs(first[1] - second[1]) <= bottom - top


def test_every_row_of_marks_has_its_axis_on_a_phone(window):
    page = window("light", PHONE)
    axes = page.tab.locator(".dots thead .axis text")
    texts = axes.all_text_contents()
    assert texts.count("0 %") == texts.count("100 %") == 3  # a comparison has points
    assert all(axes.nth(at).is_visible() for at in range(len(texts)))
    heads = page.tab.locator(".dots thead th:first-child")
    assert [heads.nth(at).is_visible() for at in range(heads.count())] == [True] * 4


def test_the_gap_between_accuracy_and_confidence_is_shaded(page):
    levels = page.all("document.querySelectorAll('#knows-chart path.mark.right').length")
    shift = page.all("document.getElementById('shift').selectedOptions[0].textContent")
    count = 3 if shift == "Brightness" else 2
    assert levels == 1 + count
    assert page.all("document.querySelectorAll('#knows-chart .gap').length") >= count
    described = page.tab.locator("#knows-chart").get_attribute("aria-label")
    assert described.count("right ") == described.count("sure ") == levels


def test_no_sentence_of_the_front_is_long_or_crowded(page, used):
    for tab in (page.tab, used.tab):
        said = tab.locator(WORDS_OF_FRONT).all_text_contents()
        found = [each.replace(HOSTILE, "“…”") for text in said for each in split_sentences(text)]
        assert len(found) > 20
        assert crowded(found) == []
        assert [each for each in found if len(each.split()) > 25] == []


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_shift_is_opened_by_its_name(used, by):
    buttons = used.tab.locator("#breaks-rows button.open")
    for at in (1, 2):
        button = buttons.nth(at)
        title = button.inner_text()
        if by == "mouse":
            button.click()
        else:
            button.focus()
            used.tab.keyboard.press("Enter")
        assert used.all("document.getElementById('shift').selectedOptions[0].textContent") == title
        assert button.get_attribute("aria-pressed") == "true"
        assert used.tab.locator("#breaks-rows [aria-pressed=true]").count() == 1
        sentence = used.tab.locator("#knows-said p").first.inner_text()
        assert title.lower() in sentence.lower()
        heads = used.tab.locator("#strip h3").all_inner_texts()
        assert heads[0] == "Clean"
        assert all(head.startswith(f"{title}, ") for head in heads[1:])
        assert used.all("document.activeElement.id") == "shift"
    assert used.said == []


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_another_model_changes_every_section_of_the_front(used, by):
    places = ["tiles", "strip", "breaks-rows", "knows-said", "review-said", "hurt-rows"]
    state = f"{json.dumps(places)}.map(id => document.getElementById(id).innerHTML)"
    before, select = used.all(state), used.tab.locator("#model")
    names = list(MODELS)
    if by == "mouse":
        other = next(name for name in names if name != select.input_value())
        select.select_option(other)
    else:
        select.focus()
        used.tab.keyboard.press("ArrowDown" if select.input_value() != names[-1] else "ArrowUp")
    after = used.all(state)
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert used.said == []


def test_pictures_say_what_the_chosen_model_says(page, report):
    data = carried(RunFolder(report.parent))
    model, shift = page.all(
        "[document.getElementById('model').value, document.getElementById('shift').value]"
    )
    own = data["knows"][model][shift]
    strip = page.tab.locator("#strip .row")
    assert strip.count() == len(own["cells"]) == 3  # clean, and the two levels of a corruption
    for row, cell in enumerate(own["cells"]):
        captions = strip.nth(row).locator("figcaption").all_inner_texts()
        indices = data["gallery"]["strip"][cell][:5]
        assert len(captions) == len(indices) == 5
        for text, index in zip(captions, indices, strict=True):
            picture = data["gallery"]["pictures"][index]
            predicted, confidence = picture["predictions"][list(MODELS).index(model)]
            sign = "✓" if predicted == picture["label"] else "✗"
            name = data["classes"][predicted]
            assert text.replace("\xa0", " ") == f"{sign} “{name}” {100 * confidence:.0f} %"


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_looser_limit_needs_fewer_reviews(used, by):
    rows = """[...document.querySelectorAll('#review-rows tbody tr')]
        .map(row => parseFloat(row.querySelector('td:not(.plot)').textContent))"""
    slider = used.tab.locator("#risk")
    slider.fill("0")
    shares, limits = [used.all(rows)], [used.tab.locator("#risk-says").inner_text()]
    for stop in range(1, len(RISKS)):
        if by == "mouse":
            slider.fill(str(stop))
        else:
            slider.press("ArrowRight")
        shares.append(used.all(rows))
        limits.append(used.tab.locator("#risk-says").inner_text())
        assert limits[-1] in used.tab.locator("#review-said").inner_text()
        assert slider.get_attribute("aria-valuetext") == limits[-1]
    assert [float(text.split("\xa0")[0]) for text in limits] == pytest.approx(
        [100 * risk for risk in RISKS]
    )
    for stricter, looser in itertools.pairwise(shares):
        assert all(more >= less for more, less in zip(stricter, looser, strict=True))
    assert shares[0] != shares[-1]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_table_is_sorted(used, by):
    head = used.tab.locator(SUMMARY).locator("th[aria-sort]").nth(1)
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
    used.tab.locator(SUMMARY).locator("th[aria-sort] button").first.click()
    titles = used.all(f"{ROWS}.map(row => row.cells[0].dataset.value)")
    assert sorted(titles) == sorted(MODELS.values())
    assert used.all(
        f"{json.dumps(titles)}.every((t, i, a) => !i || a[i - 1].localeCompare(t) <= 0)"
    )


@pytest.mark.parametrize(
    ("at", "words", "suffix"), [(0, "CSV", "csv"), (1, "Markdown", "md"), (2, "LaTeX", "tex")]
)
def test_a_table_is_copied_as_its_file(used, report, at, words, suffix):
    button = used.tab.locator(COPY).get_by_role("button").nth(at)
    assert button.inner_text() == words
    button.click()
    button.filter(has_text="copied").wait_for()
    copied = used.all("navigator.clipboard.readText()")
    assert copied == (report.parent / f"tables/summary_accuracy.{suffix}").read_text()


def test_where_copying_is_forbidden_the_text_can_be_taken_by_hand(used, report):
    used.all("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
    used.tab.locator(COPY).get_by_role("button", name="CSV").click()
    text = used.tab.locator("#copy-text")
    text.wait_for(state="visible")
    assert text.input_value() == (report.parent / "tables/summary_accuracy.csv").read_text()
    used.tab.keyboard.press("Escape")
    text.wait_for(state="hidden")
    used.all("delete navigator.clipboard.writeText")


def test_a_button_pressed_twice_has_its_word_back(used):
    button = used.tab.locator(f"{COPY} button").first
    used.all("void (navigator.clipboard.writeText = () => Promise.resolve())")
    # What the page does later is done when the test says so.
    used.all(
        """void (window.later = [], window.timers = [setTimeout, clearTimeout],
        setTimeout = then => later.push(then) - 1, clearTimeout = place => delete later[place])"""
    )
    for pressed in (1, 2):
        button.click()
        while used.all("later.length") < pressed:
            used.tab.wait_for_timeout(10)
        assert button.inner_text() == "copied"
    used.all("later.forEach(then => then())")
    assert button.inner_text() == "CSV"
    used.all("void ([setTimeout, clearTimeout] = timers)")
    used.all("delete navigator.clipboard.writeText")


def rename_classes(run, names):
    """Give the first classes of a run other names."""

    def rename(facts):
        facts["data"]["classes"][: len(names)] = names

    return change_record(run, rename)


def test_a_class_name_is_text_wherever_it_is_shown(odd):
    open_details(odd)
    table = odd.tab.locator("#confusions")
    for name in ("focus", "datum.value \\ ' \"", *MARKUP):
        assert name in table.inner_text()
    for shift in odd.tab.locator("#shift option").all():
        odd.tab.locator("#shift").select_option(shift.get_attribute("value"))
    assert odd.all("window.hacked") is None
    assert odd.all("document.querySelectorAll('script').length") == 2
    assert odd.said == []
    assert odd.asked == []


def test_a_level_that_was_not_measured_is_left_out(odd):
    odd.tab.locator("#model").select_option("third")
    odd.tab.locator("#shift").select_option("gaussian_blur")
    assert odd.tab.locator("#knows-chart path.mark.right").count() == 3  # by its scores
    rows = odd.tab.locator("#review-rows tbody th").all_inner_texts()
    # A shift whose worst level has no predictions has no row of reviews.
    assert [text.split("\n")[0] for text in rows] == ["Clean images", "Brightness"]
    odd.tab.locator("#model").select_option("basic")
    assert odd.tab.locator("#review-rows tbody tr").count() == 3
    assert odd.said == []


def test_of_several_runs_only_what_was_measured_can_be_chosen(joint):
    for model, shift in (("one:basic", "Brightness"), ("two:basic", "Gaussian blur")):
        joint.tab.locator("#model").select_option(model)
        assert joint.tab.locator("#shift option").all_inner_texts() == [shift]
        assert joint.tab.locator("#breaks-rows button").all_inner_texts() == [shift]
        assert joint.tab.locator("#tiles li").count() == 3
    assert joint.tab.locator("#lost").count() == 0  # nobody looked at these models together
    assert joint.said == []


def test_a_run_without_pictures_shows_none_of_its_mistakes(joint):
    open_details(joint)
    words = "No picture is stored for this choice."
    for model, shown in (("one:basic", []), ("three:basic", [words])):
        joint.tab.locator("#model").select_option(model)
        assert joint.tab.locator("#mistakes > p").all_inner_texts() == shown


def test_under_attack_the_images_that_the_chosen_model_saw_are_shown(attacked, attacked_run):
    clean = min(5, len(read_samples(attacked_run).strip))
    for model, count in [*SHOWN.items(), ("pretrained", 0)]:
        attacked.tab.locator("#model").select_option(model)
        attacked.tab.locator("#shift").select_option(label="PGD")
        strip = attacked.tab.locator("#strip .row")
        pictures = [strip.nth(at).locator("img").count() for at in range(strip.count())]
        assert pictures == [clean, count, count]
        assert attacked.tab.locator("#attacked").is_visible() == bool(count)
    levels = attacked.tab.locator("#knows-chart text").all_text_contents()
    assert {"2/255", "8/255"} <= set(levels)
    assert attacked.said == []


def test_an_attack_is_marked_and_stands_below_the_shifts(attacked):
    notes = attacked.tab.locator("#breaks-rows tbody th").all_inner_texts()
    assert [text.startswith("PGD") for text in notes] == [False, True]
    assert "attack, worst at ε = 8/255" in notes[-1]


def test_on_a_phone_a_table_is_a_card_for_each_row(window):
    page = window("light", PHONE)
    open_details(page)
    shown = page.all(
        """[...document.querySelectorAll('table.cards')].map(table => [table.caption.textContent,
            getComputedStyle(table.tHead).display,
            ...[...table.querySelectorAll('tbody td')].slice(0, 3).map(cell =>
                getComputedStyle(cell, '::before').content)])"""
    )
    assert len(shown) > 5
    for caption, head, *labels in shown:
        assert head == "none", caption
        assert [label for label in labels if label in ("none", '""')] == [], caption
    wide = page.all(
        """[...document.querySelectorAll('.cards, .dots, .front > section, #strip')].filter(own =>
            own.getBoundingClientRect().right > innerWidth + 1).length"""
    )
    assert wide == 0


def test_names_are_kept_from_turning_what_stands_beside_them(page):
    assert page.tab.locator("#strip figcaption bdi").count() >= 15


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
    for added in (
        """(() => { const script = document.createElement('script');
        script.textContent = 'window.hacked = true'; document.body.append(script); })()""",
        INSERTED,
    ):
        with refused(used):
            used.all(added)
        assert used.all("window.hacked") is None


@pytest.mark.parametrize(("scheme", "width"), [("light", PHONE), ("dark", 768), ("light", 1280)])
def test_nothing_overflows(window, scheme, width):
    page = window(scheme, width)
    assert page.all("document.documentElement.scrollWidth") <= width
    paper = page.all("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    cut = page.all(
        """[...document.querySelectorAll('#knows-chart svg text, .axis text')].filter(text => {
            const {left, right} = text.getBoundingClientRect();
            return left < 0 || right > innerWidth;
        }).length"""
    )
    assert cut == 0
    assert page.said == []


def test_no_labels_of_an_axis_lie_over_each_other(window):
    for scheme, width in (("light", PHONE), ("light", 1280)):
        over = window(scheme, width).all(
            """[...document.querySelectorAll('.axis')].flatMap(axis => {
                const ends = [...axis.querySelectorAll('text')]
                    .map(text => text.getBoundingClientRect());
                return ends.slice(1).filter(({left}, at) => left && left < ends[at].right + 2);
            }).length"""
        )
        assert over == 0


def test_sections_1_to_5_print_on_two_pages_in_ink_on_paper(chromium, report, tmp_path):
    with opened(chromium, report, color_scheme="dark") as page:
        page.tab.emulate_media(media="print", color_scheme="dark")
        paper = page.all("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        page.all(
            "for (const id of ['hurt', 'compare', 'details']) document.getElementById(id).remove()"
        )
        printed = page.tab.pdf(path=str(tmp_path / "page.pdf"), format="A4")
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2


def test_a_run_without_shifts_and_pictures_has_a_page_that_works(bare):
    assert bare.all("document.documentElement.dataset.ready") == "yes"
    assert bare.said == []
    sections = bare.all("[...document.querySelectorAll('main section')].map(own => own.id)")
    assert sections == ["verdict", "review", "hurt", "details"]
    assert bare.tab.locator("#tiles li").count() == 2
    assert bare.tab.locator("#review-rows tbody tr").count() == 1
    assert bare.tab.locator("#model").count() == 0


def test_a_browser_that_cannot_unpack_says_so(chromium, bare_report):
    place = chromium.new_context()
    place.add_init_script("delete window.DecompressionStream")
    tab = place.new_page()
    tab.goto(bare_report.as_uri())
    tab.wait_for_selector("html[data-ready=no]", state="attached")
    assert tab.locator("#broken").is_visible()
    place.close()


def test_many_classes_are_listed_instead_of_drawn(bare):
    open_details(bare)
    assert bare.tab.locator("#confusions.matrix").count() == 0
    assert bare.tab.locator("#confusions tbody tr").count() == CONFUSIONS


def test_one_number_for_one_thing(odd, chromium):
    """With several seeds, every accuracy and confidence of the front is the mean over them."""
    data = odd.all("document.getElementById('payload').textContent")
    knows = json.loads(gzip.decompress(base64.b64decode(data)))
    for model in knows["tiles"]:
        odd.tab.locator("#model").select_option(model)
        clean, worst, sure = odd.tab.locator("#tiles strong").all_inner_texts()
        first = odd.tab.locator("#breaks-rows tbody tr").first.locator("td:not(.plot)")
        shown = first.all_inner_texts()
        assert (shown[0], shown[2]) == (clean, worst)
        assert set(odd.tab.locator("#breaks-rows tbody tr td:nth-child(3)").all_inner_texts()) == {
            clean
        }
        said = odd.tab.locator("#knows-said").inner_text()
        assert f"right on {worst} of the images, and {sure} sure" in said
        labels = odd.tab.locator("#knows-chart text.number").all_text_contents()
        assert sorted(labels) == sorted([worst, sure])
    notes = odd.tab.locator("#sees .note").first.inner_text()
    assert "answer of seed 0" in notes  # the only thing of one seed
