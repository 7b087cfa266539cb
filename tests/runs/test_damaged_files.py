"""Files of a run folder that are damaged, or made by hand: one sentence, and no other error.

Checksums show damage and not forgery, so what reads a file cannot rely on them alone.
"""

import json

import pytest

from fairweather.errors import InputError
from fairweather.report.contents import read_contents
from fairweather.report.training import (
    draw_labels,
    read_correlations,
    read_histories,
    read_pretraining_histories,
    read_recipes,
    read_times,
    read_tries,
    read_warnings,
)
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.steps.predictions import read_fitted
from fairweather.types.record import (
    CORRELATION,
    HISTORY,
    RECORD,
    SCORES,
    WARNINGS,
    fitted_file,
    model_folder,
    predictions_file,
    pretraining_folder,
    step_file,
    sweep_table,
)
from fairweather.variants.scaling import FittedTemperature
from tests.helpers.run_folders import (
    change_record,
    copy_run,
    finish,
    outcomes,
    run_record,
    write_run,
)

CLEAN = predictions_file("a", 0, "clean")
TRAINED, STARTED = model_folder("a", 0), pretraining_folder("start", 0)
TEMPERATURE = fitted_file("a", 0, "temperature")
DAMAGE = {
    "empty": b"",
    "no text": b"\xff\xfe",
    "a list": b"[1]",
    "nothing": b"null",
    "nested": b"[" * 5000,
    "a large number": b"9" * 5000,
    "another table": b"a,b\n1,2\n",
    "an object": b'{"version": 2, "steps": {"a": 1}, "before": 1, "after": 2, "value": "x"}',
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with one of each file that reports, rules and comparisons read."""
    rows = [("a", "0", "clean", "none", "accuracy", 0.7, 0.6, 0.8, 20)]
    predictions = {("a", 0, "clean"): outcomes([True, False] * 10)}
    record = run_record({"a": "Model A"})
    run = write_run(tmp_path_factory.mktemp("whole") / "run", record, rows, predictions)

    def with_a_start(facts):
        facts["pretraining"] = {"start": {"title": "Start", "settings": {"seed": 0}}}
        facts["models"]["a"]["settings"]["sweep"] = {"learning_rate": [0.1, 0.2]}

    run = change_record(run, with_a_start)
    files = {
        f"{TRAINED}/{HISTORY}": "epoch,val_accuracy,val_loss\n1,0.5,1.0\n2,0.6,0.9\n",
        f"{TRAINED}/model.json": json.dumps({"recipe": {"epochs": 2}, "weights": {}}),
        sweep_table("a"): "learning_rate,val_accuracy\n0.1,0.5\n0.2,0.6\n",
        f"{STARTED}/{HISTORY}": "epoch,knn_accuracy,embedding_std\n1,0.5,0.1\n",
        f"{STARTED}/{CORRELATION}": json.dumps({"before": [[1.0]], "after": [[1.0]]}),
        WARNINGS: json.dumps({"Model A": "a warning"}),
        TEMPERATURE: FittedTemperature(
            value=1.5, images=9, nll_before=1, nll_after=0.5
        ).model_dump_json(),
    }
    for name, text in files.items():
        run.write(name, text)
    finish(run, TRAINED, list(files)[:3])
    finish(run, STARTED, list(files)[3:5], kind="pretrain")
    return run


def read_all(run):
    contents = read_contents(run)
    for read in (read_histories, read_times, read_recipes, read_tries, read_warnings):
        read(contents)
    read_pretraining_histories(contents)
    read_correlations(contents)
    return contents


READERS = {
    SCORES: lambda run: run.scores,
    CLEAN: lambda run: (run.read_columns(CLEAN, ["labels"]), run.read_predictions(CLEAN)),
    f"{TRAINED}/{HISTORY}": read_all,
    f"{TRAINED}/model.json": read_all,
    sweep_table("a"): read_all,
    f"{STARTED}/{HISTORY}": read_all,
    f"{STARTED}/{CORRELATION}": read_all,
    WARNINGS: read_all,
    TEMPERATURE: lambda run: read_fitted(run, "temperature", TEMPERATURE),
    RECORD: lambda run: open_finished_run(run.path),
    step_file(TRAINED): lambda run: run.steps(),
}
# What any text may be, or nothing of which is needed.
TAKEN = {
    (f"{TRAINED}/model.json", "an object"),
    (sweep_table("a"), "another table"),
    *((sweep_table("a"), kind) for kind in ("a list", "nothing", "nested", "a large number")),
    (sweep_table("a"), "an object"),
}


def test_what_is_whole_is_read(whole):
    for read in READERS.values():
        read(whole)
    assert whole.has_left(whole.step(TRAINED))


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_sentence_that_names_it(whole, tmp_path, name, kind):
    run = copy_run(whole, tmp_path / "run")
    (run.path / name).write_bytes(DAMAGE[kind])
    again = RunFolder(run.path)
    if (name, kind) in TAKEN:
        READERS[name](again)
        return
    with pytest.raises(InputError) as caught:
        READERS[name](again)
    told = str(caught.value)
    assert str(run.path / name) in told
    assert len(told.splitlines()) == 1
    assert len(told) < 500


@pytest.mark.parametrize("value", [None, "x", [1], {}])
def test_settings_of_a_model_that_are_of_another_kind_are_one_sentence(whole, tmp_path, value):
    def with_noise(facts):
        facts["models"]["a"]["settings"]["label_noise"] = value

    run = change_record(copy_run(whole, tmp_path / "run"), with_noise)
    with pytest.raises(InputError, match="label_noise of Model A"):
        draw_labels(read_contents(run))


@pytest.mark.parametrize(("name", "was"), [(RECORD, b"Model A"), (step_file(TRAINED), b"train")])
def test_a_record_that_is_no_utf_8_is_not_read_with_other_letters(whole, tmp_path, name, was):
    run = copy_run(whole, tmp_path / "run")
    content = (run.path / name).read_bytes()
    assert was in content
    (run.path / name).write_bytes(content.replace(was, b"a\xff"))
    with pytest.raises(InputError, match="is not the record of"):
        READERS[name](RunFolder(run.path))


def test_a_damaged_record_says_how_the_run_goes_on(whole, tmp_path):
    run = copy_run(whole, tmp_path / "run")
    (run.path / RECORD).write_text("{")
    with pytest.raises(InputError, match=r"record\.json.*remove it"), open_run(run.path):
        pass
    (run.path / RECORD).unlink()
    (run.path / ".lock").touch()  # as every run leaves it
    with open_run(run.path) as opened:
        assert opened.step(TRAINED) is not None
