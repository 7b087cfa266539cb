"""Predictions with the predicted class and its confidence: formats, columns, several models."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairweather.errors import InputError
from fairweather.models.predictions.files import find_predictions, list_in_memory
from fairweather.models.predictions.matching import (
    KnownImages,
    list_known_classes,
    match_predictions,
)
from fairweather.models.predictions.tables import RowOptions, read_rows
from fairweather.models.predictions.truth import read_truth

CLASSES = ("cat", "dog", "fox")
FILES = ["b.png", "a.png", "c.png", "d.png"]
LABELS = np.array([1, 0, 2, 2])  # of the images in their order
PREDICTED, CONFIDENCE = ["dog", "cat", "fox", "cat"], [0.9, 0.5532017, 1 / 3, 1.0]
SHARES = [{"fox": 0, "cat": 0.9, "dog": 0.1}, {"cat": 0.2, "dog": 0.7, "fox": 0.1}]
FRAME = pd.DataFrame({"image": FILES, "predicted": PREDICTED, "confidence": CONFIDENCE})


def images(names=FILES, labels=LABELS):
    return KnownImages(labels, np.arange(len(labels)), names, "the images", are_files=True)


def read(content, classes=CLASSES, known=None, **asked):
    chosen = RowOptions(**asked)
    place = getattr(content, "name", "the table")
    rows = read_rows(content, place, chosen, len(classes))
    return match_predictions(rows, classes, known or images(), chosen)


def objects(frame):
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy().tolist()]


WRITERS = {
    "a.csv": lambda path, frame: frame.to_csv(path, index=False),
    "a.csv.gz": lambda path, frame: frame.to_csv(path, index=False),
    "a.tsv": lambda path, frame: frame.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda path, frame: frame.to_csv(path, index=False, sep=";", decimal=","),
    "a.parquet": lambda path, frame: frame.to_parquet(path),
    "a.npz": lambda path, frame: np.savez(
        path,
        **{name: np.array(frame[name].tolist()) for name in frame},
    ),
    "a.npy": lambda path, frame: np.save(path, frame.to_records(index=False).astype("U9,U9,f8")),
    "a.jsonl": lambda path, frame: path.write_text("\n".join(map(json.dumps, objects(frame)))),
    "a.ndjson.gz": lambda path, frame: path.write_bytes(
        gzip.compress("\n".join(map(json.dumps, objects(frame))).encode())
    ),
    "list.json": lambda path, frame: path.write_text(json.dumps(objects(frame))),
    "lines.json": lambda path, frame: frame.to_json(path, orient="records", lines=True),
    "columns.json": lambda path, frame: path.write_text(json.dumps(frame.to_dict("list"))),
    "pandas.json": lambda path, frame: frame.to_json(path, double_precision=15),
    "split.json": lambda path, frame: frame.to_json(
        path, orient="split", index=False, double_precision=15
    ),
    "images.json": lambda path, frame: path.write_text(
        json.dumps({row.pop("image"): row for row in objects(frame)})
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_classes_and_confidences(tmp_path, name):
    shuffled = FRAME.iloc[[2, 0, 3, 1]].reset_index(drop=True)
    frame = shuffled.rename(columns=dict(zip(FRAME, ("f0", "f1", "f2"), strict=True)))
    WRITERS[name](tmp_path / name, shuffled if name != "a.npy" else frame)
    asked = {}
    if name == "a.npy":  # names of fields are lost with the types
        asked = {"key_column": "f0", "predicted_columns": ("f1",), "confidence_column": "f2"}
    found = read(tmp_path / name, **asked)
    assert found.predicted.tolist() == [1, 0, 2, 0]
    digits = 9 if name == "lines.json" else 15
    np.testing.assert_allclose(found.confidence, CONFIDENCE, rtol=10.0**-digits)
    assert "matched by name" in found.rows
    assert "AUC" in str(found.kind)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".npz", ".parquet"])
def test_the_last_digit_of_a_confidence_stays(tmp_path, suffix):
    exact = np.random.default_rng(0).uniform(size=len(FILES))
    path = tmp_path / f"a{suffix}"
    WRITERS[path.name](path, FRAME.assign(confidence=exact))
    assert read(path).confidence.tolist() == exact.tolist()


def test_without_a_confidence_there_is_none(tmp_path):
    found = read(FRAME.drop(columns="confidence"))
    assert found.predicted.tolist() == [1, 0, 2, 0]
    assert found.confidence is None
    assert "calibration and deferral" in str(found.kind)


@pytest.mark.parametrize(
    "content",
    [
        {"probs": [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]]},
        [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]],
        SHARES,
        [{"probs": [0.9, 0.1, 0.0], "label": 0}, {"probs": [0.2, 0.7, 0.1], "label": 1}],
        [{"scores": SHARES[0]}, {"scores": SHARES[1]}],
        {"a.png": SHARES[0], "b.png": SHARES[1]},
    ],
)
def test_json_may_have_the_probabilities_of_all_classes(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found = read(path, known=images(["a.png", "b.png"], np.array([0, 1])))
    assert found.predicted is None
    shares = np.exp(found.logits.astype(float))
    np.testing.assert_allclose(shares, [[0.9, 0.1, 0], [0.2, 0.7, 0.1]], atol=1e-7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("7", "an object for each image"),
        ("{}", "an object for each image"),
        ('[{"predicted": "cat"}, 7]', "different forms"),
        ('[[1, 2], [3]]', "different forms"),
        ('{"predicted": ["cat"], "confidence": [0.5, 0.5]}', "predicted classes for"),
        ('{"columns": ["predicted"], "data": [[1, 2]]}', "different forms"),
        ('[{"predicted": "cat", "confidence": null}]', "where a confidence must be"),
    ],
)  # fmt: skip
def test_json_of_another_form_is_one_sentence(tmp_path, text, told):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read(path)


def test_a_damaged_gzip_file_is_one_sentence(tmp_path):
    path = tmp_path / "a.csv.gz"
    FRAME.to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="not a whole gzip file"):
        read(path)


# ---- the formats in which others publish


def test_the_predictions_of_imagenet_x(tmp_path):
    """`model_predictions/base/*.csv` and `imagenet_x/annotations/filename_label.csv`.

    Source: github.com/facebookresearch/imagenetx at 6403d41.
    """
    (tmp_path / "base").mkdir()
    names = ["ILSVRC2012_val_00000293.JPEG", "ILSVRC2012_val_00002138.JPEG"]
    for model, rows in {
        "ResNet50": "394,0.5530332327 0,0.8365915418000001",
        "ViT": "0,1 0,0.9",
    }.items():
        lines = [f"{name},{row}" for name, row in zip(names, rows.split(), strict=True)]
        text = "\n".join(["file_name,predicted_class,predicted_probability", *lines])
        (tmp_path / "base" / f"{model}.csv").write_text(text + "\n")
    (tmp_path / "truth.csv").write_text("file_name,label\n" + "".join(f"{n},0\n" for n in names))
    sources = find_predictions(tmp_path / "base")
    assert [source.model for source in sources] == ["ResNet50", "ViT"]
    rows = read_rows(sources[0].content, "", RowOptions(), 0)
    assert rows.predicted.tolist() == [394, 0]
    assert rows.outputs[:, 0].tolist() == [0.5530332327, 0.8365915418000001]
    assert rows.keys.tolist() == names
    assert read_truth(str(tmp_path / "truth.csv"), RowOptions()).label == "label"


def test_the_predictions_of_cifar_10_1(tmp_path):
    """`model_predictions/v4_predictions/*.json`, a number a line, beside labels in npy.

    Source: github.com/modestyachts/CIFAR-10.1 at d9982ab.
    """
    path = tmp_path / "nas_predictions.json"
    path.write_text("[\n  6,\n  6, \n  8,\n  4\n]\n")
    np.save(tmp_path / "cifar10.1_v4_labels.npy", np.array([6, 6, 6, 4], dtype=np.int32))
    truth = read_truth(str(tmp_path / "cifar10.1_v4_labels.npy"), RowOptions())
    rows = read_rows(path, path.name, RowOptions(), 0)
    assert rows.predicted.tolist() == [6, 6, 8, 4]
    assert rows.outputs.shape == (4, 0)
    assert rows.keys is None
    assert truth.values.tolist() == [6, 6, 6, 4]


@pytest.mark.parametrize("form", ["csv", "json", "json-split", "parquet"])
def test_the_results_of_inference_by_timm(tmp_path, form):
    """`inference.py --include-index --results-format FORM`: its `label` is the predicted class.

    Source: github.com/huggingface/pytorch-image-models, `inference.py` at 0041cb7.
    """
    columns = {"filename": FILES, "index": [1, 0, 2, 0], "label": PREDICTED}
    frame = pd.DataFrame({**columns, "prob": np.float32(CONFIDENCE)})
    path = tmp_path / f"resnet50-224.{form.partition('-')[0]}"
    match form:
        case "csv":
            frame.to_csv(path, index=False)
        case "json":
            frame.set_index("filename").to_json(path, indent=4, orient="index")
        case "json-split":
            frame.to_json(path, indent=4, orient="split", index=False)
        case "parquet":
            frame.set_index("filename").to_parquet(path)
    with pytest.raises(InputError, match="--predicted-column label"):
        read(path)
    found = read(path, predicted_columns=("label",))
    assert found.predicted.tolist() == [1, 0, 2, 0]
    np.testing.assert_allclose(found.confidence, CONFIDENCE, rtol=1e-6)
    separate = frame.rename(columns={"label": "label_0", "prob": "prob_0"})
    separate = separate.assign(label_1="cat", prob_1=0.0)
    asked = {"predicted_columns": ("label_0",), "confidence_column": "prob_0"}
    assert read(separate, **asked).predicted.tolist() == [1, 0, 2, 0]


def test_outputs_of_a_text_classifier_in_json_lines(tmp_path):
    """`{"prediction": ..., "confidence": ...}` a line, as services answer."""
    path = tmp_path / "a.jsonl"
    rows = zip(PREDICTED, CONFIDENCE, strict=True)
    path.write_text("".join(json.dumps({"prediction": p, "confidence": c}) + "\n" for p, c in rows))
    assert read(path).predicted.tolist() == [1, 0, 2, 0]


# ---- which column is which


def test_beside_outputs_of_all_classes_the_predicted_class_is_not_needed():
    shares = pd.DataFrame(np.eye(3)[[1, 0, 2, 0]] * 0.9 + 0.1 / 3, columns=list(CLASSES))
    found = read(pd.concat([FRAME, shares / shares.sum(axis=1).iloc[0]], axis=1))
    assert found.predicted is None
    assert found.logits.argmax(1).tolist() == [1, 0, 2, 0]
    assert any("not used: 'predicted'" in note for note in found.notes)


@pytest.mark.parametrize("more", [{"age": [1.5, 2, 3, 4]}, {"age": [1, 2, 3, 4], "width": 7.5}])
def test_other_numbers_beside_a_predicted_class_are_left_out_and_named(more):
    found = read(FRAME.assign(**more))
    assert found.predicted.tolist() == [1, 0, 2, 0]
    assert any("not used: 'age'" in note for note in found.notes)


def test_two_columns_that_may_be_it_are_refused_until_one_is_named():
    frame = FRAME.assign(pred=[1, 0, 2, 0], conf=0.5)
    with pytest.raises(InputError, match="--predicted-column"):
        read(frame)
    with pytest.raises(InputError, match="--confidence-column"):
        read(frame, predicted_columns=("pred",))
    found = read(frame, predicted_columns=("pred",), confidence_column="conf")
    assert found.predicted.tolist() == [1, 0, 2, 0]
    assert found.confidence.tolist() == [0.5] * 4
    with pytest.raises(InputError, match=r"'preds'.*did you mean 'pred'"):
        read(frame, predicted_columns=("preds",))


@pytest.mark.parametrize(
    ("confidence", "told"),
    [
        ([90, 55, 33, 100], "divide percentages by 100"),
        ([9.5, -2, 3, 4], "in \\[0, 1\\]"),
        ([0.9, np.nan, 0.1, 0.2], "in \\[0, 1\\]"),
        (["0.9", "sure", "0.1", "0.2"], "'sure' in row 2"),
    ],
)
def test_a_confidence_is_a_probability(confidence, told):
    with pytest.raises(InputError, match=told):
        read(FRAME.assign(confidence=confidence))


def test_a_confidence_that_the_most_probable_class_cannot_have_is_named():
    found = read(FRAME.assign(confidence=[0.33, 0.2, 1 / 3, 0.1]))
    assert any("2 of 4 confidences are below 0.333" in note for note in found.notes)
    assert not any("below" in note for note in read(FRAME).notes)


def test_the_index_of_a_shuffled_table_is_called_so():
    assert any("the index of the table" in note for note in read(FRAME[::-1]).notes)


# ---- classes


def test_predicted_classes_are_numbers_in_the_order_of_the_data_or_of_an_option():
    numbers = FRAME.assign(predicted=[1, 0, 2, 0])
    assert read(numbers).predicted.tolist() == [1, 0, 2, 0]
    rows = read_rows(numbers, "x", RowOptions(classes=("Dog", "cat", "fox")), 3)
    asked = RowOptions(classes=("Dog", "cat", "fox"))
    assert match_predictions(rows, CLASSES, images(), asked).predicted.tolist() == [0, 1, 2, 1]


def test_a_predicted_class_that_the_data_lacks_is_refused():
    with pytest.raises(InputError, match=r"1 of 4 rows.*'owl'.*--classes.*--class-map"):
        read(FRAME.assign(predicted=["dog", "owl", "fox", "cat"]))
    with pytest.raises(InputError, match="'7'"):
        read(FRAME.assign(predicted=[1, 7, 2, 0]))


def test_a_class_map_may_give_a_class_several_names():
    rows = read_rows(
        FRAME.assign(predicted=["hound", "tabby", "kit", "lynx"]), "x", RowOptions(), 3
    )
    labels = {"cat": ["tabby", "lynx"], "dog": "hound", "fox": "kit"}
    found = match_predictions(rows, CLASSES, images(), RowOptions(), labels)
    assert found.predicted.tolist() == [1, 0, 2, 0]


def test_without_a_data_set_the_classes_are_those_of_all_labels_and_predictions():
    def rows(labels, predicted):
        columns = {"label": labels, "predicted": predicted}
        return read_rows(pd.DataFrame(columns), "x", RowOptions(), None)

    names = [rows(["b", "a"], ["a", "c"]), rows(["b", "a"], ["d", "a"])]
    assert list_known_classes(names, RowOptions()) == ("a", "b", "c", "d")
    assert list_known_classes(names, RowOptions(classes=("z", "a"))) == ("z", "a")
    numbers = [rows([1, 2], [2, 4])]
    assert list_known_classes(numbers, RowOptions()) == ("1", "2", "3", "4")
    with pytest.raises(InputError, match="--classes"):
        list_known_classes([rows(["a", "b"], [0, 1])], RowOptions())


def test_labels_beside_predicted_classes_must_be_those_of_the_data():
    with pytest.raises(InputError, match=r"1 of 4 labels.*'fox' for an image of 'dog'"):
        read(FRAME.assign(label=["fox", "cat", "fox", "fox"]))


# ---- several models in one table

WIDE = pd.DataFrame({"image": FILES, "label": ["dog", "cat", "fox", "fox"]})


def described(sources):
    return [(source.model, source.seed, source.shift, source.level) for source in sources]


def predicted(sources):
    return [read_rows(s.content, s.place, RowOptions(), None).predicted.tolist() for s in sources]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_long_table_has_a_row_for_each_model_seed_shift_and_image(tmp_path, suffix):
    cells = [("m", 0, "", ""), ("m", 0, "fog", 3), ("m", 1, "", ""), ("m", 1, "fog", 3)]
    long = pd.concat(
        [
            WIDE.assign(model="ViT B/16", seed=seed, shift=shift, level=str(level), predicted=name)
            for name, (_, seed, shift, level) in zip(PREDICTED, cells, strict=True)
        ]
    ).reset_index(drop=True)
    path = tmp_path / f"a{suffix}"
    WRITERS[path.name](path, long)
    expected = [("ViT-B-16", *cell) for cell in [(0, "clean", None), (0, "fog", 3.0)]]
    expected += [("ViT-B-16", *cell) for cell in [(1, "clean", None), (1, "fog", 3.0)]]
    for sources in (find_predictions(path), list_in_memory(long)):
        assert described(sources) == expected
        assert predicted(sources) == [[name] * 4 for name in PREDICTED]


LONG = [name for name in WRITERS if name not in ("a.npz", "a.npy", "columns.json")]  # no arrays


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_long_table_may_leave_out_the_shift_and_level_of_clean_images(tmp_path, name, missing):
    cells = [(missing, missing), ("fog", 3)]
    long = pd.concat(
        [WIDE.assign(model="m", shift=s, level=n, predicted=PREDICTED) for s, n in cells]
    ).reset_index(drop=True)
    if name == "images.json":  # an object for each image has one model
        long = long[4:]
    written = long.astype(object).where(long.notna(), None)
    WRITERS[name](tmp_path / name, written if "json" in name else long.convert_dtypes())
    expected = [("m", 0, "clean", None), ("m", 0, "fog", 3.0)]
    for sources in (find_predictions(tmp_path / name), list_in_memory(long)):
        assert described(sources) == expected[-len(sources) :]
        assert len(sources) == len(long) // 4


def test_a_long_table_without_the_level_of_a_shift_is_one_sentence():
    long = FRAME.assign(shift="fog", level=float("nan"))
    with pytest.raises(InputError, match="the shift 'fog' needs a level"):
        list_in_memory(long)


def test_a_long_table_may_have_probabilities_of_all_classes(tmp_path):
    shares = pd.DataFrame(np.full((4, 3), 1 / 3), columns=list(CLASSES))
    long = pd.concat([pd.concat([WIDE, shares], axis=1).assign(model=name) for name in "ab"])
    sources = list_in_memory(long.reset_index(drop=True))
    assert [source.model for source in sources] == ["a", "b"]
    assert read_rows(sources[1].content, "", RowOptions(), None).names == CLASSES


def test_shifts_alone_may_be_in_one_table():
    long = pd.concat(
        [FRAME.assign(corruption=name, severity=level) for name, level in [("none", 0), ("fog", 5)]]
    )
    sources = list_in_memory({"net-seed2": long.reset_index(drop=True)})
    assert described(sources) == [("net", 2, "clean", None), ("net", 2, "fog", 5.0)]


@pytest.mark.parametrize(
    "columns",
    [
        {"a": PREDICTED, "b": ["cat"] * 4},
        {"pred_a": PREDICTED, "pred_b": ["cat"] * 4},
        {"a_prediction": PREDICTED, "b_prediction": ["cat"] * 4},
        {"a": PREDICTED, "a_confidence": CONFIDENCE, "b": ["cat"] * 4, "b_confidence": 0.5},
        {"a": [1, 0, 2, 0], "conf_a": CONFIDENCE, "b": [0, 0, 0, 0], "conf_b": 0.5},
        {"pred_a": PREDICTED, "prob_a": CONFIDENCE, "pred_b": ["cat"] * 4, "prob_b": 0.5},
    ],
)
def test_a_wide_table_has_a_column_for_each_model(tmp_path, columns):
    frame = WIDE.assign(**columns)
    frame.to_csv(tmp_path / "all.csv", index=False)
    for sources in (find_predictions(tmp_path / "all.csv"), list_in_memory(frame)):
        assert [source.model for source in sources] == ["a", "b"]
        chosen = RowOptions()
        rows = [read_rows(source.content, source.place, chosen, 3) for source in sources]
        assert [row.outputs.shape[1] for row in rows] == [int(len(columns) > 2)] * 2
        known = images(labels=np.array([1, 0, 2, 2]))
        found = [match_predictions(row, CLASSES, known, chosen) for row in rows]
        assert [match.predicted.tolist() for match in found] == [[1, 0, 2, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("columns", [{"a_confidence": CONFIDENCE}, {}])
def test_a_text_column_is_a_model_if_its_values_are_among_the_labels(tmp_path, columns):
    site = {"site": ["north", "south", "north", "south"]}
    frame = WIDE.assign(a=PREDICTED, b=["cat"] * 4, **site, **columns)
    frame.to_csv(tmp_path / "all.csv", index=False)
    for sources in (find_predictions(tmp_path / "all.csv"), list_in_memory(frame)):
        rows = [read_rows(source.content, source.place, RowOptions(), 3) for source in sources]
        assert [source.model for source in sources] == ["a", "b"]
        assert predicted(sources) == [PREDICTED, ["cat"] * 4]
        assert [row.outputs.shape[1] for row in rows] == [len(columns), 0]
        assert all("not used: 'site'" in row.notes for row in rows)
    alone = frame.drop(columns=["b", *columns])
    assert [source.model for source in list_in_memory(alone)] == ["a"]
    unlabelled = frame.drop(columns="label")
    models = [source.model for source in list_in_memory(unlabelled)]
    assert models == (["a", "b"] if columns else ["a", "b", "site"])  # nothing tells them apart


def test_columns_of_a_wide_table_may_name_seeds_and_shifts():
    names = ("a-seed0", "a-seed0-fog,3", "a-seed1", "a-seed1-fog,3")
    sources = list_in_memory(WIDE.assign(**dict.fromkeys(names, "cat")))
    assert described(sources) == [
        ("a", seed, *shift) for seed in (0, 1) for shift in (("clean", None), ("fog", 3.0))
    ]


def test_columns_that_are_named_are_models_whatever_else_is_there():
    frame = WIDE.assign(label=[1, 0, 2, 2], a=[1, 0, 2, 0], b=[0, 0, 0, 0], age=[1, 2, 3, 4])
    asked = RowOptions(predicted_columns=("a", "b"))
    sources = list_in_memory(frame, asked)
    assert [source.model for source in sources] == ["a", "b"]
    assert predicted(sources) == [[1, 0, 2, 0], [0, 0, 0, 0]]


def test_columns_of_probabilities_are_never_models():
    shares = np.full((4, 3), 1 / 3)
    for names in (CLASSES, ("pred_cat", "pred_dog", "pred_fox")):
        frame = pd.concat([WIDE, pd.DataFrame(shares, columns=list(names))], axis=1)
        (source,) = list_in_memory(frame)
        assert read_rows(source.content, "", RowOptions(), None).predicted is None


def test_numbers_of_classes_in_several_columns_are_refused_until_they_are_named():
    frame = WIDE.assign(label=[1, 0, 2, 2], a=[1, 0, 2, 0], b=[2, 0, 0, 0], c=[0, 1, 1, 2])
    (source,) = list_in_memory(frame)
    known = images(labels=np.array([1, 0, 2, 2]))
    rows = read_rows(source.content, "the table", RowOptions(), 3)
    with pytest.raises(
        InputError, match=r"--predicted-column a --predicted-column b\), .*--outputs logits"
    ):
        match_predictions(rows, ("a", "b", "c"), known, RowOptions())


def test_a_model_that_stands_twice_is_refused():
    with pytest.raises(InputError, match="both of the model A-b"):
        list_in_memory(
            pd.concat([FRAME.assign(model=name) for name in ("A b", "A/b")]).reset_index(drop=True)
        )


def test_lists_in_parquet_beside_a_predicted_class(tmp_path):
    columns = {"file": FILES, "probs": np.eye(3)[[1, 0, 2, 0]].tolist(), "predicted": PREDICTED}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").predicted is None
