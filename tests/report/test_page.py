"""What the page carries: reviews, groups, confusions and pictures; and several runs in one page."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.selective import coverage_at_risk, coverage_interval, deferral_shares
from fairweather.report.building import (
    JOINT_LISTING,
    build_joint_report,
    build_report,
    check_intact,
)
from fairweather.report.contents import Sweep, read_contents
from fairweather.report.front import choose_rows
from fairweather.report.gallery import CONFUSIONS, MOST_CLASSES, count_confusions, find_predictions
from fairweather.report.hurt import FEWEST_IMAGES, Division, find_hurt
from fairweather.report.joint_runs import UNEQUAL_NOTE, read_runs, shorten_names
from fairweather.report.levels import LARGE_PANELS, MOST_LARGE, SMALL_PANELS
from fairweather.report.page.shell import pack_json, read_script, write_policy
from fairweather.report.provenance import write_citation
from fairweather.report.reliability import MOST_SHIFTS, find_worst_conditions, keep_hardest
from fairweather.report.review import RISKS, CellColumns, measure_review
from fairweather.report.samples import CellImage
from fairweather.report.training import read_warnings
from fairweather.runs.folder import RunFolder
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS
from fairweather.types.record import CORRELATION, HISTORY, WEIGHTS, ModelRecord
from tests.conftest import figures_left_out, pngs_left_out
from tests.helpers.chance import most
from tests.helpers.run_folders import change_record, copy_run, finish
from tests.report.test_report import MODELS, carried, make_run


def make_columns(n=400, classes=7, seed=0) -> CellColumns:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    predicted = np.where(rng.random(n) < 0.7, labels, rng.integers(classes, size=n))
    confidence = np.round(rng.random(n), 2)  # with ties
    confidence[:3] = (0.0, 1.0, 0.5)
    return CellColumns(rng.permutation(n) * 10**12, labels, predicted, confidence)


@pytest.fixture(scope="module")
def columns() -> CellColumns:
    return make_columns()


def test_confusions_are_counted_one_by_one(columns):
    triples = count_confusions([columns], 7)
    pairs = {(label, predicted) for label, predicted, _ in triples}
    assert len(pairs) == len(triples)
    assert pairs == set(zip(columns.labels.tolist(), columns.predicted.tolist(), strict=True))
    for label, predicted, share in triples:
        mine = columns.labels == label
        assert share == pytest.approx((columns.predicted[mine] == predicted).mean(), abs=1e-4)


def test_confusions_are_means_over_seeds():
    seeds = [make_columns(seed=seed) for seed in (0, 1)]
    both = {(a, b): share for a, b, share in count_confusions(seeds, 7)}
    for at in range(7):
        assert sum(share for (a, _), share in both.items() if a == at) == pytest.approx(1, abs=1e-3)
    hits = [((each.labels == 2) & (each.predicted == 2)).sum() for each in seeds]
    images = [(each.labels == 2).sum() for each in seeds]
    assert both[2, 2] == pytest.approx(sum(hits) / sum(images), abs=1e-4)


def test_of_many_classes_the_most_frequent_confusions_are_kept():
    classes = MOST_CLASSES + 10
    columns = make_columns(n=4000, classes=classes)
    triples = count_confusions([columns], classes)
    assert len(triples) == CONFUSIONS
    assert all(label != predicted for label, predicted, _ in triples)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (columns.labels, columns.predicted), 1)
    np.fill_diagonal(counts, 0)
    shown = [counts[label, predicted] for label, predicted, _ in triples]
    assert sorted(shown, reverse=True) == sorted(counts.ravel(), reverse=True)[:CONFUSIONS]


# What has to go to a person.


def test_what_is_needed_is_the_rest_of_the_coverage(columns):
    known = Grouping(np.arange(400) // 4)
    for grouping in (None, known):
        found = deferral_shares(columns.confidence, columns.correct, RISKS, grouping)
        for risk, score in zip(RISKS, found, strict=True):
            asked = {"risk": risk, "grouping": grouping}
            kept = coverage_at_risk(columns.confidence, columns.correct, risk=risk)
            low, high = coverage_interval(columns.confidence, columns.correct, **asked)
            assert score == pytest.approx((1 - kept, 1 - high, 1 - low, 400))


def test_the_interval_of_what_is_needed_holds_the_truth_often_enough():
    # Right with a chance of the confidence itself, which is even in [0, 1]: of the answers above a
    # threshold t, (1 - t) / 2 are wrong, so a risk of 0.2 needs t = 0.6, and one of 0.01 t = 0.98.
    rng = np.random.default_rng(0)
    trials, missed = 400, np.zeros((2, 2))
    for _ in range(trials):
        sure = rng.random(500)
        scores = deferral_shares(sure, rng.random(500) < sure, [0.2, 0.01])
        missed += [[s.low > t, s.high < t] for s, t in zip(scores, (0.6, 0.98), strict=True)]
    assert missed.max() <= most(trials, 0.025)


@pytest.mark.parametrize("risk", [-0.1, 1.1, float("nan")])
def test_a_risk_that_is_no_share_is_refused(columns, risk):
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        deferral_shares(columns.confidence, columns.correct, [risk])


def test_a_review_is_the_mean_over_seeds_counted_one_by_one(pair):
    contents = read_contents(pair[1])
    cell = next(iter(contents.sweeps[0].cells.values()))
    thresholds = {"0": [0.3] * len(RISKS), "1": [0.9] * len(RISKS)}
    review = measure_review(contents, "third", cell, thresholds)
    shares, wrong, needed = [], [], []
    for seed, (threshold, *_) in thresholds.items():
        predictions = contents.read_predictions("third", seed, cell)
        order = np.argsort(-predictions.confidence, kind="stable")
        errors = np.cumsum(~predictions.correct[order])
        answered = np.arange(1, len(order) + 1)
        for_risk = [answered[errors <= risk * answered + 1e-12] for risk in RISKS]
        needed.append([1 - max(kept, default=0) / len(order) for kept in for_risk])
        sent = predictions.confidence < threshold
        shares.append(sent.mean())
        wrong.append((~predictions.correct[~sent]).mean())
    assert review.n == 80
    assert review.sent == pytest.approx([np.mean(shares)] * len(RISKS))
    assert review.wrong == pytest.approx([np.mean(wrong)] * len(RISKS))
    assert [score.value for score in review.needed] == pytest.approx(np.mean(needed, axis=0))
    for score in review.needed:
        assert score.low <= score.value <= score.high


def test_what_is_needed_at_five_per_cent_is_the_number_of_the_scores(pair, joint):
    scores = read_runs(pair)
    for model, stops in carried(joint)["review"].items():
        stop = stops[RISKS.index(0.05)]
        coverage = scores.score("coverage_at_risk/0.05", model, "clean", "none")
        [needed, _] = stop["rows"][0][2]
        assert needed[1] == pytest.approx(1 - coverage.value, abs=1e-5)
        assert stop["risk"] == "5\N{NO-BREAK SPACE}%"


# The worst classes and groups.


def test_the_parts_with_the_lowest_accuracy_are_counted_one_by_one(drawn):
    contents = read_contents(drawn)
    rng = np.random.default_rng(3)
    parts = np.concatenate([np.repeat(np.arange(6), FEWEST_IMAGES), np.repeat(6, 9), [7]])
    names = tuple("ABCDEFGH")
    clean = (rng.random((len(parts), 2)) < 0.9).astype(float)
    shifted = rng.random((len(parts), 2)) * (1 - parts[:, None] / 20)
    rows, said = find_hurt(contents, Division("site", names, parts), clean, shifted)
    means = {names[at]: shifted[parts == at].mean() for at in range(6)}  # the others are too small
    worst = sorted(means, key=means.get)[:5]
    assert [row.title for row in rows] == [f"Site {name}" for name in worst]
    assert {row.note for row in rows} == {f"{FEWEST_IMAGES} images"}
    for row, name in zip(rows, worst, strict=True):
        before, there = row.marks
        assert before[1] == pytest.approx(clean[parts == names.index(name)].mean(), abs=1e-5)
        assert there[1] == pytest.approx(means[name], abs=1e-5)
        assert there[2] <= there[1] <= there[3]
    assert said[0].startswith(f"Site {worst[0]} fares worst: ")
    assert find_hurt(contents, Division("site", ("A",), parts * 0), clean, shifted) is None


# Levels whose pictures are shown.


@pytest.mark.parametrize(
    ("levels", "worst", "shown"),
    [
        ("1 2 3 4 5", "5", "2 4 5"),
        ("1 2 3 4 5", "3", "1 2 3"),
        ("-3 -2 -1 1 2", "-3", "-1 -2 -3"),
        ("1 9", "9", "1 9"),
        ("4", "4", "4"),
        ("0", "0", ""),
    ],
)
def test_pictures_lead_from_clean_to_the_worst_level(levels, worst, shown):
    sweep = Sweep("fog", "Fog", "level", 0.0, "", dict.fromkeys(levels.split(), "cell"))
    assert choose_rows(sweep, worst) == shown.split()


# What the page carries.


def test_predictions_are_looked_up_by_key(columns):
    keys = [int(columns.keys[7]), int(columns.keys[300]), 123]
    found = find_predictions(columns, "fog", keys)
    assert found.keys() == {CellImage(keys[0], "fog"), CellImage(keys[1], "fog")}
    shown = found[CellImage(keys[1], "fog")]
    assert shown[:2] == (columns.labels[300], columns.predicted[300])
    assert shown.confidence == pytest.approx(columns.confidence[300])


def test_packing_is_the_same_each_time_and_carries_everything():
    content = {"b": "</script><!--", "a": [1, None, 0.5, "ε"]}
    assert pack_json(content) == pack_json(content)
    assert set(pack_json(content)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    )
    assert json.loads(gzip.decompress(base64.b64decode(pack_json(content)))) == content
    with pytest.raises(ValueError, match="JSON"):
        pack_json({"nan": float("nan")})


def test_the_script_cannot_end_itself_and_evaluates_nothing_of_the_runs():
    for name in ("page.js", "runs.js"):
        text = read_script(name)
        assert "</script" not in text
        assert "innerHTML" not in text
        assert "unsafe-eval" not in write_policy([text])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> RunFolder:
    """A run with its page."""
    run = make_run(tmp_path_factory.mktemp("drawn") / "run", n=60)
    with figures_left_out():
        build_report(run)
    return run


def test_every_cell_and_every_picture_is_carried(drawn):
    run, data = drawn, carried(drawn)
    cells = {
        "clean",
        *(cell for sweep in read_contents(run).sweeps for cell in sweep.cells.values()),
    }
    assert set(data["confusions"]) == set(data["knows"]) == set(MODELS)
    for model, shifts in data["knows"].items():
        every = {level["cell"] for own in shifts.values() for level in own["levels"]}
        assert every == cells
        worst = {own["worst"] for own in shifts.values()}
        assert set(data["confusions"][model]) == {"clean", *worst}
    gallery = data["gallery"]
    assert set(gallery["strip"]) == cells
    assert gallery["mistakes"].keys() == set(MODELS)
    for picture in gallery["pictures"]:
        assert picture["image"].startswith("data:image/webp;base64,")
        assert picture["cell"] in cells
    # A mistake of a model is one by what the page says of it.
    for at, model in enumerate(MODELS):
        for shift, indices in gallery["mistakes"][model].items():
            for index in indices:
                picture = gallery["pictures"][index]
                assert picture["predictions"][at][0] != picture["label"], (model, shift)
    for indices in gallery["lost"].values():
        for index in indices:
            picture = gallery["pictures"][index]
            assert all(each[0] != picture["label"] for each in picture["predictions"])


# Figures of many shifts.


def test_many_shifts_are_drawn_small_and_the_hardest_kept(tmp_path, no_page, no_pngs):
    shifts = [{f"imagenet_c/{name}": [1, 5]} for name in [*CORRUPTIONS][:15]]
    run = make_run(tmp_path / "run", models={"basic": "Basic"}, shifts=shifts, n=40, size=None)
    names = build_report(run)
    contents = read_contents(run)
    assert len(contents.sweeps) == 15 > MOST_LARGE
    assert SMALL_PANELS.columns > LARGE_PANELS.columns
    conditions = find_worst_conditions(contents)
    kept = keep_hardest(contents, conditions)
    assert len(conditions) == 16
    assert len(kept) == 1 + MOST_SHIFTS
    assert kept[0] == conditions[0]
    assert [each for each in conditions if each in kept] == kept
    means = {
        each: contents.score("accuracy", "basic", each.shift, each.level).value
        for each in conditions[1:]
    }
    left = [means[each] for each in means if each not in kept]
    assert max(means[each] for each in kept[1:]) <= min(left)
    text = (run.path / "figures/reliability.svg").read_text()
    assert "of the 5 shifts of 15" in " ".join(text.replace("</tspan>", " ").split())
    assert "figures/accuracy.svg" in names


def test_the_farthest_level_is_on_either_side():
    cells = dict.fromkeys(("0.2", "0.9", "1.4"), "cell")
    assert Sweep("b", "B", "f", 1.0, "", cells).farthest == "0.2"
    assert Sweep("b", "B", "f", 0.5, "", cells).farthest == "1.4"


# Several runs in one report.


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[RunFolder, RunFolder]:
    folder = tmp_path_factory.mktemp("pair")
    one = make_run(folder / "one", models={"basic": "Basic", "other": "Other"}, n=80)
    two = make_run(
        folder / "two:b+c",
        models={"basic": "Basic", "third": "Third"},
        shifts=[{"brightness_factor": [0.7, 1.5]}],
        seeds=(0, 1),
        n=80,
    )
    return one, two


@pytest.fixture(scope="module")
def joint(pair, tmp_path_factory) -> RunFolder:
    """The report of both."""
    folder = RunFolder(tmp_path_factory.mktemp("reports") / "joint")
    with pngs_left_out():
        build_joint_report(pair, folder.path)
    return folder


def test_models_of_several_runs_stand_beside_each_other(pair, joint):
    names = json.loads((joint.path / JOINT_LISTING).read_text())["files"]
    assert all((joint.path / name).is_file() for name in names)
    contents = read_runs(pair)
    assert list(contents.titles) == ["one:basic", "one:other", "two-b-c:basic", "two-b-c:third"]
    assert list(contents.titles.values()) == ["Basic (one)", "Other", "Basic (two-b-c)", "Third"]
    assert {"report.html", "tables/summary_accuracy.md", "figures/accuracy.svg"} <= set(names)
    data = carried(joint)
    assert len(data["knows"]["one:basic"]) == 2
    assert len(data["knows"]["two-b-c:third"]) == 1
    own = read_contents(pair[0]).score("accuracy", "basic", "clean", "none")
    assert contents.score("accuracy", "one:basic", "clean", "none") == own
    mean = read_contents(pair[1]).score("accuracy", "third", "clean", "none")
    assert contents.score("accuracy", "two-b-c:third", "clean", "none") == mean


def test_levels_of_several_runs_are_put_together_with_a_word(pair):
    [brightness, blur] = read_runs(pair).sweeps
    assert list(brightness.cells) == ["0.7", "0.9", "1.2", "1.5"]
    assert list(blur.cells) == ["0.3", "0.9"]
    assert read_runs(pair).caution == UNEQUAL_NOTE
    assert read_runs(pair).seeds_of("one:basic") == ("0",)
    assert read_runs(pair).seeds_of("two-b-c:third") == ("0", "1")


def test_a_level_that_means_something_else_stands_for_itself(pair, tmp_path):
    blurred = make_run(
        tmp_path / "wide",
        models={"basic": "Basic"},
        shifts=[
            {"gaussian_blur": {"sigma": [0.3, 0.9], "kernel_size": 7}},
            {"brightness_factor": [0.7]},
        ],
        n=80,
        size=None,
    )
    contents = read_runs([pair[0], blurred])
    names = [sweep.name for sweep in contents.sweeps]
    assert names == ["brightness_factor", "gaussian_blur", "gaussian_blur@wide"]
    assert contents.sweeps[2].title == "Gaussian blur (wide)"
    assert contents.score("accuracy", "wide:basic", "gaussian_blur", "0.9") is None
    own = read_contents(blurred).score("accuracy", "basic", "gaussian_blur", "0.9")
    assert contents.score("accuracy", "wide:basic", "gaussian_blur@wide", "0.9") == own
    shared = contents.score("accuracy", "wide:basic", "brightness_factor", "0.7")
    assert shared == read_contents(blurred).score("accuracy", "basic", "brightness_factor", "0.7")


def test_other_levels_of_another_kind_stand_for_themselves_too(pair, tmp_path):
    shifts = [{"gaussian_blur": [0.5, 2]}]
    other = make_run(tmp_path / "wide", models={"basic": "Basic"}, shifts=shifts, n=80, size=None)
    names = [sweep.name for sweep in read_runs([pair[0], other]).sweeps]
    assert names == ["brightness_factor", "gaussian_blur", "gaussian_blur@wide"]


@pytest.mark.parametrize(
    ("first", "second", "sweeps"),
    [
        ({"sigma": [5], "kernel_size": 5}, {"sigma": [3], "kernel_size": 3}, 2),
        ({"sigma": [1, 3], "kernel_size": 3}, {"sigma": [3], "kernel_size": 3}, 1),
    ],
)
def test_a_level_that_reads_like_another_parameter_is_none(tmp_path, first, second, sweeps):
    runs = [
        make_run(tmp_path / name, models={"basic": "B"}, shifts=[{"gaussian_blur": of}], n=30)
        for name, of in (("one", first), ("two", second))
    ]
    assert len(read_runs(runs).sweeps) == sweeps


def state_constants(facts):
    for cell in facts["sweeps"][0]["cells"]:
        cell["constants"] = f"amount {cell['level']:g}"


def test_constants_of_several_runs_are_put_together(tmp_path):
    runs = []
    for name, levels in (("few", [1, 3]), ("many", [1, 2, 5])):
        shifts = [{"imagenet_c/fog": levels}]
        run = make_run(tmp_path / name, models={"basic": "Basic"}, shifts=shifts, n=40, size=None)
        runs.append(change_record(run, state_constants))
    [fog] = read_runs(runs).sweeps
    assert fog.constants == {level: f"amount {level}" for level in ("1", "2", "3", "5")}


def test_the_caution_stands_above_the_details(joint):
    page = html.unescape((joint.path / "report.html").read_text())
    assert f"Beware: {UNEQUAL_NOTE}" in page.partition('<section id="details">')[2]


def test_a_broken_record_is_one_sentence(pair, tmp_path):
    copy = copy_run(pair[0], tmp_path / "broken")
    for text in ("{", "[]", '{"version": 2}'):
        copy.write("record.json", text)
        with pytest.raises(InputError, match=r"record\.json is not the record of") as caught:
            build_report(RunFolder(copy.path))
        assert "\n" not in str(caught.value)


def test_a_joint_report_is_the_same_each_time(pair, joint, tmp_path, no_pngs):
    build_joint_report(pair, tmp_path / "second")
    first, second = (folder / "report.html" for folder in (joint.path, tmp_path / "second"))
    assert first.read_bytes() == second.read_bytes()


def test_runs_of_other_images_are_refused(pair, tmp_path):
    other = copy_run(pair[0], tmp_path / "other")
    other = change_record(other, lambda facts: facts["data"]["digests"].update(test="beef"))
    with pytest.raises(InputError, match=r"same test images, but one has 80 of digits .* other"):
        build_joint_report([pair[0], other], tmp_path / "joint")
    assert not (tmp_path / "joint").exists()


def test_runs_with_other_noise_are_refused(pair, tmp_path):
    other = copy_run(pair[0], tmp_path / "other")
    other = change_record(other, lambda facts: facts["settings"].update(shift_seed=7))
    with pytest.raises(InputError, match=r"same shift_seed, .* one has 0, other has 7; report"):
        read_runs([pair[0], other])


def test_unequal_runs_are_marked_wherever_means_stand(pair, joint, tmp_path):
    for name in ("summary_accuracy", "accuracy_brightness_factor"):
        assert UNEQUAL_NOTE in (joint.path / f"tables/{name}.md").read_text()
    twin = copy_run(pair[0], tmp_path / "twin")
    assert read_runs([pair[0], twin]).caution == ""


def test_a_level_that_few_models_have_is_not_the_worst_for_all(pair):
    contents = read_runs(pair)
    [_, brightness, _] = find_worst_conditions(contents)
    assert brightness.level == "0.7"  # the only one that both runs have


def test_warnings_of_several_runs_stand_beside_each_other(pair, tmp_path):
    runs = []
    for name in ("left", "right"):
        run = copy_run(pair[0], tmp_path / name)
        run.write("warnings.json", json.dumps({"Basic": f"{name} warns"}))
        runs.append(run)
    assert read_warnings(read_runs(runs)) == {
        "left: Basic": "left warns",
        "right: Basic": "right warns",
    }


def test_citations_of_several_runs_have_keys_of_their_own(pair):
    keys = re.findall(r"@misc\{([^,]+),", write_citation(read_runs(pair)))
    assert len(set(keys)) == 2


def test_a_citation_is_balanced_whatever_the_names(pair):
    record = pair[0].record.model_copy(update={"title": "}{ 50% of a_b", "name": "x"})
    contents = replace(read_contents(pair[0]), records={"": record})
    text = write_citation(contents)
    assert r")( 50\% of a\_b" in text
    depth = 0
    for letter in re.sub(r"\\[{}]", "", text):
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0


def test_the_software_is_cited_by_one_title(pair):
    cited = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    [title] = re.findall(r'^title: "(.*)"$', cited, re.MULTILINE)
    assert f"title = {{{{{title}}}}}" in write_citation(read_contents(pair[0]))


def test_a_joint_report_replaces_its_own_and_nothing_else(
    pair, joint, tmp_path, no_figures, no_page
):
    joint = shutil.copytree(joint.path, tmp_path / "joint")
    assert (joint / "figures/accuracy.svg").is_file()
    assert (joint / "tables/accuracy_gaussian_blur.md").is_file()
    (joint / "mine.txt").write_text("mine")
    left = make_run(tmp_path / "left", models={"basic": "Basic"}, shifts=[], n=80, size=None)
    right = make_run(tmp_path / "right", models={"basic": "Basic"}, shifts=[], n=80, size=None)
    build_joint_report([left, right], joint)
    assert not (joint / "tables/accuracy_gaussian_blur.md").exists()
    assert not (joint / "figures/accuracy.svg").exists()
    assert (joint / "mine.txt").read_text() == "mine"
    for place in (tmp_path / "left/scores.csv", tmp_path / "other"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other/report.html").write_text("mine")
        with pytest.raises(InputError, match=r"is a file|is not empty"):
            build_joint_report(pair, place)
    assert (tmp_path / "other/report.html").read_text() == "mine"


def test_shifts_of_one_title_are_told_apart(tmp_path):
    shifts = [{"imagenet_c/jpeg_compression": [1]}, {"medmnist_c/jpeg_compression": [1]}]
    run = make_run(tmp_path / "run", models={"basic": "Basic"}, shifts=shifts, n=40, size=None)
    titles = [sweep.title for sweep in read_contents(run).sweeps]
    assert len(set(titles)) == 2
    assert all(title.startswith("JPEG compression (") for title in titles)


def test_folders_are_named_by_the_ends_of_their_paths(tmp_path):
    paths = [tmp_path / "a/x", tmp_path / "b/x", tmp_path / "y"]
    assert shorten_names(paths) == ["a-x", "b-x", "y"]
    alike = [tmp_path / "p:q", tmp_path / "p-q", tmp_path / "p+q"]
    assert len(set(shorten_names(alike))) == 3
    with pytest.raises(InputError, match="named twice"):
        shorten_names([tmp_path / "a", tmp_path / "b/../a"])


def run_app(*words: str | Path):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_command_reports_several_runs(pair, tmp_path, monkeypatch, no_figures, no_page):
    monkeypatch.chdir(tmp_path)
    done = run_app(*(run.path for run in pair))
    assert done.exit_code == 0, done.output
    assert "page    reports/one+two-b-c/report.html" in done.output
    assert (tmp_path / "reports/one+two-b-c/report.html").is_file()
    done = run_app(pair[0].path)
    assert f"page    {pair[0].path}/report.html" in done.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ONE", "--out", "x"), "--out is for several runs"),
        (("ONE", "TWO", "--track", "mlflow"), "--track sends one run"),
        (("ONE", "TWO", "--out", "ONE"), "holds a run; name another folder"),
        (("ONE", "nothing"), "holds no run"),
    ],
)
def test_the_command_says_what_cannot_be(pair, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    named = {"ONE": pair[0].path, "TWO": pair[1].path}
    done = run_app(*(named.get(word, word) for word in words))
    assert isinstance(done.exception, InputError)
    assert sentence in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_what_is_damaged_and_what_is_missing(pair, tmp_path, no_figures, no_page):
    run = copy_run(pair[0], tmp_path / "copy")
    gone = run.predictions("gone", 0, "clean")
    run.write(gone, "of a model that the study had once")
    finish(run, "predictions/gone", [gone])
    (run.path / gone).unlink()
    run.write("report.html", "")
    finish(run, "report", ["report.html"])
    run.write("report.html", "by another version")
    assert check_intact(run) == []
    cell = next(run.path.glob("predictions/*/*/test/*.parquet")).relative_to(run.path)
    (run.path / cell).unlink()
    done = run_app(run.path)
    assert done.exit_code == 0, done.output
    assert f"{run.path} has no {cell}; the report leaves out what needs it" in done.output
    run.write("scores.csv", (run.path / "scores.csv").read_text()[:2000])
    before = (run.path / "report.html").read_bytes()
    done = run_app(run.path)
    assert isinstance(done.exception, InputError)
    assert "scores.csv is damaged or was changed" in str(done.exception)
    assert (run.path / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "samples/index.json",
        "samples/pictures.parquet",
        "samples/mixup.png",
        "models/basic/seed-0/history.csv",
        "models/basic/seed-0/model.json",
        "pretraining/start/seed-0/history.csv",
        "pretraining/start/seed-0/correlation.json",
    ],
)
def test_all_that_a_report_reads_is_held_against_its_checksum(pair, tmp_path, name):
    folders = [f"pretraining/{start}/seed-0" for start in ("start", "earlier")]
    start = ModelRecord(title="Start").model_dump()
    run = change_record(
        copy_run(pair[0], tmp_path / "copy"), lambda facts: facts["pretraining"].update(start=start)
    )
    for folder in folders:
        files = [f"{folder}/{file}" for file in (HISTORY, CORRELATION, WEIGHTS)]
        for file in files:
            run.write(file, "as it was")
        finish(run, folder, files, kind="pretrain")
    # Of a pre-training that the study has no longer, and what no report reads.
    for file in (f"{folders[1]}/{HISTORY}", f"{folders[0]}/{WEIGHTS}"):
        run.write(file, "as another run left it")
    assert check_intact(run) == []
    run.write(name, "edited")
    with pytest.raises(InputError, match=f"{name} is damaged or was changed"):
        check_intact(run)
    (run.path / name).unlink()
    assert check_intact(run) == [name]
