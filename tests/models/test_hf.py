"""Hugging Face classifiers: what they are fed is what their own processor feeds them."""

import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fairweather.errors import InputError
from fairweather.models.hf import read_processor
from tests.helpers.opened_models import open_model

transformers = pytest.importorskip("transformers")
hub = pytest.importorskip("huggingface_hub")

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
# Twelve, so that sorting numbers as text would be seen.
NAMES = {number: f"animal {number}" for number in range(12)}
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


def open_hf(repo, **settings):
    return open_model(f"hf:{repo}", **settings)


def vit(**settings):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**{"id2label": NAMES, **SIZES, **settings})
    return transformers.ViTForImageClassification(config)


def convnext():
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    config = transformers.ConvNextConfig(num_labels=3, image_size=32, **sizes)
    return transformers.ConvNextForImageClassification(config)


def resnet():
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = transformers.ResNetConfig(num_labels=3, layer_type="basic", **sizes)
    return transformers.ResNetForImageClassification(config)


def vit_processor(**settings):
    return transformers.ViTImageProcessor(**{"size": {"height": 32, "width": 32}, **settings})


def crop_processor(**settings):
    return transformers.CLIPImageProcessor(
        **{"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, **settings}
    )


@pytest.fixture
def saved(tmp_path):
    """A saved ViT with its processor; a test may change the folder."""
    return save(tmp_path / "vit-tiny", vit(), vit_processor())


def save(folder, network, processor=None, **options):
    network.save_pretrained(folder, **options)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def photograph(width=61, height=45):
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prepared(picture, preparation):
    """Resize and crop with Pillow as a Preparation says: float `[1, 3, size, size]` in [0, 1]."""
    resize = preparation.resize or preparation.size
    width, height = picture.size
    short = min(width, height)
    sides = (int(resize * width / short), int(resize * height / short))
    if preparation.fit == "squash":
        sides = (resize, resize)
    picture = picture.resize(sides, FILTERS[preparation.interpolation])
    left, top = ((side - preparation.size) // 2 for side in sides)
    picture = picture.crop((left, top, left + preparation.size, top + preparation.size))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


MODELS = {
    "squash": (vit, vit_processor),
    "squash, bicubic, crop": (
        vit,
        lambda: transformers.DeiTImageProcessor(
            size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}
        ),
    ),
    "crop": (vit, crop_processor),
    "crop_pct": (
        convnext,
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8),
    ),
    "squash from 384": (
        convnext,
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    ),
    "twice divided": (
        resnet,
        lambda: transformers.EfficientNetImageProcessor(
            size={"height": 32, "width": 32}, image_std=[0.2, 0.3, 0.4], include_top=True
        ),
    ),
    "margin of its own": (
        resnet,
        lambda: transformers.LevitImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
    ),
    "not normalised": (vit, lambda: vit_processor(do_normalize=False)),
    "lanczos": (vit, lambda: vit_processor(resample=1)),
}


@pytest.mark.parametrize("case", MODELS)
def test_the_network_sees_what_its_own_processor_makes_of_a_picture(case, tmp_path):
    network, processor = (make() for make in MODELS[case])
    opened = open_hf(str(save(tmp_path / "m", network, processor)))
    picture = photograph()
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    model, images = opened.model, prepared(picture, opened.preparation)
    ours = (images - model.mean) / model.std
    assert ours.shape == theirs.shape
    # torchvision resizes in fixed point: two grey levels at most from Pillow, a tenth on average.
    difference = ((ours - theirs) * model.std).abs() * 255
    assert difference.max() < 2.5
    assert difference.mean() < 0.2
    with torch.no_grad():
        exact = theirs * model.std + model.mean
        assert torch.allclose(model(exact), network.eval()(theirs).logits, atol=1e-5)


def test_timm_models_saved_for_transformers_bring_their_own_preparation(tmp_path):
    saved = {
        "architecture": "test_vit",
        "num_classes": 3,
        "label_names": ["n01440764", "n01443537", "n01484850"],
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.4],
            "num_classes": 3,
            "fixed_input_size": True,
        },
    }
    import safetensors.torch
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=3).eval()
    (tmp_path / "config.json").write_text(json.dumps(saved))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    opened = open_hf(str(tmp_path))
    assert opened.preparation == (160, 168, "bicubic", "crop")
    assert opened.classes == ("n01440764", "n01443537", "n01484850")
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        mean, std = (
            torch.tensor(saved["pretrained_cfg"][key]).reshape(1, 3, 1, 1)
            for key in ("mean", "std")
        )
        expected = network((images - mean) / std)
        assert torch.allclose(opened.model(images), expected, atol=1e-5)
    assert opened.model(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_everything_that_is_known_of_a_model_comes_with_it(saved):
    opened = open_hf(str(saved))
    assert opened.name == "vit-tiny"
    assert not opened.model.training
    assert opened.classes == tuple(f"animal {number}" for number in range(12))
    assert opened.preparation == (32, 32, "bilinear", "squash")
    facts = json.loads(json.dumps(opened.facts))
    assert facts["architecture"] == "ViTForImageClassification"
    assert facts["processor"] == "ViTImageProcessor"
    assert facts["normalisation"]["mean"] == [0.5, 0.5, 0.5]
    assert facts["parameters"] == sum(p.numel() for p in opened.model.parameters())
    assert facts["outputs"] == 12
    # A network of fixed size takes images of any, resized inside.
    assert opened.model(torch.rand(2, 3, 48, 48)).shape == (2, 12)


def test_class_names_follow_the_numbers_and_not_the_order_of_the_file(saved):
    shuffled = {str(number): NAMES[number] for number in (10, 2, 11, 0, 1, 3, 9, 8, 7, 6, 5, 4)}
    edit(saved / "config.json", id2label=shuffled)
    assert open_hf(str(saved)).classes == tuple(NAMES.values())


def test_numbered_labels_are_no_class_names(tmp_path):
    folder = save(tmp_path / "m", vit(id2label=None, num_labels=3), vit_processor())
    opened = open_hf(str(folder))
    assert opened.classes is None
    assert opened.model(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_a_head_that_is_not_in_the_weights_is_an_error(tmp_path):
    backbone = transformers.ViTModel(vit().config, add_pooling_layer=False)
    folder = save(tmp_path / "m", backbone, vit_processor())
    with pytest.raises(InputError, match=r"missing classifier\.bias, classifier\.w"):
        open_hf(str(folder))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.update(extra=torch.ones(2)), "unexpected extra"),
        (lambda w: w.update({"classifier.bias": torch.ones(5)}), "another shape classifier.bias"),
        (lambda w: w.pop("vit.layernorm.bias"), "missing vit.layernorm.bias"),
    ],
)
def test_weights_that_do_not_fit_are_listed(saved, spoil, message):
    import safetensors.torch

    weights = safetensors.torch.load_file(saved / "model.safetensors")
    spoil(weights)
    safetensors.torch.save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        open_hf(str(saved))


def test_a_folder_with_a_weights_only_file_loads_and_one_with_code_does_not(saved):
    images = torch.rand(2, 3, 32, 32)
    expected = open_hf(str(saved)).model(images)
    state = vit().state_dict()
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    opened = open_hf(str(saved))
    assert opened.facts["weights"] == ["pytorch_model.bin"]
    assert torch.allclose(opened.model(images), expected, atol=1e-6)
    marker = saved / "ran"
    torch.save({"x": Code(str(marker))}, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match="without executing code"):
        open_hf(str(saved))
    assert not marker.exists()


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_named_as_weights_is_refused(saved):
    (saved / "model.safetensors").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(InputError, match="without executing code"):
        open_hf(str(saved))


def test_code_beside_the_weights_never_runs(saved):
    marker = saved / "ran"
    (saved / "modelling.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: ...\n")
    names = {"AutoConfig": "modelling.Config", "AutoModelForImageClassification": "modelling.Net"}
    edit(saved / "config.json", auto_map=names, model_type="homemade")
    with pytest.raises(InputError, match="is not an image classifier that transformers knows"):
        open_hf(str(saved))
    assert not marker.exists()


# ---------------------------------------------------------------- nothing from elsewhere


def timm_folder(folder, layers=None, **settings):
    """A tiny model of timm, as timm saves one for a hub."""
    import safetensors.torch
    import timm

    network = timm.create_model("test_resnet", num_classes=3, **(layers or {}))
    published = {"input_size": [3, 32, 32], "hf_hub_id": "someone/else", "url": "https://a.example"}
    described = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": published}
    (folder / "config.json").write_text(json.dumps({**described, **settings}))
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg_overlay"])
def test_no_file_that_a_configuration_names_is_unpickled(key, tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Code(str(tmp_path / "ran"))))
    named = str(tmp_path / "weights.pth")
    arguments = {"drop_rate": 0.1, key: named if key == "checkpoint_path" else {"file": named}}
    timm_folder(tmp_path, model_args=arguments)
    with pytest.raises(InputError, match=f"model_args of its config.json has {key}, and only"):
        open_hf(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_sizes_of_layers_are_given_to_timm(tmp_path):
    layers = {"stem_type": "", "drop_rate": 0.1}
    opened = open_hf(str(timm_folder(tmp_path, layers, model_args=layers)))
    assert opened.model(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert opened.preparation.size == 32


@pytest.mark.parametrize("architecture", ["hf-hub:someone/else", "local-dir:/tmp", "a/test_resnet"])
def test_no_other_model_is_named_by_a_configuration(architecture, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *given, **_: asked.append(given))
    with pytest.raises(InputError, match="unknown timm model"):
        open_hf(str(timm_folder(tmp_path, architecture=architecture)))
    assert not asked


@pytest.mark.parametrize("absolute", [False, True])
def test_no_weights_are_read_outside_the_repository(absolute, tmp_path):
    folder = save(tmp_path / "m", vit(), vit_processor(), max_shard_size="8KB")
    shard = next(iter(folder.glob("model-*.safetensors")))
    index = folder / "model.safetensors.index.json"
    shard.rename(tmp_path / shard.name)
    outside = str(tmp_path / shard.name) if absolute else f"../{shard.name}"
    index.write_text(index.read_text().replace(f'"{shard.name}"', f'"{outside}"'))
    with pytest.raises(
        InputError, match=r"names '.*', which is not the name of a \.safetensors file"
    ):
        open_hf(str(folder))


@pytest.mark.parametrize(
    "named", ["config.json", "model.safetensors.index.json", "pytorch_model.bin", "..", "x"]
)
def test_an_index_names_weights_only(named, saved):
    (saved / named).touch()
    (saved / "model.safetensors").unlink()
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": named}}))
    with pytest.raises(InputError, match=f"names '{named}', which is not the name of a"):
        open_hf(str(saved))


def test_settings_that_are_not_a_mapping_are_told(saved):
    (saved / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json is damaged \(it is not a mapping\)"):
        open_hf(str(saved))


def test_weights_are_copied_where_links_need_a_privilege(saved, monkeypatch):
    images = torch.rand(2, 3, 32, 32)
    expected = open_hf(str(saved)).model(images)

    def refuse(*_):
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    assert torch.equal(open_hf(str(saved)).model(images), expected)


def test_a_link_to_a_file_of_the_same_folder_is_followed(saved):
    expected = open_hf(str(saved)).digest
    (saved / "parts").mkdir()
    for name in ("config.json", "model.safetensors"):
        (saved / name).rename(saved / "parts" / name)
        (saved / name).symlink_to(f"parts/{name}")
    assert open_hf(str(saved)).digest == expected


def test_a_link_is_followed_within_the_cache_of_a_hub_only(saved, tmp_path):
    expected = open_hf(str(saved)).digest
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "c"
    shutil.copytree(saved, snapshot)
    (snapshot.parents[1] / "blobs").mkdir()
    weights = snapshot / "model.safetensors"
    weights.rename(snapshot.parents[1] / "blobs" / "d")
    weights.symlink_to("../../blobs/d")
    assert open_hf(str(snapshot)).digest == expected
    weights.unlink()
    weights.symlink_to(saved / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors is a link that leads out"):
        open_hf(str(snapshot))


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"transformers_weights": "other.safetensors"}),
        ("config.json", {"backbone": "someone/else", "use_pretrained_backbone": True}),
        ("config.json", {"inner": [{"quantization_config": {"quant_method": "awq"}}]}),
        (
            "preprocessor_config.json",
            {"image_processor_type": "OneFormerImageProcessor", "class_info_file": "a.json"},
        ),
    ],
)
def test_settings_that_lead_elsewhere_are_refused(file, settings, saved):
    shutil.copy(saved / "model.safetensors", saved / "other.safetensors")
    edit(saved / file, **settings)
    with pytest.raises(InputError, match=rf"of its {file} leads out of the repository"):
        open_hf(str(saved))


def test_a_repository_does_not_choose_the_code_that_computes(saved):
    kernel = "someone/kernel"
    edit(saved / "config.json", _attn_implementation=kernel, attn_implementation=kernel)
    assert open_hf(str(saved)).model(torch.rand(1, 3, 32, 32)).shape == (1, 12)


def test_the_digest_covers_every_shard_and_the_settings(tmp_path):
    folder = save(tmp_path / "m", vit(), vit_processor(), max_shard_size="8KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    first = open_hf(str(folder))
    assert first.facts["weights"][1:] == [shard.name for shard in shards]
    assert open_hf(str(shutil.copytree(folder, tmp_path / "n"))).digest == first.digest
    edit(folder / "preprocessor_config.json", image_mean=[0.4, 0.4, 0.4])
    settings = open_hf(str(folder)).digest
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert len({first.digest, settings, open_hf(str(folder)).digest}) == 3
    shards[-1].unlink()
    with pytest.raises(InputError, match=r"index\.json"):
        open_hf(str(folder))


def test_half_precision_weights_are_computed_with_in_single_precision(saved):
    save(saved, vit().to(torch.bfloat16))
    model = open_hf(str(saved)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_without_a_resize_images_are_taken_as_they_are(tmp_path):
    folder = save(tmp_path / "m", resnet(), vit_processor(do_resize=False))
    opened = open_hf(str(folder))
    assert opened.preparation is None
    assert opened.model.input_size is None
    assert opened.facts["preparation"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit_processor(do_pad=True), "do_pad"),
        (lambda: vit_processor(rescale_factor=1 / 127.5), "rescale_factor 0.00784"),
        (lambda: vit_processor(do_rescale=False), "do_rescale False"),
        (lambda: vit_processor(resample=4), "the filter"),
        (lambda: vit_processor(size={"height": 32, "width": 48}), "size 32x48"),
        (lambda: crop_processor(do_center_crop=False), "without do_center_crop"),
        (lambda: crop_processor(size={"shortest_edge": 24}), "resized to 24, padded to 32"),
        (lambda: crop_processor(do_resize=False), "do_center_crop without do_resize"),
        (lambda: crop_processor(size={"longest_edge": 32}), "size {'longest_edge': 32}"),
        (lambda: transformers.MobileViTImageProcessor(), "do_flip_channel_order"),
        # Older versions of it leave both without a value.
        (
            lambda: transformers.ImageGPTImageProcessor(clusters=None),
            "do_color_quantize|do_rescale None",
        ),
    ],
)
def test_what_cannot_be_prepared_alike_is_named(make, message):
    with pytest.raises(InputError, match=message):
        read_processor(make())


def test_a_processor_that_does_not_do_what_its_settings_say_is_refused():
    class Upside(transformers.ViTImageProcessor):
        def preprocess(self, *args, **kwargs):
            batch = super().preprocess(*args, **kwargs)
            batch["pixel_values"] = batch["pixel_values"].flip(1)
            return batch

    read_processor(vit_processor())
    with pytest.raises(InputError, match=r"its own pixels differ by 0\.\d+"):
        read_processor(Upside(size={"height": 32, "width": 32}))


def test_a_folder_that_does_not_say_how_images_are_prepared_is_refused(saved):
    (saved / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json.*python:FILE\.py:FUNCTION"):
        open_hf(str(saved))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification with 12"),
        ({"num_labels": 1, "id2label": {0: "age"}}, "gives one number for each image"),
    ],
)
def test_what_tells_no_classes_apart_is_refused(tmp_path, settings, message):
    folder = save(tmp_path / "m", vit(**settings), vit_processor())
    with pytest.raises(InputError, match=message):
        open_hf(str(folder))


def test_folders_without_a_model_are_told_apart(tmp_path, saved):
    with pytest.raises(InputError, match=r"config\.json"):
        open_hf(str(tmp_path))
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        open_hf(str(saved))
    with pytest.raises(InputError, match=r"hf:.*no such folder"):
        open_hf(str(tmp_path / "nowhere" / "else"))


def test_nothing_is_printed_and_nothing_global_is_left_changed(saved, capfd, request):
    logging = transformers.utils.logging
    request.addfinalizer(logging.set_verbosity_warning)
    logging.set_verbosity_debug()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    capfd.readouterr()
    open_hf(str(saved))
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert not hub.utils.are_progress_bars_disabled()


@pytest.fixture
def cached(saved, tmp_path, monkeypatch):
    """A hub's cache as huggingface_hub lays it out, that holds `someone/tiny` at one revision."""
    place = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(saved, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


def test_offline_a_cached_model_is_opened_at_its_revision(cached, saved):
    opened = open_hf("someone/tiny", offline=True)
    assert opened.name == "tiny"
    assert opened.facts["revision"] == "a" * 40
    assert opened.digest == open_hf(str(saved)).digest
    assert opened.facts["source"] == "hf:someone/tiny"
    with pytest.raises(InputError, match=r"offline.* hf:someone/else"):
        open_hf("someone/else", offline=True)


def test_every_file_comes_from_the_revision_of_the_first(cached, monkeypatch):
    asked = []
    download = hub.hf_hub_download

    def watched(repo, name, **options):
        asked.append((name, options["revision"], options["local_files_only"]))
        return download(repo, name, **{**options, "local_files_only": True})

    monkeypatch.setattr(hub, "hf_hub_download", watched)
    (cached / "snapshots" / ("a" * 40) / "processor_config.json").write_text("{}")
    open_hf("someone/tiny")
    assert asked[0] == ("config.json", None, False)
    assert {(revision, offline) for _, revision, offline in asked[1:]} == {("a" * 40, False)}


def test_a_file_that_the_hub_does_not_have_is_told_from_a_hub_out_of_reach(monkeypatch):
    def absent(*args, **options):
        raise hub.errors.EntryNotFoundError("404: no such file")

    monkeypatch.setattr(hub, "hf_hub_download", absent)
    with pytest.raises(InputError, match=r"config\.json"):
        open_hf("someone/tiny")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route to host"), "no route to host"),
        (hub.errors.LocalEntryNotFoundError("a long story"), "the hub cannot be reached"),
        (OSError(28, "the disk is full"), r"\[Errno 28\] the disk is full"),
    ],
)
def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, error, reason):
    def unreachable(*args, **options):
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(InputError, match=rf"hf:someone/tiny .*\({reason}\)"):
        open_hf("someone/tiny")


def test_without_transformers_the_line_that_installs_it_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'fairweather\[hf\]'"):
        open_hf(str(saved))
