"""Damaged files of every kind that is read: one sentence or a valid result, and nothing else.

The good files are those of `tests/corpus`. `make nightly` makes many more damaged ones.
"""

import functools
import io
import json
import re
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairweather.data.groups import read_groups
from fairweather.data.loading import list_source
from fairweather.data.pixels import Square, decode_image, strict_pillow
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.models.building import ModelSpec, build, load_checkpoint
from fairweather.models.checkpoints import read_checkpoint
from fairweather.models.labels import read_label_file
from fairweather.models.predictions.files import find_predictions
from fairweather.models.predictions.tables import RowOptions, read_rows
from fairweather.requests.settings import read_priors
from fairweather.requests.study.schema import load_study
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import scores_to_csv
from fairweather.share.export import MANIFEST, ExportedData, ExportInputs, open_export
from fairweather.types.options import GroupColumns
from fairweather.types.record import RECORD, SCORES, step_file
from tests.conftest import TINY_RESNET
from tests.helpers.opened_models import open_model
from tests.helpers.run_folders import finish

CORPUS = Path(__file__).parent / "corpus"
# What may stand where something else stood.
TOKENS = (
    *("", "null", "true", "-1", "0", "1e999", "nan", "-0.0", "1/0", "9" * 400, "9" * 5000, "[]"),
    *("{}", '""', "[[[[[[", '"\\ud800"', '"\\u0000"', "\\x00", "../../x", "/etc/hostname", "~/x"),
    *("&a [*a]", "*a", "!!int x", "<<", "- ", ":", ",", '"', "'", "\n", "\r", "\t", "\ufeff"),
    *("1e-400", "0x10", "99999999999", "2147483648", "1.5", "x" * 300, "%", "|", "=", "\u202e"),
)
WORD = re.compile(rb"[A-Za-z0-9_.-]+|[^\sA-Za-z0-9_.-]")


# ---------------------------------------------------------------- what reads each kind of file


def read_data(source):
    """List a data set and decode all of its images."""
    listed = list_source(source)
    with strict_pillow():
        for listing in listed.splits.values():
            for item in listing.read(np.arange(len(listing.labels))):
                decode_image(item.content, Square(8, 8))


def read_image(path):
    with strict_pillow():
        decode_image(path, Square(8, 8))


def read_metadata(path):
    listed = list_source(f"csv:{path.parent / 'table.csv'}")
    read_groups(listed.splits, GroupColumns(str(path), "patient", ("site",)), "folder")


def read_predictions(path):
    read_rows(path, path.name, RowOptions())


def read_mapping(path):
    find_predictions(path)


def read_run(path, place):
    """Read the file as one of a run folder, which is otherwise whole."""
    run = path.parent / "run"
    for name, stored in (
        (RECORD, "record.json"),
        (SCORES, "scores.csv"),
        (step_file("scores"), "step.json"),
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path if name == place else CORPUS / stored, run / name)
    read = RunFolder(run)
    if place == SCORES:  # as if it were what the run wrote: a checksum shows no forgery
        finish(read, "scores", [SCORES], kind="score")
        scores_to_csv(read.scores)
    read.steps()
    judge(read, read_rules(["accuracy[clean] >= 0.5"]), on="value")


def read_manifest(path):
    out = path.parent / "out"
    out.mkdir(exist_ok=True)
    shutil.copyfile(path, out / MANIFEST)
    stored = json.loads((CORPUS / "manifest.json").read_text())
    data = ExportedData.model_validate_json(json.dumps(stored["data"]))
    asked = ExportInputs(data=data, format=stored["format"], seed=stored["seed"])
    with open_export(out, asked) as manifest:
        for shift in stored["shifts"]:
            manifest.is_done(shift, lambda *_: True)


def read_configuration(path):
    folder = path.parent / "hf"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / "config.json")
    shutil.copyfile(CORPUS / "weights.safetensors", folder / "model.safetensors")
    open_model(f"hf:{folder}")


@functools.cache
def small_network():
    return safetensors.torch.save(build(ModelSpec(TINY_RESNET, 3)).state_dict())


def read_model(path):
    """Read the file as the description of a network that a run has trained."""
    folder = path.parent / "model"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / "model.json")
    (folder / "model.safetensors").write_bytes(small_network())
    load_checkpoint(folder)


def read_onnx(path):
    pytest.importorskip("onnxruntime")
    open_model(f"onnx:{path}")


def whole(content):
    return content


def member(name):
    """Damage one member of an archive, and pack it again, so that its checksum is right."""

    def unpack(content):
        return zipfile.ZipFile(io.BytesIO(content)).read(name)

    def pack(content, damaged):
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
            for each in old.namelist():
                new.writestr(each, damaged if each == name else old.read(each))
        return made.getvalue()

    return unpack, pack


@dataclass(frozen=True)
class Kind:
    """A kind of file: good ones, what reads it, and which part of it is damaged."""

    files: tuple[str, ...]
    read: object
    part: tuple = (whole, lambda content, damaged: damaged)
    slow: int = 1  # how many times fewer are tried


def schema_metadata():
    """Damage what the schema of a parquet file says of its features."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def unpack(content):
        return pq.read_schema(pa.BufferReader(content)).metadata[b"huggingface"]

    def pack(content, damaged):
        table = pq.read_table(pa.BufferReader(content))
        made = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({b"huggingface": damaged}), made)
        return made.getvalue()

    return unpack, pack


IMAGES = ("image.png", "image.jpg", "image.tiff", "image.bmp", "image.webp", "image.gif")
IMAGES += ("image.ppm", "image.tga", "deep.png", "deep.tiff")
KINDS = {
    "studies": Kind(("study.yaml",), lambda path: load_study(str(path))),
    "rules": Kind(("rules.yaml",), lambda path: read_rules([str(path)])),
    "labels": Kind(("labels.yaml", "labels.json", "labels.csv"), read_label_file),
    "priors": Kind(("priors.yaml",), read_priors),
    "tables of labels": Kind(("table.csv",), lambda path: read_data(f"csv:{path}")),
    "metadata": Kind(("facts.csv", "facts.parquet"), read_metadata),
    "npz": Kind(("set.npz",), lambda path: read_data(f"npz:{path}")),
    **{
        f"npz: {name}": Kind(
            ("set.npz",), lambda path: read_data(f"npz:{path}"), member(f"{name}.npy")
        )
        for name in ("images", "labels", "classes")
    },
    "parquet": Kind(("set.parquet",), lambda path: read_data(f"parquet:{path}")),
    "parquet: metadata": Kind(
        ("set.parquet",), lambda path: read_data(f"parquet:{path}"), schema_metadata()
    ),
    "images": Kind(IMAGES, read_image),
    "DICOM": Kind(("image.dcm",), read_image),
    "predictions": Kind(
        ("predictions.csv", "predictions.npy", "predictions.npz", "predictions.parquet"),
        read_predictions,
    ),
    "predictions: probabilities": Kind(
        ("predictions.npz",), read_predictions, member("probabilities.npy")
    ),
    "predictions: classes": Kind(("predictions.npz",), read_predictions, member("classes.npy")),
    "mappings of predictions": Kind(("mapping.yaml",), read_mapping),
    "checkpoints": Kind(("weights.pt", "weights.safetensors"), read_checkpoint),
    "configurations": Kind(("config.json",), read_configuration, slow=4),
    "models of runs": Kind(("model.json",), read_model),
    "ONNX": Kind(("model.onnx",), read_onnx, slow=2),
    "records": Kind(("record.json",), lambda path: read_run(path, RECORD)),
    "records of steps": Kind(("step.json",), lambda path: read_run(path, step_file("scores"))),
    "scores": Kind(("scores.csv",), lambda path: read_run(path, SCORES)),
    "manifests": Kind(("manifest.json",), read_manifest),
}


# ---------------------------------------------------------------- damage


def at(content, share):
    return int(share * len(content))


def flip(content, place, bit):
    where = at(content, place)
    return content[:where] + bytes([content[where] ^ (1 << bit)]) + content[where + 1 :]


def words_of(content):
    return [match.span() for match in WORD.finditer(content)] or [(0, len(content))]


def swap(content, place, token):
    words = words_of(content)
    start, end = words[at(words, place)]
    return content[:start] + token + content[end:]


PLACES = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("byte"), PLACES, st.integers(0, 255)),
    st.tuples(st.just("cut"), PLACES, st.just(None)),
    st.tuples(st.just("leave out"), PLACES, PLACES),
    st.tuples(st.just("repeat"), PLACES, PLACES),
    st.tuples(st.just("splice"), PLACES, PLACES),
    st.tuples(st.just("token"), PLACES, st.sampled_from(TOKENS)),
    st.tuples(st.just("word"), PLACES, PLACES),
)


def damage(content, kind, place, more, other):
    """Damage bytes in one of several ways; `other` is another good file."""
    if not content:
        return content
    where = at(content, place)
    if kind == "flip":
        return flip(content, place, more)
    if kind == "byte":
        return content[:where] + bytes([more]) + content[where + 1 :]
    if kind == "cut":
        return content[:where]
    if kind == "splice":
        return content[:where] + other[at(other, more) :]
    if kind == "token":
        return swap(content, place, more.encode())
    if kind == "word":  # put a word of the file in the place of another
        words = words_of(content)
        start, end = words[at(words, more)]
        return swap(content, place, content[start:end])
    end = where + 1 + at(content[where:], more**3)
    return content[:where] + (content[where:end] * 2 if kind == "repeat" else b"") + content[end:]


def check(kind, name, damages, other, folder):
    """Damage a file and read it: it is refused with one sentence, or it is read."""
    unpack, pack = kind.part
    content = (CORPUS / name).read_bytes()
    part, others = unpack(content), unpack((CORPUS / other).read_bytes())
    for how, place, more in damages:
        part = damage(part, how, place, more, others)
    path = folder / name
    path.write_bytes(pack(content, part))
    told = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except InputError as error:
        told = str(error)
    finally:
        shutil.copyfile(CORPUS / name, path)  # other kinds need it
    assert told is None or len(told.splitlines()) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the damaged files lie, beside good ones that they name."""
    place = tmp_path_factory.mktemp("fuzzed")
    for name in ("table.csv", *IMAGES, "predictions.csv"):
        shutil.copyfile(CORPUS / name, place / name)
    return place


def damaged(kind):
    files = st.sampled_from(KINDS[kind].files)
    return st.tuples(files, st.lists(DAMAGE, min_size=1, max_size=3), files)


PLAIN = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
SOME, MANY = 40, 1000  # damaged files of a kind, in the usual tests and in those of the night


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_are_read(kind, folder):
    for name in KINDS[kind].files:
        path = folder / name
        shutil.copyfile(CORPUS / name, path)
        try:
            KINDS[kind].read(path)
        except InputError:
            assert kind == "configurations"  # its weights are those of another network


# What was found once.
FOUND = {
    "a line break in the name of a column": ("tables of labels", "table.csv", ("byte", 0.125, 11)),
    "a letter that is none": ("npz: classes", "set.npz", ("flip", 0.9375, 0)),
    "an empty name of a file": ("metadata", "facts.csv", ("leave out", 0.765625, 0.75)),
    "a header that is no code": ("npz: labels", "set.npz", ("flip", 0.375, 0)),
    "no array": ("predictions: probabilities", "predictions.npz", ("flip", 0.0, 0)),
    "text that is not UTF-8": ("metadata", "facts.parquet", ("byte", 0.0625, 128)),
    "a name of a picture that is not UTF-8": ("parquet", "set.parquet", ("byte", 0.388671875, 128)),
    "a class that is no text": ("predictions: classes", "predictions.npz", ("flip", 0.9375, 0)),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_once_is_one_sentence(found, folder):
    kind, name, damaged_by = FOUND[found]
    check(KINDS[kind], name, [damaged_by], name, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_one_sentence(kind, folder):
    @settings(PLAIN, derandomize=True, max_examples=SOME // KINDS[kind].slow)
    @given(damaged(kind))
    def damage_one(drawn):
        name, damages, other = drawn
        check(KINDS[kind], name, damages, other, folder)

    damage_one()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_one_sentence_each(kind, folder):
    @settings(PLAIN, max_examples=MANY // KINDS[kind].slow)
    @given(damaged(kind))
    def damage_one(drawn):
        name, damages, other = drawn
        check(KINDS[kind], name, damages, other, folder)

    damage_one()
