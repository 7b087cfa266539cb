"""Which outputs are which classes of the data, and the model that answers in those."""

import copy
import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from torchvision.models import ResNet18_Weights

from fairweather.errors import InputError
from fairweather.models.labels import LabelMap, match_labels, read_label_file, relabel
from fairweather.models.wrappers import LabelMapper

WNIDS = ImageNetInfo().label_names()
# What configurations on the Hugging Face hub call the classes: all of WordNet's names.
HF_NAMES = ImageNetInfo().label_descriptions()
CRANES, MAILLOTS = ("n02012849", "n03126707"), ("n03710637", "n03710721")
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def columns(model, data, labels=None, outputs=None):
    outputs = len(model) if outputs is None else outputs
    return [list(found) for found in match_labels(model, outputs, data, labels).columns]


def singles(places):
    return [[place] for place in places]


# By name


def test_names_in_another_order_are_found():
    data = sorted(CIFAR, reverse=True)
    found = match_labels(CIFAR, 10, data)
    assert [CIFAR[place] for (place,) in found.columns] == data
    assert found.note == "the model's 10 classes, matched by name"
    assert found.outputs == 10


@pytest.mark.parametrize(
    ("model", "data"),
    [("golden retriever", "Golden_Retriever"), ("T-shirt", " t shirt "), ("ÉTÉ", "été")],
)
def test_case_spaces_underscores_and_hyphens_do_not_matter(model, data):
    assert columns(["other", model], [data, "Other"]) == [[1], [0]]


def test_an_exact_name_comes_before_one_that_differs_in_case():
    assert columns(["Cardigan", "cardigan"], ["cardigan", "Cardigan"]) == [[1], [0]]
    with pytest.raises(InputError, match=r"'CARDIGAN' may be n02113186 \(cardigan\) or n02963159"):
        columns(["Cardigan", "cardigan"], ["CARDIGAN", "Cardigan"])
    with pytest.raises(InputError, match=r"'MOLE' may be output 0 \('Mole'\) or output 2 \('mole'"):
        columns(["Mole", "wart", "mole"], ["MOLE", "wart"])


def test_some_of_a_models_classes_will_do():
    found = match_labels(CIFAR, 10, ["ship", "cat"])
    assert found.columns == ((8,), (3,))
    assert found.note == "2 of the model's 10 classes, matched by name"


def test_two_classes_of_the_data_cannot_share_an_output():
    with pytest.raises(InputError, match=r"output 3 .* 'cat' and 'Cat'"):
        columns(CIFAR, ["cat", "Cat"])


def test_classes_without_a_partner_are_shown_with_both_lists():
    data = ["ship", "shipp", *"abcdef"]
    with pytest.raises(InputError) as caught:
        columns(CIFAR, data)
    assert str(caught.value) == (
        "the model has no class for 7 of the data's 8: 'shipp', 'a', 'b', 'c', 'd' and 2 more "
        "(closest to 'shipp' is 'ship'); the data has 'ship', 'shipp', 'a', 'b', 'c' and 3 more, "
        "and the model has 'airplane', 'automobile', 'bird', 'cat', 'deer' and 5 more; map "
        "them with --class-map FILE"
    )
    with pytest.raises(InputError, match=r"for 10 of the data's 10: .*'n01440764', 'n01443537'"):
        columns(WNIDS, CIFAR)


def test_a_model_must_name_all_its_outputs_or_none():
    with pytest.raises(InputError, match=r"1,000 .* 1,001"):
        match_labels(WNIDS, 1001, WNIDS)


# ImageNet


@pytest.mark.parametrize("subset", ["imagenet_a", "imagenet_r"])
@pytest.mark.parametrize("model", [WNIDS, HF_NAMES], ids=["wnids", "names"])
def test_subsets_by_wnid_restrict_the_outputs(subset, model):
    listed = files("timm.data") / "_info" / f"{subset}_synsets.txt"
    data = listed.read_text().split()
    found = match_labels(model, 1000, data)
    assert len(data) == 200
    assert found.columns == tuple((WNIDS.index(wnid),) for wnid in data)
    assert found.note == "200 of the model's 1,000 classes, matched by " + (
        "name" if model is WNIDS else "wnid"
    )


@pytest.mark.parametrize(
    ("model", "first"),
    [(["background", *HF_NAMES], 1), ([*HF_NAMES, "background"], 0), (["background", *WNIDS], 1)],
)
def test_a_background_class_is_left_out(model, first):
    assert columns(model, WNIDS) == singles(range(first, first + 1000))
    assert columns(model, [WNIDS[7], WNIDS[134]]) == singles([first + 7, first + 134])


def test_the_place_tells_two_classes_of_one_name_apart():
    places = [WNIDS.index(wnid) for wnid in (*CRANES, *MAILLOTS)]
    assert columns(HF_NAMES, [*CRANES, *MAILLOTS]) == singles(places)
    assert columns(HF_NAMES, WNIDS) == singles(range(1000))
    assert columns(WNIDS, HF_NAMES) == singles(range(1000))
    old_torchvision = [name.split(",")[0] for name in HF_NAMES]  # crane and maillot stand twice
    assert len(set(old_torchvision)) == 998
    assert columns(old_torchvision, HF_NAMES) == singles(range(1000))
    few_words = [
        f"{name} or so" if place % 20 == 3 else name for place, name in enumerate(HF_NAMES)
    ]
    assert columns(few_words, WNIDS) == singles(range(1000))
    exchanged = [HF_NAMES[1], HF_NAMES[0], *HF_NAMES[2:]]
    assert columns(exchanged, [WNIDS[0], WNIDS[1], CRANES[0]]) == [[1], [0], [places[0]]]


def test_a_thousand_other_classes_are_not_imagenet():
    names = [f"kind {place}" for place in range(1000)]
    with pytest.raises(InputError, match=r"1,000 of the data's 1,000.*--class-map"):
        columns(names, WNIDS)
    reversed_names = HF_NAMES[::-1]
    assert columns(reversed_names, [WNIDS[0], WNIDS[999]]) == [[999], [0]]


@pytest.mark.parametrize(("name", "both"), [("crane", CRANES), ("Maillot", MAILLOTS)])
def test_a_name_of_two_classes_is_an_error_with_both_wnids(name, both):
    words = rf"class '{name}' may be {both[0]} \(\w+\) or {both[1]} \(\w+\): give classes the names"
    with pytest.raises(InputError, match=words):
        columns(WNIDS, ["n01440764", name])
    with pytest.raises(InputError, match="may be n02012849"):
        columns(HF_NAMES[::-1], ["n02012849"])
    with pytest.raises(InputError, match="may be n02012849"):
        columns([wnid for wnid in WNIDS if wnid != CRANES[1]], ["crane"])


def test_names_that_imagenet_has_for_its_classes_are_found():
    for model, by in ((WNIDS, "ImageNet's names"), (HF_NAMES, "synonym and name")):
        found = match_labels(model, 1000, ["Tinca_tinca", "harp"])
        assert found.columns == ((0,), (WNIDS.index("n03495258"),))
        assert found.note == f"2 of the model's 1,000 classes, matched by {by}"
    torchvision = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert columns(torchvision, WNIDS) == singles(range(1000))
    assert columns(WNIDS, torchvision) == singles(range(1000))
    assert columns(WNIDS, ["crane bird", "maillot tank suit"]) == singles(
        map(WNIDS.index, [CRANES[0], MAILLOTS[1]])
    )
    # A harp is also what WordNet calls a harmonica; the usual name decides.
    assert columns(WNIDS, ["harp", "harmonica"]) == singles(
        map(WNIDS.index, ["n03495258", "n03494278"])
    )


def test_wnids_that_are_not_in_imagenet_1k_meet_each_other():
    assert columns(["n00007846", "n00015388"], ["n00015388"]) == [[1]]


# Without names


@pytest.mark.parametrize("model", [None, list("0123"), [f"LABEL_{place}" for place in range(4)]])
def test_a_model_that_names_nothing_is_taken_in_order(model):
    found = match_labels(model, 4, ["d", "c", "b", "a"])
    assert found.columns == ((0,), (1,), (2,), (3,))
    assert found.note == "in order: the model names no classes"
    assert found.describe(["d", "c", "b", "a"]) == (
        f"{found.note}, so output 0 is taken to be 'd', 1 'c', ..., 3 'a'; else give --class-map"
    )
    with pytest.raises(InputError, match=r"4 outputs.* 2 classes.*--class-map .* as 'a,0'$"):
        match_labels(model, 4, ["a", "b"])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("model", [None, [f"LABEL_{place}" for place in range(12)]])
def test_numbers_that_sort_as_text_are_taken_as_numbers(first, model):
    data = sorted(map(str, range(first, first + 12)))
    found = match_labels(model, 12, data)
    assert found.columns == tuple((int(name) - first,) for name in data)
    assert found.note == (
        "by number: the model names no classes, and the data's are numbers in the order of text, "
        f"{'11' if first == 0 else '12'!r} before '2'"
    )
    assert found.describe(data) == found.note


def test_numbers_that_are_in_order_or_no_numbers_are_in_order():
    for data in (["00", "01", "10"], ["3", "4", "9"], ["10", "2", "x"], ["1", "01", "0"]):
        found = match_labels(None, 3, data)
        assert found.columns == ((0,), (1,), (2,))
        assert found.note == "in order: the model names no classes"


def test_data_that_only_numbers_its_classes_means_the_models_outputs():
    data = sorted(map(str, range(1000)))  # as the folders of ImageNet-V2
    found = match_labels(WNIDS, 1000, data)
    assert found.columns == tuple((int(name),) for name in data)
    assert "numbers" in found.note
    with pytest.raises(InputError, match=r"9 of the data's 9.*--class-map"):
        match_labels(CIFAR, 10, list("012345678"))


# Labels that are given


def test_given_labels_may_be_names_wnids_synonyms_numbers_and_lists():
    given = {"a": "tench", "b": "n01443537", "c": ["Carcharodon carcharias", 5, "6"], "d": 999}
    for model in (WNIDS, HF_NAMES):
        found = match_labels(model, 1000, ["d", "c", "b", "a"], given)
        assert found.columns == ((999,), (2, 5, 6), (1,), (0,))
        assert found.note == "4 classes on 6 of the model's 1,000 outputs, as given"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": 0}, "must have all 2 classes of the data; without one are 'b'"),
        ({"a": 0, "b": 1, "bb": 2}, "unknown class of the data in class_map, 'bb'; .* mean 'b'"),
        ({"a": 0, "b": [1, 0]}, "output 0 .* 'a' and 'b'"),
        ({"a": 0, "b": [1, "cart", 1]}, "unknown class .* 'cart'; did you mean 'cat'"),
        ({"a": 0, "b": [1, 1]}, "output 1 .*twice for 'b'"),
        ({"a": 0, "b": 10}, "the labels name output 10, but the model's are 0 to 9"),
        ({"a": 0, "b": -1}, "the labels name output -1"),
        ({"a": 0, "b": True}, "has True for the class 'b'; allowed are a class name"),
        ({"a": 0, "b": []}, r"has \[\] for the class 'b'"),
        ({"a": 0, "b": [["cat"]]}, r"for the class 'b'; allowed"),
        ({"a": 0, "b": 1.0}, r"has 1.0 for the class 'b'"),
        ({"a": 0, "b": None}, r"has None for the class 'b'"),
        ({"a": 0, True: 1}, "has True for a class, which is not text: put it in quotes"),
        ({}, "must map each class of the data"),
        ([("a", 0)], "must map each class of the data"),
    ],
)
def test_given_labels_that_are_wrong(given, words):
    with pytest.raises(InputError, match=words):
        match_labels(CIFAR, 10, ["a", "b"], given)


def test_given_labels_for_a_model_without_names_are_numbers():
    assert match_labels(None, 5, ["a", "b"], {"a": 4, "b": ["0", 1]}).columns == ((4,), (0, 1))
    with pytest.raises(InputError, match=r"from 0 to 4 .*'cat'"):
        match_labels(None, 5, ["a", "b"], {"a": 4, "b": "cat"})


def test_a_near_name_of_a_wnid_is_named():
    with pytest.raises(InputError, match=r"'goldfisch'.*'goldfish'"):
        match_labels(WNIDS, 1000, ["a"], {"a": "goldfisch"})
    with pytest.raises(InputError, match="'crane' may be n02012849"):
        match_labels(WNIDS, 1000, ["a"], {"a": "crane"})


def test_a_name_that_is_a_number_comes_before_the_output_of_this_number():
    assert match_labels(["1", "0"], 2, ["a", "b"], {"a": "1", "b": "0"}).columns == ((0,), (1,))
    assert match_labels(["1", "0"], 2, ["a", "b"], {"a": 1, "b": 0}).columns == ((1,), (0,))


# Label files

FILES = {
    "labels.yaml": "cat: [tabby, 'n02123159']\n0: 207\n'true': tench, Tinca tinca\n",
    "labels.YML": "{cat: [tabby, n02123159], '0': 207, 'true': 'tench, Tinca tinca'}",
    "labels.json": json.dumps(
        {"cat": ["tabby", "n02123159"], "0": 207, "true": "tench, Tinca tinca"}
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_label_files_are_read(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert read_label_file(tmp_path / name) == {
        "cat": ["tabby", "n02123159"],
        "0": 207,
        "true": "tench, Tinca tinca",
    }


@pytest.mark.parametrize("header", ["", "data,model\n", "\ufeffdata, model\r\n"])
def test_a_csv_has_two_columns(header, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(header + '\ncat, tabby\n"dog, big",207\nfish,"tench, Tinca tinca"\n')
    assert read_label_file(path) == {
        "cat": "tabby",
        "dog, big": "207",
        "fish": "tench, Tinca tinca",
    }


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_of_an_older_spreadsheet_is_read(separator, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(f"kätzchen{separator}tabby\nhund{separator}207\n".encode("cp1252"))
    assert read_label_file(path) == {"kätzchen": "tabby", "hund": "207"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "cat: 1\ncat: 2\n", "'cat' .*twice"),
        ("a.yaml", "1: 1\n'1': 2\n", "has the class '1' twice"),
        ("a.yaml", "cat: {a: 1}\n", r"has \{'a': 1\} for the class 'cat'; allowed are"),
        ("a.yaml", "true: 1\n", "has True for a class, which is not text: put it in quotes"),
        ("a.yaml", "- cat\n", r"must map each class of the data .*found \['cat'\]"),
        ("a.yaml", "", "must map each class of the data .*found None"),
        ("a.yaml", "cat: [1\n", "is not YAML"),
        ("a.yaml", "cat: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("a.json", '{"cat": 1, "cat": 2}', "has the class 'cat' twice"),
        ("a.json", '{"cat": 1', "is not JSON"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"cat": 1.5}', r"has 1.5 for the class 'cat'"),
        ("a.csv", "cat,1\ncat,2\n", "has the class 'cat' twice"),
        ("a.csv", "cat,1\ndog\n", r"row 2 of the label file .*a\.csv' must have two cells"),
        ("a.csv", "cat,1,2\n", r"must have two cells, .* found \['cat', '1', '2'\]"),
        ("a.csv", "cat,\n", "must have two cells"),
        ("a.csv", '"cat,1\n', "cannot be read as CSV"),
        ("a.csv", "", "must map each class of the data"),
        ("a.txt", "cat: 1", r"'\.txt'.*\.csv, \.json, \.yaml"),
    ],
)
def test_label_files_that_are_wrong(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_label_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_label_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"a\.yaml'.*: No such file"):
        read_label_file(tmp_path / "a.yaml")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(InputError, match=r"b\.csv'.*: Is a directory"):
        read_label_file(tmp_path / "b.csv")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"c\.json'"):
        read_label_file(tmp_path / "c.json")


# The relabelled model


class Known(nn.Module):
    """Gives the logits that it was made with, times one parameter."""

    def __init__(self, logits):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.logits = logits

    def forward(self, images):
        return self.logits.to(images.dtype) * self.scale


IMAGES = torch.zeros(1, 3, 8, 8)
GROUPS = [(4,), (0, 7, 2), (9,), (1, 3)]


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 30.0, 300.0]))
def test_grouping_adds_probabilities(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 10, generator=generator, dtype=torch.float64) * scale
    model = LabelMapper(Known(logits.float()), GROUPS)
    with torch.no_grad():
        found = model(IMAGES)
    assert found.shape == (5, 4)
    for row in range(5):
        values = logits[row].float().double().tolist()
        highest = max(values)
        exponentials = [np.exp(value - highest) for value in values]
        added = [sum(exponentials[output] for output in group) for group in GROUPS]
        if sum(added) > 0:
            expected = np.array(added) / sum(added)
            np.testing.assert_allclose(
                torch.softmax(found[row].double(), 0), expected, rtol=0, atol=1e-4
            )
        for place, group in enumerate(GROUPS):
            alone = max(values[output] for output in group)
            assert alone - 1e-3 <= found[row, place] <= alone + np.log(len(group)) + 1e-3
    assert torch.equal(found[:, 0], logits[:, 4].float())
    assert torch.equal(found[:, 2], logits[:, 9].float())


def test_the_order_within_a_group_and_the_level_of_all_logits_change_nothing():
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    one = LabelMapper(Known(logits), [(0, 1), (2, 3, 4)])(IMAGES)
    other = LabelMapper(Known(logits + 50), [(1, 0), (4, 2, 3)])(IMAGES)
    torch.testing.assert_close(one.softmax(1), other.softmax(1))
    far = torch.full((1, 4), -1000.0)
    assert LabelMapper(Known(far), [(0, 1), (2,)])(IMAGES).isfinite().all()


def test_gradients_flow_to_images_and_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).double()
    model = LabelMapper(network, GROUPS)
    images = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def answer(images):
        logits = network(images)
        return torch.stack([logits[:, list(group)].exp().sum(1).log() for group in GROUPS], 1)

    labels = torch.tensor([1, 2])
    (found,) = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), images)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(answer(images), labels), images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    nn.functional.cross_entropy(model(images), labels).backward()
    unused = [5, 6, 8]
    assert (network[1].weight.grad[unused] == 0).all()
    assert (network[1].weight.grad[[4, 0, 7, 2, 9, 1, 3]] != 0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_groups_are_added_in_either_precision(dtype):
    logits = torch.zeros(1, 600).to(dtype)
    model = LabelMapper(Known(logits).to(dtype), [tuple(range(500)), (599,)])
    found = model(IMAGES.to(dtype))
    assert found.dtype == dtype
    assert found[0, 0] == torch.tensor(500.0).log().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 600))
        assert LabelMapper(network, [(0, 1), (2,)])(IMAGES).shape == (1, 2)


def test_it_is_a_module_like_any_other():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.BatchNorm1d(10))
    model = LabelMapper(network, GROUPS)
    assert not model.eval().model[2].training
    assert model.train().model[2].training
    twin = copy.deepcopy(model.eval())
    assert torch.equal(twin(IMAGES), model(IMAGES))
    with torch.no_grad():
        network[1].bias.add_(torch.arange(10.0))
    assert not torch.equal(twin(IMAGES), model(IMAGES))
    assert set(model.state_dict()) == {f"model.{name}" for name in network.state_dict()}
    assert model.to("meta").first.device.type == "meta"
    with torch.inference_mode():
        assert twin(IMAGES.expand(4, -1, -1, -1)).shape == (4, 4)


def test_only_the_identity_returns_the_model_itself():
    model = nn.Identity()
    assert relabel(model, match_labels(CIFAR, 10, CIFAR)) is model
    assert relabel(model, match_labels(None, 3, ["a", "b", "c"])) is model
    for other in (
        match_labels(CIFAR, 10, CIFAR[:9]),  # the first nine of ten outputs
        match_labels(CIFAR, 10, CIFAR[::-1]),
        LabelMap(((0,), (1, 2)), "", 3),
    ):
        found = relabel(model, other)
        assert isinstance(found, LabelMapper)
        assert found.model is model
    logits = torch.arange(10.0)[None]
    assert relabel(model, match_labels(CIFAR, 10, ["truck", "cat"]))(logits).tolist() == [[9, 3]]


def test_an_unnamed_model_of_1000_outputs_meets_wnids_in_imagenets_order():
    some = [WNIDS[5], WNIDS[999], WNIDS[0]]
    found = match_labels(None, 1000, some)
    assert found.columns == ((5,), (999,), (0,))
    assert "ImageNet's" in found.note
    with pytest.raises(InputError, match="--class-map"):
        match_labels(None, 1000, [*some, "n99999999"])
    with pytest.raises(InputError, match="--class-map"):
        match_labels(None, 999, some)
