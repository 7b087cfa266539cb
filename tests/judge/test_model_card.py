"""A model card says what the page says, Hugging Face reads it, and a person fills in the rest."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from markupsafe import escape

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.model_card import CARDS
from fairweather.report import front
from fairweather.report.card import HUB_METRICS, TO_FILL
from fairweather.report.contents import read_contents
from fairweather.runs.folder import RunFolder
from tests.helpers.commands import fairweather
from tests.helpers.prediction_runs import TEST, draw_classes, evaluate_classes, evaluate_findings
from tests.helpers.run_folders import ModelRecord, copy_run, run_record, sweep_record, write_run
from tests.test_hostile_names import SHOWN
from tests.test_words import sentences

LONGEST = 20  # words of a sentence
BROKEN, KEPT = "accuracy[fog=2] >= 90%", "accuracy[clean] >= 50%"
BREAKS, SIDES = "it breaks", {">=": ("low", "high"), "<=": ("high", "low")}
GRADES = ("none", "mild", "severe")


def read_by_people(folder):
    """Three people who call each test image."""
    calls = draw_classes(("a", "b", "c"), 3.0, 0, TEST, "test")[["file", "label"]]
    rng = np.random.default_rng(0)
    for reader in ("ann", "bob", "eve"):
        other = rng.choice(["a", "b", "c"], TEST)
        calls[reader] = np.where(rng.random(TEST) < 0.2, other, calls["label"])
    calls.drop(columns="label").to_csv(folder / "readers.csv", index=False)
    return folder / "readers.csv"


KINDS = {
    "classes": lambda folder: evaluate_classes(
        folder,
        people=True,
        costs=["missed a: 20"],
        operating_points=["a=0.3", "b=sensitivity=0.8"],
        readers=read_by_people(folder),
    ),
    "seeds": lambda folder: evaluate_classes(folder, seeds=2),
    "grades": lambda folder: evaluate_classes(folder, GRADES, ordered_classes=True),
    "findings": lambda folder: evaluate_findings(
        folder, group="patient", slices=("site",), operating_points=["Mass=sensitivity=0.8"]
    ),
    "patients": lambda folder: evaluate_findings(
        folder, ("Mass",), unit="patient", aggregate=("mean",), slices=("site",)
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs of each kind, made when they are first asked for."""
    runs = {}

    def make(kind):
        if kind not in runs:
            with pytest.MonkeyPatch.context() as patch:
                where = "fairweather.report.building.explain_missing_addresses"
                patch.setattr(where, lambda: "left out")
                folder = tmp_path_factory.mktemp(kind)
                runs[kind] = RunFolder(KINDS[kind](folder).path)
        return runs[kind]

    return make


@pytest.fixture(params=KINDS)
def run(request, made, tmp_path):
    return copy_run(made(request.param), tmp_path / "run")


@pytest.fixture
def classes(made, tmp_path):
    return copy_run(made("classes"), tmp_path / "run")


class Text(HTMLParser):
    """The text of a page, the tags that it has, and the sections by their headings."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.sections, self._open = [], {"": []}, ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "li":
            self._items().append("")

    def handle_data(self, data):
        if self._open == "h2" and data.strip():
            self.sections[data.strip()] = []
        elif self._open in ("li", "strong", "mark") and self._items():
            self._items()[-1] += data

    def handle_endtag(self, tag):
        self._open = "li" if tag in ("strong", "mark") else ""

    def _items(self):
        return self.sections[list(self.sections)[-1]]


def read_page(written):
    page = Text(written.page.read_text(encoding="utf-8"))
    return page, {
        heading: [item.strip().replace("\xa0", " ") for item in items]
        for heading, items in page.sections.items()
    }


def said_in(sections, beginning):
    (items,) = (own for heading, own in sections.items() if heading.startswith(beginning))
    return items


# ---------------------------------------------------------------- the metadata


def test_hugging_face_reads_every_number_of_scores_csv(run):
    written = fw.write_card(run.path)
    card = ModelCard(written.markdown.read_text(encoding="utf-8"))
    front_matter = yaml.safe_load(card.data.to_yaml())
    _, results = model_index_to_eval_results(front_matter["model-index"])
    assert results == card.data.eval_results
    rows = pd.read_csv(run.path / "scores.csv", dtype={"seed": str, "level": str})
    rows = rows[rows["seed"] == ("mean" if "mean" in set(rows["seed"]) else "0")]
    known = {
        (row.shift, row.level, row.metric): row.value
        for row in rows.itertuples()
        if getattr(row, "unit", "mean").startswith(("mean", "image")) or rows["unit"].nunique() <= 4
    }
    names = {hub: ours for ours, hub in HUB_METRICS.items()}
    whole = [result for result in results if result.metric_args is None]
    assert {result.dataset_config for result in whole} == {None, "fog"}
    for result in whole:
        shift = result.dataset_config or "clean"
        level = "mean" if result.dataset_config else "none"
        metric = names.get(result.metric_type, result.metric_type)
        assert result.metric_value == pytest.approx(known[shift, level, metric], abs=1e-6)
        assert result.dataset_split == "test"
    places = {(result.dataset_config, result.metric_type) for result in whole}
    assert len(places) == len(whole)  # one result for each
    assert {result.verified for result in results} == {None}
    assert set(front_matter["metrics"]) == {result.metric_type for result in results}


def test_each_finding_has_its_area(made, tmp_path):
    run = copy_run(made("findings"), tmp_path / "run")
    card = ModelCard(fw.write_card(run.path).markdown.read_text(encoding="utf-8"))
    areas = {
        result.metric_args["finding"]: result.metric_value
        for result in card.data.eval_results
        if result.metric_args
    }
    rows = pd.read_csv(run.path / "scores.csv").query("metric == 'auc' and shift == 'clean'")
    expected = dict(zip(rows["unit"].str.removeprefix("finding="), rows["value"], strict=True))
    assert areas == {name: round(expected[name], 6) for name in ("Effusion", "Mass")}


def test_no_field_is_guessed(run):
    data = ModelCard(fw.write_card(run.path).markdown.read_text(encoding="utf-8")).data
    for name in ("license", "base_model", "datasets", "language", "library_name", "tags"):
        assert data.get(name) is None
    assert data["fairweather"]["test_images_sha256"] == run.record.data.digests["test"]
    assert data["fairweather"]["scores_sha256"] == run.checksum("scores.csv")


# ---------------------------------------------------------------- the words


def test_sentences_are_short_and_the_card_has_those_of_the_page(run):
    written = fw.write_card(run.path, KEPT if "accuracy" in scored(run) else [])
    markdown = written.markdown.read_text(encoding="utf-8")
    page, sections = read_page(written)
    assert {tag for tag, _ in page.tags} & {"script", "img", "a", "iframe"} == set()
    for items in sections.values():
        for item in items:
            for sentence in sentences(item):
                count = len([word for word in sentence.split() if re.search(r"\w", word)])
                assert count <= LONGEST, sentence
    shown = MarkdownIt("commonmark").enable("table").render(markdown.split("\n---\n", 1)[1])
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", shown)).replace("\xa0", " ").split())
    for heading, items in sections.items():
        if heading != "Rules":
            assert all(" ".join(item.split()) in text for item in items)


def scored(run):
    return set(run.scores["metric"])


def test_it_says_the_numbers_of_the_page(classes):
    _, sections = read_page(fw.write_card(classes.path))
    contents = read_contents(classes)
    (clean, worst, _) = front.write_tiles(contents, "net")
    share = clean[0].replace("\xa0", " ")
    assert said_in(sections, "How often")[0] == f"It is right on {share} of the clean images."
    lowest = f"Accuracy is lowest under fog at level 2: {worst[0]} right.".replace("\xa0", " ")
    assert said_in(sections, "Where")[0] == lowest


def test_it_says_what_it_was_tested_on(classes):
    _, sections = read_page(fw.write_card(classes.path))
    tested = said_in(sections, "What was it tested")
    assert tested[:5] == [
        "It was tested on 160 images of predictions (its own labels).",
        "They belong to 80 patients.",
        "By site, they are: north (80) and south (80).",
        "It tells 3 classes apart: a, b and c.",
        "It was also tested under 1 shift: fog.",
    ]
    assert "3 people read the same images." in said_in(sections, "How does it compare")
    assert said_in(sections, "What do its errors cost")[0].startswith("A decision costs ")


def test_what_is_missed_is_one_minus_the_sensitivity(classes):
    _, sections = read_page(fw.write_card(classes.path))
    rows = pd.read_csv(classes.path / "scores.csv").query("shift == 'clean'")
    rows = rows.set_index("metric")["value"]
    missed = said_in(sections, "What does it miss")
    (line,) = (item for item in missed if item.startswith("“a” at 0.3"))
    share = float(re.search(r": ([\d.]+) % of the images with it are missed", line)[1])
    assert share == pytest.approx(100 * (1 - rows["sensitivity/a@0.3"]), abs=0.51)
    (line,) = (item for item in missed if item.startswith("“a” is called wrongly"))
    share = float(re.search(r"in ([\d.]+) % of the images without it", line)[1])
    assert share == pytest.approx(100 * (1 - rows["specificity/a@0.3"]), abs=0.51)


def test_patients_are_counted_where_patients_are_judged(made, tmp_path):
    run = copy_run(made("patients"), tmp_path / "run")
    _, sections = read_page(fw.write_card(run.path))
    tested = said_in(sections, "What was it tested")
    assert tested[0] == "It was tested on 80 patients of predictions (labels of truth.csv)."
    assert tested[1] == "Each patient is judged once, by its images together, and counts once."


def test_slope_and_ratio_are_told_where_a_run_has_them(tmp_path):
    told = {
        "calibration_slope": (0.7, 0.6, 0.8),
        "observed_expected_ratio": (1.02, 0.95, 1.1),
        "accuracy": (0.9, 0.8, 0.95),
    }
    rows = [("a", "0", "clean", "none", name, *ends, 100) for name, ends in told.items()]
    write_run(tmp_path / "run", run_record({"a": "A"}), rows)
    _, sections = read_page(fw.write_card(tmp_path / "run"))
    assert said_in(sections, "Can you trust") == [
        "The calibration slope is 0.70 on clean images; 1 is right.",
        "Its probabilities are too extreme.",
        "The observed/expected ratio is 1.02 on clean images; 1 is right.",
        "Its interval includes 1.",
    ]


def test_the_slope_of_several_findings_is_called_their_mean(made, tmp_path):
    run = copy_run(made("findings"), tmp_path / "run")
    _, sections = read_page(fw.write_card(run.path))
    rows = pd.read_csv(run.path / "scores.csv").query("shift == 'clean' and unit == 'mean finding'")
    slope = rows.set_index("metric")["value"]["calibration_slope"]
    where = "on clean images, on average over findings; 1 is right."
    said = f"The calibration slope is {slope:.2f} {where}"
    assert said in said_in(sections, "Can you trust")


def test_a_network_that_the_run_trained_has_its_training(tmp_path):
    settings = {"backbone": "timm:resnet18", "weights": "imagenet", "recipe": {"epochs": 3}}
    record = run_record(
        {"basic": ModelRecord(title="Basic", settings=settings)},
        [sweep_record("fog", {1: "fog,severity=1"})],
        notes={"images": {"train": 3600}},
        seen_shifts={"basic": {"fog": "its augmentation"}},
    )
    rows = [
        ("basic", "0", shift, level, "accuracy", 0.9, 0.8, 0.95, 100)
        for shift, level in (("clean", "none"), ("fog", "1"), ("fog", "mean"))
    ]
    write_run(tmp_path / "run", record, rows)
    written = fw.write_card(tmp_path / "run")
    _, sections = read_page(written)
    assert said_in(sections, "The model")[:3] == [
        "It was trained on 3,600 images of digits.",
        "Its backbone is timm:resnet18, and it began with the weights imagenet.",
        "It was trained with shifts of the test: Fog.",
    ]
    assert "Training data" not in written.blanks
    assert "| recipe.epochs | 3 |" in written.markdown.read_text(encoding="utf-8")


def test_a_licence_is_named_as_the_hub_names_it(classes):
    written = fw.write_card(classes.path)
    fill_in(written.markdown, Licence="CC BY 4.0")
    fw.write_card(classes.path)
    assert ModelCard.load(written.markdown).data.license == "cc-by-4.0"


# ---------------------------------------------------------------- rules


def test_rules_stay_when_the_card_is_written_again_without_them(classes):
    fw.write_card(classes.path, [KEPT, BROKEN])
    before = fw.write_card(classes.path)
    text = before.markdown.read_text(encoding="utf-8")
    assert len(ModelCard(text).data["fairweather"]["rules"]) == 2
    assert "## Rules" in text
    assert before.lost == ""
    older = re.sub("version: .*", "version: 0.0.1", text, count=1)
    before.markdown.write_text(older, encoding="utf-8")
    assert fw.write_card(classes.path).markdown.read_text(encoding="utf-8") == text
    fw.write_card(classes.path, [KEPT])
    rules = ModelCard.load(before.markdown).data["fairweather"]["rules"]
    assert [rule.removeprefix("net: ") for rule in rules] == [KEPT]
    broken = re.sub(r"\A---\n", "", text, count=1)
    before.markdown.write_text(broken, encoding="utf-8")
    said = str(fw.write_card(classes.path))
    assert "the rules of the card that was there are gone: cards/net.md does not name" in said


def test_rules_have_their_verdicts_and_a_broken_one_forbids_a_use(classes):
    without = fw.write_card(classes.path)
    assert "How good it must be" in without.blanks
    written = fw.write_card(classes.path, [BROKEN, KEPT, "other: accuracy[clean] >= 99%"])
    assert "How good it must be" not in written.blanks
    markdown = written.markdown.read_text(encoding="utf-8")
    assert re.search(r"^\| failed \| net: accuracy\\\[fog=2", markdown, re.MULTILINE)
    assert re.search(r"^\| passed \| net: accuracy\\\[clean", markdown, re.MULTILINE)
    assert "other" not in markdown.split("## Rules")[1].split("##")[0]
    _, sections = read_page(written)
    broken = [item for item in said_in(sections, "What must it not") if "“net: " in item]
    assert [own.split(" (")[0] for own in broken] == [
        f"Images under fog at level 2: it breaks “net: {BROKEN}”"
    ]


def test_a_rule_is_broken_only_where_both_ends_of_its_interval_fail(classes):
    """A rule that only one end fails is not shown to be kept, and the end is that of the table."""
    limits = {sign: [f"accuracy[fog=2] {sign} {share}%" for share in range(101)] for sign in SIDES}
    written = fw.write_card(classes.path, [rule for rules in limits.values() for rule in rules])
    table = re.search(
        r"^\| failed \| net: accuracy.*\| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \| \d+ \|",
        written.markdown.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    value, low, high = map(float, table.groups())
    said = said_in(read_page(written)[1], "What must it not")
    written_as = {"low": f"low end {table[2]}%", "high": f"high end {table[3]}%"}
    claims = []
    for sign, (worse, other) in SIDES.items():
        ends, below = {"low": low, "high": high}, sign == ">="
        for limit, rule in enumerate(limits[sign]):
            fails = {end: at < limit if below else at > limit for end, at in ends.items()}
            if not fails[worse]:
                continue
            claim, end = (BREAKS, other) if fails[other] else ("not shown to keep", worse)
            claims.append(
                f"Images under fog at level 2: {claim} “net: {rule}” "
                f"({value:.2f}%, {written_as[end]})."
            )
    assert [item for item in said if "“net: " in item] == claims
    assert sum("not shown" in claim for claim in claims) > 5
    assert sum(BREAKS in claim for claim in claims) > 5


def test_a_rule_about_a_slice_forbids_no_more_than_the_slice(classes):
    rules = [f"accuracy[clean|{part}] >= 99.9%" for part in ("worst site", "site=north")]
    said = said_in(read_page(fw.write_card(classes.path, rules))[1], "What must it not")
    forbidden = [item.partition(":")[0] for item in said if "“net: " in item]
    assert forbidden == ["Clean images of the worst site", "Clean images of site=north"]


def test_a_rule_that_cannot_be_judged_is_refused_and_nothing_is_written(classes):
    with pytest.raises(InputError, match="snow"):
        fw.write_card(classes.path, ["accuracy[snow] >= 50%"])
    assert not (classes.path / CARDS).exists()


# ---------------------------------------------------------------- which model


def test_of_several_models_one_is_named(tmp_path, undrawn):
    tables = {
        f"{name}{more}": draw_classes(("a", "b"), strength, 0, TEST, "test")
        for name, strength in (("good", 3.0), ("bad", 1.0))
        for more in ("", "-fog,1")
    }
    run = fw.evaluate(
        predictions=tables, key_column="file", out=tmp_path / "run", bootstrap=100, progress=False
    )
    ended = fairweather("card", run.path)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"fairweather: a card is of one model, and {run.path} has 2: good, bad; name one, as in "
        f"{run.path}:good\n"
    )
    ended = fairweather("card", f"{run.path}:god")
    assert "did you mean 'good'" in ended.stderr
    for name in ("good", "bad"):
        assert fairweather("card", f"{run.path}:{name}").returncode == 0
        assert f"model: {name}\n" in (run.path / CARDS / f"{name}.md").read_text()


def test_a_run_without_scores_is_refused(classes):
    classes.forget("scores")
    with pytest.raises(InputError, match="has not been scored yet"):
        fw.write_card(classes.path)


# ---------------------------------------------------------------- what a person fills in


def fill_in(path, **texts):
    text = path.read_text(encoding="utf-8")
    for label, filled in texts.items():
        text, count = re.subn(rf"(- \*\*{label}:\*\*) {TO_FILL}.*", rf"\1 {filled}", text)
        assert count == 1
    path.write_text(text, encoding="utf-8")


def test_the_command_says_how_much_is_to_fill_in_and_keeps_what_is(classes):
    first = fairweather("card", classes.path)
    written = fw.write_card(classes.path)
    assert f"{len(written.blanks)} lines to fill in: Developer and contact" in first.stdout
    text = written.markdown.read_text(encoding="utf-8")
    assert len(re.findall(rf"^- .*{TO_FILL}", text, re.MULTILINE)) == len(written.blanks)
    fill_in(written.markdown, Licence="apache-2.0", Users="Nurses & <b>doctors</b>")
    again = fw.write_card(classes.path)
    assert set(written.blanks) - set(again.blanks) == {"Licence", "Users"}
    card = ModelCard(again.markdown.read_text(encoding="utf-8"))
    assert card.data.license == "apache-2.0"
    page, sections = read_page(again)
    assert said_in(sections, "Intended use")[1] == "Users: Nurses & <b>doctors</b>"
    assert ("b", {}) not in page.tags


# ---------------------------------------------------------------- verify


def outcomes(run):
    return {file.file: file for file in fw.verify(run.path, progress=False).files}


def test_a_stored_card_is_verified_with_what_a_person_filled_in(classes):
    written = fw.write_card(classes.path, [BROKEN])
    fill_in(written.markdown, Licence="mit")
    fw.write_card(classes.path, [BROKEN])
    seen = outcomes(classes)
    assert {seen[f"{CARDS}/net.{suffix}"].outcome for suffix in ("md", "html")} == {"same"}


def test_a_rule_about_another_run_is_judged_once_and_that_run_is_not_read_again(
    classes, made, tmp_path
):
    copy_run(made("classes"), tmp_path / "old")
    rule = f"accuracy[fog=2] not worse than {tmp_path / 'old'} by 10%"
    written = fw.write_card(classes.path, [rule])
    assert re.search(r"^\| passed \| net: accuracy", written.markdown.read_text(), re.MULTILINE)
    file = outcomes(classes)[f"{CARDS}/net.md"]
    assert (file.outcome, file.reason) == (
        "not computed",
        "cards/net.md has a rule about another run, which is not read",
    )


@pytest.mark.parametrize("suffix", ["md", "html"])
def test_a_sentence_that_was_changed_is_noticed(classes, suffix):
    path = fw.write_card(classes.path).markdown.with_suffix(f".{suffix}")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("It is right on 9", "It is right on 99"), encoding="utf-8")
    verified = fw.verify(classes.path, progress=False)
    (file,) = (file for file in verified.files if file.file == f"{CARDS}/net.{suffix}")
    assert file.outcome == "differs"
    assert "It is right on 99" in file.reason
    assert not verified.is_confirmed


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (r"\A---\n", "", "cards/net.md does not name its run"),
        ("version: .*", "version: 0.0.1", "version 0.0.1 of fairweather wrote it"),
        ("model: net", "model: other", "the card of a model that the run does not have"),
        (r"rules:\n  - .*", "rules: [/etc/hostname]", "has a rule that cannot be read"),
        ("fairweather:", "fairweather: [", "is not YAML"),
    ],
)
def test_a_card_that_cannot_be_made_again_says_why(classes, before, after, reason):
    written = fw.write_card(classes.path, [BROKEN])
    text = written.markdown.read_text(encoding="utf-8")
    written.markdown.write_text(re.sub(before, after, text, count=1), encoding="utf-8")
    file = outcomes(classes)[f"{CARDS}/net.md"]
    assert file.outcome == "not computed"
    assert reason in file.reason


# ---------------------------------------------------------------- hostile names


@pytest.mark.parametrize("start", range(0, len(SHOWN), 4))
def test_names_show_as_they_are(start, tmp_path, undrawn):
    names = [*dict.fromkeys(SHOWN[start : start + 4])]
    if "a|b" in names:
        names[names.index("a|b")] = "a¦b"  # of two classes in one column
    tables = {"net": draw_classes(tuple(names), 1.0, 0, TEST, "test")}
    run = fw.evaluate(
        predictions=tables, key_column="file", out=tmp_path / "run", bootstrap=100, progress=False
    )
    written = fw.write_card(run.path)
    markdown = written.markdown.read_text(encoding="utf-8")
    assert ModelCard(markdown).data["fairweather"]["model"] == "net"
    page, sections = read_page(written)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "p", "section"),
        *("h2", "ul", "li", "strong", "mark"),
    }
    tested = " ".join(said_in(sections, "What was it tested"))
    body = MarkdownIt("commonmark").enable("table").render(markdown.split("\n---\n", 1)[1])
    text = html.unescape(re.sub(r"</?[a-z0-9]+[^>]*>", "", body))
    for name in names:
        shown = " ".join(name.replace("\xa0", " ").split())
        assert shown in " ".join(tested.split())
        assert shown in " ".join(text.replace("\xa0", " ").split())
    assert "<script" not in body


@pytest.mark.parametrize("name", SHOWN)
def test_titles_and_data_show_as_they_are(name, tmp_path):
    record = run_record({"a": name})
    record = record.model_copy(update={"data": record.data.model_copy(update={"name": name})})
    rows = [("a", "0", "clean", "none", "accuracy", 0.9, 0.8, 0.95, 100)]
    write_run(tmp_path / "run", record, rows)
    written = fw.write_card(tmp_path / "run")
    card = ModelCard(written.markdown.read_text(encoding="utf-8"))
    assert card.data.model_name == name
    assert {result.dataset_name for result in card.data.eval_results} == {name}
    page = written.page.read_text(encoding="utf-8")
    assert re.search("<h1>(.*)</h1>", page)[1] == str(escape(name))
    assert "<script" not in page
