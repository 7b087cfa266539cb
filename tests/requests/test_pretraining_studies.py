"""Studies with pre-training: initial weights of models, their labels, and measurements."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import fairweather as fw
from fairweather.data.splits import choose_labelled, corrupt_labels
from fairweather.errors import CollapsedError, InputError
from fairweather.inference.prediction import predict
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.models.building import load_checkpoint
from fairweather.models.checkpoints import interpolate
from fairweather.models.wrappers import Ensemble
from fairweather.report.building import SECTIONS, _draw_figures
from fairweather.report.contents import read_contents
from fairweather.report.training import draw_labels
from fairweather.requests.inputs import make_plan
from fairweather.requests.study.run import make_study_inputs
from fairweather.requests.study.schema import check_study, load_study
from fairweather.shifts.table import SHIFTS, make_shift, operation_name
from fairweather.steps.measurement import collect_facts
from fairweather.steps.plan import DATA
from fairweather.steps.training import training_images
from fairweather.tasks import mean_log_probability
from fairweather.training.operations import TESTED_AS
from fairweather.training.selfsupervised.pretraining_recipe import NAMED_VIEWS
from fairweather.types.measurement import Images
from fairweather.types.record import predictions_file
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.run_folders import copy_run

pytestmark = pytest.mark.usefixtures("undrawn")

BARLOW = {
    "title": "Barlow Twins",
    "backbone": TINY_RESNET,
    "recipe": {
        "method": "barlow_twins",
        "epochs": 2,
        "batch_size": 30,
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "projector": [16, 16],
        "views": {"blur": [0.0, 0.0]},
    },
}
SQUEEZENET = "torchvision:squeezenet1_1"
SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}


def raw(folder, **changes):
    study = {
        "name": "starts",
        "data": {"source": f"folder:{folder}", "size": 16},
        "seeds": [0],
        "bootstrap": 100,
        "pretraining": {"barlow": BARLOW},
        "models": {"ssl": model(weights="pretraining:barlow")},
    }
    return study | changes


def model(**changes):
    return {"title": "SSL", "backbone": TINY_RESNET, "recipe": SHORT} | changes


def run_of(study, path, **options):
    return fw.run(check_study(study), out=path, **options)


def notes_of(study, path, **options):
    """The last note of every task of a run."""
    notes = {}
    run_of(study, path, progress=lambda e: notes.update({e.task: e.note}), **options)
    return notes


def weights(run, folder, name="model"):
    return safetensors.torch.load_file(run.path / folder / f"{name}.safetensors")


def facts(run, folder):
    return json.loads((run.path / folder / "model.json").read_text())


@pytest.fixture(scope="module")
def probed(colour_folder, tmp_path_factory):
    """A linear probe on a pre-trained backbone."""
    study = raw(
        colour_folder,
        models={"ssl": model(weights="pretraining:barlow", recipe=SHORT | {"probe_epochs": 2})},
        shifts=[{"brightness_factor": [0.3]}],
    )
    return run_of(study, tmp_path_factory.mktemp("probed") / "run")


def test_a_probed_model_has_the_pretrained_backbone_to_the_bit(probed):
    start = weights(probed, "pretraining/barlow/seed-0")
    end = weights(probed, "models/ssl/seed-0")
    head = set(end) - set(start)
    assert head == {"network.fc.weight", "network.fc.bias"}
    assert all(end[key].equal(start[key]) for key in start)
    trained = facts(probed, "models/ssl/seed-0")
    assert trained["weights"]["head"] == "newly initialised"
    assert trained["weights"]["file"] == "pretraining/barlow/seed-0/model.safetensors"
    assert trained["spec"]["weights"] == "pretraining:barlow"
    assert trained["weights"]["sha256"] == probed.folder.checksum(trained["weights"]["file"])


def test_a_pretraining_leaves_everything_that_one_needs_of_it(probed, draw, no_pngs):
    folder = "pretraining/barlow/seed-0"
    history = pd.read_csv(probed.path / folder / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert {"train_loss", "embedding_std", "knn_accuracy", "learning_rate"} <= set(history)
    assert facts(probed, folder)["images"] == 81
    assert not facts(probed, folder)["labels_used"]
    matrices = json.loads((probed.path / folder / "correlation.json").read_text())
    before, after = np.array(matrices["before"]), np.array(matrices["after"])
    assert before.shape == after.shape == (16, 16)
    assert not np.allclose(before, after)
    assert not (probed.path / folder / "resume").exists()
    draw(probed)
    for figure in ("pretraining", "cross_correlation"):
        assert (probed.path / f"figures/{figure}.svg").is_file()
    page = (probed.path / "report.html").read_text()
    assert 'alt="k-NN accuracy and deviation of the embedding against the epoch.' in page
    assert "Brightness, by the views of its pre-training" in page


def test_its_file_is_a_start_for_any_other_study(probed, colour_folder, tmp_path):
    file = probed.path / "pretraining/barlow/seed-0/model.safetensors"
    probe = SHORT | {"probe_epochs": 2}
    study = raw(
        colour_folder, models={"ssl": model(weights=str(file), recipe=probe)}, pretraining={}
    )
    run = run_of(study, tmp_path / "run")
    start, end = weights(probed, "pretraining/barlow/seed-0"), weights(run, "models/ssl/seed-0")
    assert all(end[key].equal(start[key]) for key in start)
    assert facts(run, "models/ssl/seed-0")["spec"]["mean"] == pytest.approx(
        start["mean"].flatten().tolist()
    )


class KilledError(Exception):
    """Simulates a signal."""


def killed_in(study, path, task, done):
    def progress(event):
        if event.task.startswith(task) and event.done == done:
            raise KilledError

    with pytest.raises(KilledError):
        run_of(study, path, progress=progress)


@pytest.fixture(scope="module")
def whole(colour_folder, tmp_path_factory):
    """A pre-training and a model that begins with it."""
    return run_of(raw(colour_folder), tmp_path_factory.mktemp("whole") / "run")


def test_a_killed_pretraining_goes_on_and_ends_with_the_same_bytes(whole, colour_folder, tmp_path):
    study = raw(colour_folder)
    killed_in(study, tmp_path / "killed", "pre-train", 1)
    assert (tmp_path / "killed/pretraining/barlow/seed-0/resume/state.pt").is_file()
    assert not (tmp_path / "killed/pretraining/barlow/seed-0/model.safetensors").exists()
    resumed = run_of(study, tmp_path / "killed")
    for name in (
        "pretraining/barlow/seed-0/model.safetensors",
        "pretraining/barlow/seed-0/correlation.json",
        "models/ssl/seed-0/model.safetensors",
        "scores.csv",
    ):
        assert resumed.folder.checksum(name) == whole.folder.checksum(name), name


def test_nothing_is_done_twice_and_another_recipe_does_all_of_it(whole, colour_folder, tmp_path):
    study = raw(colour_folder)
    copy_run(whole, tmp_path / "run")
    notes = notes_of(study, tmp_path / "run")
    assert notes.pop("load data") == "60 test images"
    assert set(notes.values()) == {"done before"}
    recipe = BARLOW["recipe"] | {"redundancy_weight": 0.5}
    other = raw(colour_folder, pretraining={"barlow": BARLOW | {"recipe": recipe}})
    words = r"pretraining/barlow/seed-0 \(recipe\.redundancy_weight: .*, now 0\.5\).*--replace"
    with pytest.raises(InputError, match=words):
        run_of(other, tmp_path / "run")
    notes = notes_of(other, tmp_path / "run", replace=True)
    assert notes["pre-train Barlow Twins"] != "done before"
    assert notes["train SSL"] != "done before"


def test_each_seed_has_its_own_pretraining_unless_one_is_for_all(together, colour_folder, tmp_path):
    own = run_of(raw(colour_folder, seeds=[0, 1]), tmp_path / "own")
    folders = [f"pretraining/barlow/seed-{seed}" for seed in (0, 1)]
    first, second = (weights(own, folder)["network.conv1.0.weight"] for folder in folders)
    assert not first.equal(second)
    assert [path.name for path in (together.path / "pretraining/barlow").iterdir()] == ["seed-5"]
    files = {facts(together, f"models/ssl/seed-{seed}")["weights"]["file"] for seed in (0, 1)}
    assert files == {"pretraining/barlow/seed-5/model.safetensors"}


def test_a_pretraining_on_other_images_brings_their_statistics(colour_folder, tmp_path):
    source = f"folder:{write_pictures(tmp_path / 'others', train=10, test=1)}"
    supervised = BARLOW | {
        "title": "Others",
        "data": {"source": source, "size": 16},
        "recipe": {
            "method": "supervised",
            "epochs": 1,
            "batch_size": 256,
            "optimizer": "adamw",
            "learning_rate": 1e-2,
        },
    }
    run = run_of(raw(colour_folder, pretraining={"barlow": supervised}), tmp_path / "run")
    others = fw.load_data(source, size=16)
    made = facts(run, "pretraining/barlow/seed-0")
    assert (made["images"], made["labels_used"], made["data"]) == (27, True, others.name)
    spec = facts(run, "models/ssl/seed-0")["spec"]
    assert spec["mean"] == pytest.approx(others.mean)
    assert spec["std"] == pytest.approx(others.std)
    assert spec["mean"] != pytest.approx(fw.load_data(f"folder:{colour_folder}", size=16).mean)
    assert not (run.path / "pretraining/barlow/seed-0/correlation.json").exists()


def test_models_get_as_many_labels_as_they_may_have(colour_folder, tmp_path, monkeypatch):
    models = {
        "few": model(title="Few", label_fraction=0.1),
        "wrong": model(title="Wrong", label_noise=0.5),
    }
    run = run_of(raw(colour_folder, models=models, pretraining={}), tmp_path / "run")
    assert facts(run, "models/few/seed-0")["training_images"] == 8
    assert facts(run, "models/wrong/seed-0")["training_images"] == 81
    contents = read_contents(run.folder)
    monkeypatch.setattr("fairweather.report.charts.vl_convert.vegalite_to_svg", lambda _: "<svg/>")
    drawn = [figure.name for figure in _draw_figures(contents, SECTIONS)]
    assert draw_labels(contents).name in drawn
    monkeypatch.undo()
    again = raw(
        colour_folder,
        models={"few": model(title="Few", label_fraction=0.2), "wrong": models["wrong"]},
        pretraining={},
    )
    notes = notes_of(again, run.path, replace=True)
    assert notes["train Few"] != "done before"
    assert notes["train Wrong"] == "done before"


def several(colour_folder, shares=(0.25,), **changes):
    """Two seeds, a pre-training, an ensemble, interpolated weights, an attack and a variant."""
    turns = SHORT | {"probe_epochs": 1}
    entry = model(weights="pretraining:barlow", recipe=turns, interpolations=list(shares))
    settings = {
        "seeds": [0, 1],
        "ensemble": True,
        "variants": ["temperature"],
        "shifts": [{"brightness_factor": [0.3]}, {"fgsm": [0.03]}],
        "models": {"ssl": entry},
        "pretraining": {"barlow": BARLOW | {"seed": 5}},
    }
    return raw(colour_folder, **(settings | changes))


@pytest.fixture(scope="module")
def together(colour_folder, tmp_path_factory):
    return run_of(several(colour_folder), tmp_path_factory.mktemp("together") / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ensemble": False}, "seed ensemble of ssl"),
        (
            {"shares": ()},
            r"model ssl\+interpolated-0\.25, model ssl\+interpolated-0\.25\+temperature",
        ),
        (
            {"variants": []},
            r"model ssl\+temperature, model ssl\+interpolated-0\.25\+temperature",
        ),
    ],
    ids=str,
)
def test_what_is_measured_beside_the_models_is_not_dropped_without_a_word(
    together, colour_folder, changes, words
):
    before = (together.path / "scores.csv").read_bytes()
    with pytest.raises(InputError, match=f": {words}.*--replace"):
        run_of(several(colour_folder, **changes), together.path)
    assert (together.path / "scores.csv").read_bytes() == before


def predictions(run, *place):
    return run.folder.read_predictions(predictions_file(*place))


def test_an_ensemble_is_the_mean_of_the_probabilities(together, colour_folder):
    images = fw.load_data(f"folder:{colour_folder}", size=16).test
    members = [load_checkpoint(together.path / f"models/ssl/seed-{seed}") for seed in (0, 1)]
    dark = make_shift("brightness_factor", factor=0.3)
    expected = predict(Ensemble(members), images, dark, device="cpu")
    stored = predictions(together, "ssl", "ensemble", "brightness_factor,factor=0.3")
    assert np.allclose(stored.confidence, expected.confidence, atol=1e-6)
    by_hand = np.mean(
        [
            torch.from_numpy(predict(each, images, dark, device="cpu").logits).softmax(1).numpy()
            for each in members
        ],
        axis=0,
    )
    assert np.allclose(stored.confidence, by_hand.max(1), atol=1e-6)
    assert np.array_equal(stored.predicted, by_hand.argmax(1))
    under_attack = predictions(together, "ssl", "ensemble", "fgsm,epsilon=0.03")
    attack = fw.make_attack("fgsm", epsilon=0.03)
    found = predict(Ensemble(members), images, attack, device="cpu")
    assert np.allclose(under_attack.nll, found.nll, atol=1e-5)


def test_one_member_alone_is_its_own_ensemble_and_equal_members_change_nothing():
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    logs = torch.from_numpy(logits).log_softmax(1).numpy()
    for members in ([logits], [logits] * 3, [logits, logits + 7]):
        assert np.allclose(mean_log_probability(members), logs, atol=1e-5)


def test_an_ensemble_stands_beside_the_mean_over_seeds(together):
    scores = together.scores
    clean = scores[(scores["shift"] == "clean") & (scores["metric"] == "accuracy")]
    plain = clean[clean["model"] == "ssl"].set_index("seed")["value"]
    assert set(plain.index) == {"0", "1", "mean", "ensemble", "sd"}
    assert plain["mean"] == pytest.approx((plain["0"] + plain["1"]) / 2)
    assert plain["sd"] == pytest.approx(abs(plain["0"] - plain["1"]) / np.sqrt(2))
    table = (together.path / "tables/summary_accuracy.md").read_text()
    assert "SSL, ensemble of 2" in table
    assert "SSL, weights 25% of the way + temperature scaling, ensemble of 2" in table
    assert "ssl+ensemble" in (together.path / "tables/summary_accuracy.csv").read_text()


def test_rules_can_be_about_ensembles_and_ways_between(together):
    rules = [
        "ssl+ensemble:accuracy[clean] >= 0",
        "ssl+interpolated-0.25:accuracy[brightness_factor] drop <= 100%",
        "ssl+ensemble:accuracy[brightness_factor] drop <= 100%",
    ]
    verdicts = judge(together.folder, read_rules(rules), on="value")
    assert [verdict.model for verdict in verdicts] == [rule.partition(":")[0] for rule in rules]
    scores = together.scores.query("model == 'ssl' and seed == 'ensemble' and metric == 'accuracy'")
    clean, dark = (
        scores[scores["shift"] == shift]["value"].iloc[0]
        for shift in ("clean", "brightness_factor")
    )
    assert verdicts[0].value == pytest.approx(clean)
    assert verdicts[2].value == pytest.approx(clean - dark)


def test_a_quarter_of_the_way_is_measured_as_such(together, colour_folder):
    images = fw.load_data(f"folder:{colour_folder}", size=16).test
    folder = "models/ssl/seed-1"
    start, end = weights(together, folder, "probed"), weights(together, folder)
    middle = load_checkpoint(together.path / folder)
    middle.load_state_dict(interpolate(start, end, 0.25))
    expected = predict(middle, images, device="cpu")
    stored = predictions(together, "ssl+interpolated-0.25", 1, "clean")
    assert np.array_equal(stored.logits, expected.logits)
    assert not np.array_equal(stored.logits, predictions(together, "ssl", 1, "clean").logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"models": {"a": model(weights="pretraining:barlo")}},
            "models.a: .*pre-training 'barlo'.*'barlow'",
        ),
        (
            {"models": {"a": model(weights="pretraining:barlow", stem="small")}},
            "models.a: .*stem .*small.*pretraining.barlow .*imagenet",
        ),
        (
            {"pretraining": {"barlow": BARLOW | {"recipe": {"method": "barlow"}}}},
            "pretraining.barlow.recipe.method: .*'barlow_twins'.* 'barlow'",
        ),
        (
            {"pretraining": {"barlow": BARLOW | {"recipe": BARLOW["recipe"] | {"epoch": 1}}}},
            "pretraining.barlow.recipe: .*'epoch'.*'epochs'",
        ),
        (
            {
                "pretraining": {
                    "barlow": BARLOW | {"recipe": BARLOW["recipe"] | {"views": {"blurr": [0, 0]}}}
                }
            },
            "views: .*'blurr'.*'blur'",
        ),
        (
            {"pretraining": {"barlow": BARLOW | {"weights": "pretraining:barlow"}}},
            "pretraining.barlow: .*another pre-training",
        ),
        ({"pretraining": {"a/b": BARLOW}}, "pre-training name 'a/b' .*letters, digits"),
        (
            {"pretraining": {"barlow": BARLOW, "b": BARLOW}},
            "pretraining: .*'Barlow Twins'",
        ),
        (
            {"models": {"a": model(weights="pretraining:barlow", weights_sha256="0" * 64)}},
            "weights_sha256 .*file",
        ),
        (
            {
                "pretraining": {"all": BARLOW | {"recipe": {"method": "supervised"}}},
                "models": {"a": model(weights="pretraining:all", label_fraction=0.1)},
            },
            "models.a: .*pretraining.all.* label_fraction .*1 .*label_noise 0",
        ),
        (
            {
                "data": {"source": "mnist5k"},
                "pretraining": {"barlow": BARLOW | {"data": {"source": "mnist5k", "seed": 1}}},
            },
            "pretraining.barlow: .*leave data out",
        ),
        ({"models": {"a": model(sweep={"augmix": [3]})}}, "models.a: sweep: augmix: "),
        ({"ensemble": True}, "ensemble .*at least two seeds"),
        (
            {"models": {"a": model(interpolations=[0.5])}},
            "recipe.probe_epochs .*1 .*1.* 0$",
        ),
        (
            {"models": {"a": model(interpolations=[0.5, 1.5], recipe=SHORT | {"probe_epochs": 1})}},
            r"interpolations .*\(0, 1\).*\[0\.5, 1\.5\]",
        ),
        ({"models": {"a": model(label_fraction=0.0)}}, "label_fraction: .*greater than 0"),
        (
            {"models": {"a": model(recipe={"augmix": {"severitty": 1}})}},
            "'severitty'.*'severity'",
        ),
        (
            {
                "models": {"a": model(recipe={"gaussian_noise": {"std": 0.1}})},
                "shifts": [{"imagenet_c/gaussian_noise": [1]}],
            },
            r"gaussian_noise \(recipe.gaussian_noise\) .*imagenet_c/gaussian_noise; .*allow_seen",
        ),
        (
            {
                "models": {"a": model(recipe={"rand_augment": {}})},
                "shifts": [{"brightness_factor": [0.3]}],
            },
            r"models.a: .*brightness \(recipe.rand_augment\) .*brightness_factor; .*allow_seen_sh",
        ),
        (
            {
                "models": {"a": model(recipe={"rotation": {"degrees": 9}})},
                "shifts": [{"rotation": [10]}],
            },
            r"models.a: .*rotation \(recipe.rotation\) .*allow_seen_shifts: true",
        ),
        (
            {
                "models": {"a": model(recipe={"augmix": {"all_operations": True}})},
                "shifts": [{"imagenet_c/saturate": [1]}],
            },
            r"models.a: .*saturate \(recipe.augmix\) .*imagenet_c/saturate; .*allow_seen_shifts",
        ),
    ],
)
def test_a_study_that_is_wrong_gets_one_clear_sentence(colour_folder, changes, words):
    with pytest.raises(InputError, match=words) as caught:
        check_study(raw(colour_folder, **changes))
    assert "\n" not in str(caught.value)


def test_augmix_trains_on_nothing_that_common_corruptions_test_by_default(colour_folder):
    shifts = [{"suite": "imagenet_c"}, {"suite": "imagenet_c_extra"}, {"brightness_factor": [0.5]}]
    check_study(raw(colour_folder, shifts=shifts, models={"a": model(recipe={"augmix": {}})}))


def test_what_is_allowed_to_be_seen_is_marked(colour_folder, tmp_path, draw):
    study = raw(
        colour_folder,
        pretraining={},
        models={
            "seen": model(title="Seen", train_shifts=[{"brightness_factor": [0.4]}]),
            "fresh": model(title="Fresh"),
            "hard": model(
                title="Hard", recipe=SHORT | {"adversarial": {"epsilon": 0.01, "steps": 1}}
            ),
        },
        shifts=[{"brightness_factor": [0.3]}, {"fgsm": [0.01]}],
    )
    with pytest.raises(InputError, match="allow_seen_shifts: true"):
        check_study(study)
    run = run_of(study | {"allow_seen_shifts": True}, tmp_path / "run")
    assert run.record.seen_shifts == {
        "seen": {"brightness_factor": "brightness_factor"},
        "hard": {"fgsm": "recipe.adversarial"},
    }
    draw(run, figures=False)
    page = (run.path / "report.html").read_text()
    said = re.findall(
        r"“(\w+)” was trained with some of these shifts:</strong>\s+(.*?)\.</p>", page
    )
    assert said == [
        ("Seen", "Brightness, by brightness_factor"),
        ("Hard", "FGSM, by recipe.adversarial"),
    ]


def test_a_pretraining_that_collapses_stops_with_a_sentence(colour_folder, tmp_path, probed):
    dead = {
        key: torch.ones_like(tensor) if key.endswith("var") else torch.zeros_like(tensor)
        for key, tensor in weights(probed, "pretraining/barlow/seed-0").items()
        if key not in ("mean", "std")
    }
    safetensors.torch.save_file(dead, tmp_path / "dead.safetensors")
    recipe = BARLOW["recipe"] | {"learning_rate": 1e-9}
    entry = BARLOW | {
        "recipe": recipe,
        "weights": str(tmp_path / "dead.safetensors"),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    with pytest.raises(CollapsedError, match="epoch 1"):
        run_of(raw(colour_folder, pretraining={"barlow": entry}), tmp_path / "run")
    assert not (tmp_path / "run/scores.csv").exists()


def test_pretrainings_that_no_model_needs_are_left_out(tmp_path, colour_folder):
    from fairweather.files.yamlfile import dump_yaml

    study = raw(colour_folder, models={"ssl": model(weights="pretraining:barlow"), "b": model()})
    path = tmp_path / "starts.yaml"
    path.write_text(dump_yaml(study))
    assert list(load_study(path).pretraining) == ["barlow"]
    assert not load_study(path, models=["b"]).pretraining
    changed = load_study(path, ["pretraining.barlow.recipe.epochs=7", "models.b.width=0.5"])
    assert changed.pretraining["barlow"].recipe.epochs == 7
    with pytest.raises(InputError, match=r"pre-training 'barlo'.*'barlow'"):
        load_study(path, ["pretraining.barlo.recipe.epochs=7"])


def test_defaults_give_a_pretraining_its_network_and_nothing_else(tmp_path, colour_folder):
    from fairweather.files.yamlfile import dump_yaml

    entry = {"recipe": BARLOW["recipe"]}
    study = raw(
        colour_folder,
        pretraining={"barlow": entry | {"data": "mnist5k"}},
        models={"ssl": {"weights": "pretraining:barlow"}},
    )
    study["defaults"] = {"backbone": TINY_RESNET, "stem": "small", "recipe": SHORT}
    path = tmp_path / "starts.yaml"
    path.write_text(dump_yaml(study))
    found = load_study(path).pretraining["barlow"]
    assert (found.backbone, found.stem, found.title) == (TINY_RESNET, "small", "barlow")
    assert found.data.source == "mnist5k"


def test_a_square_is_asked_for_before_anything_is_written(tmp_path, colour_folder):
    wide = torch.zeros(6, 3, 8, 16, dtype=torch.uint8)
    np.savez(
        tmp_path / "wide.npz",
        **{
            f"{part}_{what}": array
            for part in ("train", "val", "test")
            for what, array in (
                ("images", wide.permute(0, 2, 3, 1).numpy()),
                ("labels", np.arange(6) % 2),
            )
        },
    )
    data = {"source": f"npz:{tmp_path / 'wide.npz'}", "allow_duplicates": True}
    rotation = {"method": "rotation", "epochs": 1}
    study = raw(colour_folder, data=data, pretraining={"barlow": BARLOW | {"recipe": rotation}})
    with pytest.raises(InputError, match=r"pretraining\.barlow: rotation .*square.* 8x16"):
        run_of(study, tmp_path / "run")
    models = {"a": model(recipe=SHORT | {"rotation_prediction": 0.5})}
    with pytest.raises(InputError, match=r"models\.a: .*rotation_prediction .*square.* 8x16"):
        run_of(raw(colour_folder, data=data, models=models, pretraining={}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_seed_of_the_labels_trains_again(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 8, 8, 3), dtype=np.uint8)
    parts = ("train", "val", "test")
    arrays = {f"{part}_images": images for part, images in zip(parts, pixels, strict=True)}
    labels = {f"{part}_labels": np.arange(40) % 4 for part in parts}
    np.savez(tmp_path / "split.npz", **arrays, **labels)
    source = f"npz:{tmp_path / 'split.npz'}"

    def notes(seed):
        data = {"source": source, "seed": seed}
        models = {
            "few": model(title="Few", label_fraction=0.3),
            "all": model(title="All"),
        }
        study = raw("", data=data, models=models, pretraining={})
        return notes_of(study, tmp_path / "run", replace=True)

    notes(0)
    again = notes(7)
    assert again["train Few"] != "done before"
    assert again["train All"] == "done before"


def test_which_images_stay_is_decided_by_their_true_labels(colour_folder):
    train = fw.load_data(f"folder:{colour_folder}", size=16).train
    noisy = corrupt_labels(train, 0.5, seed=3)
    chosen = choose_labelled(train, 0.4, seed=3)
    assert (noisy.labels != train.labels).any()
    assert train[chosen].labels.bincount().tolist() == [11, 11, 10]
    assert torch.equal(noisy[chosen].keys, train[chosen].keys)


def test_all_images_are_taken_as_they_are_and_not_copied(colour_folder):
    dataset = fw.load_data(f"folder:{colour_folder}", size=16)
    for noise in (0.0, 0.5):
        study = check_study(raw("", models={"a": model(label_noise=noise)}, pretraining={}))
        plan = make_plan(
            make_study_inputs(study, {DATA: collect_facts(dataset)}, torch.device("cpu"))
        )
        taken = training_images(plan.step("models/a/seed-0"), dataset.train)
        assert taken.images.data_ptr() == dataset.train.images.data_ptr()
        assert torch.equal(taken.labels, dataset.train.labels) == (noise == 0)


def test_fewer_labels_are_among_more_and_stratified():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.choice(3, 600, p=[0.7, 0.25, 0.05]))
    pixels = torch.zeros(600, 3, 8, 8, dtype=torch.uint8)
    train = Images(pixels, labels, torch.arange(600), ("a", "b", "c"))
    counts = labels.bincount()
    before = set()
    for fraction in (0.001, 0.01, 0.1, 0.5, 1):
        chosen = choose_labelled(train, fraction, seed=1)
        assert before <= set(chosen.tolist())
        before = set(chosen.tolist())
        found = labels[chosen].bincount(minlength=3)
        assert found.min() >= 1
        assert (found - fraction * counts).abs().max() <= 2
    assert len(before) == 600
    others = choose_labelled(train, 0.1, seed=2)
    assert set(others.tolist()) != set(choose_labelled(train, 0.1, seed=1).tolist())


def test_weights_of_a_pretraining_are_marked_wherever_they_come_from(probed, colour_folder):
    file = str(probed.path / "pretraining/barlow/seed-0/model.safetensors")
    models = {
        "file": model(weights=file),
        "published": model(weights="barlow_twins", backbone="torchvision:resnet50"),
        "trained": model(weights=str(probed.path / "models/ssl/seed-0/model.safetensors")),
        "none": model(),
    }
    shifts = [{"brightness_factor": [0.5]}, {"gaussian_blur": [1.0]}]
    study = check_study(raw(colour_folder, models=models, pretraining={}, shifts=shifts))
    views = "the views of its pre-training"
    assert study.seen_shifts() == {
        "file": {"brightness_factor": views},
        "published": {"brightness_factor": views, "gaussian_blur": views},
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train_shifts": [{"gaussian_blur": {"sigma": [1.0], "kernel_size": 99}}]},
            "models.a: gaussian_blur: .* 99 ",
        ),
        (
            {"recipe": SHORT | {"rotation_prediction": 0.5}, "backbone": SQUEEZENET},
            "models.a: .*rotation_prediction .*linear layer.* Conv2d",
        ),
        (
            {"recipe": SHORT | {"adversarial": {"epsilon": 1000, "norm": "l2"}}},
            "models.a: pgd: epsilon .*1000",
        ),
    ],
)
def test_what_would_fail_later_is_found_before_anything_is_written(
    colour_folder, tmp_path, changes, words
):
    study = raw(
        colour_folder,
        data={"source": f"folder:{colour_folder}", "size": 32},
        models={"a": model(**changes)},
        pretraining={},
    )
    with pytest.raises(InputError, match=words):
        run_of(study, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_overrides_reach_pretrainings_where_they_share_a_network(tmp_path, colour_folder):
    from fairweather.files.yamlfile import dump_yaml

    study = raw(colour_folder, pretraining={"barlow": BARLOW | {"data": "mnist5k"}})
    path = tmp_path / "starts.yaml"
    path.write_text(dump_yaml(study))
    changed = load_study(path, ["width=0.5", "pretraining.barlow.data.size=16"])
    assert changed.models["ssl"].width == changed.pretraining["barlow"].width == 0.5
    assert changed.pretraining["barlow"].data.source == "mnist5k"
    assert changed.pretraining["barlow"].data.size == 16
    small = load_study(path, ["pretraining.barlow.recipe.views=small"])
    assert small.pretraining["barlow"].recipe.views == NAMED_VIEWS["small"]
    with pytest.raises(InputError, match=r"views 'smal'.*'small'"):
        load_study(path, ["pretraining.barlow.recipe.views=smal"])


def test_shifts_of_one_kind_have_one_name_in_every_family():
    names = {}
    for shift in SHIFTS:
        names.setdefault(operation_name(shift), []).append(shift)
    several = {name: each for name, each in names.items() if len(each) > 1}
    assert several["gamma"] == ["gamma", "medmnist_c/gamma_corr_up", "medmnist_c/gamma_corr_down"]
    assert several["brightness"][:2] == ["brightness_factor", "imagenet_c/brightness"]
    assert several["jpeg_compression"][0] == "jpeg"
    for name in set(TESTED_AS) - {"rotate", "translate_x", "translate_y"}:
        assert len({operation_name(shift) for shift in TESTED_AS[name]}) == 1
