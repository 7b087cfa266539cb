"""The import arrows, written once and enforced: to add one, edit this table in the same change."""

import ast
import io
import pathlib
import tokenize
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest

SRC = pathlib.Path(__file__).parents[1] / "src" / "fairweather"
LEAVES = {"errors", "progress", "small_maps", "devices", "processes", "files", "types"}
MAY_IMPORT = {
    "errors": set(),
    "progress": set(),
    "small_maps": set(),
    "devices": {"errors", "small_maps"},
    "processes": {"errors"},
    "files": {"errors", "progress"},
    "types": {"errors"},
    "demo_network": set(),
    "metrics": LEAVES,
    "tasks": LEAVES | {"metrics"},
    "variants": LEAVES | {"metrics", "tasks"},
    "data": LEAVES | {"tasks"},
    "shifts": LEAVES | {"data"},
    "attacks": LEAVES | {"shifts"},
    "training": LEAVES | {"data", "metrics", "shifts"},
    "runs": LEAVES | {"metrics", "tasks"},
    "models": LEAVES | {"data", "runs"},
    "inference": LEAVES | {"attacks", "data", "metrics", "tasks", "variants"},
    "report": LEAVES | {"data", "metrics", "runs", "shifts", "tasks", "variants"},
    "share": LEAVES | {"data", "metrics", "runs", "shifts"},
}
MAY_IMPORT["steps"] = set(MAY_IMPORT) - {"share"}
MAY_IMPORT["workers"] = LEAVES | {"report", "runs", "steps", "training"}
MAY_IMPORT["judge"] = MAY_IMPORT["deploy"] = MAY_IMPORT["steps"] | {"steps"}
MAY_IMPORT["requests"] = MAY_IMPORT["steps"] | {"share", "steps", "workers"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# Each becomes a run in its own way; what they have in common is `inputs` and `execution`.
REQUESTS = (
    *("requests.study", "requests.evaluation.models", "requests.evaluation.predictions"),
    "requests.seeds",
)
MODULES = sorted(SRC.rglob("*.py"))
# The most lines of code that each part may have; these numbers only fall. A change that needs more
# lines in one part takes them from another.
MOST_LINES = {
    "report": 9349,
    "metrics": 8069,
    "judge": 6571,
    "models": 5607,
    "requests": 5119,
    "data": 4543,
    "steps": 4011,
    "workers": 2279,
    "training": 2260,
    "variants": 2001,
    "deploy": 1944,
    "cli": 1764,
    "shifts": 1646,
    "runs": 1465,
    "types": 1356,
    "(root)": 1339,
    "attacks": 1154,
    "inference": 915,
    "share": 748,
    "files": 557,
    "demo_network": 56,
}
# Tokens that make no line of code by themselves.
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
SILENT |= {tokenize.ENDMARKER}


def part(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


class Facts(NamedTuple):
    """What a file has, wherever in the file and however it is written."""

    imports: set[str]
    """The dotted names that it imports."""

    classes: list[str]
    variables: set[str]
    """The names that it gives values."""

    without_encoding: list[int]
    """The lines that read or write a file's text in the encoding of the locale."""


@cache
def facts(path):
    found = Facts(set(), [], set(), [])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found.imports.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            found.classes.append(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.variables.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {each.arg for each in node.keywords}
            if node.func.attr in ("read_text", "write_text") and "encoding" not in named:
                found.without_encoding.append(node.lineno)
    return found


def imported_names(path):
    """The dotted names of this package that a file imports."""
    return {name for name in facts(path).imports if name.startswith("fairweather.")}


def internal_imports(path):
    """Parts of the package that a file imports."""
    return {name.split(".")[1] for name in imported_names(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_module_imports_only_what_it_may(path):
    if part(path).startswith("__"):
        return  # the façade and `python -m fairweather` may import anything
    extra = internal_imports(path) - MAY_IMPORT[part(path)] - {part(path)}
    assert not extra, f"{path.name} must not import {sorted(extra)}"


@pytest.mark.parametrize("request_", REQUESTS)
def test_no_request_imports_another(request_):
    place = SRC / request_.replace(".", "/")
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    others = {f"fairweather.{each}" for each in REQUESTS if each != request_}
    for path in files:
        names = imported_names(path)
        reached = {name for name in names for other in others if f"{name}.".startswith(f"{other}.")}
        assert not reached, f"{path.name} must not import {sorted(reached)}"


def test_the_arrows_form_a_dag():
    seen = set()
    while rest := set(MAY_IMPORT) - seen:
        ready = {name for name in rest if MAY_IMPORT[name] <= seen}
        assert ready, f"import cycle among {sorted(rest)}"
        seen |= ready


def test_every_part_stands_in_the_table():
    assert {part(path) for path in MODULES} - {"__init__", "__main__"} == set(MAY_IMPORT)


def test_no_class_name_stands_twice():
    names = [name for path in MODULES for name in facts(path).classes]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_variable_says_what_it_holds(path):
    assert not facts(path).variables & {"each", "found"}


@pytest.mark.parametrize(
    "line",
    [
        "from fairweather.training.supervised import fit",
        "from fairweather import training",
        "import fairweather.training.recipe",
        "def late():\n    from fairweather.training.supervised import fit",
    ],
)
def test_the_check_sees_every_way_to_import(line, tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text(line)
    assert internal_imports(planted) == {"training"}


def test_csv_is_written_in_one_place():
    """A text with a carriage return in another writer's file reads back as two rows."""
    calls = ("csv.writer(", ".to_csv(")
    writers = {
        str(path.relative_to(SRC))
        for path in MODULES
        if any(call in path.read_text() for call in calls)
    }
    assert writers == {"files/tables.py"}


def count_code(text):
    """How many lines hold code: no blank line, comment or docstring counts."""
    said = set()
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            said.update(range(node.lineno, node.end_lineno + 1))
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - said)


def test_no_part_has_more_code_than_its_budget():
    lines = Counter()
    for path in MODULES:
        folder = path.relative_to(SRC).parts[:-1]
        lines[folder[0] if folder else "(root)"] += count_code(path.read_text(encoding="utf-8"))
    assert set(lines) == set(MOST_LINES)
    over = {name: (n, MOST_LINES[name]) for name, n in lines.items() if n > MOST_LINES[name]}
    assert not over, f"more lines of code than the budget: {over}"


def test_lines_that_hold_no_code_do_not_count():
    text = '"""Said."""\n\n# why\ndef f():\n    """Also said,\n    over two."""\n'
    text += "    return (\n        1\n    )\n"
    assert count_code(text) == 4


def test_there_is_no_drawer_for_everything():
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "common", "misc")]


def test_text_is_read_and_written_in_utf_8_under_every_locale():
    for path in MODULES:
        assert not facts(path).without_encoding, path
