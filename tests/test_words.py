"""Plain words where users read: manual, help, messages and page.

A sentence has at most 25 words, and says what the field says. Code, tables and what the site makes
from the code are left out.
"""

import ast
import importlib
import inspect
import re
from functools import cache, partial
from pathlib import Path

import pytest
import typer.main

from fairweather.cli.app import app

ROOT = Path(__file__).parents[1]
LONGEST_SENTENCE, LONGEST_GUIDE = 25, 900
BANNED = {
    r"\b(holds?|contains?) 0\b": "the interval excludes 0, or includes 0",
    r"\bunlike (images|ones)\b|\b(are|is|images|them|called|seen) unlike\b": "different from ...",
    r"\bside by side\b|\bat a time\b|\bat most so many\b": "parallel, concurrent, at most N",
    r"\bone may\b|\bsure one\b": "you may",
    r"\b(can|cannot|is|are|was|were) (not )?told\b|\bbe told\b": "no estimate; the report says",
    r"\b(is|are|has|have) none\b": "is missing, has no ...",
    r"(?<!there )\b(is|are) no (?!longer|more|less|better|worse)": "is not a ...",
    r"\bpromised risk\b|\banswered (wrong|right)\b": "error rate; wrong answers",
    r"\bendless\b|\banew\b|\bsurer\b|\bas often as you like\b": "unlimited; again; more confident",
    r"\bcounts? alike\b|\brival\b": "counts equally; is compared with",
}


def sentences(text):
    """The sentences of a paragraph; code is one word, and a link is its text."""
    text = re.sub(r"``?[^`]+``?", "CODE", text)
    text = re.sub(r"!?\[((?:[^\]\[]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[[-−+\d., %]+\]", "", text)  # intervals
    return re.split(
        r"(?<=[.!?])[\"”*)]*\s+(?=[\"“(*\[]*[A-Z0-9]|\w+[./]\w)", " ".join(text.split())
    )


def paragraphs(markdown):
    """What is neither code nor a table, up to an empty line, a heading or an item of a list."""
    markdown = re.sub(r"^( *)(```+|:::+).*?^\1\2$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    markdown = re.sub(r"\A---\n.*?^---$|<!--.*?-->", "", markdown, flags=re.DOTALL | re.MULTILINE)
    markdown = re.sub(r"^ *\|.*$", "", markdown, flags=re.MULTILINE)
    return re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.|#+) )", markdown)


def strings(path):
    """The texts in a module that are not docstrings; a value that is put in is one word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            inside.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (getattr(part, "value", "X") for part in node.values)
            yield "".join(part if isinstance(part, str) else "X" for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


@cache
def messages(path):
    """The texts of a module that have several words."""
    return [text for text in strings(path) if " " in text]


def public_objects():
    """What the manual shows from docstrings, with the methods of classes."""
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for module, names in re.findall(
            r"^```\{(?:objects|keys)\} (\S+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
        ):
            for name in names.split():
                shown = getattr(importlib.import_module(module), name)
                if inspect.isfunction(shown) or inspect.isclass(shown):
                    yield f"{module}.{name}", shown
                if inspect.isclass(shown):
                    for part, value in vars(shown).items():
                        if inspect.isfunction(value) or isinstance(value, property):
                            yield f"{module}.{name}.{part}", value


def docstring_paragraphs(shown):
    """The paragraphs and items of a docstring, without examples and the list of sources."""
    text = inspect.cleandoc(shown.__doc__ or "")
    for paragraph in re.split(r"\n\s*\n", text):
        if not re.match(r"\s*>>>|Source:", paragraph):
            prose = re.sub(r"^\s*Source: .*", "", paragraph, flags=re.DOTALL | re.MULTILINE)
            yield from re.split(r"(?:^|\n)\s*(?:\*{0,2}\w+(?:, \*{0,2}\w+)*: |\w+:\n)", prose)


def texts():
    """Every place where users read, with a function that gives its paragraphs."""
    manual = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    manual += [*(ROOT / "docs").glob("*.md"), *ROOT.glob("results/*/README.md")]
    for path in sorted([*manual, ROOT / "benchmarks/README.md"]):
        yield str(path.relative_to(ROOT)), partial(paragraphs, path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs/notebooks").glob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        prose = [line[1:].removeprefix(" ") for line in lines if re.match(r"#(?! %%)", line)]
        yield str(path.relative_to(ROOT)), partial(paragraphs, "\n".join(prose))
    for name, command in typer.main.get_command(app).commands.items():
        helps = [*(command.help or "").split("\n\n"), *(each.help or "" for each in command.params)]
        yield f"fairweather {name} --help", partial(list, helps)
    for path in sorted((ROOT / "src/fairweather").rglob("*.j2")):
        plain = re.sub(
            r"\{#.*?#\}|\{%.*?%\}|<(script|style).*?</\1>", "", path.read_text(), flags=re.DOTALL
        )
        blocks = re.split(
            r"</?(?:p|li|td|th|h\d|div|section|summary|figcaption|dd|dt)\b[^>]*>", plain
        )
        plain_blocks = [
            re.sub(r"<[^>]+>", "", re.sub(r"\{\{.*?\}\}", "X", each)) for each in blocks
        ]
        yield str(path.relative_to(ROOT)), partial(list, plain_blocks)
    for path in sorted((ROOT / "src/fairweather").rglob("*.py")):
        yield str(path.relative_to(ROOT)), partial(messages, path)
    for name, shown in sorted(public_objects()):
        yield name, partial(docstring_paragraphs, shown)


TEXTS = dict(texts())


def is_read_whole(place):
    """Messages are split at their colon when they are read; elsewhere a sentence is a sentence."""
    return not place.endswith(".py") or place.startswith("src/fairweather/report/")


def offences(place):
    """What a place says in other words than a reader would, or at too great a length."""
    for sentence in (each for text in TEXTS[place]() for each in sentences(text)):
        words = len([word for word in sentence.split() if re.search(r"\w", word)])
        if words > LONGEST_SENTENCE and is_read_whole(place):
            yield f"{words} words: {sentence}"
        for phrase, plain in BANNED.items():
            if found := re.search(phrase, sentence, re.IGNORECASE):
                yield f"{found[0]!r}, say {plain!r}: {sentence}"


@pytest.mark.parametrize("place", TEXTS)
def test_readers_find_plain_words_and_short_sentences(place):
    found = list(offences(place))
    assert not found, "\n".join(found)


def guides():
    """The pages of the manual that do one thing: those below Start, Guides and Understand."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for caption in ("Start", "Guides", "Understand"):
        (tree,) = re.findall(rf":caption: {caption}\n:hidden:\n(.*?)```", index, re.DOTALL)
        yield from re.findall(r"^(?:.*<)?([\w-]+)>?$", tree, re.MULTILINE)


@pytest.mark.parametrize("name", list(guides()))
def test_a_guide_has_at_most_900_words(name):
    words = len((ROOT / f"docs/{name}.md").read_text(encoding="utf-8").split())
    assert words <= LONGEST_GUIDE, f"{words} words"


def test_a_long_sentence_and_a_banned_phrase_are_found(monkeypatch):
    long = "Each of these `code with words` counts as one, " + "and so does each of the " * 4
    said = [f"Short. {long}rest.", "It is no guard.", "There is no guard."]
    monkeypatch.setitem(TEXTS, "here", lambda: said)
    too_long, banned = offences("here")
    assert too_long.startswith("32 words: Each")
    assert banned.startswith("'is no ', say")
