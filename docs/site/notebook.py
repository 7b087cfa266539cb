"""Scripts with `# %%` cells, the format that editors and Jupytext open as notebooks."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CELL = re.compile(r"^# %%(?: \[(?P<kind>\w+)\])?[^\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class Markdown:
    """A cell of prose."""

    text: str


@dataclass(frozen=True)
class Code:
    """A cell of code, and the line of the script that it begins on."""

    text: str
    line: int


@dataclass(frozen=True)
class Output:
    """What a cell shows: what it prints, then its last expression as text or as HTML."""

    text: str = ""
    html: str = ""


def split_cells(script: str) -> list[Markdown | Code]:
    """Split a script at its `# %%` lines; what stands before the first is left out.

    >>> split_cells("# %% [markdown]\\n# # Title\\n# %%\\n1 + 1\\n")
    [Markdown(text='# Title'), Code(text='1 + 1', line=4)]
    """
    marks = list(CELL.finditer(script))
    ends = [mark.start() for mark in marks[1:]] + [len(script)]
    cells: list[Markdown | Code] = []
    for mark, end in zip(marks, ends, strict=True):
        body = script[mark.end() : end].strip("\n")
        if mark["kind"] == "markdown":
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.splitlines()]
            cells.append(Markdown("\n".join(lines)))
        elif body:
            begin = script.index(body, mark.end())
            cells.append(Code(body, script.count("\n", 0, begin) + 1))
    return cells


def run_cells(
    cells: Sequence[Markdown | Code], folder: Path, name: str = "notebook"
) -> Iterator[tuple[Markdown | Code, Output]]:
    """Run the cells one after the other in a folder, and give each with what it shows."""
    namespace: dict[str, object] = {"__name__": name}
    for cell in cells:
        if isinstance(cell, Markdown):
            yield cell, Output()
        else:
            with contextlib.chdir(folder):
                output = _run(cell, namespace, name)
            yield cell, output


def _run(cell: Code, namespace: dict[str, object], name: str) -> Output:
    tree = ast.parse("\n" * (cell.line - 1) + cell.text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        shown = eval(compile(ast.Expression(last.value), name, "eval"), namespace) if last else None
    text = printed.getvalue()
    if shown is None:
        return Output(text)
    as_html = getattr(shown, "_repr_html_", None)
    html = as_html() if as_html else None
    return Output(text, html) if html else Output(f"{text}{shown!r}\n")
