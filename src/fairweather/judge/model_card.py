"""Write the model card of a finished run, and say whether a stored card is still what it gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import parse_yaml
from fairweather.judge.compared_runs import split_run_and_model
from fairweather.judge.rule_values import find_part
from fairweather.judge.rules import UNSEEN_SLICE, WORST_SLICE, Rule, read_rules
from fairweather.judge.verdicts import (
    LAYOUT,
    describe_failure,
    judge_rules,
    summarize_verdicts,
    tabulate_verdicts,
)
from fairweather.report.building import check_intact
from fairweather.report.card import Card, RuleTable, make_card, read_filled
from fairweather.report.card_sections import CardSource, FailedRule
from fairweather.report.contents import Contents, read_contents
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.runs.provenance import package_versions
from fairweather.types.record import base_model

CARDS = "cards"
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class WrittenCard:
    """A model card that was written."""

    markdown: Path
    """The card in Markdown, with the metadata that Hugging Face reads."""

    page: Path
    """The same in plain words, as one page of HTML."""

    blanks: tuple[str, ...]
    """What a person must still fill in."""

    lost: str = ""
    """Why the rules of the card that was there could not be kept; "" if they were."""

    def __str__(self) -> str:
        count = len(self.blanks)
        lines = "1 line" if count == 1 else f"{count} lines"
        left = f"{lines} to fill in: {', '.join(self.blanks)}" if count else "nothing to fill in"
        gone = f"\nthe rules of the card that was there are gone: {self.lost}" if self.lost else ""
        return f"card    {self.markdown}\npage    {self.page}\n{left}{gone}"


def write_card(run: str | os.PathLike[str], rules: str | Sequence[str] = ()) -> WrittenCard:
    """Write the model card of a finished run: `cards/MODEL.md` and `cards/MODEL.html` in it.

    What a person has filled in stays when the card is written again.

    Args:
        run: a run folder, or `RUN:MODEL`.
        rules: as of `fairweather check`, or a YAML file of rules. Those of other models are left
            out. Without any, those of the stored card are judged again.

    Raises:
        InputError: there is no such run or model, one of several must be named, a rule cannot be
            judged, or a file was changed.
    """
    folder, asked = split_run_and_model(run)
    opened = open_finished_run(Path(folder))
    check_intact(opened)
    contents = read_contents(opened)
    model = _choose_model(contents, asked, folder)
    markdown, page = (f"{CARDS}/{model}.{suffix}" for suffix in ("md", "html"))
    stored = opened.file(markdown)
    text = stored.read_text(encoding="utf-8") if stored.is_file() else ""
    asked_rules, lost = read_rules(rules) if rules else [], ""
    if text and not rules:
        try:
            asked_rules = _read_front_matter(text, markdown).rules
        except InputError as error:
            lost = str(error)
    card = _compose(opened, contents, model, asked_rules, read_filled(text))
    opened.write(markdown, card.markdown)
    opened.write(page, card.page)
    return WrittenCard(opened.file(markdown), opened.file(page), card.blanks, lost)


def _choose_model(contents: Contents, asked: str, folder: str) -> str:
    if asked:
        if asked not in contents.titles:
            raise unknown_name(f"model of {folder}", asked, contents.titles)
        return asked
    own = [name for name in contents.titles if base_model(name) == name] or [*contents.titles]
    if len(own) > 1:
        raise InputError(
            f"a card is of one model, and {folder} has {len(own)}: {', '.join(own)}; name one, as "
            f"in {folder}:{own[0]}"
        )
    return own[0]


def _compose(
    run: RunFolder, contents: Contents, model: str, rules: Sequence[Rule], filled: Mapping[str, str]
) -> Card:
    """Judge the rules of a model, and make its card."""
    own = [replace(rule, model=model) for rule in rules if rule.model in (None, model)]
    alone = replace(contents, titles={model: contents.titles[model]})
    if not own:
        return make_card(CardSource(alone, model), None, filled)
    verdicts, unjudged = judge_rules(run, own)
    if unjudged:
        raise InputError(unjudged[0].problem)
    failed = [
        FailedRule(
            own.cell, _name_part(find_part(run, own.rule.slice).slice), describe_failure(own)
        )
        for own in verdicts
        if not own.passed
    ]
    table = RuleTable(
        LAYOUT, tabulate_verdicts(verdicts), tuple(map(str, own)), summarize_verdicts(verdicts)
    )
    return make_card(CardSource(alone, model, failed), table, filled)


def _name_part(slice_: str) -> str:
    """Name a slice as rules write it inside a sentence.

    >>> [_name_part(text) for text in ("unseen site", "worst site", "site=B", "")]
    ['an unseen site', 'the worst site', 'site=B', '']
    """
    for start, article in ((UNSEEN_SLICE, "an"), (WORST_SLICE, "the")):
        if slice_.startswith(start):
            return f"{article} {slice_}"
    return slice_


# ---------------------------------------------------------------- a stored card


def list_cards(run: RunFolder) -> list[str]:
    """Name the cards in Markdown that are stored in a run."""
    folder = run.file(CARDS)
    return sorted(f"{CARDS}/{path.name}" for path in folder.glob("*.md")) if folder.is_dir() else []


def find_page(name: str) -> str:
    """Name the page of a card in Markdown.

    >>> find_page("cards/net.md")
    'cards/net.html'
    """
    return f"{name.removesuffix('.md')}.html"


def compose_again(run: RunFolder, name: str) -> Iterator[tuple[str, str]]:
    """Make a stored card again, with what a person filled in: each file's name and its text.

    Raises `InputError` for a card of another version, and for one that names no model of the run.
    """
    text = run.file(name).read_text(encoding="utf-8", errors="replace")
    version, model, rules = _read_front_matter(text, name)
    if version != package_versions()["fairweather"]:
        raise InputError(f"version {version} of fairweather wrote it")
    contents = read_contents(run)
    if model not in contents.titles:
        raise InputError(f"{name} is the card of a model that the run does not have")
    card = _compose(run, contents, model, rules, read_filled(text))
    yield name, card.markdown
    yield find_page(name), card.page


class _FrontMatter(NamedTuple):
    """Which version wrote a card, of which model it is, and with which rules."""

    version: str
    model: str
    rules: list[Rule]


def _read_front_matter(text: str, name: str) -> _FrontMatter:
    match = _FRONT_MATTER.match(text)
    front = parse_yaml(match[1], name) if match else None
    match front:
        case {"fairweather": {"version": version, "model": str(model), "rules": [*rules]}}:
            pass
        case _:
            raise InputError(f"{name} does not name its run")
    # Without the bracket, a text would be taken as the path of a file.
    if not all(isinstance(rule, str) and "[" in rule for rule in rules):
        raise InputError(f"{name} has a rule that cannot be read")
    read = read_rules(rules) if rules else []
    if any(rule.reference for rule in read):  # a name in a run's files never leads outside it
        raise InputError(f"{name} has a rule about another run, which is not read")
    return _FrontMatter(str(version), model, read)
