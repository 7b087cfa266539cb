"""What most users call first: modules of their own, several of them, and their progress."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather import progress as display
from fairweather.errors import InputError
from fairweather.models.wrappers import Classifier
from fairweather.progress import Event
from tests.conftest import COLOURS, keep_lines
from tests.helpers.commands import fairweather

pytestmark = pytest.mark.usefixtures("undrawn")
MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.3, 0.2)


class Net(nn.Module):
    """A convolution, batch norm and a linear layer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, images):
        return self.last(self.norm(self.first(images)).relu().mean((2, 3)))


@pytest.fixture
def data(toy_images):
    return fw.Dataset("toys", None, None, toy_images, MEAN, STD)


def evaluated(model, data, shifts="clean", **options):
    options = {"bootstrap": 100, "device": "cpu", "progress": False, **options}
    return fw.evaluate(model, data, shifts, **options)


def logits(run, file="predictions/Net/seed-0/test/clean.parquet"):
    return run.folder.read_predictions(file).logits


# ---------------------------------------------------------------- one module


def test_mean_and_std_normalise_the_images_of_a_module(data):
    run = evaluated(Net(), data, mean=MEAN, std=STD)
    inputs = data.test.images.float() / 255
    with torch.inference_mode():
        expected = Classifier(Net(), MEAN, STD).eval()(inputs).numpy()
        plain = Net().eval()(inputs).numpy()
    np.testing.assert_allclose(logits(run), expected, atol=1e-5)
    np.testing.assert_allclose(logits(evaluated(Net(), data)), plain, atol=1e-5)
    settings = run.record.models["Net"].settings
    assert settings["preprocessing"].endswith("mean 0.2 0.5 0.7, std 0.1 0.3 0.2 (given)")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "none"}, "^weights cannot be given for a Net of this process: it takes only"),
        ({"architecture": "timm:resnet18"}, "^architecture cannot be given for a Net"),
        ({"mean": MEAN}, "mean and std go together"),
        (
            {"mean": (0.5,), "std": (0.2,)},
            r"^mean needs a tuple of three numbers.*three times\), found \(0",
        ),
        ({"mean": MEAN, "std": 0.2}, r"^std needs .* three numbers, one per channel R, G and B"),
    ],
    ids=str,
)
def test_what_a_module_cannot_take_is_refused(options, words, data):
    with pytest.raises(fw.InputError, match=words):
        evaluated(Net(), data, **options)


def test_a_module_that_normalises_itself_is_not_said_to_be_unknown(data):
    own, said = Classifier(Net(), MEAN, STD), []
    evaluated(own, data, progress=keep_lines(said))
    (line,) = [each for each in said if each.startswith("preprocessing")]
    assert "the model's own normalisation" in line
    assert "unknown" not in line
    with pytest.raises(fw.InputError, match="already contains its own normalisation"):
        evaluated(own, data, mean=MEAN, std=STD)


def state(module):
    """The mode, and where and how every tensor lies, gradients too."""
    tensors = [*module.parameters(), *module.buffers(), *(p.grad for p in module.parameters())]
    lie = [(each.data_ptr(), each.stride(), each.dtype, str(each.device)) for each in tensors]
    return [part.training for part in module.modules()], lie


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_is_left_as_it_came(fails, data, monkeypatch):
    """A training may go on after it: frozen batch norm stays frozen, and nothing was converted."""
    module = Net().train()
    module.norm.eval()
    module(torch.rand(4, 3, 8, 8)).sum().backward()
    before = state(module)
    if fails:
        monkeypatch.setattr(
            "fairweather.requests.evaluation.run.execute_run",
            lambda *_, **__: (module.double(), 1 / 0),
        )
        with pytest.raises(ZeroDivisionError):
            evaluated(module, data)
    else:
        evaluated(module, data, ["fgsm,epsilon=8/255"], variants=["batchnorm"])
    assert state(module) == before
    fw.predict(module, data.test, device="cpu")
    assert state(module) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_module_of_other_numbers_gets_them_and_it_is_said(dtype, data):
    module, said = Net().to(dtype), []
    run = evaluated(module, data, ["fgsm,epsilon=8/255"], progress=keep_lines(said))
    assert any(f"the model computes in {dtype}" in line for line in said)
    inputs = (data.test.images.float() / 255).to(dtype)
    with torch.inference_mode():
        expected = module.eval()(inputs).float().numpy()
    # Kernels round in another order: a few of the last places of numbers up to 4.
    np.testing.assert_allclose(logits(run), expected, atol=32 * torch.finfo(dtype).eps)
    assert module.first.weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_predict_takes_modules_of_other_numbers_too(dtype, data):
    module, attack = Net().to(dtype), fw.make_attack("fgsm", epsilon=0.1)
    with torch.inference_mode():
        expected = module.eval()((data.test.images.float() / 255).to(dtype)).float().numpy()
    found = fw.predict(module, data.test, device="cpu").logits
    np.testing.assert_allclose(found, expected, atol=32 * torch.finfo(dtype).eps)
    fw.predict(module, data.test, attack, device="cpu")
    assert module.first.weight.dtype == dtype


def exported():
    return torch.export.export(Net().eval(), (torch.zeros(2, 3, 8, 8),)).module()


def quantized():
    packed = SimpleNamespace(dtype=torch.qint8)  # quantize_dynamic needs an engine of this machine
    module = Net()
    module.register_state_dict_post_hook(lambda _, state, *__: state.update(packed=packed))
    return module


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("make", [exported, quantized, lazy])
def test_a_module_that_torch_cannot_take_apart_is_one_sentence(make, data):
    with pytest.raises(fw.InputError, match=r"^a \w+ of this process has no evaluation mode or no"):
        evaluated(make(), data)


def test_attacks_need_a_module_with_gradients(data):
    with torch.inference_mode():
        module = Net()
    evaluated(module, data)
    with pytest.raises(fw.InputError, match=r"^a Net .* was made in torch.inference_mode\(\), so"):
        evaluated(module, data, ["fgsm,epsilon=8/255"])


def test_what_is_no_model_is_one_sentence(data):
    for model in (len, [len], {"a": 3}):
        with pytest.raises(fw.InputError, match=r"a model is a torch\.nn\.Module or the text"):
            evaluated(model, data)


def test_a_state_dict_is_called_so(data):
    with pytest.raises(fw.InputError, match="a state dict is not a model: load it into your netw"):
        evaluated(Net().state_dict(), data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: {"logits": y, "aux": y}, r"a dict with 'logits', 'aux': .*output\['logits'\]$"),
        (
            lambda y: {"aux": y, "out": y},
            r"returns the logits, such as output\['aux'\]",
        ),
        (lambda y: (y, y), r"found a tuple with 0, 1: wrap .* such as output\[0\]"),
        (lambda y: y.T, r"3 rows for 1 images: its output is \[3, 1\], and must be \[B, classes\]"),
        (lambda y: y.mean(), r"found a tensor \[\]$"),
        (lambda y: y.squeeze(), r"found a tensor \[3\]$"),
        (lambda y: y.argmax(1), r"one whole number for each image, as argmax .* \[B, classes\]$"),
        (lambda y: y.argmax(1, keepdim=True), "one whole number for each image, as argmax"),
    ],
)
@pytest.mark.parametrize("positive", [(), "red"])
def test_outputs_of_another_form_are_named_with_a_way_out(change, words, positive, data):
    class Changed(Net):
        def forward(self, images):
            return change(super().forward(images))

    with pytest.raises(fw.InputError, match=words) as caught:
        evaluated(Changed(), data, positive=positive)
    assert "--positive" not in str(caught.value)


class WithAge(Net):
    def forward(self, images, age):
        return super().forward(images) + age


class ChannelsLast(Net):
    def forward(self, images):
        return super().forward(images.permute(0, 2, 3, 1))


class FixedSize(Net):
    def forward(self, images):
        return images.flatten(1) @ torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WithAge, r"'age'\); it gets one argument, float images \[B, 3, H, W\]$"),
        (ChannelsLast, r"channels.*; it gets one argument, float images \[B, 3, H, W\]$"),
        (FixedSize, r"; set size or input_size$"),
    ],
)
def test_what_a_network_cannot_take_is_said_with_what_it_gets(kind, words, data):
    with pytest.raises(fw.InputError, match=words):
        evaluated(kind(), data)


# ---------------------------------------------------------------- several by name


def test_names_say_models_and_seeds_and_intervals_are_those_of_recipes(data):
    nets = {"plain-seed0": Net(0), "plain-seed1": Net(1), "mixup-seed0": Net(2)}
    nets["mixup-seed1"] = Net(3)
    run = evaluated(nets, data, title={"plain": "Plain training"})
    record = run.record
    assert record.seeds == (0, 1)
    assert {name: each.title for name, each in record.models.items()} == {
        "plain": "Plain training",
        "mixup": "mixup",
    }
    rows = run.scores[run.scores["metric"] == "accuracy"]
    assert set(zip(rows["model"], rows["seed"], strict=True)) == {
        (model, seed) for model in ("plain", "mixup") for seed in ("0", "1", "mean", "sd")
    }
    for name, net in nets.items():
        model, seed = name.split("-seed")
        file = f"predictions/{model}/seed-{seed}/test/clean.parquet"
        with torch.inference_mode():
            expected = net.eval()(data.test.images.float() / 255).numpy()
        np.testing.assert_allclose(logits(run, file), expected, atol=1e-5)


def test_predictions_of_the_same_names_give_the_same_scores(data, tmp_path):
    """One form: modules, tables, and files of predictions."""
    names = ["plain-seed0", "plain-seed1"]
    nets = {name: Net(seed) for seed, name in enumerate(names)}
    run = evaluated(nets, data)
    tables = {}
    for seed, name in enumerate(names):
        found = logits(run, f"predictions/plain/seed-{seed}/test/clean.parquet")
        tables[name] = pd.DataFrame(found, columns=list(COLOURS))
        tables[name].to_csv(tmp_path / f"{seed}.csv", index=False)
    files = {name: f"predictions:{tmp_path}/{seed}.csv" for seed, name in enumerate(names)}
    with_tables = fw.evaluate(predictions=tables, dataset=data, bootstrap=100, progress=False)
    with_files = fw.evaluate(files, data, bootstrap=100, progress=False)
    assert with_files.record.seeds == with_tables.record.seeds == run.record.seeds == (0, 1)
    for other in (with_tables, with_files):
        table, ours = (
            each.scores.query("metric == 'accuracy'").reset_index(drop=True)
            for each in (other, run)
        )
        pd.testing.assert_frame_equal(table, ours)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a-seed0", "a-seed1", "b-seed0"], "there is no b-seed1: every model needs each seed"),
        (["a", "a-seed0"], "two models are called a, seed 0"),
        (["a-fog,3"], r"'a-fog,3' is not called MODEL\[-seedN\]"),
        (["a-clean"], r"'a-clean' is not called MODEL\[-seedN\]"),
        (["a b"], "named with letters"),
        (["a", "A"], "the models 'a' and 'A' differ only in upper and lower case"),
        ([0], "a model is named by a text, such as 'resnet-seed0', found 0"),
        ([("a", 0)], r"a model is named by a text, such as 'resnet-seed0', found \('a', 0\)"),
        (["a-seed00", "a-seed01"], r"'a-seed00' is not called .*: its seed is written a-seed0"),
    ],
)
def test_names_that_do_not_fit_are_one_sentence(names, words, data):
    with pytest.raises(fw.InputError, match=words):
        evaluated({name: Net(seed) for seed, name in enumerate(names)}, data)


def test_one_network_under_two_names_is_refused_by_its_names(data):
    net = Net()
    with pytest.raises(fw.InputError, match=r"^a-seed0 \(a Net .*\) and a-seed1 \(a Net .*\) are"):
        evaluated({"a-seed0": net, "a-seed1": net}, data)


def test_names_that_look_like_seeds_of_one_model_are_told_of(data):
    said = []
    evaluated({"a_seed1": Net(0), "a_seed2": Net(1)}, data, progress=keep_lines(said))
    tables = {f"a_seed{seed}": torch.eye(3).numpy() for seed in (1, 2)}
    fw.evaluate(predictions=tables, labels=[0, 1, 2], bootstrap=100, progress=keep_lines(said))
    lines = [each for each in said if each.startswith("note           a_seed1 and a_seed2 are")]
    assert len(lines) == 2
    assert lines[0].endswith("are models of their own; the seeds of one are called NAME-seedN")


def test_a_model_has_one_name_in_all_lines(data):
    said, nets = [], {"a-seed0": Net(0), "a-seed1": Net(1)}
    evaluated(nets, data, title={"a": "Mine"}, progress=keep_lines(said))
    for word in ("model", "labels", "clean"):
        lines = [each.removeprefix(word).strip() for each in said if each.startswith(word)]
        assert [each[:13] for each in lines] == ["Mine, seed 0:", "Mine, seed 1:"], word


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Mine", "title names one model"),
        ({"plan": "Plain"}, "'plan'; did you mean 'plain'"),
        ({}, "title must name at least one model"),
        ({"plain": "X", "mixup": "X"}, "title: plain and mixup are both called 'X'"),
        ({"plain": "mixup"}, "title: plain and mixup are both called 'mixup'"),
    ],
    ids=str,
)
def test_titles_are_those_of_models_that_are_there(title, words, data):
    with pytest.raises(fw.InputError, match=words):
        evaluated({"plain": Net(0), "mixup": Net(1)}, data, title=title)


def test_the_command_line_names_models_and_seeds_too(colour_folder, tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "import torch\n\n\n"
        "class Means(torch.nn.Module):\n"
        "    def __init__(self, seed):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(seed)\n"
        "        self.last = torch.nn.Linear(3, 3)\n\n"
        "    def forward(self, images):\n"
        "        return self.last(images.mean((2, 3)))\n\n\n"
        "def one():\n    return Means(1)\n\n\ndef two():\n    return Means(2)\n"
    )
    words = [f"plain-seed0=python:{file}:one", f"folder:{colour_folder}", "--bootstrap", "100"]
    more = ["--model", f"plain-seed1=python:{file}:two", "--title", "plain=Plain training"]
    ended = fairweather(
        "evaluate", *words, *more, "--shift", "clean", "--out", tmp_path / "run", "--quiet"
    )
    assert ended.returncode == 0, ended.stderr
    record = fw.Run(tmp_path / "run").record
    assert record.seeds == (0, 1)
    assert record.models["plain"].title == "Plain training"
    ended = fairweather("evaluate", *words, "--model", f"python:{file}:two")
    assert (ended.returncode, "name each model and seed once" in ended.stderr) == (2, True)


# ---------------------------------------------------------------- one meaning of a name


def test_a_named_set_is_the_same_test_split_everywhere(tmp_path):
    digits = fw.load_data("mnist5k", size=8).test
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    run = evaluated(model, "mnist5k", size=8)
    name = next(iter(run.record.models))
    seen = run.folder.read_predictions(f"predictions/{name}/seed-0/test/clean.parquet")
    assert seen.keys.tolist() == digits.keys.tolist()
    told = fairweather("export", "mnist5k", "--shift", "clean", "--out", tmp_path / "x", "--quiet")
    assert "1,000 of 5,000" in told.stdout
    with pytest.raises(fw.InputError, match="leave root"):
        fw.load_data("mnist5k", root=tmp_path)


# ---------------------------------------------------------------- progress


class Slow:
    """A clock that shows a second more at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_python_shows_bars_with_the_time_left_on_a_terminal(data, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes any stream a terminal
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(display, "SOON", 0.0)
    evaluated(Net(), data, ["pgd,epsilon=8/255,steps=2"], progress=True, batch_size=32)
    said = capsys.readouterr()
    for words in ("predict Net", "left", "pgd,epsilon="):
        assert words in said.err
    assert said.out == ""


def test_python_prints_a_line_a_minute_where_there_is_no_terminal(data, monkeypatch, capsys):
    """And the lines for people, such as a warning, at once."""
    evaluated(Net(), data, progress=True)
    quick = capsys.readouterr().err.splitlines()
    assert quick
    assert not [line for line in quick if line.startswith(("done", "..."))]
    monkeypatch.setattr(display.time, "monotonic", Slow())
    monkeypatch.setattr(display, "BETWEEN_LINES", 5.0)
    evaluated(Net(), data, ["brightness_factor: [0.3, 0.4, 0.5, 0.6]"], progress=True)
    slow = [line for line in capsys.readouterr().err.splitlines() if line not in quick]
    assert any(line.startswith("done  predict Net") for line in slow)
    evaluated(Net(), data, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def pictures(monkeypatch):
    """What the cell of a notebook shows, one text after the other."""
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle["text/plain"])

    module, shell = ModuleType("IPython.display"), ModuleType("IPython")
    module.display = lambda *_, **__: Handle()
    shell.get_ipython = lambda: SimpleNamespace(kernel="a kernel")
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr(display, "SOON", 0.0)
    return shown


def test_a_notebook_shows_the_same_bars_in_its_cell(data, pictures, capsys):
    evaluated(Net(), data, progress=True)
    assert "predict Net" in pictures[-1]
    assert "left" in pictures[-1]
    assert "accuracy" in capsys.readouterr().out  # the lines for people


def test_a_notebook_cuts_no_numbers_and_draws_bars_beside_long_names(pictures):
    note = "brightness_factor,factor=0.8: accuracy 33.3%"
    with display._notebook_bars(print) as tell:
        tell(Event("predict Net, test/brightness_factor,factor=0.5", 30, 1000))
        tell(Event("predict Net", 2, 2, note))
    assert "30/1000" in pictures[-1]
    assert "2/2" in pictures[-1]
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in pictures[-1]  # the bar


def test_a_program_that_imports_ipykernel_is_no_notebook(data, monkeypatch, capsys):
    module = ModuleType("IPython.display")
    module.display = lambda *_, **__: None  # as outside a kernel
    shell = ModuleType("IPython")
    shell.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(display, "SOON", 0.0)
    evaluated(Net(), data, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "accuracy" in said.err


def test_an_attack_tells_how_far_it_is(toy_images, data, monkeypatch):
    """Between its runs as well: a batch of an ensemble takes hours."""
    monkeypatch.setattr("fairweather.inference.prediction.SLOW_SECONDS", 0.0)
    events = []
    attack = "auto_ensemble_without_dlr,epsilon=0.0001,steps=2,queries=2,restarts=1"
    evaluated(Net(), data, [attack], progress=events.append, batch_size=48)
    told = [each for each in events if "test/auto_ensemble" in each.task]
    done = [each.done + each.part for each in told]
    assert done == sorted(done)
    assert done[-1] == 96
    assert len(set(done)) > 2  # more than the two batches
    clean = [each.done for each in events if each.task.endswith("test/clean")]
    assert sorted(set(clean)) == [48, 96]
    seen = []
    fw.predict(
        Net(), toy_images, fw.make_attack("pgd", epsilon=0.1), batch_size=32, progress=seen.append
    )
    assert [each.done for each in seen if not each.part][-1] == 96


def test_what_is_shown_in_a_program_does_not_change_what_it_prints(toy_images, capsys):
    fw.predict(Net(), toy_images, device="cpu")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("asked", [{"worker": True}, {"executor": "slurm"}])
def test_processes_that_share_an_evaluation_need_its_folder(asked):
    with pytest.raises(InputError, match="needs out, the run folder that all workers share"):
        fw.evaluate("timm:test_resnet", "mnist5k", weights="none", **asked)
