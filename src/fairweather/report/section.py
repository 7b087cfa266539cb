"""A section of the report: what it writes to files, and what the page shows of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from fairweather.report.charts import Figure
from fairweather.report.contents import Contents
from fairweather.report.tables import Body, TableLayout, TextTable
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import Predictions

Tables = Sequence[TextTable]


@dataclass(frozen=True)
class PartView:
    """What the page shows of a part of a section.

    Attributes:
        heading: above it; none if it is empty.
        tables: those that stand there.
        figures: the names of the figures above them.
        notes: sentences below the heading.
        template: the name of a file in `page`.
        facts: what the template says besides, where it knows them as `facts`.
        carried: what the page's script reads besides.
    """

    heading: str = ""
    tables: Tables = ()
    figures: Sequence[str] = ()
    notes: Sequence[str] = ()
    template: str = "part.html.j2"
    facts: Mapping[str, object] = field(default_factory=dict)
    carried: Mapping[str, object] = field(default_factory=dict)

    def is_empty(self, drawn: Container[str]) -> bool:
        """Whether only figures were to stand here, and none of them is drawn."""
        others = self.tables or self.notes or self.template != PartView.template
        return not others and not any(name in drawn for name in self.figures)


Show = Callable[[Contents, Tables], PartView | None]


def make_nothing(_: Contents) -> Iterable[None]:
    """A part that writes no tables, or no figures."""
    return ()


def show_tables(heading: str) -> Show:
    """Show the tables of a part below a heading; where there are none, nothing."""
    return lambda _, tables: PartView(heading, tables) if tables else None


def show_figures(heading: str, *names: str) -> Show:
    """Show figures of these names below a heading, as far as the run has them."""
    return lambda *_: PartView(heading, figures=names)


def show_facts(
    heading: str, template: str, find: Callable[[Contents], Mapping[str, object] | None]
) -> Show:
    """Show what is found in a template; where nothing is found, nothing."""

    def show(contents: Contents, _: Tables) -> PartView | None:
        facts = find(contents)
        return None if facts is None else PartView(heading, template=template, facts=facts)

    return show


@dataclass(frozen=True)
class ReportPart:
    """A part of a section.

    Attributes:
        shown: what the page shows of it, given the part's tables; None where that is nothing.
        tables: what it writes to tables; None among them is left out.
        figures: what it writes to figures, likewise.
        accepts: the kind of predictions that it is about; None for those of every task.
    """

    shown: Show
    tables: Callable[[Contents], Iterable[TextTable | None]] = make_nothing
    figures: Callable[[Contents], Iterable[Figure | None]] = make_nothing
    accepts: TaskKind | None = Predictions.kind


class Brief(NamedTuple):
    """What is said of a section in a terminal: sentences, and a table below them."""

    sentences: Sequence[str]
    layout: TableLayout
    body: Body


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        anchor: its id in the page.
        title: its heading, and its name in the list of contents.
        parts: in their order; each is in the file of its numbers.
        front: whether the page shows it open, before the details, which are closed.
        accepts: whether it is about such a run at all; a section that shows nothing is left out
            anyway.
        brief: what `Run.overview` says of it; None for nothing.
    """

    anchor: str
    title: str
    parts: tuple[ReportPart, ...]
    front: bool = False
    accepts: Callable[[Contents], bool] = lambda _: True
    brief: Callable[[Contents], Brief] | None = None

    def of(self, contents: Contents) -> Section | None:
        """The section with the parts that accept what a run has predicted; None without any."""
        parts = tuple(part for part in self.parts if part.accepts in (None, *contents.kinds))
        return replace(self, parts=parts) if parts and self.accepts(contents) else None
