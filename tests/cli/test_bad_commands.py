"""Bad inputs to every command, one table: status 2, one line, and nothing is written.

Each line names the place of the mistake (the file, the key or the option). The world is a small
folder with a data set, a study, finished runs and predictions, in which everything else is right.
"""

import functools
import importlib
import io
import itertools
import json
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from fairweather.cli import app as cli
from fairweather.types.record import RECORD
from tests.helpers.run_folders import (
    change_record,
    copy_run,
    outcomes,
    run_record,
    sweep_record,
    write_run,
)
from tests.helpers.started import started

MODELS = """
import torch

class Model(torch.nn.Module):
    def __init__(self, outputs=3, answer=None):
        super().__init__()
        self.outputs, self.answer = outputs, answer

    def forward(self, images):
        if self.answer is not None:
            return self.answer(images)
        return 4 * images.mean((2, 3)).repeat(1, 2)[:, : self.outputs] - 3

def make():
    return Model()

def five():
    return Model(5)

def many():
    return Model(answer=lambda images: images)

def text():
    return Model(answer=lambda images: "text")

def not_finite():
    return Model(answer=lambda images: images.mean((2, 3)) * float("nan"))

def falls():
    return Model(answer=lambda images: images.nothing)

def exits():
    import sys
    return Model(answer=lambda images: sys.exit(0))

def yes_or_no():
    return Model(answer=lambda images: images.mean((2, 3)).sigmoid())

def raises():
    raise RuntimeError("first line\\nsecond line")

def leaves():
    import sys
    sys.exit(0)

def number():
    return 3
"""
STUDY = "name: s\ndata: folder:data\nmodels: {a: {backbone: timm:test_resnet}}\n"
PREDICTED = "label,a,b,c\n" + "".join(
    f"{'abc'[row % 3]},{','.join('0.8' if at == row % 3 else '0.1' for at in range(3))}\n"
    for row in range(9)
)


# ---------------------------------------------------------------- contents of files


class Content:
    """What a file holds; it is made when a test needs it."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, part):
        return Content(lambda: self.make()[part])


def made_later(make):
    @functools.wraps(make)
    def later(*arguments, **options):
        return Content(lambda: make(*arguments, **options))

    return later


def encoded(content):
    content = content.make() if isinstance(content, Content) else content
    return content.encode() if isinstance(content, str) else content


@made_later
def picture(format="PNG", size=(16, 16), mode="RGB"):
    made = io.BytesIO()
    Image.new(mode, size, 100).save(made, format)
    return made.getvalue()


@made_later
def bomb():
    """A few bytes that say they are an image of 20,000 x 20,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + checksum
        + b"\0\0\0\x0aIDAT"
        + bytes(40)
    )


@made_later
def arrays(**columns):
    made = io.BytesIO()
    np.savez(made, **columns)
    return made.getvalue()


@made_later
def sets(**changes):
    """A good npz data set, with some arrays changed; None leaves one out."""
    plain = {"images": np.zeros((6, 16, 16), np.uint8), "labels": np.arange(6) % 3}
    return encoded(
        arrays(**{name: value for name, value in (plain | changes).items() if value is not None})
    )


@made_later
def archive(**members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


@made_later
def parquet(metadata=None, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = io.BytesIO()
    pq.write_table(pa.table(columns, metadata=metadata), made)
    return made.getvalue()


@made_later
def pictures(metadata=None, **changes):
    """A good parquet data set, with some columns changed."""
    cells = [{"bytes": encoded(picture()), "path": ""}] * 6
    plain = {"image": cells, "label": [0, 1, 2] * 2} | changes
    kept = {name: value for name, value in plain.items() if value is not None}
    return encoded(parquet(metadata, **kept))


def features(**label):
    kind = {"_type": "ClassLabel", **label}
    return {"huggingface": json.dumps({"info": {"features": {"label": kind}}})}


@made_later
def dicom(syntax="1.2.840.10008.1.2.1", **changes):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    pixels = np.arange(256, dtype=np.uint16).tobytes()
    if meta.TransferSyntaxUID.is_encapsulated:
        pixels = pydicom.encaps.encapsulate([pixels])
    plain = {
        "Rows": 16,
        "Columns": 16,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels,
    } | changes
    for name, value in plain.items():
        if value is not None:
            setattr(made, name, value)
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=False)
    return file.getvalue()


@made_later
def graph(*nodes, inputs=(("x", 1, ("b", 3, 16, 16)),), outputs=(("y", 1, ("b", 3)),), **metadata):
    import onnx

    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, of, to) for kind, of, to in nodes],
        "graph",
        [value(*each) for each in inputs],
        [value(*each) for each in outputs],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()


POOL = (("GlobalAveragePool", ["x"], ["p"]), ("Flatten", ["p"], ["y"]))


@made_later
def weights(state):
    made = io.BytesIO()
    torch.save(state, made)
    return made.getvalue()


@made_later
def safe(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


# ---------------------------------------------------------------- the world


LOADED = [
    f"fairweather.{name}"
    for name in (
        *("requests.evaluation.run", "requests.study.run", "requests.seeds.joining"),
        *("share.export", "judge.comparison", "deploy.making"),
    )
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which every input is right."""
    for name in LOADED:
        importlib.import_module(name)  # here, and not in the first row
    place = tmp_path_factory.mktemp("world")
    (place / "model.py").write_text(MODELS)
    (place / "study.yaml").write_text(STUDY)
    (place / "right.csv").write_text(PREDICTED)
    for number, name in enumerate("abc"):
        for root in ("data", "other"):
            (place / root / name).mkdir(parents=True)
            for each in range(3):
                pixels = np.full((16, 16, 3), 40 * number + each + 9 * (root == "other"), np.uint8)
                Image.fromarray(pixels).save(place / root / name / f"{each}.png")
    (place / "plain").mkdir()
    (place / "plain" / "0.png").write_bytes(encoded(picture()))
    fog = sweep_record("imagenet_c/fog", {1: "imagenet_c/fog,severity=1"})
    rows = [
        ("a", "0", "clean", "none", "accuracy", 0.7, 0.6, 0.8, 20),
        ("a", "0", "imagenet_c/fog", "1", "accuracy", 0.5, 0.4, 0.6, 20),
    ]
    predictions = {
        ("a", 0, "clean"): outcomes([True, False] * 10),
        ("a", 0, "imagenet_c/fog,severity=1"): outcomes([False, False] * 10),
    }
    run = write_run(place / "run", run_record({"a": "Model A"}, [fog]), rows, predictions)
    few = {("a", 0, "clean"): outcomes([True] * 4)}
    write_run(place / "few", run_record({"a": "Model A"}), rows[:1], few)
    write_run(place / "unscored", run_record({"a": "Model A"}))
    edited = copy_run(run, place / "edited").path / "scores.csv"
    edited.write_text(edited.read_text().replace("0.7", "0.9"))
    change_record(copy_run(run, place / "later"), lambda facts: facts.update(version=99))
    (place / "cut").mkdir()
    (place / "cut" / RECORD).write_bytes((run.path / RECORD).read_bytes()[:-40])
    return place


# The most that a refusal may cost: seconds of a core, and memory. One that waits costs neither, so
# that it also ends within a time that is enough on a busy machine.
SECONDS, BYTES = 10, 2 << 30
LONGEST = 120


def most_memory(begin=False):
    """The most bytes of memory that this process has used since it began to look.

    Where the system does not forget what was before, the most that it has ever used.
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        if begin:
            forget.write_text("5", encoding="utf-8")
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text(encoding="utf-8"))[1])
    except OSError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used * (1 if sys.platform == "darwin" else 1024)


def refused(world, command, files, carry_out):
    """The line with which a command is refused, with status 2 and nothing written."""

    def tree():
        # Without pathlib, which takes longer than the reading.
        return {
            path: os.path.isfile(path) and bytes_of(path)  # noqa: PTH113
            for folder, *names in os.walk(world)
            for path in (f"{folder}/{name}" for name in itertools.chain(*names))
        }

    def bytes_of(path):
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()

    before = tree()
    made = [world / name for name in files]
    tops = {world / name.split("/")[0] for name in files}
    assert not any(each.exists() for each in made)
    new = [each for each in tops if not each.exists()]
    for path, content in zip(made, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(content))
    with_files = tree()
    try:
        status, told = carry_out(shlex.split(command))
        after = tree()
    finally:
        for path in new:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in made:
            path.unlink(missing_ok=True)
    assert status == 2, told
    assert told.startswith("fairweather: "), told
    assert told.endswith("\n")
    assert len(told.splitlines()) == 1, told
    assert after == with_files
    assert tree() == before
    return told


@pytest.fixture
def here(world, monkeypatch, capfd):
    """Carry out a command in this process."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", "200")

    def carry_out(arguments):
        monkeypatch.setattr(sys, "argv", ["fairweather", *arguments])
        capfd.readouterr()
        memory, seconds, begun = most_memory(begin=True), time.process_time(), time.monotonic()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert time.process_time() - seconds < SECONDS
        assert time.monotonic() - begun < LONGEST
        assert most_memory() - memory < BYTES
        return ended.value.code, capfd.readouterr().err

    return carry_out


# Linux counts the peak of who starts a program as the program's own. So a small process starts it.
STARTS = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Ended(NamedTuple):
    """How a process ended, what it said on stderr, and what it used."""

    status: int
    told: str
    seconds: float
    memory: int


def ended(arguments, folder):
    """Run Python with these arguments."""
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STARTS, sys.executable, *arguments]
    options = {"cwd": folder, "env": environment, "stderr": subprocess.PIPE, "process_group": 0}
    with started(command, **options) as process:
        try:
            said, told = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    status, seconds, memory = said.split()
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(int(status), told, float(seconds), unit * int(memory))


@pytest.fixture(scope="module")
def loading(world):
    """The seconds of a core in which this machine, as busy as it is, loads the program."""
    end = ended(["-c", f"import {', '.join(LOADED)}"], world)
    assert end.status == 0, end.told
    return end.seconds


@pytest.fixture
def elsewhere(world, loading):
    """Carry out a command as a user does, in a process of its own."""

    def carry_out(arguments):
        begun = time.monotonic()
        end = ended(["-m", "fairweather", *arguments], world)
        assert time.monotonic() - begun < LONGEST
        assert end.seconds < SECONDS + loading
        assert end.memory < BYTES
        return end.status, end.told

    return carry_out


# ---------------------------------------------------------------- the table

MODEL = "evaluate python:model.py:make"
ON = "folder:data --shift clean --quiet"
HUGE = "9" * 5000


def study(text, words, command="run"):
    return f"{command} bad.yaml", words, {"bad.yaml": text}


def changed(text, words):
    """A study with a key more."""
    return study(STUDY + text, words)


def network(text, words):
    """A study whose one model has a key more."""
    return study(STUDY.replace("timm:test_resnet", f"timm:test_resnet, {text}"), words)


def data_file(name, content, words, form="{}"):
    return (
        f"{MODEL} {form.format(name)} --shift clean --quiet",
        words,
        {name.split(":")[1].split(",")[0]: content},
    )


def option(text, words, **files):
    return (
        f"{MODEL} {ON} {text}",
        words,
        {name.replace("_", "."): each for name, each in files.items()},
    )


def model(source, words, **files):
    return (
        f"evaluate {source} {ON}",
        words,
        {name.replace("_", "."): each for name, each in files.items()},
    )


def table(text, words, name="bad.csv"):
    return f"{MODEL} csv:{name} --shift clean --quiet", words, {name: text}


def facts(text, words, more="--group patient", name="facts.csv"):
    return f"{MODEL} {ON} --metadata {name} {more}", words, {name: text}


def given(text, words, more="", name="bad.csv"):
    return f"evaluate predictions:{name} {more} --quiet", words, {name: text}


def rule(text, words, run="run"):
    return f"check {run} {shlex.quote(text)}", words, {}


def rules(text, words):
    return "check run rules.yaml", words, {"rules.yaml": text}


PATIENTS = "file,patient,site\n" + "".join(
    f"{name}/{each}.png,{name}{each},{'xy'[each % 2]}\n" for name in "abc" for each in range(3)
)
FILES = "file,label\n" + "".join(
    f"{name}/{each}.png,{name}\n" for name in "abc" for each in range(3)
)

ROWS = {
    "the command": [
        ("nonsense", "No such command 'nonsense'", {}),
        ("run", "Missing argument", {}),
        ("run study.yaml more", "argument(s) (more)", {}),
        ("run study.yaml --jbos 2", "--jbos", {}),
        ("run study.yaml --jobs two", "--jobs", {}),
        ("run study.yaml --jobs 0", "jobs must be at least 1, found 0", {}),
        ("run study.yaml --out", "--out", {}),
        ("list everything", "everything", {}),
        ('list "a\nb"', "unknown list", {}),
        ("evaluate python:model.py:make", "predictions:FILE", {}),
        (f"{MODEL} {ON} --json", "--dry-run", {}),
        ("run study.yaml --out study.yaml/run", "study.yaml is not a folder", {}),
        (f"{MODEL} {ON} --out study.yaml/run", "study.yaml is not a folder", {}),
        ("run study.yaml --device tpu", "unknown device 'tpu'", {}),
        ("run study.yaml --seeds many", "seeds", {}),
        ("run study.yaml --seeds 3,3", "seeds", {}),
        ("run study.yaml --seeds -1,", "seeds", {}),
        (f"run study.yaml --seeds {HUGE}", "seeds", {}),
        ("run study.yaml --model b", "unknown model 'b'", {}),
        ("run study.yaml --set recipe", "--set", {}),
        ("run study.yaml --set recipe..epochs=2", "--set", {}),
        ("run study.yaml --set recipe.epochs=[", "recipe.epochs=[", {}),
        ("run study.yaml --set models.b.width=2", "unknown model 'b'", {}),
        ("run study.yaml --set nonsense=2", "nonsense", {}),
        ("run study.yaml --executor magic", "magic", {}),
        ("run study.yaml --gpus 2", "needs executor slurm", {}),
        ("run study.yaml --executor slurm --time soon", "found 'soon'", {}),
        ("run study.yaml --steps 2/3", "--steps is now called --worker", {}),
        ("run study.yaml --strategy ddp", "--strategy is gone: devices always train", {}),
        ("run study.yaml --track nowhere", "nowhere", {}),
    ],
    "studies": [
        ("run no.yaml", "no.yaml", {}),
        ("plan no.yaml", "no.yaml", {}),
        ("run data", "'data'", {}),
        study("", "bad.yaml"),
        study("- 1", "bad.yaml"),
        study("name: s", "data: field required"),
        study(b"\xff\xfe", "bad.yaml is not text in UTF-8"),
        study("name: s: t", "line 1"),
        study("a: 1\n---\nb: 2", "bad.yaml"),
        study("\ta: 1", "bad.yaml"),
        study(STUDY.replace("name: s", "name: ../s"), "'../s'"),
        study(STUDY.replace("name: s", "name: 5"), "found 5"),
        study(STUDY.replace("{a:", "{../a:"), "'../a'"),
        study(STUDY.replace("name: s", f"name: {'s' * 300}"), "the name 'sss"),
        study(STUDY.replace("{a:", f"{{{'a' * 300}:"), "the model name 'aaa"),
        study("name: s\ndata: folder:data\nmodels: {}", "models"),
        study("name: s\ndata: folder:data\nmodels: [a]", "models"),
        study("name: s\ndata: folder:data\nmodels: {a: 3}", "models.a"),
        study(
            "name: s\ndata: [folder:data]\nmodels: {a: {backbone: timm:test_resnet}}",
            "found ['folder:data']",
        ),
        changed("sedes: 3", "'seeds'"),
        changed("seeds: three", "seeds"),
        changed("seeds: [0, 0]", "seeds"),
        changed("seeds: 1000", "seeds"),
        changed("bootstrap: 1e3", "bootstrap"),
        changed("bootstrap: 10", "bootstrap"),
        changed("bootstrap: yes", "bootstrap"),
        changed("shifts: quick", "shifts"),
        changed("shifts: [quick]", "shifts"),
        changed("shifts: [{gama: [2]}]", "attack 'gama'"),
        changed("shifts: [{name: gama}]", "'name'"),
        changed("shifts: [{name: gamma, exponent: [two]}]", "exponent"),
        changed("shifts: [{name: gamma, exponent: [2, 2]}]", "gamma"),
        changed("shifts: [{name: gamma, exponent: []}]", "exponent"),
        changed("shifts: [{suite: quikc}]", "quick"),
        changed("variants: [temprature]", "temperature"),
        changed("natural: {b: folder:data}", "natural.b"),
        changed("natural: {b/c: folder:other}", "natural"),
        changed("natural: {b: folder:nowhere}", "nowhere"),
        changed("operating_points: {d: 0.5}", "operating point 'd'"),
        changed("operating_points: {a: 2}", "operating point"),
        changed("ensemble: true\nseeds: 1", "ensemble"),
        changed("threads: 0", "threads"),
        changed("defaults: 3", "defaults"),
        changed(
            "pretraining: {p: {backbone: timm:test_resnet, recipe: {method: simcrl}}}", "simcrl"
        ),
        network("backbone2: 1", "backbone2"),
        network("weights: pretraining:p", "pre-training 'p'"),
        network("weights: nowhere.pt", "nowhere.pt"),
        network("width: 0", "width"),
        network("input_size: 1", "input_size"),
        network("mean: [0.5, 0.5, 0.5]", "mean and std"),
        network("recipe: {epohcs: 1}", "epochs"),
        network("recipe: {epochs: -1}", "epochs"),
        network("recipe: {learning_rate: .nan}", "learning_rate"),
        network("recipe: {mixup: -1}", "mixup"),
        network("recipe: fast", "recipe"),
        network("label_fraction: 0", "label_fraction"),
        network("interpolations: [0.5]", "interpolations"),
        network("sweep: {learning_rate: []}", "learning_rate"),
        network("sweep: {speed: [1]}", "speed"),
        network("sweep: {learning_rate: [fast]}", "learning_rate"),
        network("train_shifts: [{name: pgd, epsilon: [0.1]}]", "train_shifts"),
        study(STUDY.replace("timm:test_resnet", "timm:test_resnte"), "test_resnet"),
        study(STUDY.replace("timm:test_resnet", "resnet"), "resnet"),
        study(STUDY.replace("folder:data", "folder:nowhere"), "nowhere"),
        study(STUDY.replace("folder:data", "nonsense"), "nonsense"),
        study(STUDY.replace("folder:data", "{source: folder:data, size: 4}"), "size must be"),
        study(
            STUDY.replace("folder:data", "{source: folder:data, test_fraction: 0}"), "test_fraction"
        ),
        study(STUDY.replace("folder:data", "{source: folder:data, label_noise: 2}"), "label_noise"),
        study(
            STUDY.replace(
                "folder:data", "{source: folder:data, groups: {metadata: no.csv, group: p}}"
            ),
            "no.csv",
        ),
        study(STUDY.replace("folder:data", "images:plain"), "unlabelled"),
    ],
    "data": [
        (f"{MODEL} nonsense --shift clean", "nonsense", {}),
        (f"{MODEL} data --shift clean", "folder:data", {}),
        (f"{MODEL} folder: --shift clean", "folder:PATH", {}),
        (f"{MODEL} folder --shift clean", "folder:PATH", {}),
        (f"{MODEL} folder:nowhere --shift clean", "nowhere", {}),
        (f"{MODEL} folder:study.yaml --shift clean", "study.yaml", {}),
        (f"{MODEL} folder:plain --shift clean", "plain", {}),
        (f"{MODEL} images:plain --shift clean", "images:plain", {}),
        (f"{MODEL} folder:~nobody-at-all/x --shift clean", "without a home folder", {}),
        (f"{MODEL} mnist5k@64 --shift clean", "MedMNIST", {}),
        (f"{MODEL} pathmnist@65 --shift clean --offline", "no resolution 65", {}),
        (f"{MODEL} pathmnist --shift clean --offline", "pathmnist", {}),
        (f"{MODEL} cifar10 --shift clean --offline", "cifar", {}),
        (f"{MODEL} cifar10 --data-root plain --shift clean", "plain", {}),
        (f"{MODEL} imagenet-c:data --shift clean", "imagenet-c", {}),
        (f"{MODEL} cifar-10-c:data --shift clean", "cifar-10-c", {}),
        (f"{MODEL} folder:data --data-root nowhere --shift clean", "nowhere", {}),
        data_file("folder:bad/a/0.png", "no picture", "0.png", "folder:bad"),
        data_file("folder:bad/a/0.png", b"", "0.png", "folder:bad"),
        data_file("folder:bad/a/0.png", picture()[:40], "0.png", "folder:bad"),
        data_file("folder:bad/a/0.png", picture("GIF")[:20], "0.png", "folder:bad"),
        data_file("folder:bad/a/0.png", bomb(), "exceeds limit", "folder:bad"),
        (
            f"{MODEL} folder:bad --shift clean",
            "bad/b/0.png has 16 x 17",
            {"bad/a/0.png": picture(), "bad/b/0.png": picture(size=(17, 16))},
        ),
        (
            f"{MODEL} folder:bad --shift clean",
            "none for test",
            {"bad/train/a/0.png": picture(), "bad/train/b/0.png": picture()},
        ),
        (
            f"{MODEL} folder:bad --shift clean",
            "empty",
            {"bad/a/.hidden": "", "bad/b/0.png": picture()},
        ),
        data_file("folder:bad/a/0.dcm", b"\0" * 128 + b"DICM", "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom(PixelData=None), "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom(NumberOfFrames=2), "2 frames", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom(Rows=60000, Columns=60000), "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom(Rows=17), "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom("1.2.840.10008.1.2.1.99"), "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom("1.2.840.10008.1.2.4.90"), "0.dcm", "folder:bad"),
        data_file("folder:bad/a/0.dcm", dicom(BitsAllocated=7), "0.dcm", "folder:bad"),
        data_file("npz:bad.npz", "text", "bad.npz"),
        data_file("npz:bad.npz", b"", "bad.npz"),
        data_file("npz:bad.npz", sets()[:200], "bad.npz"),
        data_file("npz:bad.npz", archive(**{"images.npy": "x", "labels.npy": "y"}), "bad.npz"),
        data_file("npz:bad.npz", sets(labels=None), "labels"),
        data_file("npz:bad.npz", sets(images=None), "images"),
        data_file("npz:bad.npz", sets(images=np.zeros((6, 16, 16))), "float64"),
        data_file("npz:bad.npz", sets(images=np.zeros((6, 16), np.uint8)), "[6, 16]"),
        data_file("npz:bad.npz", sets(labels=np.arange(5)), "labels"),
        data_file("npz:bad.npz", sets(labels=np.arange(6) - 1), "'bad.npz' is -1"),
        data_file("npz:bad.npz", sets(labels=np.arange(6) / 2), "'bad.npz' is 0.5"),
        data_file("npz:bad.npz", sets(labels=np.array(list("abcabc"))), "labels"),
        data_file("npz:bad.npz", sets(labels=np.array([{}] * 6)), "labels"),
        data_file("npz:bad.npz", sets(labels=np.array([0, 1, 2**62] * 2)), "labels"),
        data_file("npz:bad.npz", sets(classes=np.array(["a", "b"])), "classes"),
        data_file("npz:bad.npz", sets(classes=np.array(["a", "a", "b"])), "twice"),
        data_file("npz:bad.npz", sets(classes=np.array([b"a", b"b", b"c"])), "classes"),
        data_file("parquet:bad.parquet", "text", "bad.parquet"),
        data_file("parquet:bad.parquet", pictures()[:100], "bad.parquet"),
        data_file("parquet:bad.parquet", pictures(image=None), "image"),
        data_file("parquet:bad.parquet", pictures(label=None), "label"),
        data_file("parquet:bad.parquet", pictures(label=[0.5] * 6), "label"),
        data_file("parquet:bad.parquet", pictures(image=list(range(6))), "image"),
        data_file(
            "parquet:bad.parquet",
            pictures(image=[{"bytes": b"no picture", "path": ""}] * 6),
            "bad.parquet",
        ),
        data_file(
            "parquet:bad.parquet",
            pictures(image=[{"bytes": None, "path": "/etc/hostname"}] * 6),
            "bad.parquet",
        ),
        data_file("parquet:bad.parquet", pictures(features(names=["a", "b"])), "bad.parquet"),
        data_file("parquet:bad.parquet", pictures(features(names=[1, None, {}])), "class"),
        data_file("parquet:bad.parquet", pictures(features(names=["a", "a", "b"])), "two classes"),
        data_file("parquet:bad.parquet", parquet(image=[], label=[]), "bad.parquet"),
        ("evaluate python:model.py:make csv:no.csv --shift clean", "no.csv", {}),
        table("", "bad.csv"),
        table(b"\xff\xfe\0", "bad.csv"),
        table("file,label\n", "no rows"),
        table("a,b\n1,2\n", "no file column"),
        table("file,path,label\na/0.png,a/0.png,a\n", "several columns"),
        table(FILES, "a/0.png"),
        table(FILES.replace("file", "file,split").replace(".png", ".png,prod"), "split"),
        table("file,label\n/etc/hostname,a\n", "/etc/hostname"),
        table("file,label\n../x.png,a\n", "../x.png"),
        table("file,label\nstudy.yaml,a\nmodel.py,b\n", "study.yaml"),
        table("file,label\n,a\n", "line 2"),
        table("file,label\ndata/a/0.png\n", "line 2"),
        table('file,label\n"data/a/0.png,a\n', "bad.csv"),
        table("file,label\ndata/a/0.png,\x1b[2J\ndata/b/0.png,b\n", "U+001B"),
        (f"{MODEL} csv:bad.csv,lable=x --shift clean", "lable", {"bad.csv": FILES}),
        (
            f"{MODEL} csv:bad.csv,label=x --shift clean",
            "column of 'bad.csv' 'x'",
            {"bad.csv": FILES},
        ),
        (f"{MODEL} csv:bad.csv,images=nowhere --shift clean", "nowhere", {"bad.csv": FILES}),
        (f"{MODEL} csv:data --shift clean", "'data' is a folder", {}),
    ],
    "options of an evaluation": [
        option("--size 4", "found 4"),
        option("--size -16", "found -16"),
        option(f"--size {HUGE}", "'--size'"),
        option("--limit 0", "limit"),
        option("--limit 2", "limit"),
        option("--validation-fraction 2", "validation_fraction"),
        option("--validation-fraction nan", "validation_fraction"),
        option("--batch-size 0", "batch"),
        option("--batch-size 1e3", "--batch-size"),
        option("--precision fp8", "precision 'fp8'"),
        option("--bootstrap 5", "bootstrap"),
        option("--bootstrap 1000000000", "bootstrap"),
        option("--threads 0", "threads"),
        option("--jobs 0", "jobs must be"),
        option("--shift-processes -1", "shift_processes"),
        option("--device cuda:99", "'cuda:99'"),
        option("--device gpu", "device 'gpu'"),
        option("--outputs maybe", "maybe"),
        option("--variant temprature", "temperature"),
        option("--variant temperature", "validation"),
        option("--ood folder:nowhere", "nowhere"),
        option("--ood nonsense", "nonsense"),
        option("--natural folder:other", "NAME=SOURCE"),
        option("--natural a=folder:nowhere", "nowhere"),
        option("--natural a=folder:other --natural a=folder:other", "twice"),
        option("--natural a/b=folder:other", "found 'a/b'"),
        option("--operating-point a", "operating"),
        option("--operating-point d=0.5", "operating point 'd'"),
        option("--operating-point a=2", "found 'a=2'"),
        option("--operating-point a=x", "found 'a=x'"),
        option("--scale 5", "scale"),
        option("--scale 9..1", "scale"),
        option("--scale percentile:1..200", "scale"),
        option("--scale 0..255", "scale"),
        option("--mean 0.5", "--mean"),
        option("--mean a,b,c", "--mean"),
        option("--mean 0.5,0.5,0.5", "mean and std"),
        option("--mean 0.5,0.5,0.5 --std 0,1,1", "std must be > 0"),
        option("--input-size 1", "input_size"),
        option("--architecture timm:test_resnet", "architecture"),
        option("--weights nowhere.pt", "weights"),
        option("--classes a,b,c", "classes"),
        option("--label-column x", "label_column"),
        option("--model python:model.py:five", "5 outputs"),
        option("--model nonsense", "nonsense"),
        option("--class-map no.yaml", "no.yaml"),
        option("--class-map bad.txt", "'.txt'", bad_txt="a: 0"),
        option("--class-map bad.yaml", "bad.yaml", bad_yaml=""),
        option("--class-map bad.yaml", "bad.yaml", bad_yaml="- a"),
        option("--class-map bad.yaml", "in class_map, 'd'", bad_yaml="{a: 0, b: 1, d: 2}"),
        option("--class-map bad.yaml", "without one are 'c'", bad_yaml="{a: 0, b: 1}"),
        option("--class-map bad.yaml", "output 9", bad_yaml="{a: 0, b: 1, c: 9}"),
        option(
            "--class-map bad.yaml",
            "output 0 of the model is used for 'a' and 'b'",
            bad_yaml="{a: 0, b: 0, c: 2}",
        ),
        option("--class-map bad.yaml", "for the class 'a'", bad_yaml="{a: {x: 1}, b: 1, c: 2}"),
        option("--class-map bad.yaml", "for the class 'a'", bad_yaml="{a: [], b: 1, c: 2}"),
        option("--class-map bad.json", "bad.json", bad_json="{"),
        option("--class-map bad.json", "bad.json", bad_json=b"\xff"),
        option("--class-map bad.json", "twice", bad_json='{"a": 0, "a": 1, "b": 1, "c": 2}'),
        option("--class-map bad.csv", "bad.csv", bad_csv="a\n"),
        option("--class-map bad.csv", "bad.csv", bad_csv=b"\xff\xfe"),
        option("--class-map bad.csv", "the class 'a' twice", bad_csv="a,0\na,1\nb,1\nc,2\n"),
        option("--priors no.yaml", "no.yaml"),
        option("--priors bad.yaml", "bad.yaml", bad_yaml="3"),
        option("--priors bad.yaml", "in the priors 'x' 'd'", bad_yaml="x: {d: 0.5}"),
        option("--priors bad.yaml", "probab", bad_yaml="x: {a: 2}"),
        option("--priors bad.yaml", "'worst'", bad_yaml="worst: {a: 0.5}"),
        option("--priors bad.yaml", "the priors 'x'", bad_yaml="x: {a: .nan}"),
        option("--metadata no.csv --group patient", "no.csv"),
        option("--group patient", "metadata"),
        option("--metadata study.yaml --group patient", "study.yaml"),
        facts(PATIENTS, "group", ""),
        facts(PATIENTS, "'patiant'", "--group patiant"),
        facts(PATIENTS, "'patient'", "--slice patiant"),
        facts(PATIENTS, "patient", "--group patient --slice patient"),
        facts(PATIENTS, "twice", "--slice site --slice site"),
        facts("", "facts.csv"),
        facts("a,b\n1,2\n", "patient"),
        facts("patient\nx\n", "file or key"),
        facts(PATIENTS.replace("a/0.png", "z/0.png"), "a/0.png"),
        facts(PATIENTS + "a/0.png,other,x\n", "a/0.png"),
        facts(PATIENTS.replace("a0", ""), "patient"),
        facts(PATIENTS + "a/0.png,b,c,d,e\n", "facts.csv"),
        facts(b"\xff\xfe\0", "facts.csv"),
        facts(PATIENTS.replace("site", "patient"), "patient"),
        facts(PATIENTS.replace(",x", ",\x9b"), "U+009B", "--slice site"),
        facts("key,patient\n0,a\n", "facts.csv"),
        facts("key,patient\nx,a\n", "the key 'x'"),
        facts("key,patient\n" + "9" * 400 + ",a\n", "facts.csv"),
        facts("text", "facts.parquet", name="facts.parquet"),
        facts(parquet(file=["a/0.png"], patient=[{"x": 1}]), "facts.parquet", name="facts.parquet"),
    ],
    "shifts": [
        *(
            (f"{MODEL} folder:data --shift {shlex.quote(text)}", words, {})
            for text, words in (
                ("", "shift"),
                ("gama", "gamma"),
                ("gamma", "exponent"),
                ("gamma,exponent", "exponent"),
                ("gamma,exponent=two", "exponent"),
                ("gamma,exponent=-1", "exponent"),
                ("gamma,exponent=nan", "exponent"),
                ("gamma,exponent=2,exponent=2", "exponent"),
                ("gamma,sigma=2", "sigma"),
                ("gamma: 2: 3", "gamma"),
                ("gamma: []", "gamma"),
                ("gamma: {a: 1}", "gamma"),
                ("{gamma: 2", "gamma"),
                ("quick,quikc", "quikc"),
                ("suite: quikc", "quikc"),
                ("imagenet_c/fog,severity=6", "severity"),
                ("imagenet_c/fog,severity=1.5", "severity"),
                ("fog", "imagenet_c/fog"),
                ("gaussian_blur,sigma=1,kernel_size=4", "kernel_size"),
                ("rotation,angle=inf", "angle"),
                ("pgd,epsilon=0.1,norm=l7", "norm of pgd 'l7'"),
                ("pgd,epsilon=0.1,steps=0", "steps"),
                ("pgd,epsilon=-0.1", "epsilon"),
                ("a\0b".replace("\0", "\x7f"), "unknown suite"),
            )
        ),
        ("preview folder:data", "shift", {}),
        ("preview folder:data --shift quikc", "quick", {}),
        ("preview folder:data --shift gamma,exponent=2 --out a.jpg", "found a.jpg", {}),
        ("preview folder:data --shift gamma,exponent=2 --out study.yaml/a.png", "study.yaml", {}),
        ("preview folder:data --shift gamma,exponent=2 --images 0", "--images", {}),
        ("preview folder:data --shift gamma,exponent=2 --shift-seed -1", "found -1", {}),
        ("preview folder:data --shift pgd,epsilon=0.1", "pgd is an attack", {}),
        ("preview folder:nowhere --shift gamma,exponent=2", "nowhere", {}),
        ("export folder:data --shift gamma,exponent=2", "--out", {}),
        ("export folder:data --out out", "shift", {}),
        ("export folder:data --out study.yaml/x --shift gamma,exponent=2", "study.yaml", {}),
        ("export folder:data --out out --shift gamma,exponent=2 --format jpg", "format 'jpg'", {}),
        ("export folder:data --out out --shift gamma,exponent=2 --part all", "split 'all'", {}),
        ("export folder:data --out out --shift gamma,exponent=2 --size 1", "found 1", {}),
        ("export folder:data --out out --shift gamma,exponent=2 --shift-seed -1", "found -1", {}),
        ("export folder:data --out data --shift gamma,exponent=2", "data contains files", {}),
        ("export folder:data --out run --shift gamma,exponent=2", "run contains files", {}),
        (
            "export folder:data --out bad --shift gamma,exponent=2",
            "not an export",
            {"bad/manifest.json": "{"},
        ),
        ("export folder:data --out out --shift pgd,epsilon=0.1", "pgd is an attack", {}),
        ("export images:plain --out out --shift gamma,exponent=2 --scale 1..2", "scale", {}),
    ],
    "models": [
        model("nonsense", "nonsense"),
        model("timm:nonsense", "nonsense"),
        model("torchvision:", "torchvision"),
        model("timm:test_resnet --weights none --classes 0", "classes"),
        model("timm:test_resnet --weights none", "1,000"),
        model("timm:test_resnet --weights ftp://example.org/a.pt", "'ftp://example.org/a.pt'"),
        model("timm:test_resnet --weights http://example.org/a.pt", "over plain http"),
        model("timm:test_resnet --weights https://", "https"),
        model("timm:test_resnet --weights https://a:b@example.org/a.pt", "password"),
        model("timm:test_resnet --weights no.pt", "no.pt"),
        model("timm:test_resnet --weights data", "weights 'data'"),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt="text"),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt=b""),
        model(
            "bad.pt --architecture timm:test_resnet",
            "bad.pt",
            bad_pt=weights({"a": torch.zeros(1)})[:200],
        ),
        model(
            "bad.pt --architecture timm:test_resnet",
            "do not fit",
            bad_pt=weights({"a": torch.zeros(1)}),
        ),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt=weights({})),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt=weights([1, 2])),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt=weights({1: {2: 3}})),
        model("bad.pt --architecture timm:test_resnet", "bad.pt", bad_pt=b"\x80\x04cos\nsystem\n."),
        model("bad.pt", "not a PyTorch checkpoint", bad_pt="text"),
        model("bad.pt --architecture resnet", "timm:NAME", bad_pt="text"),
        model(
            "bad.safetensors --architecture timm:test_resnet",
            "bad.safetensors",
            bad_safetensors=safe("x"),
        ),
        model(
            "bad.safetensors --architecture timm:test_resnet",
            "bad.safetensors",
            bad_safetensors=b"\xff" * 8,
        ),
        model(
            "bad.safetensors --architecture timm:test_resnet",
            "bad.safetensors",
            bad_safetensors=safe(
                {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
            ),
        ),
        model("python:", "FILE.py:FUNCTION"),
        model("python:model.py", "FUNCTION"),
        model("python:no.py:make", "no.py"),
        model("python:model.py:mak", "'make'"),
        model("python:model.py:number", "a int"),
        model("python:model.py:raises", "model.py, line"),
        model("python:model.py:leaves", "model.py, line"),
        model("python:model.py:five", "5 outputs"),
        model("python:model.py:many", "model-many"),
        model("python:model.py:text", "found a str"),
        model("python:model.py:not_finite", "finite"),
        model("python:model.py:falls", "model-falls"),
        model("python:model.py:exits", "sys.exit(0)"),
        model("python:model.py:yes_or_no", "--outputs"),
        model("python:bad.py:make", "bad.py, line 1", bad_py="def make(:"),
        model("python:bad.py:make", "bad.py", bad_py=b"\xff\xfe\0"),
        model("python:bad.py:make", "bad.py", bad_py="def make():\n    return make()\n"),
        model("onnx:no.onnx", "no.onnx"),
        model("onnx:data", "onnx:data"),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx="text"),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx=b""),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx=graph(*POOL)[:-9]),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx=graph()),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx=graph(("Nothing", ["x"], ["y"]))),
        model("onnx:bad.onnx", "bad.onnx", bad_onnx=graph(*POOL, inputs=())),
        model(
            "onnx:bad.onnx", "bad.onnx", bad_onnx=graph(*POOL, inputs=(("x", 8, ("b", 3, 16, 16)),))
        ),
        model(
            "onnx:bad.onnx", "bad.onnx", bad_onnx=graph(*POOL, inputs=(("x", 1, ("b", 3, 17, 0)),))
        ),
        model(
            "onnx:bad.onnx", "bad.onnx", bad_onnx=graph(*POOL, inputs=(("x", 1, ("b", 5, 16, 16)),))
        ),
        model("onnx:bad.onnx", "names", bad_onnx=graph(*POOL, names='["a", "b\x9b", "c"]')),
        model("onnx:bad.onnx", "names", bad_onnx=graph(*POOL, names='["a", "a", "c"]')),
        model("hf:data", "config.json"),
        model("hf:nobody/no-such-model --offline", "nobody/no-such-model"),
        model("hf:a/b/c --offline", "a/b/c"),
        (f"evaluate hf:bad {ON}", "weights", {"bad/config.json": "{}"}),
        *(
            (
                f"evaluate hf:bad {ON}",
                f"hf:bad {said}",
                {"bad/config.json": text, "bad/model.safetensors": ""},
            )
            for said, text in (
                ("cannot be loaded", "{"),
                ("cannot be loaded", "[]"),
                ("cannot be loaded", "3"),
                ("is not an image classifier", '{"model_type": "nonsense"}'),
                ("is not an image classifier", '{"model_type": ["resnet"]}'),
                ("cannot be loaded", '{"model_type": "resnet", "depths": "x"}'),
                ("cannot be loaded", '{"model_type": "resnet", "num_labels": -1}'),
                ("is not an image classifier", '{"architecture": "nonsense", "num_classes": 3}'),
                ("is not an image classifier", '{"architecture": 3, "num_classes": 3}'),
                (
                    "is not an image classifier",
                    '{"architecture": "test_resnet", "num_classes": "x"}',
                ),
                ("cannot be loaded", "[" * 5000),
            )
        ),
        model("run:nowhere", "nowhere"),
        model("run:run/models/a/seed-0", "run/models/a"),
        model("run:run/models/b/seed-0", "models/b"),
        model("run:../x", "run:../x"),
        (f"evaluate run:bad {ON}", "bad/model.safetensors is missing", {"bad/model.json": "{"}),
        (f"evaluate run:bad {ON}", "bad/model.safetensors is missing", {"bad/model.json": "[]"}),
        (
            f"evaluate run:bad {ON}",
            "bad holds a damaged model",
            {"bad/model.json": "{}", "bad/model.safetensors": ""},
        ),
    ],
    "predictions": [
        ("evaluate predictions: --quiet", "predictions", {}),
        ("evaluate predictions:no.csv --quiet", "no.csv", {}),
        ("evaluate predictions:data --quiet", "'data' has no files", {}),
        ("evaluate predictions:right.csv --quiet --shift gamma,exponent=2", "shifts cannot", {}),
        ("evaluate predictions:right.csv --quiet --variant batchnorm", "batchnorm", {}),
        ("evaluate predictions:right.csv --quiet --label-column lable", "'label'", {}),
        ("evaluate predictions:right.csv --quiet --key-column x", "column of right.csv 'x'", {}),
        ("evaluate predictions:right.csv --quiet --classes a,b", "names 2 classes", {}),
        (
            "evaluate predictions:right.csv --quiet --classes a,a,b",
            "the classes are 'a', 'a', 'b'",
            {},
        ),
        (
            "evaluate predictions:right.csv --quiet --classes bad.txt",
            "bad.txt",
            {"bad.txt": b"\xff"},
        ),
        (
            "evaluate predictions:right.csv --quiet --mean 1,1,1 --std 1,1,1",
            "mean cannot be given",
            {},
        ),
        ("evaluate predictions:right.csv folder:plain --quiet", "plain", {}),
        ("evaluate predictions:right.csv folder:nowhere --quiet", "nowhere", {}),
        ("evaluate predictions:right.csv --quiet --model timm:test_resnet", "data set", {}),
        ("evaluate predictions:bad.xlsx --quiet", ".xlsx", {"bad.xlsx": "x"}),
        given("", "bad.csv"),
        given(b"\xff\xfe\0", "bad.csv"),
        given("a,b,c\n0.1,0.2,0.7\n", "label"),
        given("label,a,b,c\n", "bad.csv"),
        given(PREDICTED.replace("0.8", "many", 1), "has 'many' in row 1"),
        given(PREDICTED.replace("0.8", "nan", 1), "bad.csv"),
        given(PREDICTED.replace("0.8", "1e999", 1), "bad.csv"),
        given(PREDICTED + "a,0.1\n", "bad.csv"),
        given(PREDICTED + "a,0.1,0.1,0.8,0.1\n", "bad.csv"),
        given(PREDICTED.replace("label,a,b", "label,a,a"), "column called 'a'"),
        given(PREDICTED.replace("\na,", "\nz,", 1), "the label 'z'"),
        given(PREDICTED.replace("\na,", "\n,", 1), "bad.csv"),
        given('label,a,b,c\n"a,0.1,0.1,0.8\n', "bad.csv"),
        given("text", "bad.npz", name="bad.npz"),
        given(
            arrays(probabilities=np.full((3, 3), 1 / 3), labels=np.arange(4)),
            "bad.npz",
            name="bad.npz",
        ),
        given(arrays(probabilities=np.full((3, 3), 1 / 3)), "label", name="bad.npz"),
        given(
            arrays(probabilities=np.full((3, 3), {}), labels=np.arange(3)),
            "bad.npz",
            name="bad.npz",
        ),
        given(
            arrays(probabilities=np.full((3, 3), 1j), labels=np.arange(3)),
            "bad.npz",
            name="bad.npz",
        ),
        given(arrays(x=np.zeros(3), y=np.zeros(3)), "bad.npz", name="bad.npz"),
        given("text", "bad.parquet", name="bad.parquet"),
        given(parquet(label=["a"] * 3), "bad.parquet", name="bad.parquet"),
        given(
            parquet(label=["a", "b"], a=[[1], [2]], b=[0.5, 0.5]), "bad.parquet", name="bad.parquet"
        ),
    ],
    "answers": [
        ("predict run", "Missing argument", {}),
        ("predict nowhere images:plain --risk 5%", "nowhere", {}),
        ("predict run images:plain", "--risk", {}),
        ("predict run images:plain --risk 5", "--risk", {}),
        ("predict run images:plain --risk many", "--risk", {}),
        ("predict run images:plain --risk 5% --confidence 100%", "--confidence", {}),
        ("predict run images:plain --risk 5% --coverage 0", "--coverage", {}),
        ("predict run images:plain --risk 5% --out a.xlsx", ".parquet", {}),
        ("predict run images:plain --risk 5% --out right.csv", "right.csv exists", {}),
        ("predict run images:plain --risk 5% --out study.yaml/a.csv", "study.yaml", {}),
        ("predict run images:plain --risk 5% --limit 0", "limit must be at least 1", {}),
        ("predict run:b images:plain --risk 5%", "unknown model 'b'", {}),
        ("predict run:a:9 images:plain --risk 5%", "unknown seed '9'", {}),
        ("predict run images:plain --risk 5%", "no weights of a", {}),
        ("predict cut images:plain --risk 5%", "record.json", {}),
        ("predict bad images:plain", "checksums.json", {"bad/guard.json": "{"}),
        ("predict bad images:plain --risk 5%", "promises already", {"bad/guard.json": "{"}),
        (
            "predict bad images:plain",
            "guard.json is damaged",
            {"bad/guard.json": "{", "bad/checksums.json": "{}"},
        ),
        ("guard run", "Missing argument", {}),
        ("guard run out", "--risk", {}),
        ("guard run out --risk 0", "--risk", {}),
        ("guard run data --risk 5%", "not empty", {}),
        ("guard run study.yaml --risk 5%", "study.yaml", {}),
        ("guard run out --risk 5% --onnx a.pt", ".onnx", {}),
        ("guard run out --risk 5% --onnx no.onnx/a.onnx", "no weights", {}),
        ("guard run out --risk 5%", "no weights of a", {}),
        ("guard nowhere out --risk 5%", "nowhere", {}),
    ],
    "runs": [
        ("view nowhere", "no folder nowhere", {}),
        ("view study.yaml", "no folder study.yaml", {}),
        ("view run", "run is a run", {}),
        ("view data", "no runs below data", {}),
        ("view . --out study.yaml", "study.yaml is there", {}),
        ("view . --out study.yaml/x", "study.yaml", {}),
        ("report nowhere", "nowhere", {}),
        ("report study.yaml", "study.yaml", {}),
        ("report data", "no run", {}),
        ("report cut", "record.json", {}),
        ("report later", "version 99", {}),
        ("report edited", "scores.csv", {}),
        ("report unscored", "unscored", {}),
        ("report run --out x", "--out", {}),
        ("report run run", "run is named twice", {}),
        ("report run few --track mlflow", "--track", {}),
        ("report run --track nothing", "nothing", {}),
        ("report run few --join-seeds", "run and few", {}),
        ("report run --join-seeds", "found 1", {}),
        ("report run few --out study.yaml/x", "study.yaml", {}),
        ("estimate nowhere images:plain", "nowhere", {}),
        ("estimate run images:plain", "no weights of a with seed 0", {}),
        ("estimate run:b images:plain", "unknown model 'b'", {}),
        ("estimate run:a:7 images:plain", "unknown seed '7'", {}),
        ("estimate run images:plain --out found.txt", "--out must end with .json", {}),
        ("estimate run images:plain --out nowhere/found.json", "--out", {}),
        ("estimate cut images:plain", "record.json", {}),
        ("compare run nowhere", "nowhere", {}),
        ("compare run paper", "paper", {}),
        ("compare run papre", "papre", {}),
        ("compare run:b run:a", "unknown model of run 'b'", {}),
        ("compare run few", "few has 4 images", {}),
        ("compare run cut", "record.json", {}),
        ("compare run few --match x=y", "--match is for paper", {}),
        ("compare few timm", "the 1,000 classes of ImageNet", {}),
        ("compare few testbed --match x=y", "--match is for paper", {}),
        ("compare run paper --metric brier_score", "--metric is for two runs", {}),
        ("compare run paper --match x", "--match takes", {}),
        ("compare run paper --match x=a", "pathmnist", {}),
        ("compare run paper --match x=a --match x=a", "twice", {}),
        ("compare run,few run", "run and few", {}),
        ("compare run,nowhere run", "nowhere", {}),
        ("check nowhere 'accuracy[clean] > 0'", "nowhere", {}),
        ("check unscored 'accuracy[clean] > 0'", "unscored", {}),
        ("check edited 'accuracy[clean] > 0'", "scores.csv", {}),
        ("check run", "Missing argument", {}),
        ("check run 'accuracy[clean] > 0' --on mean", "for --on 'mean'", {}),
        ("check run 'accuracy[clean] > 0' --junit no/x.xml", "no folder no", {}),
        ("check run 'accuracy[clean] > 0' --junit data", "--junit: data", {}),
        rule("accuracy > 0", "accuracy > 0"),
        rule("accuracy[clean] >", "accuracy[clean] >"),
        rule("accuracy[clean] > many", "limit 'many'"),
        rule("accuracy[clean] > 5%%", "limit '5%%'"),
        rule("accuracy[clean] == 0.5", "operator '=='"),
        rule("accuracy[clean] fall <= 0.5", "change 'fall'"),
        rule("acuracy[clean] > 0", "'accuracy'"),
        rule("accuracy[claen] > 0", "'clean'"),
        rule("accuracy[fog=9] > 0", "unknown shift 'fog'"),
        rule("accuracy[imagenet_c/fog=x] > 0", "no level 'x'"),
        rule("b: accuracy[clean] > 0", "unknown model 'b'"),
        rule("accuracy[clean|clas=x] > 0", "no scores of slices"),
        rule("sensitivity[clean|class=nobody] > 0", "nobody"),
        rule("accuracy[clean|site=B] > 0", "no scores of slices"),
        rule("accuracy[clean|worst site] > 0", "no scores of slices"),
        rule("accuracy[clean] drop <= 0.1", "clean"),
        rule("no/rules.yaml", "no/rules.yaml"),
        rule("a" * 5000, "too long"),
        rule("accuracy[clean]\n> 0 extra", "limit '0 extra'"),
        rules("", "rules.yaml"),
        rules("3", "rules.yaml"),
        rules("[]", "rules.yaml"),
        rules("[3]", "rules.yaml"),
        rules("rule: [x]", "'rules'"),
        rules("- accuracy", "accuracy"),
        rules(b"\xff", "rules.yaml"),
        rules("- {a: 1, b: 2}", "rules.yaml"),
        ("clean nowhere", "nowhere", {}),
        ("clean run --remove everything", "everything", {}),
        ("cancel nowhere", "nowhere", {}),
        ("pack run", "--out", {}),
        ("pack nowhere --out out", "nowhere", {}),
        ("pack run --out study.yaml/x", "study.yaml", {}),
        ("pack run --out data", "data contains something other", {}),
        ("pack run --out out --model b", "unknown model 'b'", {}),
        ("pack run --out out --shift fogg", "unknown shift 'fogg'", {}),
    ],
}


CASES = {f"{kind}-{number}": row for kind, rows in ROWS.items() for number, row in enumerate(rows)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_bad_command_ends_with_status_2_and_one_line(world, here, case):
    command, words, files = CASES[case]
    told = refused(world, command, files, here)
    assert words in told
    assert len(told) < 1100


# Every tenth, since a process takes seconds to load.
@pytest.mark.nightly
@pytest.mark.parametrize("case", list(CASES)[::10])
def test_a_bad_command_in_a_process_of_its_own_ends_within_its_limits(world, elsewhere, case):
    command, words, files = CASES[case]
    assert words in refused(world, command, files, elsewhere)


def test_the_table_is_large_and_its_words_tell_something():
    assert len(CASES) >= 150
    # Words of a few letters stand in many lines: what was asked is repeated, and so are file names.
    assert [case for case, (_, words, _) in CASES.items() if len(words) < 5] == []
