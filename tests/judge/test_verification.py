"""A run is verified: what its stored predictions say is what it says."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.judge import verification
from fairweather.metrics.columns import per_image
from fairweather.report import building, charts
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import drawing_versions
from fairweather.tasks import FindingsPredictions
from fairweather.types.record import step_file
from tests.conftest import figures_left_out
from tests.helpers.prediction_runs import evaluate_classes, evaluate_findings
from tests.helpers.run_folders import copy_run
from tests.requests.test_evaluate import write_model

CELL = "predictions/by_colour-make/seed-0/test/gamma,exponent=2.parquet"
# Of variants that are fitted, and that make sets.
VARIANTS = ("temperature", {"conformal": {"method": "lac", "coverage": 0.5}})


def evaluate_colours(colour_folder, folder):
    run = fw.evaluate(
        write_model(folder),
        f"folder:{colour_folder}",
        shifts=["gamma,exponent=2.0"],
        variants=VARIANTS,
        bootstrap=100,
        validation_fraction=0.4,
        out=folder / "run",
        progress=False,
    )
    return RunFolder(run.path)


@pytest.fixture(scope="module")
def drawn(colour_folder, tmp_path_factory):
    return evaluate_colours(colour_folder, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def figured(drawn, tmp_path):
    """A run with its figures, which take most of the time of a verification."""
    return copy_run(drawn, tmp_path / "run")


@pytest.fixture(scope="module")
def unfigured(colour_folder, tmp_path_factory):
    with figures_left_out():
        return evaluate_colours(colour_folder, tmp_path_factory.mktemp("verified"))


@pytest.fixture
def run(unfigured, tmp_path, no_figures):
    return copy_run(unfigured, tmp_path / "run")


def outcomes(verified):
    return {file.file: file.outcome for file in verified.files}


def test_everything_that_stored_predictions_give_is_computed_again(figured):
    verified = fw.verify(figured.path, progress=False)
    seen = outcomes(verified)
    assert verified.is_confirmed
    assert {seen[name] for name in ("scores.csv", "summary.csv", "report.html")} == {"same"}
    derived = [name for name in seen if name.startswith("variants/") or "+" in name]
    assert len(derived) > 4
    assert {seen[name] for name in derived} == {"same"}
    assert seen[CELL] == "not computed"
    assert "that needs networks or images" in str(verified)


def change_a_prediction(run):
    predictions = run.read_predictions(CELL)
    correct = predictions.correct.copy()
    predicted = predictions.predicted.copy()
    predicted[0] = predictions.labels[0] if not correct[0] else 1 - predicted[0]
    run.write_predictions(CELL, replace(predictions, predicted=predicted, logits=None))


def forge_checksum(run, step, *files):
    path = run.path / step_file(step)
    record = json.loads(path.read_text())
    record["files"] |= {name: run.checksum(name) for name in files}
    path.write_text(json.dumps(record))


def test_one_changed_prediction_is_noticed(run):
    change_a_prediction(run)
    verified = fw.verify(run.path, progress=False)
    assert not verified.is_confirmed
    assert outcomes(verified)[CELL] == "changed"


def test_one_changed_prediction_is_noticed_even_if_its_checksum_was_changed_too(run):
    change_a_prediction(run)
    forge_checksum(run, CELL.removesuffix(".parquet"), CELL)
    seen = outcomes(fw.verify(run.path, progress=False))
    assert seen["scores.csv"] == "differs"


def test_a_number_that_was_typed_in_is_noticed_and_named(run):
    lines = (run.path / "scores.csv").read_text().splitlines(keepends=True)
    fields = lines[1].split(",")
    fields[5] = "0.123"
    (run.path / "scores.csv").write_text("".join([lines[0], ",".join(fields), *lines[2:]]))
    forge_checksum(run, "scores", "scores.csv")
    done = CliRunner().invoke(app, ["verify", str(run.path), "--quiet"])
    assert (done.exit_code, done.stderr) == (1, "")
    again = CliRunner().invoke(app, ["verify", str(run.path)])
    assert again.stderr.splitlines()[-1].startswith(f"next    fairweather report {run.path}")
    assert "1 not what the stored predictions give: scores.csv" in done.output
    assert "(row 2 value: 0.123, now " in done.output, done.output


def test_only_the_scores_are_named_where_a_number_was_typed_into_them(run):
    fw.write_card(f"{run.path}:by_colour-make", ["accuracy[clean] >= 0.01"])
    before = outcomes(fw.verify(run.path, progress=False))
    scores = (run.path / "scores.csv").read_text().splitlines(keepends=True)
    at = next(at for at, line in enumerate(scores) if ",clean,none,accuracy," in line)
    fields = scores[at].split(",")
    scores[at] = ",".join([*fields[:5], "0.5", *fields[6:]])
    (run.path / "scores.csv").write_text("".join(scores))
    forge_checksum(run, "scores", "scores.csv")
    after = outcomes(fw.verify(run.path, progress=False))
    assert after == before | {"scores.csv": "differs"}
    assert {before[name] for name in before if name.startswith(("cards/", "tables/"))} == {"same"}


def test_the_words_around_a_difference_of_the_page_are_shown(run):
    page = run.path / "report.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("</h1>") == 1
    page.write_text(text.replace("</h1>", " is splendid</h1>"), encoding="utf-8")
    forge_checksum(run, "report", "report.html")
    (file,) = (f for f in fw.verify(run.path, progress=False).files if f.file == "report.html")
    assert file.outcome == "differs"
    assert " is splendid</h1>" in file.reason.partition("', now '")[0]
    assert "DOCTYPE" not in file.reason


def test_without_its_predictions_a_run_is_not_confirmed(run):
    (run.path / CELL).unlink()
    verified = fw.verify(run.path, progress=False)
    assert not verified.is_confirmed
    assert outcomes(verified)["scores.csv"] == "not computed"


def test_a_run_of_another_version_is_not_computed_again(run):
    path = run.path / step_file("scores")
    record = json.loads(path.read_text())
    record["depends"]["version"] = 1
    path.write_text(json.dumps(record))
    done = CliRunner().invoke(app, ["verify", str(run.path), "--json", "--quiet"])
    assert done.exit_code == 1
    files = {file["file"]: file for file in json.loads(done.output)["files"]}
    assert files["scores.csv"]["outcome"] == "not computed"
    assert "version 1 of this step wrote them" in files["scores.csv"]["reason"]


def test_a_step_that_this_version_does_not_have_is_not_computed_again(run):
    """Earlier versions had steps of the kind `conform`."""
    (step,) = (
        record for record in run.steps() if "+conformal" in record.id and record.kind == "fit"
    )
    path = run.path / step_file(step.id)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "kind": "conform"}))
    verified = fw.verify(run.path, progress=False)
    assert outcomes(verified)[next(iter(step.files))] == "not computed"
    assert "wrote them, and this is without it" in str(verified)


def test_only_its_own_copy_is_written(figured):
    before = {path: path.read_bytes() for path in figured.path.rglob("*") if path.is_file()}
    fw.verify(figured.path, progress=False)
    assert before == {path: path.read_bytes() for path in figured.path.rglob("*") if path.is_file()}


def test_a_run_without_scores_is_refused(run):
    run.forget("scores")
    with pytest.raises(fw.InputError, match="has no scores to verify; finish the run first"):
        fw.verify(run.path)


def draw_otherwise(monkeypatch, **versions):
    """Draw all figures otherwise from now on, with these versions of what draws."""

    def draw(name, alt, svg):
        return charts.Figure(name, alt, svg.replace("<svg", '<svg data-look="new"', 1))

    monkeypatch.setattr(building, "Figure", draw)
    monkeypatch.setattr(verification, "drawing_versions", lambda: drawing_versions() | versions)


def test_figures_that_another_version_draws_otherwise_are_not_said_to_differ(figured, monkeypatch):
    draw_otherwise(monkeypatch, altair="99.0")
    verified = fw.verify(figured.path, progress=False)
    seen = outcomes(verified)
    reasons = {file.reason for file in verified.files if file.file.endswith(".svg")}
    recorded = figured.record.provenance.drawing["altair"]
    assert reasons == {f"drawn by another version of altair ({recorded}, here 99.0)"}
    assert seen["report.html"] == "equal"  # but for its figures
    assert verified.is_confirmed


def test_figures_that_the_same_version_draws_otherwise_differ(figured, monkeypatch):
    draw_otherwise(monkeypatch)
    seen = outcomes(fw.verify(figured.path, progress=False))
    assert {seen[name] for name in seen if name.endswith(".svg")} == {"differs"}
    assert seen["report.html"] == "differs"


def test_what_draws_is_recorded_and_changes_no_fingerprint(run):
    record = run.record
    assert {"altair", "vl-convert-python", "pillow"} == set(record.provenance.drawing)
    other = record.provenance.model_copy(update={"drawing": {"altair": "1"}})
    assert record.model_copy(update={"provenance": other}).lasting() == record.lasting()


KINDS = {
    "classes": lambda folder: evaluate_classes(folder),
    "seeds": lambda folder: evaluate_classes(folder, seeds=2, variants=["temperature"]),
    "findings": lambda folder: evaluate_findings(folder, variants=["vector_scaling"]),
    "patients": lambda folder: evaluate_findings(folder, unit="patient", aggregate=("mean", "max")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_each_task_are_confirmed_until_one_prediction_changes(kind, tmp_path, undrawn):
    run = RunFolder(KINDS[kind](tmp_path).path)
    verified = fw.verify(run.path, progress=False)
    assert verified.is_confirmed
    given = {file.file: file for file in verified.files if file.outcome == "not computed"}
    assert {file.reason for name, file in given.items() if name.startswith("predictions/")} == {
        "another program made them"
    }
    cell = next(name for name in given if name.endswith("test/fog,level=2.parquet"))
    change_a_row(run, cell)
    assert outcomes(fw.verify(run.path, progress=False))[cell] == "changed"
    forge_checksum(run, cell.removesuffix(".parquet"), cell)
    verified = fw.verify(run.path, progress=False)
    assert outcomes(verified)["scores.csv"] == "differs"
    assert not verified.is_confirmed


def change_a_row(run, cell):
    """Turn the answer of one image round, in the stored file of a cell."""
    images = run.read_images(cell)
    logits = images.logits.copy()
    logits[0] = -logits[0]
    if isinstance(images, FindingsPredictions):
        run.write_predictions(cell, replace(images, logits=logits))
        return
    columns = per_image(logits, images.labels)._asdict()
    run.write_predictions(cell, replace(images, logits=logits, **columns))
