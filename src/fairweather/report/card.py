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
from fairweather.report.facts import flatten_facts
from fairweather.report.page.shell import make_environment, read_own_file, write_policy
from fairweather.report.tables import (
    ABSENT,
    Body,
    TableLayout,
    caption_scores,
    describe_metric,
    escape_markdown,
    find_defined,
    write_markdown,
)
from fairweather.runs.folder import RunFolder, fingerprint
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
ABOUT = CardSection(
    "The model",
    lambda source: _describe_model(source),
    (
        Blank("Developer and contact", "who answers for it, and where to ask"),
        Blank("Version", "of the model, as its users see it"),
        Blank("Licence", "an identifier, such as apache-2.0"),
    ),
)
KEPT = CardSection(
    "How is it kept right?",
    lambda _: iter(()),
    (Blank("Monitoring", "who watches it in use, how often, and when it is stopped"),),
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


def make_card(
    source: CardSource, run: RunFolder, rules: RuleTable | None, filled: Mapping[str, str]
) -> Card:
    """Make the card of a model.

    Args:
        source: what is known of the model.
        run: its run.
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
            (ABOUT, () if _is_trained(source) else (TRAINING,)),
            (PURPOSE, stated),
            *((section, ()) for section in SECTIONS),
            (KEPT, ()),
        )
    ]
    shown = [section for section in shown if section.said or section.blanks]
    empty = [blank.label for section in shown for blank, text in section.blanks if not text]
    title = contents.titles[source.model]
    parts = [
        _write_front_matter(source, run, rules, filled),
        f"# Model card: {escape_markdown(title)}",
        f"{_introduce(source)} Lines with {TO_FILL} are for a person.",
        *map(_write_section, shown),
        *_write_numbers(source),
        *_write_rules(rules),
        *_write_settings(source),
        "## How to check this card",
        f"`fairweather verify` computes every number of the run {escape_markdown(run.record.name)} "
        "again from its stored predictions. Then it makes this card again and compares. The front "
        "matter has the checksums of the run.",
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
    (record,) = source.contents.records.values()
    version, day = package_versions()["fairweather"], record.provenance.time[:10]
    return f"Written by fairweather {version} from a test of {day}."


# ---------------------------------------------------------------- the model


def _record_of(source: CardSource) -> ModelRecord:
    (record,) = source.contents.records.values()
    return record.models[base_model(source.model)]


def _is_trained(source: CardSource) -> bool:
    """Whether the run trained the model."""
    (record,) = source.contents.records.values()
    return record.kind == "study"


def _describe_model(source: CardSource) -> Iterator[str]:
    """Say what the record knows of the model: how it was trained, or where it comes from."""
    model, contents = _record_of(source), source.contents
    facts, settings = model.facts, model.settings
    if not _is_trained(source):
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


def _write_settings(source: CardSource) -> Iterator[str]:
    """Write the settings of a training as a table."""
    if _is_trained(source):
        rows = [list(fact) for fact in flatten_facts(_record_of(source).settings)]
        yield "## Training"
        yield write_markdown(TableLayout(("Setting", "Value"), words=2), rows, []).rstrip()


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
        [title, *(_write_entry(source, name, shift, level) for name in names)]
        for title, shift, level in _list_states(source)
    ]
    header = ("Images", *(METRICS[name].label for name in names))
    caption = caption_scores(contents, "; ".join(map(describe_metric, names)))
    yield "## The numbers"
    yield write_markdown(
        TableLayout(header), body, name_all_units([caption], contents.aggregation)
    ).rstrip()
    if source.views:
        kinds = ("auc", "sensitivity", "specificity", "ppv", "npv", "probability_gap")
        body = [
            [
                name,
                *(
                    str(find_defined(view, kind, model, CLEAN, NO_LEVEL) or ABSENT)
                    for kind in kinds
                ),
            ]
            for name, view in source.views.items()
        ]
        header = ("Finding, clean images", *(METRICS[kind].label for kind in kinds))
        yield write_markdown(TableLayout(header), body, []).rstrip()


def _write_entry(source: CardSource, metric: str, shift: str, level: str) -> str:
    return str(find_defined(source.contents, metric, source.model, shift, level) or ABSENT)


def _write_rules(rules: RuleTable | None) -> Iterator[str]:
    if rules is not None:
        yield "## Rules"
        yield write_markdown(rules.layout, rules.body, [rules.summary]).rstrip()


# ---------------------------------------------------------------- the front matter


def _write_front_matter(
    source: CardSource, run: RunFolder, rules: RuleTable | None, filled: Mapping[str, str]
) -> str:
    """Write the metadata that Hugging Face reads, and which run the card is of."""
    from huggingface_hub import ModelCardData

    results = [*_list_results(source)]
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

    contents, model = source.contents, source.model
    levels = {sweep.name: [*map(float, sweep.cells)] for sweep in contents.sweeps}
    for title, shift, level in _list_states(source):
        is_clean = shift == CLEAN
        for metric in _list_metrics(source):
            if score := known(contents.score(metric, model, shift, level)):
                yield EvalResult(
                    task_type=TASK,
                    dataset_type=contents.data.name,
                    dataset_name=contents.data.name
                    if is_clean
                    else f"{contents.data.name}: {title}",
                    dataset_config=None if is_clean else shift,
                    dataset_split=TEST,
                    dataset_args=None if shift not in levels else {"levels": levels[shift]},
                    metric_type=HUB_METRICS.get(metric, metric),
                    metric_name=METRICS[metric].label,
                    metric_value=round(score.value, DIGITS),
                )
    for name, view in source.views.items() if len(source.views) > 1 else ():
        if score := known(view.score("auc", model, CLEAN, NO_LEVEL)):
            yield EvalResult(
                task_type=TASK,
                dataset_type=contents.data.name,
                dataset_name=contents.data.name,
                dataset_split=TEST,
                metric_type=HUB_METRICS["auc"],
                metric_name=f"{METRICS['auc'].label} of {name}",
                metric_value=round(score.value, DIGITS),
                metric_args={"finding": name},
            )
