"""The section about networks that adapt, of a run whose streams are known."""

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.inference.prediction import Predictor, predict_shared
from fairweather.inference.stopwatch import Stopwatch
from fairweather.judge.comparison import compare_runs
from fairweather.metrics.collapse import Collapse
from fairweather.report import adaptation
from fairweather.report.adaptation import (
    AdaptedPlace,
    Streams,
    _describe_afterwards,
    _describe_collapses,
    _describe_deferral,
    _describe_earlier_shifts,
    _draw_panel,
    _leave_out_impossible,
    _summarise_collapses,
    describe_adaptation,
    draw_streams,
    read_streams,
    sum_costs,
    summarise_adaptation,
    tabulate_costs,
    tabulate_streams,
    title_adapting,
)
from fairweather.report.contents import Sweep, read_contents
from fairweather.report.performance import COVERAGE, RISK
from fairweather.requests.inputs import note_streams
from fairweather.steps.score_rows import drop_adapting
from fairweather.types.measurement import Images, Passes, Score, Shift
from fairweather.variants.adaptation.networks import AdaptedNetwork
from fairweather.variants.variant import VARIANTS, Adapting, read_variant, read_variants
from tests.conftest import figures_left_out

WHERE = "tests.report.test_adaptation:Stuck"
IMAGES, STREAMS, HEALTHY = 400, 3, 6  # batches of 40 before it is stuck


@dataclass(frozen=True)
class Stuck(Adapting):
    """After some batches it gives the first class; before, it is a little better than its model."""

    kind: ClassVar[str] = "stuck"
    kind_title: ClassVar[str] = "stuck"
    batch_size: int | None = field(default=40, kw_only=True)
    orders: int = field(default=STREAMS, kw_only=True)
    after: int = HEALTHY
    sharper: float = 1.0

    def adapt(self, network, seed=0):
        def predict(adapted, images):
            logits = adapted.pass_forward(images) * self.sharper
            if adapted.batches >= self.after:
                return torch.zeros_like(logits) + 5 * torch.eye(logits.shape[1])[0]
            return logits

        return AdaptedNetwork(network, predict)


class Alone(Stuck):
    """The same, of a method to which earlier batches do not matter, as to LAME."""

    @property
    def remembers(self):
        return False


class EachAlone(Alone):
    """The same, of a method that predicts each image by itself, as views do."""

    alone: ClassVar[bool] = True


# What is said of methods that hardly adapt.
WORDS = {
    "eata: {batch_size: 40, orders: 2, fisher_weight: 0, redundancy: 1.0e-9, margin: 9}": [
        "took 2 of its 20 steps on clean images."
    ],
    "sar: {batch_size: 40, orders: 2, margin: 9, reset_below: 9}": [
        "went back to the model 20 times in 20 batches on clean images."
    ],
    "tent: {batch_size: 40, orders: 2}": [],
}


class Quadrants(nn.Module):
    """The class is the brightest of four quadrants; every fifth image has a wrong one."""

    def __init__(self, bias=0.0, sharpness=20):
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("bias", bias * torch.eye(4)[0])

    def forward(self, images):
        halves = images.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).flatten(1)
        return self.sharpness * halves + self.bias


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=IMAGES)
    pixels = rng.integers(60, size=(IMAGES, 3, 8, 8)).astype(np.uint8)
    shown = np.where(rng.random(IMAGES) < 0.2, rng.integers(4, size=IMAGES), labels)
    for image, place in enumerate(shown):
        row, column = divmod(int(place), 2)
        pixels[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 90
    return Images(
        torch.from_numpy(pixels), torch.from_numpy(labels), torch.arange(IMAGES), tuple("abcd")
    )


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapting") / "run"
    with pytest.MonkeyPatch.context() as patch, figures_left_out():
        patch.setitem(VARIANTS, "stuck", WHERE)
        yield fw.evaluate(
            Quadrants(),
            fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3),
            "brightness_factor: [0.7]",
            variants=["stuck", "stuck: {after: 99}"],
            out=folder,
            bootstrap=100,
            device="cpu",
            progress=False,
        )


def find_model(run, end):
    return next(name for name in run.folder.record.variants if name.endswith(end))


def find_value(run, model, metric, shift="clean"):
    rows = run.folder.scores
    chosen = (rows["model"] == model) & (rows["shift"] == shift) & (rows["metric"] == metric)
    return rows[chosen].iloc[0]


def test_scores_are_those_of_all_streams_and_other_parts_read_the_first(run):
    name = find_model(run, "+stuck")
    file = run.folder.predictions(name, 0, "clean")
    streams = run.folder.read_streams(file).streams
    assert len(streams) == STREAMS
    shares = [stream.correct.mean() for stream in streams]
    assert find_value(run, name, "accuracy")["value"] == pytest.approx(np.mean(shares))
    first = run.folder.read_cell(file)
    assert np.array_equal(first.predicted, streams[0].predicted)
    assert run.folder.read_images(file).place.tolist() == streams[0].place.tolist()
    predicted, place = run.folder.read_stream_columns(file, ["predicted", "place"])
    assert predicted.shape == place.shape == (STREAMS, IMAGES)
    assert np.array_equal(predicted[0], run.folder.read_column(file, "predicted"))
    assert np.sort(place, axis=1).tolist() == [list(range(IMAGES))] * STREAMS
    assert run.folder.read_passes(file) == (STREAMS * IMAGES, 0, 10 * STREAMS, 0, 0)
    plain = run.folder.predictions(drop_adapting(name), 0, "clean")
    assert run.folder.read_passes(plain) is None


def test_rows_say_what_adapting_changes(run):
    healthy, stuck = find_model(run, "99"), find_model(run, "+stuck")
    for metric in ("accuracy", "rms_calibration_error", "negative_log_likelihood"):
        changed = f"{metric}_change/adapted"
        row = find_value(run, stuck, changed)
        values = [find_value(run, m, metric)["value"] for m in (drop_adapting(stuck), stuck)]
        assert row["value"] == pytest.approx(values[1] - values[0], abs=1e-7)
        assert row["low"] <= row["value"] <= row["high"]
        # Streams that are predicted as the plain network predicts change nothing.
        assert find_value(run, healthy, changed)["value"] == pytest.approx(0, abs=1e-7)
    assert find_value(run, stuck, "accuracy_change/adapted")["high"] < 0
    assert drop_adapting("a+stuck+temperature") == "a+temperature"


def test_the_section_names_the_stream_and_the_image_of_a_collapse(run):
    contents = read_contents(run.folder)
    stuck, healthy = find_model(run, "+stuck"), find_model(run, "99")
    every = {streams.model: streams for streams in read_streams(contents)}
    assert list(every[stuck].collapsed) == list(range(STREAMS))
    assert every[healthy].collapsed == {}
    begins = 40 * HEALTHY
    for collapse in every[stuck].collapses:
        assert (collapse.kind, collapse.label) == ("one class", 0)
        assert begins - 100 < collapse.place <= begins
    beside = pd.read_csv(run.folder.file("tables/adaptation.csv")).set_index("model")
    (written,) = beside.loc[stuck, "variant"].unique()
    assert written.startswith('stuck: {"batch_size": 40, "order": "shuffled", ')
    # In the order of the stream: until then it is right as the plain network is.
    same = every[stuck].right[:, :begins] == every[stuck].plain[:, :begins]
    assert same.all()
    said = " ".join(describe_adaptation(contents)).replace("\N{NO-BREAK SPACE}", " ")
    assert f"{STREAMS} of {STREAMS} streams collapse" in said
    assert "No stream of Stuck, after 99 (batches of 40) collapsed." in said
    assert "lowers accuracy" in said
    assert "Stuck (batches of 40) raises the calibration error " in said
    place = every[stuck].collapses[0].place + 1
    table = pd.read_csv(run.folder.file("tables/adaptation_streams.csv"))
    rows = table[(table["model"] == stuck) & (table["shift"] == "clean")]
    assert rows["first image"].item() == place
    assert (rows["collapsed"].item(), rows["class"].item()) == (STREAMS, "a")
    assert f"From image {place} on, stream 1 answers “a”." in said
    page = run.folder.file("report.html").read_text()
    section = page[page.index('id="adaptation"') :]
    assert "Adapting at test time" in section
    assert f"stream 1, image {place}" in section
    # What is found stands before all tables, and the network's name in the caption alone.
    assert section.index(f"From image {place} on") < section.index("<table")
    assert "Quadrants, adapted, beside" in section
    assert "Quadrants + " not in section[: section.index("</details>")]


def test_streams_without_a_collapse_share_a_row_of_the_table(run):
    contents = read_contents(run.folder)
    table = tabulate_streams(contents)
    every = read_streams(contents)
    assert len(table.frame) == len(every) == 4
    rows = [row[1:] for row in table.body if row[0].startswith("Stuck, after 99")]
    calm = [streams for streams in every if streams.model.endswith("99")]
    widest = max(calm, key=lambda streams: np.ptp(streams.accuracies))
    shares = (f"{100 * end:.1f}" for end in (widest.accuracies.min(), widest.accuracies.max()))
    (row,) = rows
    assert row[0].endswith(", and 1 other set of images that varies less")
    assert row[1:] == [str(STREAMS), *shares, f"0 of {STREAMS}", "–"]
    assert len(table.body) == 1 + 2  # each collapse has a row of its own


def test_mixed_streams_have_places_costs_and_collapses_of_their_own(images, tmp_path):
    """Each has the images of three cells, in batches whose number is no multiple of three."""
    mixed = "cells: mixed, batch_size: 64, orders: 2"
    learns_once = "fisher_weight: 0, redundancy: 1.0e-9, margin: 9"
    with pytest.MonkeyPatch.context() as patch, figures_left_out():
        patch.setitem(VARIANTS, "stuck", WHERE)
        run = fw.evaluate(
            nn.Sequential(nn.BatchNorm2d(3), Quadrants()),
            fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3),
            "brightness_factor: [0.7, 0.8]",
            variants=[f"stuck: {{{mixed}, after: 8}}", f"eata: {{{mixed}, {learns_once}}}"],
            out=tmp_path / "run",
            bootstrap=100,
            device="cpu",
            progress=False,
        )
        contents = read_contents(run.folder)
        stuck, eata = read_streams(contents)
        said, table = describe_adaptation(contents), tabulate_streams(contents)
    assert stuck.right.shape == (2, 3 * IMAGES)
    batches = 2 * -(-3 * IMAGES // 64)
    assert stuck.passes == (2 * 3 * IMAGES, 0, batches, 0, 0)
    assert (eata.passes.batches, eata.passes.steps) == (batches, 2)
    seed = contents.seeds_of(stuck.model)[0]
    cells = list(contents.cells)
    own = contents.read_seconds(stuck.model, seed, cells[0])
    plain = [contents.read_seconds(drop_adapting(stuck.model), seed, cell) for cell in cells]
    assert stuck.seconds == pytest.approx(3 * own)
    assert stuck.plain_seconds == pytest.approx(3 * np.median(plain))
    # Until it is stuck, it is right as the plain network is, in the order of the whole stream.
    begins = sum(map(len, np.array_split(np.arange(3 * IMAGES), batches // 2)[:8]))
    np.testing.assert_array_equal(stuck.right[:, :begins], stuck.plain[:, :begins])
    assert not np.array_equal(stuck.right, stuck.plain)
    assert set(stuck.collapsed) == {0, 1}
    assert all(begins - 100 < sign.place <= begins for sign in stuck.collapsed.values())
    here = "on clean and shifted images"
    place = f"{stuck.collapsed[0].place + 1:,}"
    titles = contents.once(title_adapting)
    collapse = f"{titles[stuck.model]}: 2 of 2 streams collapse {here}. From image {place} on, "
    assert f"{collapse}stream 1 answers “a”." in said
    learned = f"{titles[eata.model]} took 2 of its {batches} steps {here}."
    assert learned in said
    assert table.body[0][-1] == f"stream 1, image {place}"
    assert table.frame["shift"].tolist() == ["mixed"] * 2
    costs = pd.read_csv(run.folder.file("tables/adaptation_costs.csv"))
    assert costs["batches"].tolist() == [batches] * 2
    panel = _draw_panel(contents, stuck).to_dict()
    assert max(row["image"] for row in panel["layer"][1]["data"]["values"]) == 3 * IMAGES
    # Without one of their cells, places are not those of the stream.
    run.folder.path.joinpath(run.folder.predictions(stuck.model, seed, cells[1])).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "stuck", WHERE)
        left = read_streams(read_contents(run.folder))
    assert [own.model for own in left] == [eata.model]


def test_long_titles_of_panels_are_wrapped(run):
    contents = read_contents(run.folder)
    (streams, *_) = read_streams(contents)
    title = "LAME, imbalanced, orders 2, mixed (batches of at most 64)"
    named = SimpleNamespace(
        once=lambda _: {streams.model: title}, cells=contents.cells, sweeps=contents.sweeps
    )
    lines = _draw_panel(named, streams).to_dict()["title"]["text"]
    assert lines == ["LAME, imbalanced, orders 2, mixed (batches of", "at most 64)"]


def test_what_collapses_in_one_cell_could_have_done_so_in_all():
    right = [[1.0, 0.0] * 50] * 2
    calm = make_streams(right, right, [None, None])
    fallen = calm._replace(collapses=[Collapse("one class", 9, 0), None])
    for adapting, cells, kept in (
        (Stuck(), [calm, calm], [True, True]),
        (Stuck(), [calm._replace(remark="1 batch"), calm], [False, True]),
        (Alone(), [calm, calm], [False, False]),
        (Alone(), [calm, fallen], [True, True]),
        (EachAlone(), [calm, fallen], [False, False]),
    ):
        found = _leave_out_impossible(adapting, cells)
        assert [streams.collapses is not None for streams in found] == kept


def evaluate_stuck(images, variant, out, where=WHERE):
    with pytest.MonkeyPatch.context() as patch, figures_left_out():
        patch.setitem(VARIANTS, "stuck", where)
        data = fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3)
        options = {"bootstrap": 100, "device": "cpu", "progress": False}
        run = fw.evaluate(Quadrants(sharpness=4), data, (), variants=[variant], out=out, **options)
        contents = read_contents(run.folder)
        table = pd.read_csv(run.folder.file("tables/adaptation_streams.csv"))
        return read_streams(contents)[0], table, run.folder.file("report.html").read_text()


def test_a_network_that_becomes_certain_with_the_same_answers_has_not_collapsed(images, tmp_path):
    streams, table, page = evaluate_stuck(
        images, "stuck: {after: 99, sharper: 100}", tmp_path / "a"
    )
    np.testing.assert_array_equal(streams.right, streams.plain)
    assert streams.collapsed == {}
    assert table["collapsed"].item() == 0
    assert "not examined" not in page


@pytest.mark.parametrize(
    ("name", "after", "collapsed"),
    [("Alone", 0, [STREAMS]), ("Alone", 99, []), ("EachAlone", 0, [])],
)
def test_one_class_is_found_where_each_batch_is_alone(images, tmp_path, name, after, collapsed):
    where, variant = WHERE.replace("Stuck", name), f"stuck: {{after: {after}}}"
    streams, table, _ = evaluate_stuck(images, variant, tmp_path / "a", where)
    assert streams.is_examined == bool(collapsed)
    assert table["collapsed"].dropna().tolist() == collapsed


def test_hardly_adapting_and_coming_back_is_said(images, tmp_path):
    adapts, lines = "scales and shifts of batch norm (1 of 1 layers): 6 of 6 numbers", []
    for number, (text, words) in enumerate(WORDS.items()):
        with figures_left_out():
            run = fw.evaluate(
                nn.Sequential(nn.BatchNorm2d(3), Quadrants()),
                fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3),
                (),
                variants=[text],
                out=tmp_path / str(number),
                bootstrap=100,
                device="cpu",
                progress=lambda event: lines.append(event.line),
            )
        contents = read_contents(run.folder)
        (title,) = title_adapting(contents).values()
        said = [
            text
            for text in describe_adaptation(contents)
            if " of its " in text or " times " in text
        ]
        assert [text.removeprefix(f"{title} ") for text in said] == words
        table = pd.read_csv(run.folder.file("tables/adaptation_costs.csv"))
        assert table["batches"].item() == 20
        assert table["adapts"].item() == adapts
        page = run.folder.file("report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
        assert adapts.capitalize() in page
        (line,) = [line for line in lines if adapts in line]
        assert line.startswith("adapts         ")
        lines.clear()


def test_what_adapts_is_said_once_though_clean_images_come_again(images, tmp_path):
    lines = []
    with figures_left_out():
        run = fw.evaluate(
            nn.Sequential(nn.BatchNorm2d(3), Quadrants()),
            fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3),
            ["brightness_factor: [0.5]"],
            variants=["tent: {cells: continual, batch_size: 20, orders: 1}"],
            out=tmp_path / "run",
            bootstrap=100,
            device="cpu",
            progress=lambda event: lines.append(event.line),
        )
    assert "clean_after/all" in set(run.scores["shift"])
    (said,) = [line for line in lines if line.startswith("adapts ")]
    table = pd.read_csv(run.folder.file("tables/adaptation_costs.csv"))
    assert said.endswith(table["adapts"].item())


def test_the_caption_has_the_window_of_short_streams(images, tmp_path):
    _, _, page = evaluate_stuck(images[:40], "stuck: {after: 0}", tmp_path / "a")
    words = "Collapsed: over 20 images, the network gives one class"
    assert words in page.replace("\N{NO-BREAK SPACE}", " ")


def test_streams_of_few_images_are_not_examined(images, tmp_path):
    streams, table, page = evaluate_stuck(images[:18], "stuck: {after: 0}", tmp_path / "a")
    assert not streams.is_examined
    assert table[["collapsed", "share low", "share high"]].isna().all(axis=None)
    assert "not examined" in page


def test_sentences_are_short_and_captions_say_what_intervals_cover(run):
    contents = read_contents(run.folder)
    assert contents.intervals == "95 % bootstrap intervals over images (and streams)"
    longest = max(len(title.split()) for title in contents.titles.values())
    for text in describe_adaptation(contents):
        for sentence in text.split(". "):
            assert len(sentence.split()) <= 20 + longest, sentence


def test_the_figure_has_a_panel_for_each_model(run):
    figure = draw_streams(read_contents(run.folder))
    assert figure.name == "adaptation"
    for words in ("Stuck, after 99", "image of the stream", "Accuracy along the stream"):
        assert words in figure.svg


def test_models_that_adapt_are_compared_by_image_and_stream(run):
    stuck, healthy = find_model(run, "+stuck"), find_model(run, "99")
    plain = drop_adapting(stuck)
    path = run.folder.path
    rows = compare_runs(f"{path}:{plain}", f"{path}:{stuck}")
    clean = rows[(rows["shift"] == "clean") & (rows["metric"] == "accuracy")].iloc[0]
    row = find_value(run, stuck, "accuracy_change/adapted")
    assert clean["difference"] == pytest.approx(row["value"], abs=1e-7)
    assert clean["low"] < clean["difference"] < clean["high"] < 0
    rows = compare_runs(f"{path}:{healthy}", f"{path}:{plain}")
    assert rows["difference"].abs().max() < 1e-12


def test_several_seeds_ensembles_and_fits_keep_all_streams(images, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "stuck", WHERE)
    monkeypatch.setattr("fairweather.report.building._draw_figures", lambda *_: [])
    data = fw.Dataset("quadrants", None, images[200:], images[:200], (0.0,) * 3, (1.0,) * 3)
    short = "stuck: {after: 99, orders: 2}"
    run = fw.evaluate(
        {"quadrants-seed0": Quadrants(), "quadrants-seed1": Quadrants(bias=0.5)},
        data,
        "brightness_factor: [0.7]",
        variants=[
            short,
            {"temperature": {"of": short}},
            {"conformal": {"of": short, "coverage": 0.8}},
        ],
        out=tmp_path / "run",
        bootstrap=100,
        device="cpu",
        progress=False,
    )
    adapted = find_model(run, "+stuck-orders2-after99")
    scaled, sets = (
        next(n for n in run.folder.record.variants if k in n) for k in ("+temp", "+conf")
    )
    for name in (adapted, scaled, sets):
        for seed in (0, 1):
            file = run.folder.predictions(name, seed, "clean")
            streams = run.folder.read_streams(file).streams
            assert len(streams) == 2
            assert sorted(streams[1].place.tolist()) == list(range(200))
    places = [
        stream.place.tolist()
        for seed in (0, 1)
        for stream in run.folder.read_streams(run.folder.predictions(sets, seed, "clean")).streams
    ]
    assert all(one != other for one, other in itertools.combinations(places, 2))
    rows = run.folder.scores
    for name in (adapted, sets):
        own = rows[(rows["model"] == name) & (rows["shift"] == "clean")]
        accuracy = own[own["metric"] == "accuracy"].set_index("seed")["value"]
        assert accuracy["mean"] == pytest.approx((accuracy["0"] + accuracy["1"]) / 2)
    assert "accuracy_change/adapted" in set(rows[rows["seed"] == "mean"]["metric"])
    assert run.folder.read_cell(file).set_size is not None


def make_streams(right, plain, collapses, remark="", cell="clean"):
    return Streams("a+tent", cell, np.array(right), np.array(plain), collapses, remark, None)


def describe_streams(*streams):
    cells = {"clean": ("clean", "none")}
    contents = SimpleNamespace(
        once=lambda _: {"a+tent": "TENT"},
        cells=cells,
        sweeps=(),
        classes=("cat", "dog"),
        first_seed="",
    )
    return list(_describe_collapses(streams, contents))


def test_what_cannot_collapse_is_not_said_to_have_survived():
    right = [[1.0, 0.0] * 50] * 5
    assert describe_streams(make_streams(right, right, None)) == []
    remark = "1 batch a stream: no step changes an answer."
    assert describe_streams(make_streams(right, right, None, remark)) == [f"TENT: {remark}"]
    assert describe_streams(make_streams(right[:1], right[:1], [None])) == []
    (said,) = describe_streams(make_streams(right, right, [None] * 5))
    assert said.startswith("No stream of TENT collapsed. With 5 streams,")


def test_a_large_fall_without_a_collapse_is_said():
    right, plain = [[0.0] * 60 + [1.0] * 40] * 5, [[1.0] * 100] * 5
    (said,) = describe_streams(make_streams(right, plain, [None] * 5))
    assert said == "TENT loses 60 points on clean images. No stream collapsed to one class there."
    (said,) = describe_streams(make_streams(right, plain, None))
    assert said == "TENT loses 60 points on clean images."
    sign = Collapse("one class", 9, 0)
    (said,) = describe_streams(make_streams(right[:1], plain[:1], [sign]))
    assert said == (
        "TENT: its stream collapses on clean images. From image 10 on, stream 1 answers “cat”."
    )
    sure = Collapse("certain", 9, 0)
    (said,) = describe_streams(make_streams(right, plain, [sure, *[None] * 4]))
    assert said.startswith("TENT: 1 of 5 streams collapses on clean images. ")
    assert said.endswith("From image 10 on, stream 1 is sure of wrong answers.")


def test_several_large_falls_are_said_once():
    right, plain = [[0.0] * 60 + [1.0] * 40] * 5, [[1.0] * 100] * 5
    every = [make_streams(right, plain, [None] * 5)._replace(model=name) for name in ("a", "b")]
    contents = SimpleNamespace(
        once=lambda _: {"a": "TENT", "b": "SAR"},
        cells={"clean": ("clean", "none")},
        sweeps=(),
        first_seed="",
    )
    (said,) = _describe_collapses(every, contents)
    assert said.startswith("2 networks lose 20 points or more. TENT loses 60 points on clean ")


def test_networks_that_did_not_collapse_are_named_if_few():
    right = [[1.0, 0.0] * 50] * 5
    once = [[0.0] * 60 + [1.0] * 40]
    for count, which in ((3, "A or of B or of C"), (4, "4 of the 5 networks")):
        every = [make_streams(right, right, [None] * 5)._replace(model=m) for m in "abcd"[:count]]
        every += [make_streams(once, once, [None])._replace(model="e")]
        contents = SimpleNamespace(once=lambda _: {m: m.upper() for m in "abcde"}, first_seed="")
        (said,) = _describe_collapses(every, contents)
        assert said.startswith(f"No stream of {which} collapsed. With 5 streams, ")


def test_the_front_names_the_largest_share_of_collapsed_streams():
    right, sign = [[1.0, 0.0] * 50] * 5, Collapse("one class", 9, 0)
    cells = {"clean": ("clean", "none")}
    titles = {m: m.upper() for m in "abc"}
    contents = SimpleNamespace(once=lambda _: titles, cells=cells, sweeps=(), first_seed="")
    every = [
        make_streams(right, right, [sign] * number + [None] * (5 - number))._replace(model=model)
        for model, number in (("a", 1), ("b", 3), ("c", 0))
    ]
    (said,) = _summarise_collapses(every, contents)
    more = "Streams of 1 other network collapse too."
    assert said == f"B: 3 of 5 streams collapse on clean images. {more}"
    (said,) = _summarise_collapses(every[:1], contents)
    assert said == "A: 1 of 5 streams collapses on clean images."
    contents.first_seed = "seed 0"
    (said,) = _summarise_collapses(every[:1], contents)
    assert said == "A: 1 of 5 streams collapses on clean images (seed 0)."
    assert list(_summarise_collapses(every[2:], contents)) == []


def describe_earlier(own, new, cells="continual", kind="tent"):
    """Accuracies of a network that goes on, and of new copies, by shift and level."""
    variants = {
        "a+on": read_variant(f"{kind}: {{cells: {cells}}}"),
        "a+new": read_variant(kind),
        "a+other": read_variant("tent: {batch_size: 4}"),
    }
    scores = {("a+on", *cell): score for cell, score in own.items()}
    scores |= {("a+new", *cell): score for cell, score in new.items()}
    sweeps = [
        Sweep("noise", "Noise", "level", 0.0, "", {"1": "n1", "5": "n5"}),
        Sweep("fog", "Fog", "level", 0.0, "", {"5": "f5", "1": "f1"}),
        Sweep("snow", "Snow", "level", 0.0, "", {"1": "s1"}),
        Sweep("brightness", "Brightness", "factor", 1.0, "", {"0.8": "b8", "1.2": "b12"}),
        Sweep("pgd", "PGD", "budget", 0.0, "", {"1": "p1"}, kind="attack"),
    ]
    titles = {"a": "A", "a+on": "TENT, on", "a+new": "TENT", "a+other": "TENT, 4"}
    contents = SimpleNamespace(
        titles=titles,
        once=lambda _: titles,
        variant=variants.get,
        sweeps=sweeps,
        score=lambda metric, *cell: scores.get(cell),
    )
    return list(_describe_earlier_shifts(contents))


def test_what_earlier_shifts_change_is_said_beside_new_copies():
    high, low = Score(0.82, 0.78, 0.86, 99), Score(0.61, 0.57, 0.65, 99)
    lower, wide = Score(0.5, 0.46, 0.54, 99), Score(0.7, 0.6, 0.8, 99)
    shifts = [("noise", "mean"), ("fog", "mean"), ("snow", "mean")]
    new = dict.fromkeys(shifts, high)
    # Nothing comes before the first shift.
    own = dict(zip(shifts, (lower, low, high), strict=True))
    said = "TENT, on: earlier shifts matter most under fog. "
    assert describe_earlier(own, new) == [f"{said}It is 61 % right there, and new copies 82 %."]
    # A gain too; and an interval that overlaps says nothing.
    assert describe_earlier(new, own) == [f"{said}It is 82 % right there, and new copies 61 %."]
    for accuracy in (wide, high):
        assert describe_earlier(dict.fromkeys(shifts, accuracy), new) == [
            "No effect of earlier images on the accuracy of TENT, on is shown: the intervals "
            "overlap those of new copies."
        ]
    assert describe_earlier({("noise", "mean"): lower}, {("noise", "mean"): high}) == []
    # Nothing stays with a method that remembers nothing.
    assert describe_earlier(own, new, kind="lame") == []
    # Levels come from the weakest on, and each shift begins anew.
    levels = [(name, level) for name in ("noise", "fog") for level in "15"] + [("snow", "1")]
    new = dict.fromkeys(levels, high)
    own = dict(zip(levels, (lower, high, lower, low, lower), strict=True))
    assert describe_earlier(own, new, "gradual") == [
        "TENT, on: earlier levels matter most under fog at level 5. "
        "It is 61 % right there, and new copies 82 %."
    ]
    # Of two levels that are equally strong, either may be the first.
    equal = [("brightness", "0.8"), ("brightness", "1.2")]
    ends = dict.fromkeys(equal, lower), dict.fromkeys(equal, high)
    assert describe_earlier(*ends, "gradual") == []


def describe_places(monkeypatch, describe, place, scores):
    monkeypatch.setattr(adaptation, "_list_places", lambda _: [place])
    contents = SimpleNamespace(
        once=lambda _: {"a+tent": "TENT"}, score=lambda *key: scores.get(key[:3])
    )
    return list(describe(contents))


def test_a_limit_of_errors_that_adapted_answers_break_is_said(monkeypatch):
    place = AdaptedPlace("a+tent", "a", "Fog", "under fog", "fog", "mean")
    scores = {
        (RISK, "a+tent", "fog"): Score(0.2, 0.06, 0.3, 99),
        (COVERAGE, "a+tent", "fog"): Score(0.9, 0.8, 1.0, 99),
        (RISK, "a", "fog"): Score(0.5, 0.4, 0.6, 99),
        (COVERAGE, "a", "fog"): Score(0.4, 0.3, 0.5, 99),
    }
    said = ["TENT exceeds a limit of 5 % errors, set on validation images, most under fog."]
    said += ["It answers 90 %, 20 % of these wrongly."]
    plain = "The plain network answers 40 %, 50 % of these wrongly."
    given = monkeypatch, _describe_deferral, place
    assert describe_places(*given, scores) == [" ".join([*said, plain])]
    # The plain network answers nothing there, and then the limit may be kept.
    scores |= {(RISK, "a", "fog"): Score(np.nan, np.nan, np.nan, 0)}
    assert describe_places(*given, scores) == [" ".join(said)]
    scores |= {(RISK, "a+tent", "fog"): Score(0.2, 0.05, 0.3, 99)}
    assert describe_places(*given, scores) == []


def test_clean_images_after_shifts_are_beside_those_of_the_plain_network(monkeypatch):
    words, after = "on clean images after all shifts", "clean_after/all"
    place = AdaptedPlace("a+tent", "a", "Clean images after all shifts", words, after, "none")
    scores = {
        ("accuracy_change/adapted", "a+tent", after): Score(-0.1, -0.2, -0.05, 99),
        ("accuracy", "a+tent", after): Score(0.8, 0.7, 0.9, 99),
        ("accuracy", "a", "clean"): Score(0.9, 0.8, 1.0, 99),
    }
    given = monkeypatch, _describe_afterwards, place
    said = f"TENT is 80 % right {words}, the plain network 90 %."
    assert describe_places(*given, scores) == [said]
    scores |= {("accuracy_change/adapted", "a+tent", after): Score(-0.1, -0.2, 0.01, 99)}
    assert describe_places(*given, scores) == [f"{said} The interval of the change includes 0."]


def test_costs_are_those_of_the_records(run):
    """Images a second of the network alone, over all cells, from the records of the steps."""
    contents = read_contents(run.folder)
    table = pd.read_csv(run.folder.file("tables/adaptation_costs.csv")).set_index("model")
    assert len(table) == 2
    # The page has the columns that fit; the file has all.
    shown = tabulate_costs(contents)
    assert shown.layout.header[4:] == ("Steps / batches", "Images/s", "Times plain")
    assert [row[4] for row in shown.body] == ["0 / 60"] * 2
    assert {"batches", "steps", "resets", "plain speed"} < set(table)
    cells = [cell.id for cell in run.folder.record.cells()]

    def read_speed(model, images):
        files = [run.folder.predictions(model, 0, cell) for cell in ("clean", *cells)]
        steps = [run.folder.step(file.removesuffix(".parquet")) for file in files]
        return np.median([images / step.network_seconds for step in steps])

    for model, row in table.iterrows():
        speed, plain = read_speed(model, STREAMS * IMAGES), read_speed(drop_adapting(model), IMAGES)
        assert row["speed"] == pytest.approx(speed)
        assert row["plain speed"] == pytest.approx(plain)
        assert row["times plain"] == pytest.approx(plain / speed)
        assert row["forward"] == 1
    # Runs of earlier versions have no such times.
    (streams, *_) = read_streams(contents)
    forward, *_, speed, plain, times = sum_costs(
        [streams._replace(seconds=None, plain_seconds=None)]
    )
    assert forward == 1
    assert np.isnan([speed, plain, times]).all()
    assert sum_costs([streams._replace(passes=None)]) is None


def test_a_slow_first_cell_changes_no_speed():
    """As where a network is compiled. Clean images after shifts have no plain time of their own."""
    right = np.ones((5, 100))
    cells = [
        make_streams(right, right, None)._replace(
            passes=Passes(500, 500, 5, 5, 0), seconds=seconds, plain_seconds=plain
        )
        for seconds, plain in ((900.0, 100.0), (5.0, 1.0), (5.0, 1.0), (5.0, None))
    ]
    assert sum_costs(cells) == (1, 1, 20, 20, 0, 100, 100, 1)


def test_the_clock_counts_the_network_alone(images, monkeypatch):
    """Each forward pass takes a second, and shifting a batch takes an hour. Two plain predictors
    have the same network, as those of what is fitted on it beyond 100 classes.
    """
    now = 0.0

    def later(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    network = nn.Sequential(nn.BatchNorm2d(3), Quadrants())
    network[1].register_forward_hook(lambda *_: later(1))
    slow = Shift("slow", 1.0, {}, lambda pixels, keys, seed: later(3600) or pixels.clone())
    methods = ["batchnorm", "views: {views: five_crop}", "tent: {batch_size: 40, steps: 2}"]
    variants = [None, None, *methods]
    predictors = [
        Predictor(network, adapting=text and read_variant(text), clock=Stopwatch())
        for text in variants
    ]
    predict_shared(predictors, images, slow, batch_size=100, device=torch.device("cpu"))
    assert now > 3600
    assert [predictor.clock.seconds for predictor in predictors] == [4, 4, 4, 4 * 5, 5 * 10 * 2]


def test_the_clock_of_a_second_gpu_is_its_own(monkeypatch):
    """Though the first GPU is the current device."""

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.stream = stream

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            assert self.stream == other.stream == "stream of cuda:1"
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock, network = Stopwatch(), nn.Identity()
    with clock.watch(network, torch.device("cuda:1")):
        network(torch.zeros(1))
    assert clock.seconds == 1.5


def test_a_note_is_printed_for_a_stream_of_one_batch(images):
    data = fw.Dataset("quadrants", None, None, images, (0.0,) * 3, (1.0,) * 3)
    variants = read_variants(["tent: {batch_size: 400}", "sar: {batch_size: 399}", "views"])
    settings = SimpleNamespace(variants=variants, batch_size=IMAGES)
    (note,) = note_streams(settings, data)
    assert note.startswith("note           TENT: 1 batch a stream")


def test_the_front_says_where_adapting_changes_most(run):
    stuck = find_model(run, "+stuck")
    rows = run.folder.scores
    changes = rows[(rows["metric"] == "accuracy_change/adapted") & (rows["model"] == stuck)]
    changes = changes[changes["level"].isin(["none", "mean"])]
    worst = changes.loc[changes["value"].idxmin()]
    there = rows[(rows["shift"] == worst["shift"]) & (rows["level"] == worst["level"])]
    values = there[there["metric"] == "accuracy"].set_index("model")["value"]
    plain, adapted = (f"{100 * values[name]:.0f}" for name in (drop_adapting(stuck), stuck))
    contents = read_contents(run.folder)
    said, collapse = summarise_adaptation(contents)
    assert collapse.startswith(f"{title_adapting(contents)[stuck]}: 3 of 3 streams collapse ")
    assert said.startswith(f"{title_adapting(contents)[stuck]} lowers accuracy ")
    assert said.endswith(f"most: from {plain} to {adapted} %.")
    page = run.folder.file("report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert said in page
    assert collapse in page[: page.index('id="adaptation"')]
