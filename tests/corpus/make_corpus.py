"""Make the files of this folder: python -m tests.corpus.make_corpus."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import timm
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from safetensors.torch import save_file

import fairweather as fw
from fairweather.models.building import ModelSpec, render_model_json
from tests.helpers.run_folders import outcomes, run_record, sweep_record, write_run

HERE = Path(__file__).parent
CLASSES = ["a", "b", "c"]
STUDY = """name: small
title: A small study
data: {source: "folder:data", size: 32, test_fraction: 0.25}
seeds: [0, 1]
defaults: &shared {backbone: timm:test_resnet, recipe: {epochs: 2, learning_rate: 1e-3}}
models:
  plain: {}
  mixed: {title: "With mixup", recipe: {mixup: 0.2}, sweep: {learning_rate: [1e-3, 1/300]}}
  moved: {train_shifts: [gamma: [0.5, 2]]}
shifts:
  - suite: quick
  - gaussian_blur: {sigma: [0.5, 1], kernel_size: 9}
  - pgd: {epsilon: [2/255, 8/255], steps: 3}
variants: [temperature]
operating_points: {a: 0.3}
"""
TEXTS = {
    "study.yaml": STUDY,
    "rules.yaml": "rules:\n  - accuracy[clean] >= 0.6\n  - a: accuracy[imagenet_c/fog=1] >= 40 %\n"
    "  - accuracy[imagenet_c/fog] drop <= 0.3\n",
    "labels.yaml": "a: [tench, goldfish]\nb: 2\nc: n01440764\n",
    "labels.json": '{"a": ["tench", "goldfish"], "b": 2, "c": "n01440764"}\n',
    "labels.csv": "data,model\na,tench\nb,2\nc,n01440764\n",
    "priors.yaml": "winter: {a: 0.5, b: 1/4}\nsummer: {c: 0.9}\n",
    "table.csv": "file,label,split\n"
    + "".join(f"image.{each},{'ab'[i % 2]},test\n" for i, each in enumerate(("png", "jpg", "bmp"))),
    "facts.csv": "file,patient,site,split\nimage.png,p1,x,test\nimage.jpg,p2,y,test\n"
    "image.bmp,p1,x,test\n",
    "predictions.csv": "file,label,a,b,c\nimage.png,a,0.7,0.2,0.1\nimage.jpg,b,0.2,0.7,0.1\n"
    "image.bmp,c,0.1,0.2,0.7\n",
    "mapping.yaml": "- {file: predictions.csv, model: one, seed: 0, shift: clean}\n"
    "- {file: predictions.csv, model: one, seed: 0, shift: fog, level: 3}\n",
}


def pictures() -> None:
    """Images of every format."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for suffix in ("png", "jpg", "tiff", "bmp", "webp", "gif", "ppm", "tga"):
        image.save(HERE / f"image.{suffix}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(HERE / "deep.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(HERE / "deep.tiff")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.Rows, made.Columns, made.SamplesPerPixel = 12, 10, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept = "1", "-1024"
    made.WindowCenter, made.WindowWidth = "40", "400"
    made.PixelData = (pixels[..., 0].astype(np.uint16) << 4).tobytes()
    made.save_as(HERE / "image.dcm", enforce_file_format=False)


def arrays() -> None:
    """Data sets, predictions and tables as arrays."""
    images = np.random.default_rng(1).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    labels = np.arange(6) % 3
    np.savez(HERE / "set.npz", images=images, labels=labels, classes=CLASSES)
    encoded = {"bytes": (HERE / "image.png").read_bytes(), "path": "image.png"}
    features = {"label": {"_type": "ClassLabel", "names": CLASSES}, "image": {"_type": "Image"}}
    table = pa.table(
        {"image": [encoded] * 3, "label": [0, 1, 2]},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(table, HERE / "set.parquet", compression="none")
    shares = np.full((6, 3), 0.1) + 0.7 * np.eye(3)[labels]
    np.savez(HERE / "predictions.npz", probabilities=shares, labels=labels, classes=CLASSES)
    np.save(HERE / "predictions.npy", shares)
    columns = {"label": [CLASSES[each] for each in labels]}
    columns |= {name: shares[:, place] for place, name in enumerate(CLASSES)}
    pq.write_table(pa.table(columns), HERE / "predictions.parquet", compression="none")
    facts = {
        "file": ["image.png", "image.jpg", "image.bmp"],
        "patient": ["p", "q", "p"],
        "site": list("xyx"),
    }
    pq.write_table(pa.table(facts), HERE / "facts.parquet", compression="none")


def models() -> None:
    """Checkpoints, graphs and a configuration."""
    state = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, HERE / "weights.pt")
    save_file(state, HERE / "weights.safetensors")
    described = render_model_json(ModelSpec("timm:test_resnet", 3), {"classes": CLASSES, "seed": 0})
    (HERE / "model.json").write_text(described)
    node = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Sub", ["x", "mean"], ["a"]),
            node("Div", ["a", "std"], ["b"]),
            node("GlobalAveragePool", ["b"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Softmax", ["f"], ["y"]),
        ],
        "graph",
        [value("x", 1, ("b", 3, 16, 16))],
        [value("y", 1, ("b", 3))],
        [
            onnx.helper.make_tensor(name, 1, (1, 3, 1, 1), [number] * 3)
            for name, number in (("mean", 0.5), ("std", 0.25))
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.helper.set_model_props(model, {"names": json.dumps(CLASSES)})
    onnx.save(model, HERE / "model.onnx")
    network = timm.create_model("test_resnet", num_classes=3)
    settings = {"architecture": "test_resnet", "num_classes": 3, "label_names": CLASSES}
    settings["pretrained_cfg"] = {
        key: network.pretrained_cfg[key]
        for key in ("input_size", "interpolation", "crop_pct", "mean", "std")
    }
    (HERE / "config.json").write_text(json.dumps(settings, indent=1))


def runs() -> None:
    """The files of a run folder, and the manifest of an export."""
    with tempfile.TemporaryDirectory() as folder:
        fog = sweep_record("imagenet_c/fog", {1: "imagenet_c/fog,severity=1"})
        rows = [
            ("a", seed, shift, level, "accuracy", value, value - 0.1, value + 0.1, 8)
            for seed, add in (("0", 0.0), ("mean", 0.0))
            for shift, level, value in (
                ("clean", "none", 0.75 + add),
                ("imagenet_c/fog", "1", 0.5 + add),
            )
        ]
        cells = {("a", 0, "clean"): outcomes([True, True, True, False] * 2)}
        run = write_run(Path(folder) / "run", run_record({"a": "Model A"}, [fog]), rows, cells)
        shutil.copy(run.path / "record.json", HERE / "record.json")
        shutil.copy(run.path / "scores.csv", HERE / "scores.csv")
        shutil.copy(run.path / "steps" / "scores.json", HERE / "step.json")
        column = torch.arange(6)
        pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
        images = fw.Images(pixels, column % 3, column, tuple(CLASSES))
        dataset = fw.Dataset("set", None, None, images, (0.5,) * 3, (0.2,) * 3)
        out = Path(folder) / "out"
        fw.export(dataset, [fw.make_shift("gamma", exponent=2)], out, format="npz")
        shutil.copy(out / "manifest.json", HERE / "manifest.json")


if __name__ == "__main__":
    for name, text in TEXTS.items():
        (HERE / name).write_text(text)
    pictures()
    arrays()
    models()
    runs()
