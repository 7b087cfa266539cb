"""Published accuracies of many ImageNet models, read from the public files of their sources."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
from pydantic import Field

from fairweather.errors import InputError, unknown_name
from fairweather.files.download import fetch
from fairweather.files.folders import cache_folder
from fairweather.files.yamlfile import parse_yaml
from fairweather.metrics.robustness import SEVERITIES
from fairweather.progress import Notify
from fairweather.types.record import CLEAN, NATURAL, NO_LEVEL, FrozenRecord

CORRUPTIONS = "imagenet_c/"
CORRUPTIONS_3D = "imagenet_3dcc/"
# How shifted images came to the model: read from the published files, or corrupted in memory.
FILES, MEMORY = "files", "memory"


class AtlasFacts(FrozenRecord):
    """Where the tables of a source are, and what is known about them."""

    title: str
    repository: str
    """`owner/name` on GitHub."""

    commit: str
    date: str
    """Of the commit."""

    licence: str
    files: dict[str, str]
    """SHA-256 by path."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The set of each column, or of each file: `clean`, or the name of a natural shift."""

    images: int | None = None
    """How many images of every set were used; None for all."""

    standard: str = ""
    """How its standard models are known; empty where there are too few for a line."""

    note: str = ""
    """What a reader has to know."""

    @property
    def address(self) -> str:
        """The source with its commit, for people."""
        return f"github.com/{self.repository} at {self.commit[:12]} of {self.date} ({self.licence})"


class _AtlasFile(FrozenRecord):
    """The content of atlas.yaml."""

    atlases: dict[str, AtlasFacts]


class AtlasCell(NamedTuple):
    """What a published accuracy is of; the first two fields are as in scores.csv."""

    shift: str
    level: str = NO_LEVEL
    made: str = ""
    """`files` or `memory`; empty for clean images and natural shifts."""


UNSHIFTED = AtlasCell(CLEAN)
Accuracies: TypeAlias = "pd.Series[float]"  # fractions, by the names of models


@dataclass(frozen=True)
class Atlas:
    """Published accuracies of many models."""

    name: str
    facts: AtlasFacts
    cells: Mapping[AtlasCell, Accuracies]
    """The models that were measured in each cell, each with its accuracy."""

    standard: tuple[str, ...]
    """The models that the line of standard models is fitted to; empty where there are too few."""

    changed: tuple[str, ...] = ()
    """Files of a user's copy that are not those of the named commit."""

    def mean(self, shift: str, made: str) -> Accuracies | None:
        """The mean over the five severities of the models that have all; None where none has."""
        levels = [
            self.cells[cell]
            for severity in range(1, SEVERITIES + 1)
            if (cell := AtlasCell(shift, str(severity), made)) in self.cells
        ]
        if len(levels) < SEVERITIES:
            return None
        means: Accuracies = pd.concat(levels, axis=1).mean(axis=1, skipna=False).dropna()
        return means


@cache
def _read_facts() -> _AtlasFile:
    text = (resources.files("fairweather") / "judge" / "atlas.yaml").read_text(encoding="utf-8")
    return _AtlasFile.model_validate(parse_yaml(text))


def open_atlas(reference: str, *, offline: bool = False, progress: Notify | None = None) -> Atlas:
    """Read the published tables of a source, which are downloaded once.

    Args:
        reference: `timm`, `testbed`, `robustbench` or `openclip`; with `:FOLDER`, the tables are
            read from a copy of its repository, or from a folder with these files alone.
        offline: never use the network.
        progress: told of downloads.

    Raises:
        InputError: an unknown name, a missing file, or one that is no such table.
    """
    name, _, folder = reference.partition(":")
    atlases = _read_facts().atlases
    if name not in atlases:
        raise unknown_name("source of published accuracies", name, atlases)
    facts = atlases[name]
    files = dict(_read_files(name, facts, folder, offline=offline, progress=progress))
    texts = {path: content.decode(errors="replace") for path, content in files.items()}
    try:
        cells, standard = READERS[name](texts, facts)
    except (ValueError, KeyError, TypeError, pd.errors.ParserError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the files of {reference} cannot be read as those of {facts.address}: {reason}"
        ) from error
    changed = [
        path
        for path, digest in facts.files.items()
        if hashlib.sha256(files[path]).hexdigest() != digest
    ]
    return Atlas(name, facts, cells, tuple(standard), tuple(changed))


def _read_files(
    name: str, facts: AtlasFacts, folder: str, *, offline: bool, progress: Notify | None
) -> Iterator[tuple[str, bytes]]:
    """The content of each file: of a user's copy, or downloaded from the named commit."""
    for path, digest in facts.files.items():
        if folder:
            place = Path(folder).expanduser() / path
            if not place.is_file():
                raise InputError(
                    f"{folder!r} has no {path}: name a copy of github.com/{facts.repository}"
                )
        else:
            place = cache_folder() / "published" / name / facts.commit[:12] / path
            url = f"https://raw.githubusercontent.com/{facts.repository}/{facts.commit}/{path}"
            fetch(url, place, sha256=digest, offline=offline, progress=progress)
        yield path, place.read_bytes()


# ---------------------------------------------------------------- one reader for each source

Cells: TypeAlias = "dict[AtlasCell, Accuracies]"
Reader: TypeAlias = Callable[[Mapping[str, str], AtlasFacts], tuple[Cells, Collection[str]]]
# In timm's tags: other images, teachers, masked images, and attacks.
_NOT_STANDARD = re.compile(
    r"(?:^|_)(?:ft|in12k|in21k|in22k|jft|ns|ssl|swsl|wsl|swag|seer|clip|openai|laion\w*|webli|usi|"
    r"dist|distilled|ssld|teacher|mae|fcmae|mim|m30m|m38m|ap|adv)(?:_|$)"
)
_TRAINED_ON_IMAGENET = re.compile(r"(?:^|_)in1k(?:_\d+)?$")
_TESTBED_CELL = re.compile(r"imagenet-c\.(\w+)\.([1-5])_(on-disk|in-memory)")
_TESTBED_KIND = re.compile(r"'([^']+)': ModelTypes\.(\w+)")
_TESTBED_KINDS = {"STANDARD", "LP_ADV", "ROBUST_INTV", "MORE_DATA"}  # the others are far below
_TESTBED_PARTS = re.compile("aws|batch64|subsample")
_TESTBED_LOWEST = 0.55


def _as_cell(name: str) -> AtlasCell:
    return UNSHIFTED if name == CLEAN else AtlasCell(f"{NATURAL}{name}")


def _read_table(text: str, **options: Any) -> pd.DataFrame:  # noqa: ANN401 - of pandas
    return pd.read_csv(io.StringIO(text), **options)


def _accuracies(column: Accuracies, scale: float = 1.0) -> Accuracies:
    """A column as fractions, without the models that have none; another number is an error."""
    shares: Accuracies = column.dropna().astype(float) / scale
    if not shares.between(0, 1).all():
        raise ValueError(f"{column.name} has an accuracy outside of 0 to {100 if scale > 1 else 1}")
    return shares


def _read_timm(texts: Mapping[str, str], facts: AtlasFacts) -> tuple[Cells, Collection[str]]:
    keys = ["model", "img_size"]  # some models were tested at several sizes
    top1 = {path: _read_table(texts[path]).set_index(keys)["top1"] for path in facts.columns}
    clean = next(iter(top1.values()))
    best = clean[~clean.index.get_level_values("model").duplicated()].index  # the size that is best
    cells = {
        _as_cell(name): _accuracies(top1[path].reindex(best).droplevel("img_size"), 100)
        for path, name in facts.columns.items()
    }
    tags = {model: model.partition(".")[2] for model in cells[UNSHIFTED].index}
    return cells, [
        model
        for model, tag in tags.items()
        if _TRAINED_ON_IMAGENET.search(tag) and not _NOT_STANDARD.search(tag)
    ]


def _read_testbed(texts: Mapping[str, str], facts: AtlasFacts) -> tuple[Cells, Collection[str]]:
    accuracies, kinds = (texts[path] for path in facts.files)
    kind = dict(_TESTBED_KIND.findall(kinds))
    table = _read_table(accuracies, index_col=0)
    table = table[[kind.get(model) in _TESTBED_KINDS for model in table.index]]
    cells = {
        _as_cell(name): _accuracies(table[column], 100) for column, name in facts.columns.items()
    }
    for column in table.columns:
        if match := _TESTBED_CELL.fullmatch(column):
            made = FILES if match[3] == "on-disk" else MEMORY
            cell = AtlasCell(f"{CORRUPTIONS}{match[1]}", match[2], made)
            cells[cell] = _accuracies(table[column], 100)
    clean = cells[UNSHIFTED]
    return cells, [
        model
        for model in clean.index
        if kind[model] == "STANDARD"
        and clean[model] >= _TESTBED_LOWEST
        and not _TESTBED_PARTS.search(model)
    ]


def _read_robustbench(texts: Mapping[str, str], _: AtlasFacts) -> tuple[Cells, Collection[str]]:
    tables = [path for path in texts if path.endswith(".csv")]
    described = {Path(path).stem: json.loads(texts[path]) for path in texts if path not in tables}
    clean = {model: float(facts["clean_acc"]) for model, facts in described.items()}
    cells = {UNSHIFTED: _accuracies(pd.Series(clean, name=CLEAN), 100)}
    for path, prefix in zip(tables, (CORRUPTIONS, CORRUPTIONS_3D), strict=True):
        table = _read_table(texts[path], header=[0, 1], index_col=0)
        for head in table.columns:
            column: Accuracies = table[head]
            cells[AtlasCell(f"{prefix}{head[0]}", head[1], FILES)] = _accuracies(column)
    return cells, []


def _read_openclip(texts: Mapping[str, str], facts: AtlasFacts) -> tuple[Cells, Collection[str]]:
    table = _read_table(next(iter(texts.values())))
    table.index = pd.Index(table["name"] + "/" + table["pretrained"])
    return {
        _as_cell(name): _accuracies(table[column]) for column, name in facts.columns.items()
    }, []


READERS: Mapping[str, Reader] = {
    "timm": _read_timm,
    "testbed": _read_testbed,
    "robustbench": _read_robustbench,
    "openclip": _read_openclip,
}
