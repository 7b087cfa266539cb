"""Tables in Markdown, CSV and LaTeX: every number with its 95 % interval."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fairweather.metrics import METRICS, Metric
from fairweather.report.reading import CLEAN, MEAN, NO_LEVEL, Contents, Sweep
from fairweather.types import Score

METRIC: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
# The two that the report "Evaluating the Robustness of Deep Learning Models" tabulates.
TABULATED = ("accuracy", "rms_calibration_error")
NORMS = {"expected": "L1 norm", "rms": "L2 norm", "maximum": "maximum norm"}
ABSENT = "–"

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "σ": r"$\sigma$",
    "ε": r"$\varepsilon$",
    "−": "$-$",
    "×": r"$\times$",
}


@dataclass(frozen=True)
class Table:
    """A table to be written in several formats.

    Attributes:
        name: of its files, without the suffix.
        caption: what the numbers are and what is behind them.
        header: the first entry names the column of row titles.
        rows: the row's title and its entries, one a further column; None where a score is absent.
        scores: the rows of scores.csv that it shows.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]
    scores: pd.DataFrame

    def texts(self) -> dict[str, str]:
        """Write the table out, by the suffix of the file."""
        return {
            "md": self.markdown(),
            "csv": self.scores.to_csv(index=False),
            "tex": self.latex(),
        }

    def cells(self) -> list[list[str]]:
        """The body as plain text, ready to be escaped."""
        return [
            [title, *(str(entry) if entry else ABSENT for entry in entries)]
            for title, entries in self.rows
        ]

    def markdown(self) -> str:
        """Write the table as GitHub's Markdown, with the caption as a paragraph below it."""
        head = [escape_markdown(text) for text in self.header]
        rule = ["---", *["---:"] * (len(head) - 1)]
        body = [[escape_markdown(title), *cells] for title, *cells in self.cells()]
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
        return "\n".join([*lines, "", escape_markdown(self.caption), ""])

    def latex(self) -> str:
        """Write the table for LaTeX's booktabs package."""
        rows = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in self.cells()]
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escape_latex(self.caption)}}}",
            rf"  \label{{tab:{re.sub('[^a-z0-9]+', '-', self.name.lower())}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(map(escape_latex, self.header)) + r" \\",
            r"    \midrule",
            *("    " + row for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Entry:
    """A score as a table shows it.

    >>> str(Entry(Score(0.8234, 0.801, 0.845, 200), percent=True))
    '82.3 [80.1, 84.5]'
    """

    score: Score
    percent: bool

    def __str__(self) -> str:
        return self._text(unit="")

    @property
    def in_words(self) -> str:
        """The score with its unit, for running text."""
        return self._text(unit="\N{NO-BREAK SPACE}%" if self.percent else "")

    def _text(self, unit: str) -> str:
        scale, digits = (100, 1) if self.percent else (1, 3)
        value, low, high = (f"{scale * number:.{digits}f}" for number in self.score[:3])
        return f"{value}{unit} [{low}, {high}]".replace("-", "−")


def build_tables(contents: Contents) -> list[Table]:
    """Build the summaries, one table for each shift and metric, and all metrics on clean images."""
    summaries = [_summary(contents, metric) for metric in TABULATED]
    levels = [
        _by_level(contents, metric, sweep) for sweep in contents.sweeps for metric in TABULATED
    ]
    tables = [*summaries, *levels, _clean_metrics(contents)]
    return [table for table in tables if len(table.scores)]


def summary_rows(tables: Iterable[Table]) -> pd.DataFrame:
    """Return the rows of scores.csv that the summary tables show."""
    shown = [table.scores for table in tables if table.name.startswith("summary_")]
    return pd.concat(shown, ignore_index=True)


def find_entry(contents: Contents, metric: str, model: str, shift: str, level: str) -> Entry | None:
    """Return a number as a table shows it, or None where there is none."""
    score = contents.score(metric, model, shift, level)
    return None if score is None else Entry(score, is_percent(metric))


def is_percent(metric: str) -> bool:
    """Say whether a metric is read as a percentage: shares of the images that are right."""
    return metric.endswith("accuracy")


def describe_metric(name: str) -> str:
    """Say what a number is, down to bins and norm.

    >>> describe_metric("accuracy")
    'Accuracy (%)'
    >>> describe_metric("rms_calibration_error")
    'RMS calibration error (10 equal-width bins, L2 norm)'
    """
    metric = METRIC[name]
    full = metric.alias_of or name
    bins = re.fullmatch(r"([a-z]+)_calibration_error/(\d+)-(.*)", full)
    label = metric.label.partition(" (")[0]
    if bins:
        return f"{label} ({bins[2]} {bins[3]} bins, {NORMS[bins[1]]})"
    unit = "%" if is_percent(name) else metric.unit
    return f"{label} ({unit})" if unit else label


def escape_markdown(text: str) -> str:
    r"""Make text show as it is in a cell of a Markdown table.

    >>> print(escape_markdown("a|b <i> c_d"))
    a\|b &lt;i&gt; c\_d
    """
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SPECIAL.sub(r"\\\1", plain)


def escape_latex(text: str) -> str:
    r"""Make text show as it is in LaTeX.

    >>> print(escape_latex("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _summary(contents: Contents, metric: str) -> Table:
    columns = [
        ("Clean", CLEAN, NO_LEVEL),
        *((sweep.title, sweep.name, MEAN) for sweep in contents.sweeps),
    ]
    shifts = "; for each shift, the mean over its levels" if contents.sweeps else ""
    subject = f"{describe_metric(metric)} on the clean test images{shifts}"
    return _by_model(contents, f"summary_{metric}", metric, columns, subject)


def _by_level(contents: Contents, metric: str, sweep: Sweep) -> Table:
    columns = [(sweep.heading(level), sweep.name, level) for level in sweep.cells]
    note = f" ({sweep.note})" if sweep.note else ""
    subject = f"{describe_metric(metric)} under {sweep.title}, by {sweep.level_title}{note}"
    return _by_model(contents, f"{metric}_{sweep.file_name}", metric, columns, subject)


def _by_model(
    contents: Contents,
    name: str,
    metric: str,
    columns: Sequence[tuple[str, str, str]],
    subject: str,
) -> Table:
    """Lay out a metric with a row a model; a column is its title, its shift and its level."""
    scores = pd.concat([contents.pick(metric, shift) for shift in {c[1]: 0 for c in columns}])
    wanted = [(shift, level) for _, shift, level in columns]
    scores = _select(scores, [(model, *place) for model in contents.titles for place in wanted])
    rows = [
        (title, tuple(find_entry(contents, metric, model, *place) for place in wanted))
        for model, title in contents.titles.items()
    ]
    header = ("Model", *(title for title, _, _ in columns))
    return Table(name, _caption(contents, subject), header, tuple(rows), scores)


def _clean_metrics(contents: Contents) -> Table:
    """Lay out every metric on clean images, a row a metric, without aliases."""
    names = [metric.name for metric in METRICS if metric.alias_of is None]
    found = pd.concat([contents.pick(name, CLEAN) for name in names])
    scores = _select(found, [(model, CLEAN, NO_LEVEL) for model in contents.titles])
    clean = (CLEAN, NO_LEVEL)
    rows = [
        (
            describe_metric(name),
            tuple(find_entry(contents, name, model, *clean) for model in contents.titles),
        )
        for name in names
        if name in set(scores["metric"])
    ]
    header = ("Metric", *contents.titles.values())
    caption = _caption(contents, "Every metric on the clean test images")
    return Table("clean_metrics", caption, header, tuple(rows), scores)


def _caption(contents: Contents, subject: str) -> str:
    return f"{subject}. In brackets: 95 % bootstrap intervals over images ({contents.sample()})."


def _select(scores: pd.DataFrame, places: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """Keep the rows at these models, shifts and levels, in the order of the places."""
    order = {place: index for index, place in enumerate(places)}
    keys = [
        order.get(key, -1)
        for key in scores[["model", "shift", "level"]].itertuples(index=False, name=None)
    ]
    kept = scores.assign(order=keys).query("order >= 0")
    return kept.sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)
