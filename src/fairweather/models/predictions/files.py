"""Find files of predictions: one file, a folder with names, or a mapping file."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fairweather.data.corrupted import FILES, PUBLISHED_SETS
from fairweather.errors import InputError, check_case_distinct, check_name, unknown_name
from fairweather.files.tables import read_csv_rows
from fairweather.files.yamlfile import read_yaml
from fairweather.models.outputs import parse_outputs
from fairweather.models.predictions.many_models import split_table
from fairweather.models.predictions.tables import (
    NOTHING_ASKED,
    SUFFIXES,
    Content,
    RowOptions,
    read_header,
    split_suffix,
)
from fairweather.models.sources import folder_name
from fairweather.types.measurement import is_finite
from fairweather.types.record import CLEAN, VALIDATION

PREFIX = "predictions:"
NAME_FORM = "MODEL[-seedN][-SHIFT,LEVEL]"
MAPPING_COLUMNS = ("file", "model", "seed", "shift", "level", "outputs")  # of a mapping file
NAME_PATTERN = re.compile(
    rf"(?P<model>.+?)(?:-seed(?P<seed>\d+))?"
    rf"(?:-(?P<shift>{CLEAN}|{VALIDATION}|(?:{'|'.join(PUBLISHED_SETS)}){FILES}__[^-,]*,[^,]*|"
    r"[A-Za-z][^-,]*,[^,]*))?"
)


class PredictionSource(NamedTuple):
    """The predictions of one model and seed under one shift."""

    model: str
    """The name of the model."""

    seed: int
    """The seed that it was trained with; 0 if that is not known."""

    shift: str
    """`clean`, `validation` for clean validation images, or the name of a shift."""

    level: float | None
    """Of the shift; None for the others."""

    content: Content
    """A file, a table or an array."""

    place: str
    """What messages call it."""

    outputs: str | None = None
    """`logits` or `probabilities`, where a mapping file says so."""


def find_predictions(path: Path, options: RowOptions = NOTHING_ASKED) -> list[PredictionSource]:
    """Find the predictions in a file, a folder of files or a mapping file.

    The files of a folder are called `MODEL[-seedN][-SHIFT,LEVEL]`, as `resnet-seed0-fog,3.csv` is;
    without a shift they are clean, and `-validation` are clean validation images. A `/` in the name
    of a shift is written `__`. A mapping file is YAML, a list of `{file, model, seed, shift,
    level, outputs}`, or CSV with a header of these words.

    Raises:
        InputError: there is no such file, a name is not of this form, or two say the same.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if split_suffix(file)[1] in SUFFIXES)
        if not files:
            raise InputError(
                f"{str(path)!r} has no files of predictions ({', '.join(SUFFIXES)}); they are "
                f"called {NAME_FORM}, such as resnet-seed0-fog,3.csv"
            )
        sources = (parse_name(split_suffix(file)[0], file, file.name) for file in files)
        return _check_distinct_sources(split_models(sources, options))
    if not path.is_file():
        raise InputError(f"predictions: there is no file or folder {str(path)!r}")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _check_distinct_sources(_read_mapping(read_yaml(path), path))
    if path.suffix.lower() == ".csv" and _is_mapping(read_header(path)):
        (_, header), *rows = read_csv_rows(path)
        entries = [dict(itertools.zip_longest(header, cells, fillvalue="")) for _, cells in rows]
        filled = [{name: cell for name, cell in entry.items() if cell} for entry in entries]
        return _check_distinct_sources(_read_mapping(filled, path))
    name = folder_name(split_suffix(path)[0])
    single = PredictionSource(name, 0, CLEAN, None, path, path.name)
    return _check_distinct_sources(split_models([single], options))


def split_models(
    sources: Iterable[PredictionSource], options: RowOptions
) -> Iterator[PredictionSource]:
    """Split each table that has predictions of several models, or under several shifts."""
    for source in sources:
        parts = split_table(source.content, source.place, options)
        if not parts:
            yield source
        for part in parts:
            if part.name:
                written = ",".join(map(folder_name, part.name.split(",")))
                own = parse_name(written, part.frame, f"{source.place}, {part.name}")
                is_clean = own.shift == CLEAN
                yield own._replace(shift=source.shift, level=source.level) if is_clean else own
                continue
            entry = {**source._asdict(), **part.entry}
            entry["model"] = folder_name(str(entry["model"]))
            told = ", ".join(f"{kind} {value}" for kind, value in part.entry.items())
            yield _check_entry(entry, part.frame, f"{source.place}, {told}")


def list_in_memory(content: object, options: RowOptions = NOTHING_ASKED) -> list[PredictionSource]:
    """Take a table or an array, or several by names of the form `MODEL[-seedN][-SHIFT,LEVEL]`."""
    several = content if isinstance(content, Mapping) else {"predictions": content}
    if not several:
        raise InputError("predictions is empty: give at least one table")
    sources = (
        parse_name(str(name), table, f"predictions {name!r}" if len(several) > 1 else "predictions")
        for name, table in several.items()
    )
    return _check_distinct_sources(split_models(sources, options))


def parse_name(name: str, content: Any, place: str) -> PredictionSource:  # noqa: ANN401 - as `Content`
    """Read model, seed, shift and level from a name.

    >>> parse_name("resnet-50-seed1-imagenet_c__fog,3", Path(), "")[:4]
    ('resnet-50', 1, 'imagenet_c/fog', 3.0)
    >>> parse_name("resnet-50", Path(), "")[:4], parse_name("a-validation", Path(), "")[:4]
    (('resnet-50', 0, 'clean', None), ('a', 0, 'validation', None))
    >>> parse_name("resnet-50-imagenet-c-files__fog,3", Path(), "")[:4]
    ('resnet-50', 0, 'imagenet-c-files/fog', 3.0)
    """
    parts = NAME_PATTERN.fullmatch(name)
    if parts is None:
        raise InputError(
            f"{name!r} is not {NAME_FORM}, such as resnet-seed0-fog,3 (clean without SHIFT,LEVEL): "
            "rename it, or write a mapping file"
        )
    shift, _, level = (parts["shift"] or CLEAN).partition(",")
    entry = {"model": parts["model"], "seed": parts["seed"], "shift": shift, "level": level or None}
    return _check_entry(entry, content, place)


def parse_model_names(names: Iterable[object]) -> list[tuple[str, int]]:
    """Read the model and the seed of names of the form `MODEL[-seedN]`.

    Raises `InputError` for another form, for two names of the same model and seed or folder, and if
    a model lacks a seed of another model.

    >>> parse_model_names(["plain-seed0", "plain-seed1", "mixup-seed0", "mixup-seed1"])
    [('plain', 0), ('plain', 1), ('mixup', 0), ('mixup', 1)]
    """
    models = []
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"a model is named by a text, such as 'resnet-seed0', found {name!r}")
        source = parse_name(name, None, f"the model {name!r}")
        full = f"{source.model}-seed{source.seed}"
        if name not in (source.model, full):
            hint = "the shifts of a model are named in shifts"
            if re.fullmatch(r".+-seed\d+", name):
                hint = f"its seed is written {full}"
            raise InputError(
                f"the model {name!r} is not called MODEL[-seedN], such as resnet-seed0: {hint}"
            )
        models.append((source.model, source.seed))
    for (model, seed), count in Counter(models).items():
        if count > 1:
            raise InputError(f"two models are called {model}, seed {seed}")
    for model, seed in itertools.product(dict(models), sorted({seed for _, seed in models})):
        if (model, seed) not in models:
            raise InputError(
                f"there is no {model}-seed{seed}: every model needs each seed that another one has"
            )
    check_case_distinct((model for model, _ in models), "the models")
    return models


def note_seeds(models: Iterable[str]) -> list[str]:
    """Name models that were perhaps meant as seeds of one.

    >>> note_seeds(["a_seed1", "b", "a_seed2"])
    ['a_seed1 and a_seed2 are models of their own; the seeds of one are called NAME-seedN']
    >>> note_seeds(["plain", "mixup"])
    []
    """
    alike: dict[str, list[str]] = {}
    for model in dict.fromkeys(models):
        alike.setdefault(re.sub(r"(?i)(?<=seed)[-_.]?\d+", "", model), []).append(model)
    return [
        f"{' and '.join(names)} are models of their own; the seeds of one are called NAME-seedN"
        for names in alike.values()
        if len(names) > 1
    ]


def _read_mapping(entries: object, path: Path) -> Iterator[PredictionSource]:
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{path} must be a list of {{{', '.join(MAPPING_COLUMNS)}}}, found {entries!r:.60}"
        )
    for number, entry in enumerate(entries, start=1):
        place = f"{path}, entry {number}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
            raise InputError(f"{place} must name a file, found {entry!r:.60}")
        for key in entry:
            if key not in MAPPING_COLUMNS:
                raise unknown_name(f"key in {place}:", key, MAPPING_COLUMNS)
        file = path.parent / Path(entry["file"]).expanduser()
        model = entry.get("model", file.stem)
        yield _check_entry({**entry, "model": model}, file, _shorten(file, path.parent), place)


def _shorten(file: Path, folder: Path) -> str:
    """A file's path relative to a folder, or only its name if it lies elsewhere.

    >>> _shorten(Path("here/a/b.csv"), Path("here")), _shorten(Path("/there/b.csv"), Path("here"))
    ('a/b.csv', 'b.csv')
    """
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _check_entry(
    entry: Mapping[str, Any], content: Content, name: str, where: str = ""
) -> PredictionSource:
    place = where or name
    model, seed, level = str(entry["model"] or ""), entry.get("seed"), entry.get("level")
    seed, level = _parse_number(0 if seed is None else seed), _parse_number(level)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"{place}: seed must be a whole number from 0 on, found {seed!r}")
    shift = str(entry.get("shift") or CLEAN).replace("__", "/")
    if shift in (CLEAN, VALIDATION):
        if level is not None:
            raise InputError(f"{place}: {shift} has no level, found {level!r}")
    else:
        check_name(shift, f"{place}: the shift")
        if level is None:
            raise InputError(f"{place}: the shift {shift!r} needs a level, a number such as 1")
        if not is_finite(level):
            raise InputError(f"{place}: the level of {shift} must be a number, found {level!r}")
        level = float(level)
    if folder_name(model) != model:
        raise InputError(
            f"{place}: a model is named with letters, digits, _, - and ., found {model!r}; such as "
            f"{folder_name(model)}"
        )
    outputs = entry.get("outputs")
    if outputs is not None:
        parse_outputs(str(outputs))
    return PredictionSource(model, seed, shift, level, content, name, outputs)


def _parse_number(value: Any) -> Any:  # noqa: ANN401 - of a YAML or CSV file
    """Read a number that may be written as text; anything else stays unchanged."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _is_mapping(header: Iterable[str]) -> bool:
    words = [word.strip() for word in header]
    return "file" in words and len(words) > 1 and set(words) <= set(MAPPING_COLUMNS)


def _check_distinct_sources(sources: Iterable[PredictionSource]) -> list[PredictionSource]:
    distinct: dict[tuple[Any, ...], PredictionSource] = {}
    for source in sources:
        if (before := distinct.setdefault(source[:4], source)) is not source:
            level = "" if source.level is None else f",{source.level:g}"
            raise InputError(
                f"{before.place} and {source.place} are both of the model {source.model}, seed "
                f"{source.seed}, {source.shift}{level}"
            )
    check_case_distinct((source.model for source in distinct.values()), "predictions: the models")
    check_case_distinct((source.shift for source in distinct.values()), "predictions: the shifts")
    return list(distinct.values())
