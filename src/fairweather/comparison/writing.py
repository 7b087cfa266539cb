"""A comparison in words and tables: on the terminal, in Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from fairweather.comparison.matching import Pair
from fairweather.comparison.published import PublishedStudy
from fairweather.report.reading import NO_LEVEL, Contents
from fairweather.report.tables import (
    ABSENT,
    METRIC,
    Entry,
    describe_metric,
    escape_latex,
    escape_markdown,
    is_percent,
)

HEADER = (
    *("Model", "Shift", "Level", "Metric"),
    *("Measured", "Published", "Difference", "In the interval"),
)
WORDS = 4  # columns of words, aligned to the left; the others hold numbers
NOT_MEASURED = "not measured"


def table_body(pairs: Sequence[Pair], contents: Contents, study: PublishedStudy) -> list[list[str]]:
    """Write pairs as text, in the order of `HEADER`."""
    return [
        [
            contents.titles.get(number.model, study.models[number.model].title),
            study.shifts[number.shift],
            ABSENT if number.level == NO_LEVEL else number.level,
            METRIC[number.metric].label,
            *_numbers(pair),
        ]
        for pair in pairs
        for number in (pair.published,)
    ]


def caption(pairs: Sequence[Pair], study: PublishedStudy) -> str:
    """Say what the numbers are."""
    metrics = dict.fromkeys(describe_metric(pair.published.metric) for pair in pairs)
    return (
        f"{study.title}: measured beside published. {'; '.join(metrics)}. Mean: over the levels of "
        "a shift. In brackets: the run's 95 % bootstrap intervals over images. In the interval: "
        "does the published number lie in it. Difference: measured − published."
    )


def aligned(body: Sequence[Sequence[str]]) -> str:
    """Write the table for a terminal."""
    lines = [HEADER, *body]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < WORDS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(body: Sequence[Sequence[str]], below: Sequence[str]) -> str:
    """Write the table as GitHub's Markdown, with paragraphs below it."""
    rule = ["---"] * WORDS + ["---:"] * (len(HEADER) - WORDS)
    rows = [[escape_markdown(cell) for cell in line] for line in body]
    table = ["| " + " | ".join(line) + " |" for line in (HEADER, rule, *rows)]
    paragraphs = [line for text in below for line in ("", escape_markdown(text))]
    return "\n".join([*table, *paragraphs, ""])


def latex(body: Sequence[Sequence[str]], label: str, text: str) -> str:
    """Write the table for LaTeX's booktabs package."""
    rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in body]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(text)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{'l' * WORDS}{'r' * (len(HEADER) - WORDS)}}}",
        r"    \toprule",
        "    " + " & ".join(map(escape_latex, HEADER)) + r" \\",
        r"    \midrule",
        *("    " + row for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _numbers(pair: Pair) -> list[str]:
    percent = is_percent(pair.published.metric)
    scale, digits = (100, 1) if percent else (1, 3)
    published = f"{scale * pair.published.value:.{digits}f}"
    if pair.measured is None:
        return [NOT_MEASURED, published, ABSENT, ABSENT]
    # `z` writes what rounds to zero without a sign.
    difference = f"{scale * pair.difference:+z.{digits}f}".replace("-", "−")
    inside = "yes" if pair.inside else "no"
    return [str(Entry(pair.measured, percent)), published, difference, inside]
