"""`fairweather evaluate`: any model, any images, one command, and the same command goes on."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.evaluation import read_priors
from fairweather.evaluation.priors import complete_priors
from fairweather.runs import RunFolder
from fairweather.study import check_study

from .conftest import COLOURS, TINY_RESNET

# It looks at the mean colour: right on clean images, and easy to mislead in the dark.
MODEL = """
import torch

class ByColour(torch.nn.Module):
    classes = {classes}

    def __init__(self):
        super().__init__()
        colours = torch.tensor({colours}, dtype=torch.float32)
        self.register_buffer("colours", colours / colours.norm(dim=1, keepdim=True))

    def forward(self, images):
        return 10 * images.mean((2, 3)) @ self.colours.T

def make():
    return ByColour()
"""
NAMES = sorted(COLOURS)


def write_model(folder, classes=NAMES, order=NAMES):
    file = folder / "by_colour.py"
    colours = [COLOURS[name] for name in order]
    file.write_text(MODEL.format(classes=list(classes) if classes else None, colours=colours))
    return f"python:{file}:make"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path)


def accuracy(table, shift="clean", level="none", model=None, metric="accuracy"):
    rows = table[(table["metric"] == metric) & (table["shift"] == shift)]
    rows = rows[(rows["level"] == level) & (rows["model"] == (model or table["model"].iloc[0]))]
    return rows["value"].item()


def test_a_model_from_a_file_is_measured_on_a_folder(model, colour_folder, tmp_path):
    said = []
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        ["brightness_factor: [0.2, 0.6]"],
        out=tmp_path / "run",
        bootstrap=100,
        device="cpu",
        tell=said.append,
    )
    assert accuracy(table) > 0.9
    assert len(table[table["metric"] == "accuracy"]) >= 4  # clean, two levels, their mean
    assert (table["n"] == 60).all()
    images = fw.load_data(f"folder:{colour_folder}").test
    module = fw.load_model(model)
    expected = fw.predict(module, images, fw.make_shift("brightness_factor", factor=0.2))
    right = expected.correct.mean()
    assert accuracy(table, "brightness_factor", "0.2") == pytest.approx(right, abs=1e-7)
    text = "\n".join(said)
    assert "the file was run to make it" in text
    assert "no normalisation" in text
    assert "n = 60" in text
    assert "3 classes" in text
    assert said[-1].startswith("clean          accuracy")
    for name in ("report.html", "scores.csv", "tables/summary_accuracy.md", "provenance.json"):
        assert (tmp_path / "run" / name).is_file(), name
    facts = json.loads((tmp_path / "run/provenance.json").read_text())["model"]
    assert facts["normalisation"]["mean"] is None
    assert len(facts["digest"]) == 64


def test_the_clean_line_is_said_before_any_shift_runs(model, colour_folder, monkeypatch):
    order = []

    def watching(self, images, keys, seed=0):
        order.append(self.name)
        return images

    monkeypatch.setattr("fairweather.types.Shift.__call__", watching)
    fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "gaussian_blur: [1]",
        bootstrap=100,
        device="cpu",
        tell=lambda line: order.append(f"line: {line.split()[0]}"),
    )
    at = order.index("line: clean")
    # One image is tried out before any line; after the clean one come the batches of the shift.
    assert order.index("gaussian_blur") < order.index("line: model") < at
    assert order[at + 1 :] == ["gaussian_blur", "clean", "gaussian_blur"]  # batches, then pictures


@pytest.mark.parametrize("order", [["green", "red", "blue"]])
def test_classes_are_matched_by_name_not_by_place(colour_folder, tmp_path, order):
    model = write_model(tmp_path, classes=order, order=order)
    table = fw.evaluate(model, f"folder:{colour_folder}", "clean", bootstrap=100, device="cpu")
    assert accuracy(table) > 0.9


def test_labels_can_be_given_and_wrong_ones_warn(colour_folder, tmp_path):
    model = write_model(tmp_path, classes=["sky", "grass", "blood"], order=["blue", "green", "red"])
    data = f"folder:{colour_folder}"
    options = {"bootstrap": 100, "device": "cpu"}
    with pytest.raises(InputError, match=r"(?s)blue.*sky.*--labels"):
        fw.evaluate(model, data, "clean", **options)
    file = tmp_path / "labels.yaml"
    file.write_text("blue: sky\ngreen: grass\nred: blood\n")
    assert accuracy(fw.evaluate(model, data, "clean", labels=file, **options)) > 0.9
    said = []
    wrong = {"blue": "grass", "green": "blood", "red": "sky"}
    table = fw.evaluate(model, data, "clean", labels=wrong, tell=said.append, **options)
    assert accuracy(table) < 0.1
    assert "not above chance (33.3%, what a model that always says blue gets)" in said[-1]
    assert "preprocessing or the labels" in said[-1]


class Constant(nn.Module):
    def forward(self, images):
        return torch.tensor([0.0, 3.0, 1.0]).repeat(len(images), 1)


def test_a_constant_answer_is_no_better_than_chance_however_large_its_class(colour_folder):
    whole = fw.load_data(f"folder:{colour_folder}")
    kept = torch.cat(
        [whole.test.labels.eq(1).nonzero()[:20], whole.test.labels.ne(1).nonzero()[:12]]
    )
    data = replace(whole, test=whole.test[kept.flatten()])
    said = []
    table = fw.evaluate(Constant(), data, "clean", bootstrap=100, device="cpu", tell=said.append)
    assert accuracy(table) == 0.625
    assert "not above chance (62.5%, what a model that always says green gets)" in said[-1]


def test_a_finished_evaluation_is_not_done_again(model, colour_folder, tmp_path, monkeypatch):
    def run():
        return fw.evaluate(
            model,
            f"folder:{colour_folder}",
            ["imagenet_c/gaussian_noise: [1]", "fgsm,epsilon=8/255"],
            out=tmp_path / "run",
            variants=["temperature"],
            validation_fraction=0.2,
            ood=["mnist5k"],
            bootstrap=100,
            limit=30,
            device="cpu",
        )

    first = run()
    bytes_before = (tmp_path / "run/scores.csv").read_bytes()
    monkeypatch.setattr("fairweather.measuring.predicting.predict_cells", None)
    monkeypatch.setattr("fairweather.measuring.variant_plans.scale", None)
    pd.testing.assert_frame_equal(run(), first)
    assert (tmp_path / "run/scores.csv").read_bytes() == bytes_before
    gone = next((tmp_path / "run").glob("predictions/*/seed-0/imagenet_c__gaussian_noise*.parquet"))
    gone.unlink()
    with pytest.raises(TypeError):  # now there is something to predict
        run()


def test_an_interrupted_evaluation_goes_on_by_the_cell(model, colour_folder, tmp_path, monkeypatch):
    from fairweather.measuring import predicting

    whole = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "imagenet_c/gaussian_noise: [1, 2]",
        bootstrap=100,
        device="cpu",
    )
    real, done = predicting.predict_cells, []

    def dying(model, images, cells, **options):
        for cell, predictions in real(model, images, cells, **options):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(cell.shift.id)
            yield cell, predictions

    def run():
        return fw.evaluate(
            model,
            f"folder:{colour_folder}",
            "imagenet_c/gaussian_noise: [1, 2]",
            out=tmp_path / "run",
            bootstrap=100,
            device="cpu",
        )

    monkeypatch.setattr(predicting, "predict_cells", dying)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(list((tmp_path / "run").glob("predictions/*/seed-0/*.parquet"))) == 2
    done.clear()
    pd.testing.assert_frame_equal(run(), whole)
    assert len(done) == 1


def test_a_limit_is_a_stratified_subset_and_marks_every_number(model, colour_folder):
    said = []
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "clean",
        limit=12,
        bootstrap=100,
        device="cpu",
        tell=said.append,
    )
    assert (table["n"] == 12).all()
    assert any("n = 12 of 60, a stratified subset" in line for line in said)


def test_a_set_without_parts_is_tested_whole(model, colour_folder):
    test = colour_folder / "test"
    table = fw.evaluate(model, f"folder:{test}", "clean", bootstrap=100, device="cpu")
    assert (table["n"] == 60).all()
    table = fw.evaluate(
        model,
        f"folder:{test}",
        "clean",
        validation_fraction=0.25,
        variants=["temperature"],
        bootstrap=100,
        device="cpu",
    )
    assert (table["n"] == 45).all()
    assert set(table["model"]) == {"by_colour-make", "by_colour-make+temperature"}


def test_a_runs_own_data_are_cut_as_they_were_for_its_training(colour_folder, tmp_path):
    source = f"folder:{colour_folder / 'train'}"
    model = {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}
    study = check_study(
        {
            "name": "own",
            "data": {"source": source, "size": 16},
            "models": {"basic": model},
            "bootstrap": 100,
        }
    )
    run = fw.run(study, out=tmp_path / "run", device="cpu")
    place, said = f"run:{run.path}/models/basic/seed-0", []
    options = {"bootstrap": 100, "device": "cpu", "tell": said.append}
    table = fw.evaluate(place, source, "clean", **options)
    assert (table["n"] == 18).all()  # a fifth of 90 was set apart as test images
    assert any("set apart itself" in line for line in said)
    assert accuracy(table) == accuracy(run.scores)
    # Other data are whole, at the size that the model was trained on.
    table = fw.evaluate(place, f"folder:{colour_folder / 'test'}", "clean", **options)
    assert (table["n"] == 60).all()
    assert any("16 x 16" in line for line in said)


def test_priors_reweigh_the_clean_images(model, colour_folder, tmp_path):
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "brightness_factor: [0.1]",
        out=tmp_path / "run",
        priors={"blue_skies": {"blue": 0.9}, "meadow": {"green": 0.8, "blue": 0.1, "red": 0.1}},
        bootstrap=100,
        device="cpu",
    )
    clean = fw.predict(fw.load_model(model), fw.load_data(f"folder:{colour_folder}").test)
    recall = [clean.correct[clean.labels == label].mean() for label in range(3)]
    expected = np.dot(recall, [0.9, 0.05, 0.05])
    assert accuracy(table, "priors/blue_skies") == pytest.approx(expected, abs=1e-7)
    both = [accuracy(table, f"priors/{name}") for name in ("blue_skies", "meadow")]
    assert accuracy(table, "priors/worst") == min(both)
    shifted = accuracy(table, "brightness_factor", "mean")
    assert accuracy(table, "all", "mean") == pytest.approx(shifted, abs=1e-7)


def test_another_data_set_is_told_apart_by_confidence(model, colour_folder, tmp_path):
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "clean",
        out=tmp_path / "run",
        ood=["mnist5k"],
        limit=40,
        bootstrap=100,
        device="cpu",
    )
    rows = table[table["shift"] == "ood/mnist5k"]
    assert "detection_auroc" in set(rows["metric"])
    (stored,) = (tmp_path / "run").glob("predictions/by_colour-make/seed-0/ood/*.parquet")
    columns = pd.read_parquet(stored)
    assert list(columns) == ["keys", "predicted", "confidence"]  # its labels mean nothing here
    clean = pd.read_parquet(tmp_path / "run/predictions/by_colour-make/seed-0/clean.parquet")
    pairs = clean["confidence"].to_numpy()[:, None] - columns["confidence"].to_numpy()
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert accuracy(table, "ood/mnist5k", metric="detection_auroc") == pytest.approx(
        expected, abs=1e-7
    )


class Linear(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, classes)

    def forward(self, images):
        return self.linear(images.mean((2, 3)))


def test_a_module_and_a_data_set_in_memory(colour_folder, tmp_path):
    dataset = fw.load_data(f"folder:{colour_folder}")
    module = Linear().train()
    attack = fw.make_attack("fgsm", epsilon=0.1)
    table = fw.evaluate(module, dataset, [attack], out=tmp_path, bootstrap=100, device="cpu")
    assert set(table["model"]) == {"Linear"}
    assert module.training  # as it came
    expected = fw.predict(module, dataset.test, device="cpu").correct.mean()
    assert accuracy(table) == pytest.approx(expected, abs=1e-7)
    with torch.no_grad():
        module.linear.bias[0] += 5
    with pytest.raises(InputError, match="holds the evaluation of another model called 'Linear'"):
        fw.evaluate(module, dataset, [attack], out=tmp_path, bootstrap=100, device="cpu")
    again = fw.evaluate(module, dataset, [attack], bootstrap=100, device="cpu")
    expected = fw.predict(module, dataset.test, device="cpu").correct.mean()
    assert accuracy(again) == pytest.approx(expected, abs=1e-7)


def test_other_options_replace_what_depends_on_them_and_say_so(model, colour_folder, tmp_path):
    said = []

    def run(**more):
        said.clear()
        options = {"out": tmp_path / "run", "bootstrap": 100, "device": "cpu"} | more
        return fw.evaluate(model, f"folder:{colour_folder}", "clean", tell=said.append, **options)

    run()
    assert not any("other options" in line for line in said)
    assert (run(batch_size=7)["n"] == 60).all()
    assert any("other options than before" in line for line in said)
    assert (run(limit=12)["n"] == 12).all()


def test_numbers_of_what_is_about_to_change_do_not_stay(
    model, colour_folder, tmp_path, monkeypatch
):
    def run(**more):
        options = {"out": tmp_path / "run", "bootstrap": 100, "device": "cpu"} | more
        return fw.evaluate(model, f"folder:{colour_folder}", "gamma: [2]", **options)

    run()
    assert (tmp_path / "run/scores.csv").is_file()

    def dying(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fairweather.measuring.predicting.predict_cells", dying)
        with pytest.raises(KeyboardInterrupt):
            run(limit=30)
    for name in ("scores.csv", "report.html", "tables/summary_accuracy.md"):
        assert not (tmp_path / "run" / name).exists(), name
    with pytest.raises(InputError, match="has not been scored yet"):
        fw_report(tmp_path / "run")
    assert (run()["n"] == 60).all()


def fw_report(folder):
    from fairweather.report import build_report
    from fairweather.runs import open_finished_run

    return build_report(open_finished_run(folder))


def test_a_lack_of_memory_is_told(colour_folder):
    class Small(Linear):
        def forward(self, images):
            if len(images) > 16:
                raise MemoryError
            return super().forward(images)

    said = []
    dataset = fw.load_data(f"folder:{colour_folder}")
    fw.evaluate(Small(), dataset, "clean", bootstrap=100, device="cpu", tell=said.append)
    halved = [line for line in said if "memory ran out" in line]
    assert [line.split()[-1] for line in halved] == ["128", "64", "32", "16"]


def test_logits_that_are_no_numbers_are_said_before_anything_is_written(colour_folder, tmp_path):
    module = Linear()
    torch.nn.init.constant_(module.linear.bias, float("nan"))
    with pytest.raises(InputError, match="the logits of Linear are not finite"):
        fw.evaluate(module, fw.load_data(f"folder:{colour_folder}"), "clean", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must be like NAME"),
        ("", "must be like NAME"),
        ("w: 0.5", "found 0.5 for 'w'"),
        ("w: {blue: half}", "found 'half' for 'blue'"),
        ("worst: {blue: 0.5}", "'worst' names the worst of the set"),
    ],
)
def test_a_file_of_priors_that_says_something_else_is_one_sentence(tmp_path, text, words):
    (tmp_path / "priors.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_priors(tmp_path / "priors.yaml")


def test_a_checkpoint_at_the_size_given_is_what_the_other_program_measures(tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    source = f"folder:{tmp_path / 'data'}"
    images = fw.load_data(source, test_fraction=1).test
    inputs = images.images.float() / 255 - torch.tensor(mean).reshape(3, 1, 1)
    inputs /= torch.tensor(std).reshape(3, 1, 1)
    with torch.inference_mode():
        expected = network(inputs).numpy()
    for sizes in ({"size": 32}, {"input_size": 32}, {"size": 32, "input_size": 32}):
        out = tmp_path / "-".join(map(str, sizes))
        options = {"architecture": "timm:test_resnet", "mean": mean, "std": std, **sizes}
        fw.evaluate(
            str(tmp_path / "x.pt"), source, "clean", out=out, bootstrap=100, device="cpu", **options
        )
        (file,) = out.glob("predictions/*/seed-0/clean.parquet")
        found = RunFolder(out).read_predictions(str(file.relative_to(out)))
        np.testing.assert_allclose(found.logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifts": "gausian_blur"}, "unknown suite, shift or attack 'gausian_blur'; did you mean"),
        ({"shifts": "gaussian_blur"}, "sigma"),
        ({"variants": ["temperature"]}, "temperature is fitted on validation images"),
        ({"variants": ["batchnorm"]}, "has no batch norm"),
        ({"priors": {"p": {"bleu": 0.5}}}, "did you mean 'blue'"),
        ({"priors": {"p": {"blue": 1.5}}}, "must be probabilities"),
        ({"device": "gpu"}, "device"),
        ({"limit": 2}, "limit"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    model, colour_folder, tmp_path, options, words
):
    arguments = {"shifts": "clean", "device": "cpu"} | options
    data = f"folder:{colour_folder / 'test'}"
    with pytest.raises(InputError, match=words) as caught:
        fw.evaluate(model, data, out=tmp_path / "run", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_models_folder_is_not_overwritten(model, colour_folder, tmp_path):
    options = {"out": tmp_path / "run", "bootstrap": 100, "device": "cpu"}
    fw.evaluate(model, f"folder:{colour_folder}", "clean", **options)
    with pytest.raises(InputError, match="holds the run of 'by_colour-make-on-"):
        fw.evaluate(Linear(), fw.load_data(f"folder:{colour_folder}"), "clean", **options)


def test_a_wrong_number_of_outputs_or_pixels_is_one_sentence(colour_folder):
    with pytest.raises(InputError, match="4"):
        fw.evaluate(Linear(4), fw.load_data(f"folder:{colour_folder}"), "clean", device="cpu")
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(InputError, match="cannot take images of 16x16"):
        fw.evaluate(narrow, fw.load_data(f"folder:{colour_folder}"), "clean", device="cpu")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"blue": 0.5}, (0.5, 0.25, 0.25)),
        ({"blue": 1.0}, (1.0, 0.0, 0.0)),
        ({"blue": 0.2, "green": 0.3, "red": 0.5}, (0.2, 0.3, 0.5)),
    ],
)
def test_priors_that_are_not_named_share_the_rest(colour_folder, asked, expected):
    test = fw.load_data(f"folder:{colour_folder}").test
    assert complete_priors({"p": asked}, test)["p"] == pytest.approx(expected)


def test_priors_of_all_classes_must_add_up(colour_folder):
    test = fw.load_data(f"folder:{colour_folder}").test
    with pytest.raises(InputError, match=r"add up to 0\.6, not 1"):
        complete_priors({"p": {"blue": 0.2, "green": 0.2, "red": 0.2}}, test)


def fairweather(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "fairweather", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_from_model_to_check_and_comparison(model, colour_folder, tmp_path):
    data = f"folder:{colour_folder}"
    words = ["--shifts", "brightness_factor: [0.2]", "--bootstrap", "100", "--device", "cpu"]
    done = fairweather("evaluate", model, data, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "clean          accuracy" in done.stdout
    folder = done.stdout.split("page    ")[1].strip().removesuffix("/report.html")
    assert (tmp_path / folder / "report.html").is_file()
    good = fairweather("check", folder, "accuracy[clean] >= 0.5", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = fairweather("check", folder, "accuracy[*] >= 0.999", "--junit", "out.xml", cwd=tmp_path)
    assert bad.returncode == 1
    assert "accuracy" in bad.stdout
    assert "<testsuite" in (tmp_path / "out.xml").read_text()
    wrong = fairweather("check", folder, "acuracy[clean] >= 0.5", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "accuracy" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    other = write_model(tmp_path, classes=["green", "red", "blue"])
    done = fairweather("evaluate", other, data, *words, "--out", "other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = fairweather("compare", folder, "other", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "real" in compared.stdout
    (table,) = (tmp_path / folder / "tables").glob("compare_*.csv")
    assert str(table.relative_to(tmp_path)) in compared.stdout
