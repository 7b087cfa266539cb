"""Pages that the code writes about itself: the command line, the metrics, the notebooks.

Directives, and two checks: every public object has an entry, and a search finds the right page.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydantic
import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.search.en import SearchEnglish
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import fairweather
import fairweather.metrics
from fairweather.cli.help import DocumentedCommand
from fairweather.data.natural_sets import NATURAL_SETS
from fairweather.metrics.metric import FEWEST_OF_CLASS
from fairweather.types.kinds import FINDING, FINDINGS
from notebook import Code, Markdown, Output, run_cells, split_cells
from search import Ranking, with_entries, wrong_answers

logger = logging.getLogger(__name__)


def text_with_code(text: str) -> list[nodes.Node]:
    """Make inline nodes of a sentence in which `this` is code."""
    return [
        nodes.literal(text=part) if number % 2 else nodes.Text(part)
        for number, part in enumerate(text.split("`"))
        if part
    ]


def paragraph(text: str) -> nodes.paragraph:
    """Make a paragraph of a sentence in which `this` is code."""
    made = nodes.paragraph()
    made += text_with_code(text)
    return made


def table(head: list[str], rows: Iterable[list[list[nodes.Node]]]) -> nodes.table:
    """Make a table; each cell is a list of inline nodes."""
    made = nodes.table(classes=["docutils"])
    group = nodes.tgroup(cols=len(head))
    made += group
    for _ in head:
        group += nodes.colspec(colwidth=1)
    body = nodes.tbody()
    group += [nodes.thead("", _row([[nodes.Text(word)] for word in head])), body]
    body += [_row(row) for row in rows]
    return made


def _row(cells: list[list[nodes.Node]]) -> nodes.row:
    made = nodes.row()
    for cell in cells:
        made += nodes.entry("", nodes.paragraph("", "", *cell))
    return made


class Sections(SphinxDirective):
    """A directive that makes sections with titles, and with targets that do not change."""

    def section(self, title: str, name: str, *, code: bool = False) -> nodes.section:
        """Begin a section; `name` is the last part of its address."""
        made = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
        made += nodes.title("", "", nodes.literal(text=title) if code else nodes.Text(title))
        self.state.document.note_implicit_target(made, made)
        return made


class CommandLine(Sections):
    """Every command with its arguments and options, as `--help` says them."""

    def run(self) -> list[nodes.Node]:
        """Make a section for each command."""
        from fairweather.cli.app import app

        found = typer.main.get_command(app)
        return [self._command(name, each) for name, each in found.commands.items()]

    def _command(self, name: str, command: DocumentedCommand) -> nodes.section:
        with command.make_context(f"fairweather {name}", [], resilient_parsing=True) as context:
            usage, panels = command.usage(context), command.panels(context)
        made = self.section(f"fairweather {name}", f"fairweather-{name}", code=True)
        paragraphs, examples = command.explained()
        made += map(paragraph, paragraphs)
        for text in ("\n".join(examples), f"fairweather {name} {usage}"):
            made += nodes.literal_block(text=text, language="text", classes=["highlight"])
        for title, rows in panels.items():
            cells = [
                [[nodes.literal(text=names)], text_with_code(said)]
                for names, said in rows
                if "--help" not in names
            ]
            made += [table([title, "meaning"], cells)] * bool(cells)
        return made


BINS = {
    "/10-equal-width": "The ten bins are confidence 0 to 0.1, 0.1 to 0.2, and so on to 1.",
    "/10-equal-mass": (
        "The images are sorted by confidence, and each of the ten bins holds a tenth of them."
    ),
    "/100-per-bin": (
        "The images are sorted by confidence, and each bin holds 100 of them, the last one up to "
        "199."
    ),
}


OF_FINDINGS = {FINDING: "of one finding", FINDINGS: "of all findings of an image"}


def call_facts(row: fairweather.metrics.metric.ClassMetricRow, name: str, sides: str) -> list[str]:
    """What a metric of a class, or of a finding, depends on."""
    if row.has(0.5):
        return [f"with an operating point, `{name}@THRESHOLD`"]
    return [f"no interval below {row.fewest} images {sides}"] if row.fewest > 1 else []


def describe_scale(row: fairweather.metrics.metric.MetricRow) -> list[str]:
    """Which end is better, and where the ends are."""
    better = {True: "higher is better", False: "lower is better", None: "neither end is best"}
    low, high = (f"{bound:g}".replace("inf", "∞").replace("-", "−") for bound in row.bounds)
    unit = f" {row.unit}" if row.unit not in ("", "%") else ""
    return [better[row.higher_is_better], f"from {low} to {high}{unit}"]


class Metrics(Sections):
    """Every metric of scores.csv with its formula, its bounds and what carries it."""

    def run(self) -> list[nodes.Node]:
        """Make a section for each metric."""
        return [
            *map(self._metric, fairweather.metrics.METRICS.values()),
            *map(self._of_classes, fairweather.metrics.metric.CLASS_METRICS.values()),
        ]

    def _of_classes(self, metric: fairweather.metrics.metric.ClassMetricRow) -> nodes.section:
        made = self.section(f"{metric.name}/CLASS", f"{metric.name}/CLASS", code=True)
        made += paragraph(f"{metric.label} of one class: {metric.formula}.")
        facts = [*describe_scale(metric), f"interval: {metric.interval}"]
        facts[0] = facts[0].capitalize()
        facts.append("needs prediction sets" if metric.accepts.sets else "needs logits")
        facts += call_facts(metric, f"{metric.name}/CLASS", "of the class, or of the others")
        made += paragraph(f"{'; '.join(facts)}.")
        return made

    def _metric(self, metric: fairweather.metrics.Metric) -> nodes.section:
        made = self.section(metric.name, metric.name, code=True)
        facts = [*describe_scale(metric), f"interval: {metric.interval}"]
        if metric.accepts.kind in OF_FINDINGS:
            facts.append(OF_FINDINGS[metric.accepts.kind])
        if metric.accepts.classes > 1:
            facts.append(f"needs at least {metric.accepts.classes} classes")
        if metric.accepts.column == "logits":
            facts.append("needs logits")
        if metric.accepts.fitted:
            facts.append("needs clean validation images")
        if isinstance(metric, fairweather.metrics.metric.ClassMetric):
            facts += call_facts(metric.kind, metric.name, "with the finding, or without it")
        elif metric.fewest:
            carriers = {
                "wrong": "wrong images",
                "rarer": "wrong images, or right ones where these are fewer",
                "rarer outcome": "wrong images, or right ones where these are fewer, and likewise "
                "with the finding, or without it",
                "rarer label": "images with the finding, or without it where these are fewer",
                "emptiest bin": "images in the emptiest bin that holds any",
            }
            facts.append(f"no interval below {metric.fewest} {carriers[metric.carried_by]}")
        if metric.interval == "area" and metric.accepts.kind not in OF_FINDINGS:
            facts.append(f"or below {FEWEST_OF_CLASS} images of the rarest class")
        made += paragraph(f"{metric.label}: {metric.formula}.")
        for ending, words in BINS.items():
            if (metric.alias_of or metric.name).endswith(ending):
                made += paragraph(words)
        if metric.alias_of:
            made += paragraph(f"The same number as `{metric.alias_of}`, under a short name.")
        facts_line = "; ".join(facts)
        made += paragraph(f"{facts_line[0].upper()}{facts_line[1:]}.")
        return made


class NaturalSets(SphinxDirective):
    """The published natural shifts, from the table that reads them.

    Its body has their names, for readers of the plain file.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make a table with a row for each."""
        rows = []
        for name, facts in NATURAL_SETS.items():
            link = nodes.reference(refuri=facts.where, text=facts.title)
            size = f"{facts.images:,} / {facts.class_count:,}"
            cells = [[nodes.literal(text=name)], [link]]
            rows.append([*cells, *([nodes.Text(text)] for text in (size, facts.licence))])
        return [table(["name", "from", "images / classes", "licence"], rows)]


class Objects(SphinxDirective):
    """The docstrings of the named objects of a module: a name a line in the body."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Let autodoc describe each as what it is."""
        module = importlib.import_module(self.arguments[0])
        lines = []
        for name in filter(None, self.content):
            full = f"{self.arguments[0]}.{name}"
            found = getattr(module, name)
            if inspect.isclass(found):
                listed = ", ".join(["__new__", *read_fields(found)])  # fields: in the docstring
                lines += [
                    f".. autoclass:: {full}",
                    "   :members:",
                    f"   :exclude-members: {listed}",
                ]
            elif callable(found):
                lines.append(f".. autofunction:: {full}")
            else:
                lines += [f".. autodata:: {full}", "   :no-value:"]
            lines.append("")
        fence = "\n".join(["```{eval-rst}", *lines, "```"])
        return self.parse_text_to_nodes(fence)


class Keys(Sections):
    """The keys of files: each named class with its docstring and a table of its fields."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make a section for each class."""
        module = importlib.import_module(self.arguments[0])
        return [self._class(getattr(module, name)) for name in filter(None, self.content)]

    def _class(self, of: type) -> nodes.section:
        made = self.section(of.__name__, f"keys-{of.__name__}", code=True)
        lines = inspect.cleandoc(of.__doc__ or "").splitlines()
        text = "\n".join(as_lists(lines if _helps(of) else add_fields(of, lines)))
        made += self.parse_text_to_nodes(f"`````{{eval-rst}}\n{text}\n`````")
        made += table(["key", "type", "default", *(["meaning"] if _helps(of) else [])], _keys(of))
        return made


def _keys(of: type) -> Iterator[list[list[nodes.Node]]]:
    annotations = {
        name: text
        for base in reversed(of.__mro__)
        for name, text in vars(base).get("__annotations__", {}).items()
    }
    for name, default in _defaults(of).items():
        kind = re.sub(r"Annotated\[(.*), [^,]*\]", r"\1", str(annotations[name]))
        row = [[nodes.literal(text=name)], [nodes.literal(text=kind)]]
        row.append([nodes.literal(text=default)] if default else [nodes.Text("must be given")])
        if helps := _helps(of):
            row.append(text_with_code(helps[name]))
        yield row


def _defaults(of: type) -> dict[str, str]:
    """The fields of a class with the text of their defaults; none where there is no default."""
    if issubclass(of, pydantic.BaseModel):
        return {
            name: "" if field.is_required() else repr(field.get_default(call_default_factory=True))
            for name, field in of.model_fields.items()
        }
    missing = dataclasses.MISSING
    return {
        field.name: repr(field.default)
        if field.default is not missing
        else repr(field.default_factory())
        if field.default_factory is not missing
        else ""
        for field in dataclasses.fields(of)
    }


def _helps(of: type) -> dict[str, str]:
    if not dataclasses.is_dataclass(of):
        return {}
    return {
        field.name: field.metadata["description"]
        for field in dataclasses.fields(of)
        if "description" in field.metadata
    }


class Notebook(SphinxDirective):
    """A script with `# %%` cells, run while the site is built, with what each cell shows."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Run the script in an empty folder and show its cells and what they give."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        with tempfile.TemporaryDirectory() as folder:
            shown = run_cells(split_cells(Path(absolute).read_text(encoding="utf-8")), Path(folder))
            page = as_markdown(shown)
        return self.parse_text_to_nodes(page, allow_section_headings=True)


def as_markdown(cells: Iterable[tuple[Markdown | Code, Output]]) -> str:
    """Write the cells of a notebook, and what they show, as one page.

    >>> print(as_markdown([(Code("1 + 1", 1), Output("2"))]))
    `````python
    1 + 1
    `````
    <BLANKLINE>
    `````{code-block} text
    :class: output
    2
    `````
    """
    blocks = []
    for cell, output in cells:
        if isinstance(cell, Markdown):
            blocks.append(cell.text)
            continue
        blocks.append(f"`````python\n{cell.text}\n`````")
        if output.text:
            blocks.append(
                f"`````{{code-block}} text\n:class: output\n{output.text.rstrip()}\n`````"
            )
        if output.html:
            html = f'<div class="output">{output.html}</div>'
            blocks.append(f"`````{{raw}} html\n{html}\n`````")
    return "\n\n".join(blocks)


SECTION = {
    "Args:": "Arguments:",
    "Attributes:": "Attributes:",
    "Raises:": "Raises:",
    "Returns:": "Returns:",
}
ENTRY = re.compile(r"    (?P<names>[\w*]+(?:, [\w*]+)*): (?P<text>.*)")


def as_lists(docstring: Iterable[str]) -> list[str]:
    """Write the sections of a docstring as lists, each entry with its name as code.

    >>> as_lists(["One.", "", "Args:", "    labels, keys: int64 `[N]`,", "        in order."])
    ['One.', '', 'Arguments:', '', '- ``labels``, ``keys``: int64 `[N]`,', '  in order.']
    """
    lines: list[str] = []
    section = ""
    for line in docstring:
        if line in SECTION:
            section = line
            lines += [SECTION[line], ""]
        elif not section or (line and not line.startswith("    ")):
            section = ""
            lines.append(line)
        elif section == "Returns:":
            lines.append(line)  # stays indented: a block of its own below the word
        elif entry := ENTRY.fullmatch(line):
            names = ", ".join(f"``{name}``" for name in entry["names"].split(", "))
            lines.append(f"- {names}: {entry['text']}")
        else:
            lines.append(f"  {line.strip()}" if line.strip() else "")
    return lines


JOINT = re.compile(r"(`\w+`(?:, `\w+`)+): (.*)", re.DOTALL)


def read_fields(of: type) -> dict[str, str]:
    """The text below each field of a class, by the field's name.

    >>> list(read_fields(fairweather.types.record.CellRecord))
    ['id', 'level', 'constants']
    """
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = inspect.cleandoc(text)
    return texts


def add_fields(of: type, lines: list[str]) -> list[str]:
    """Add the texts below the fields of a class to its docstring, before its examples."""
    entries = []
    for name, text in read_fields(of).items():
        joint = JOINT.fullmatch(text)  # of this field and of those before it
        names, said = (joint[1].replace("`", ""), joint[2]) if joint else (name, text)
        first, *others = said.splitlines()
        entries += [f"    {names}: {first}", *(f"        {line}" for line in others)]
    if not entries:
        return lines
    at = next((at for at, line in enumerate(lines) if line.startswith(">>>")), len(lines))
    return [*lines[:at], "", "Attributes:", *entries, "", *lines[at:]]


def rewrite_docstring(
    app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Let autodoc see the sections as lists; a table of rows gets no docstring of `dict`."""
    whole = add_fields(of, lines) if inspect.isclass(of) else lines
    lines[:] = ["Rows by name."] if isinstance(of, dict) else as_lists(whole)


def skip_alias(
    app: Sphinx, what: str, name: str, of: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of named tuples: the docstring of the class describes them."""
    return True if (getattr(of, "__doc__", None) or "").startswith("Alias for field") else None


def public_names() -> set[str]:
    """Everything that users may rely on, by its full name."""
    names = {f"fairweather.{name}" for name in fairweather.__all__ if name != "metrics"}
    return names | {f"fairweather.metrics.{name}" for name in fairweather.metrics.__all__}


def check_entries(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which ends the build, of a public object that no page describes."""
    described = set(env.domains.python_domain.objects)
    for name in sorted(public_names() - described):
        logger.warning("no page describes the public object %s: add it to docs/api.md", name)


def write_front_door(app: Sphinx, exception: Exception | None) -> None:
    """Lead whoever opens the folder to the first page."""
    if exception is None and app.builder.format == "html":
        page = f"{app.config.root_doc}.html"
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>fairweather</title>'
            f'<meta http-equiv="refresh" content="0; url={page}"><a href="{page}">fairweather</a>\n'
        )


def add_entries(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add the words that people search for to the index, before a page is parsed."""
    source[0] = with_entries(docname, source[0])


def check_search(app: Sphinx, exception: Exception | None) -> None:
    """Warn, which ends the build, where the search of the site shows another page first."""
    if exception is None and app.builder.format == "html":
        script = (Path(app.outdir) / "searchindex.js").read_text(encoding="utf-8")
        for wrong in wrong_answers(Ranking.read(script, SearchEnglish({}).stem)):
            logger.warning(wrong)


def setup(app: Sphinx) -> dict[str, object]:
    """Register all of it with Sphinx."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("metrics", Metrics)
    app.add_directive("natural-sets", NaturalSets)
    app.add_directive("objects", Objects)
    app.add_directive("keys", Keys)
    app.add_directive("notebook", Notebook)
    app.connect("autodoc-process-docstring", rewrite_docstring)
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("env-check-consistency", check_entries)
    app.connect("source-read", add_entries)
    app.connect("build-finished", write_front_door)
    app.connect("build-finished", check_search)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
