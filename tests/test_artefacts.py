"""Every kind of file in a run folder is damaged in every way, and every command reads the folder.

Each refuses with one sentence that names the file, makes the file again, or does not need it: its
result has the same bytes.
"""

import json
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import format_verdicts, judge
from fairweather.runs.folder import open_finished_run
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.opened_models import open_model
from tests.helpers.quick_steps import quick_steps

STUDY = """
name: small
data:
  source: "folder:{folder}"
  size: 16
  validation_fraction: 0.5
  groups: {{metadata: {folder}/{name}.csv, group: patient, slices: [site]}}
natural: {{elsewhere: "folder:{folder}/elsewhere"}}
seeds: [0]
threads: 1
variants: [temperature, {{conformal: {{coverage: 0.5}}}}]
shifts: [{{gaussian_blur: [1]}}]
bootstrap: 100
pretraining:
  views:
    title: Views
    backbone: {backbone}
    recipe: {{method: barlow_twins, epochs: 1, batch_size: 8, projector: [8, 8]}}
models:
  a:
    title: A
    backbone: {backbone}
    weights: pretraining:views
    recipe: {{epochs: 1, batch_size: 8, learning_rate: {rate}}}
  b:
    title: B
    backbone: {backbone}
    recipe: {{epochs: 1, batch_size: 8}}
    sweep: {{learning_rate: [{rate}, 1e-3]}}
"""
RULES = ("a: accuracy[clean] >= 10%", "b: accuracy[gaussian_blur=1] drop <= 20%")
SAMPLE = 40  # of the cases, in the usual tests


class Small(NamedTuple):
    """Two finished runs that differ in their numbers, and what each command makes of the first."""

    study: Path
    run: Path
    other: Path
    expected: dict[str, object]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("small")
    write_data(root / "data")
    with quick_steps():
        for name, rate in (("run", 1e-2), ("other", 3e-2)):
            study = root / f"{name}.yaml"
            text = STUDY.format(folder=root / "data", name=name, backbone=TINY_RESNET, rate=rate)
            study.write_text(text)
            fw.run(study, out=root / name, device="cpu")
        made = Small(root / "run.yaml", root / "run", root / "other", {})
        for name, use in USES.items():
            copy = root / f"copy-{name}"
            shutil.copytree(made.run, copy)
            made.expected[name] = use(copy, made)
        yield made


def write_data(folder):
    """Pictures of patients of two sites, which are others for each run, and more from elsewhere."""
    pictures = write_pictures(folder, train=8, test=8)
    for name, first in (("run", 0), ("other", 1)):
        rows = []
        for path in sorted(pictures.rglob("*.png")):
            part, colour, number = *path.parts[-3:-1], int(path.stem)
            patient, site = f"{part}-{colour}-{number // 2}", (number // 2 + first) % 2
            rows.append(f"{part}/{colour}/{path.name},{patient},{site}")
        (folder / f"{name}.csv").write_text("\n".join(["file,patient,site", *rows, ""]))
    shutil.rmtree(write_pictures(folder / "elsewhere", before=16, test=4) / "before")  # the same


# ---------------------------------------------------------------- what reads a run folder


def run_again(run, small):
    fw.run(small.study, out=run, device="cpu")
    return contents(run)


def check(run, small):
    return format_verdicts(judge(open_finished_run(run), read_rules(list(RULES))))


def compare(run, small):
    return fw.compare_runs(run, small.other).to_csv()


def report(run, small):
    done = CliRunner().invoke(app, ["report", str(run)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if "the report leaves out what needs it" in done.output:
        raise InputError(done.output.strip().splitlines()[0])
    return contents(run, "summary.csv", "tables", "figures", "report.html")


def open_trained(run, small):
    opened = open_model(f"run:{run}/models/a/seed-0")
    if opened.preparation is None:  # the evaluation shows why
        raise InputError(str(opened.facts["preparation"]["from"]))
    with torch.inference_mode():
        logits = opened.model(torch.linspace(0, 1, 768).reshape(1, 3, 16, 16))
    return opened.digest, opened.classes, opened.preparation, logits.tolist()


USES: dict[str, Callable[[Path, Small], object]] = {
    "run": run_again,
    "check": check,
    "compare": compare,
    "report": report,
    "model": open_trained,
}


def contents(run, *names):
    """Files and their bytes; of records and histories what has no times."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or (names and name.split("/")[0] not in names):
            continue
        found[name] = path.read_bytes() if name != ".lock" else b""  # what is in it says nothing
        if name == "record.json":
            found[name] = json.dumps(open_finished_run(run).record.lasting()).encode()
        if name.startswith("steps/"):
            facts = json.loads(found[name])
            found[name] = json.dumps([facts["depends"], sorted(facts["files"])]).encode()
        if path.name == "history.csv":
            history = pd.read_csv(path).drop(columns="images_per_second")
            found[name] = history.to_csv().encode()
    return found


# ---------------------------------------------------------------- what happens to a file


def flip(path, small, name):
    content = bytearray(path.read_bytes() or b"\0")
    bit = random.Random(name).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path, small, name):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit(path, small, name):
    """Replace a file by a valid one with another content."""
    if path.suffix == ".parquet":
        found = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(found.take(pa.array(range(len(found))[::-1])), path)
    elif path.suffix == ".safetensors":
        state = safetensors.torch.load_file(path)
        safetensors.torch.save_file({key: value * 2 for key, value in state.items()}, path)
    elif name.startswith("steps/"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "fingerprint": "0" * 16, "seconds": 7.0}))
    elif path.suffix == ".json" and name != "record.json":
        path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    elif path.suffix == ".png":
        path.write_bytes(b"another picture")
    else:
        text = path.read_text()
        digits = [at for at, letter in enumerate(text) if letter.isdigit()]
        at = digits[-1] if digits else len(text)
        path.write_text(f"{text[:at]}{'8' if text[at : at + 1] == '7' else '7'}{text[at + 1 :]}")


def changed(facts):
    """The same JSON with other numbers and words at its ends."""
    if isinstance(facts, dict):
        return {key: changed(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [changed(each) for each in facts]
    if isinstance(facts, bool) or facts is None:
        return facts
    return facts + 1 if isinstance(facts, int | float) else f"{facts}x"


def swap(path, small, name):
    shutil.copyfile(small.other / name, path)


def delete(path, small, name):
    path.unlink()


DAMAGES = {each.__name__: each for each in (flip, truncate, edit, swap, delete)}

# One file of each kind. A kind that is not here fails in `test_every_kind_of_file_is_here`.
FILES = (
    ".lock",
    "absent_metrics.json",
    "figures/level.png",
    "figures/level.svg",
    "groups/test.parquet",
    "groups/val.parquet",
    "images/test.csv",
    "models/a/seed-0/history.csv",
    "models/a/seed-0/model.json",
    "models/a/seed-0/model.safetensors",
    "models/b/chosen.json",
    "models/b/sweep.csv",
    "models/b/sweep/try-1/history.csv",
    "models/b/sweep/try-1/model.json",
    "models/b/sweep/try-1/model.safetensors",
    "predictions/a/seed-0/test/clean.parquet",
    "predictions/b/seed-0/test/gaussian_blur,sigma=1.parquet",
    "predictions/a/seed-0/val/clean.parquet",
    "predictions/a/seed-0/natural-elsewhere-6f33ac07/clean.parquet",
    "predictions/a+conformal-lac-0.5/seed-0/test/clean.parquet",
    "predictions/a+temperature/seed-0/test/clean.parquet",
    "predictions/a+temperature/seed-0/val/clean.parquet",
    "predictions/a+temperature/seed-0/natural-elsewhere-6f33ac07/clean.parquet",
    "pretraining/views/seed-0/correlation.json",
    "pretraining/views/seed-0/history.csv",
    "pretraining/views/seed-0/model.json",
    "pretraining/views/seed-0/model.safetensors",
    "record.json",
    "report.html",
    "samples/index.json",
    "samples/pictures.parquet",
    "scores.csv",
    "slices.csv",
    "steps/groups.json",
    "steps/models/a/seed-0.json",
    "steps/models/b/sweep/try-1.json",
    "steps/models/b/sweep.json",
    "steps/predictions/a/seed-0/test/clean.json",
    "steps/pretraining/views/seed-0.json",
    "steps/report.json",
    "steps/samples.json",
    "steps/scores.json",
    "steps/variants/a+temperature/seed-0/temperature.json",
    "study.yaml",
    "summary.csv",
    "tables/overview.csv",
    "tables/overview.md",
    "tables/overview.tex",
    "variants/a+conformal-lac-0.5/seed-0/sets.json",
    "variants/a+temperature/seed-0/temperature.json",
    "warnings.json",
)


def kind_of(name):
    """What a file is, without the model, seed, shift or table that it is of."""
    top, *rest = name.split("/")
    if top == "steps":
        return top, "sweep" in name, rest[0]
    if top in ("models", "pretraining"):
        return top, "sweep/" in name, rest[-1]
    if top in ("predictions", "variants"):
        return top, "+" in rest[0], rest[2] if top == "predictions" else rest[-1]
    return (top, Path(name).suffix) if top in ("tables", "figures", "images") else (name,)


# What both runs have alike, so that a swap is no damage; and the first is empty.
ALIKE = (
    ".lock",
    "absent_metrics.json",
    "figures/level.png",
    "figures/level.svg",
    "images/test.csv",
    "pretraining/views/seed-0/correlation.json",
    "pretraining/views/seed-0/model.json",
    "pretraining/views/seed-0/model.safetensors",
    "report.html",
    "warnings.json",
)
NO_DAMAGES = {(".lock", "truncate"), *((name, "swap") for name in ALIKE)}
DAMAGED = [(name, how) for name in FILES for how in DAMAGES if (name, how) not in NO_DAMAGES]
CASES = [(name, how, use) for name, how in DAMAGED for use in USES]


def test_every_kind_of_file_is_here(small):
    there = {kind_of(path.relative_to(small.run).as_posix()) for path in files_of(small.run)}
    assert there == {kind_of(name) for name in FILES}


def test_what_both_runs_have_alike_is_named(small):
    pairs = {
        name: [(run / name).read_bytes() for run in (small.run, small.other)] for name in FILES
    }
    assert {name for name, (one, other) in pairs.items() if one == other} == set(ALIKE)
    assert pairs[".lock"][0] == b""


def files_of(run):
    return [path for path in sorted(run.rglob("*")) if path.is_file()]


def held(small, folder, name, how, use):
    """Whether a command holds a damaged file out of its result; returns what went wrong, if so."""
    run = folder / f"{random.Random(f'{name} {how} {use}').getrandbits(64):x}"
    # Links are quick, and commands write by renaming; only what is damaged here must be a copy.
    shutil.copytree(small.run, run, copy_function=os.link)
    before = (run / name).read_bytes()
    (run / name).unlink()
    (run / name).write_bytes(before)
    DAMAGES[how](run / name, small, name)
    if (run / name).is_file() and (run / name).read_bytes() == before:
        shutil.rmtree(run)
        return "nothing is damaged"
    try:
        found = USES[use](run, small)
    except InputError as error:
        told = str(error)
        named = name if not name.startswith("steps/") else str(run)
        whole = len(told.splitlines()) == 1 and named in told
        return "" if whole else f"refused without the file: {told}"
    except Exception:
        return traceback.format_exc()
    finally:
        shutil.rmtree(run)
    expected = small.expected[use]
    if found == expected:
        return ""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = found.keys() | expected.keys()
        differ = [each for each in sorted(names) if found.get(each) != expected.get(each)]
        return f"other files: {differ}"
    return f"another result: {str(found)[:2000]}"


def all_held(small, folder, cases):
    failed = {case: why for case in cases if (why := held(small, folder, *case))}
    told = "\n".join(f"{' '.join(case)}: {why}" for case, why in failed.items())
    assert not failed, f"{len(failed)} of {len(cases)} failed:\n{told}"


def test_no_damaged_file_changes_a_result(small, tmp_path):
    all_held(small, tmp_path, random.Random(0).sample(CASES, SAMPLE))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("use", USES)
def test_no_damaged_file_of_any_kind_changes_any_result(small, tmp_path, use):
    all_held(small, tmp_path, [case for case in CASES if case[2] == use])
