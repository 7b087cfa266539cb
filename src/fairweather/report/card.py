"""A model card of a run: Markdown with Hugging Face's metadata, and a page in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from fairweather.metrics import METRICS
from fairweather.metrics.table import shown_metrics
from fairweather.report.calls import known
from fairweather.report.card_sections import PURPOSE, SECTIONS, Blank, CardSection, CardSource
from fairweather.report.contents import Contents
from fairweather.report.facts import flatten_facts
from fairweather.report.page.shell import make_environment, read_own_file, write_policy
from fairweather.report.tables import (
    ABSENT,
    Body,
    TableLayout,
    caption_scores,
    describe_metric,
    escape_markdown,
    find_entry,
    write_markdown,
)
from fairweather.runs.folder import fingerprint
from fairweather.runs.provenance import package_versions
from fairweather.types.record import (
    ALL,
    CLEAN,
    MEAN,
    NO_LEVEL,
    SCORES,
    TEST,
    ModelRecord,
    base_model,
)
from fairweather.types.unit_words import name_all_units

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK, DIGITS = "image-classification", 6  # what the hub calls it; decimals of its values
TO_FILL = "TO FILL IN"
_BLANK = re.compile(r"^- \*\*([^*]+):\*\* (.*)$", re.MULTILINE)
_LICENCE = re.compile(r"[a-z][a-z0-9.+-]{1,30}")
# Our metrics by the names that Hugging Face's evaluate has for them; others keep their own.
HUB_METRICS: Mapping[str, str] = {
    "auc": "roc_auc",
    "brier": "brier_score",
    "mean_absolute_error": "mae",
    "sensitivity": "recall",
    "ppv": "precision",
}
KEPT = CardSection(
    "How is it kept right?",
    blanks=(Blank("Monitoring", "who watches it in use, how often, and when it is stopped"),),
)
TRAINING = Blank("Training data", "which images, from where, how many, and how they were labelled")
RULES = Blank("How good it must be", "rules, given with --rule")


class Card(NamedTuple):
    """A model card: its Markdown, its page, and the labels of what is still to fill in."""

    markdown: str
    page: str
    blanks: tuple[str, ...]


class RuleTable(NamedTuple):
    """Rules that were judged, as a table, and as what they were asked for."""

    layout: TableLayout
    body: Body
    texts: tuple[str, ...]
    summary: str


class _Shown(NamedTuple):
    """A section with its sentences, and its blanks with what a person filled in."""

    heading: str
    said: Sequence[str]
    blanks: Sequence[tuple[Blank, str]]


def read_filled(markdown: str) -> dict[str, str]:
    """Read what a person has filled in, by its label.

    >>> read_filled("- **Licence:** mit\\n- **Version:** TO FILL IN: of the model\\n")
    {'Licence': 'mit'}
    """
    lines = ((label, text.strip()) for label, text in _BLANK.findall(markdown))
    return {label: text for label, text in lines if text and not text.startswith(TO_FILL)}


def make_card(source: CardSource, rules: RuleTable | None, filled: Mapping[str, str]) -> Card:
    """Make the card of a model.

    Args:
        source: what is known of the model.
        rules: those that were judged; None where none was given.
        filled: what a person has filled in, by label.
    """
    contents = source.contents
    stated = () if rules else (RULES,)
    shown = [
        _Shown(
            section.heading,
            name_all_units(list(section.describe(source)), contents.aggregation),
            [(blank, filled.get(blank.label, "")) for blank in (*section.blanks, *more)],
        )
        for section, more in (
            (ABOUT, () if source.is_trained else (TRAINING,)),
            (PURPOSE, stated),
            *((section, ()) for section in SECTIONS),
            (KEPT, ()),
        )
    ]
    shown = [section for section in shown if section.said or section.blanks]
    empty = [blank.label for section in shown for blank, text in section.blanks if not text]
    title = contents.titles[source.model]
    parts = [
        _write_front_matter(source, rules, filled),
        f"# Model card: {escape_markdown(title)}",
        f"{_introduce(source)} Lines with {TO_FILL} are for a person.",
        *map(_write_section, shown),
        *_write_numbers(source),
        *(_write_table("Rules", rules.layout, rules.body, [rules.summary]) if rules else ()),
        *_write_settings(source),
        "## How to check this card",
        "`fairweather verify` computes every number of the run "
        f"{escape_markdown(source.run.record.name)} again from its stored "
        "predictions. Then it makes this card again and compares. The front matter has the "
        "checksums of the run.",
    ]
    page = (
        make_environment()
        .get_template("card.html.j2")
        .render(
            title=title,
            introduction=_introduce(source),
            sections=shown,
            to_fill=TO_FILL,
            rules=rules,
            policy=write_policy([]),
            style=Markup(read_own_file("card.css")),  # nosec B704 # a file of this package
        )
    )
    return Card("\n\n".join(parts) + "\n", page, tuple(empty))


def _introduce(source: CardSource) -> str:
    version, day = package_versions()["fairweather"], source.run.record.provenance.time[:10]
    return f"Written by fairweather {version} from a test of {day}."


# ---------------------------------------------------------------- the model


def _record_of(source: CardSource) -> ModelRecord:
    return source.run.record.models[base_model(source.model)]


def _describe_model(source: CardSource) -> Iterator[str]:
    """Say what the record knows of the model: how it was trained, or where it comes from."""
    model, contents = _record_of(source), source.contents
    facts, settings = model.facts, model.settings
    if not source.is_trained:
        architecture, parameters = facts.get("architecture"), facts.get("parameters")
        if isinstance(architecture, str) and isinstance(parameters, int):
            yield f"It is a network of the kind {architecture} with {parameters:,} parameters."
        if isinstance(digest := facts.get("digest"), str):
            yield f"Its digest is {digest[:16]}."
        return
    images = contents.data.notes.get("images")
    count = images.get("train") if isinstance(images, dict) else None
    of = f"{count:,} images of " if isinstance(count, int) else ""
    yield f"It was trained on {of}{contents.data.name}."
    weights = settings.get("weights")
    yield f"Its backbone is {settings.get('backbone')}, and it began with the weights {weights}."
    if seen := contents.seen_shifts.get(contents.titles[source.model]):
        yield f"It was trained with shifts of the test: {', '.join(seen)}."


ABOUT = CardSection(
    "The model",
    _describe_model,
    (
        Blank("Developer and contact", "who answers for it, and where to ask"),
        Blank("Version", "of the model, as its users see it"),
        Blank("Licence", "an identifier, such as apache-2.0"),
    ),
)


def _write_settings(source: CardSource) -> list[str]:
    """Write the settings of a training as a table."""
    rows = [list(fact) for fact in flatten_facts(_record_of(source).settings)]
    layout = TableLayout(("Setting", "Value"), words=2)
    return _write_table("Training", layout, rows, []) if source.is_trained else []


def _write_table(title: str, layout: TableLayout, body: Body, below: Sequence[str]) -> list[str]:
    return [f"## {title}", write_markdown(layout, body, below).rstrip()]


# ---------------------------------------------------------------- the parts of the Markdown


def _write_section(section: _Shown) -> str:
    lines = [f"- {escape_markdown(sentence)}" for sentence in section.said]
    lines += [
        f"- **{blank.label}:** {text or f'{TO_FILL}: {blank.hint}'}"
        for blank, text in section.blanks
    ]
    return "\n".join([f"## {section.heading}", "", *lines])


def _list_states(source: CardSource) -> list[tuple[str, str, str]]:
    """Title, shift and level of clean images, of the mean of each shift, and over shifts."""
    every = [("Mean over shifts", ALL, MEAN)] if len(source.contents.sweeps) > 1 else []
    return [*source.contents.means, *every]


def _list_metrics(source: CardSource) -> list[str]:
    """The metrics of a card: those that are shown, and that the run has."""
    measured = set(source.contents.scores["metric"])
    return [name for name in shown_metrics(1) if name in measured]


def _write_numbers(source: CardSource) -> Iterator[str]:
    """Write every number with its interval, and those of each finding on clean images."""
    contents, model, names = source.contents, source.model, _list_metrics(source)
    body = [
        [title, *(_write_entry(contents, name, model, shift, level) for name in names)]
        for title, shift, level in _list_states(source)
    ]
    header = ("Images", *(METRICS[name].label for name in names))
    caption = caption_scores(contents, "; ".join(map(describe_metric, names)))
    below = name_all_units([caption], contents.aggregation)
    yield from _write_table("The numbers", TableLayout(header), body, below)
    if source.views:
        kinds = ("auc", "sensitivity", "specificity", "ppv", "npv", "probability_gap")
        body = [
            [name, *(_write_entry(view, kind, model, CLEAN, NO_LEVEL) for kind in kinds)]
            for name, view in source.views.items()
        ]
        header = ("Finding, clean images", *(METRICS[kind].label for kind in kinds))
        yield write_markdown(TableLayout(header), body, []).rstrip()


def _write_entry(contents: Contents, *place: str) -> str:
    return str(find_entry(contents, *place) or ABSENT)


# ---------------------------------------------------------------- the front matter


def _write_front_matter(
    source: CardSource, rules: RuleTable | None, filled: Mapping[str, str]
) -> str:
    """Write the metadata that Hugging Face reads, and which run the card is of."""
    from huggingface_hub import ModelCardData

    run, results = source.run, [*_list_results(source)]
    data = ModelCardData(
        model_name=source.contents.titles[source.model],
        license=name_licence(filled["Licence"]) if "Licence" in filled else None,
        pipeline_tag=TASK,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        eval_results=results,
        fairweather={
            "version": package_versions()["fairweather"],
            "run": run.record.name,
            "model": source.model,
            "record": fingerprint(run.record.lasting()),
            "scores_sha256": run.checksum(SCORES),
            "test_images_sha256": run.record.data.digests.get(TEST, ""),
            "rules": list(rules.texts) if rules else [],
        },
    )
    return f"---\n{data.to_yaml()}\n---"


def name_licence(text: str) -> str:
    """Write a licence as Hugging Face names it; anything but a short name stays as it is.

    >>> name_licence("CC BY 4.0"), name_licence("Apache-2.0"), name_licence("see LICENSE/a.txt")
    ('cc-by-4.0', 'apache-2.0', 'see LICENSE/a.txt')
    """
    name = "-".join(text.lower().split())
    return name if _LICENCE.fullmatch(name) else text


def _list_results(source: CardSource) -> Iterator[EvalResult]:
    """List the numbers of clean images, of the mean over each shift, and of each finding."""
    from huggingface_hub import EvalResult

    contents, data = source.contents, source.contents.data.name
    levels = {sweep.name: {"levels": [*map(float, sweep.cells)]} for sweep in contents.sweeps}
    every = [
        (contents, "", metric, *state)
        for state in _list_states(source)
        for metric in _list_metrics(source)
    ]
    if len(source.views) > 1:
        every += [(view, name, "auc", "", CLEAN, NO_LEVEL) for name, view in source.views.items()]
    for view, finding, metric, title, shift, level in every:
        if score := known(view.score(metric, source.model, shift, level)):
            yield EvalResult(
                task_type=TASK,
                dataset_type=data,
                dataset_name=data if shift == CLEAN else f"{data}: {title}",
                dataset_config=None if shift == CLEAN else shift,
                dataset_split=TEST,
                dataset_args=levels.get(shift),
                metric_type=HUB_METRICS.get(metric, metric),
                metric_name=METRICS[metric].label + (f" of {finding}" if finding else ""),
                metric_value=round(score.value, DIGITS),
                metric_args={"finding": finding} if finding else None,
            )
