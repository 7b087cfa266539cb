"""Images with three findings, and models of them: in memory, and in files of real formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fairweather.types.measurement import UNKNOWN, Dataset, Images

NAMES = ("Effusion", "Mass", "Nodule")
SIDE, OFFSET, SCALE = 12, 0.47, 20.0
FILE = """
import torch

class Stripes(torch.nn.Module):
    classes = {classes}

    def forward(self, images):
        stripes = images.unflatten(2, (3, -1)).mean(dim=(1, 3, 4))
        logits = {scale} * (stripes - {offset})
        return {answer}

def make():
    return Stripes()
"""


def draw_findings(count: int, seed: int, names: tuple[str, ...] = NAMES) -> Images:
    """Images with a bright stripe for each finding, of which some are unknown."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(count, 3, generator=generator) < torch.tensor([0.4, 0.3, 0.2])
    pixels = torch.full((count, 3, SIDE, SIDE), 90.0)
    high = SIDE // 3
    for place in range(3):
        pixels[:, :, high * place : high * (place + 1)] += 60 * there[:, place, None, None, None]
    noise = torch.randn(count, 1, 3, 1, generator=generator).repeat_interleave(high, 2)
    labels = there.long()[:, : len(names)]
    labels[torch.rand(labels.shape, generator=generator) < 0.15] = UNKNOWN
    images = (pixels + 25 * noise).clamp(0, 255).to(torch.uint8)
    return Images(images, labels, torch.arange(count), names)


def draw_dataset(names: tuple[str, ...] = NAMES, count: int = 160) -> Dataset:
    """A data set with validation and test images."""
    val, test = draw_findings(count // 2, 1, names), draw_findings(count, 2, names)
    return Dataset("stripes", None, val, test, (0.4,) * 3, (0.2,) * 3, {}, "multilabel")


class Stripes(nn.Module):
    """The brightness of each third of an image as the logit of a finding."""

    def __init__(self, scale: float = SCALE, offset: float = OFFSET, outputs: int = 3) -> None:
        super().__init__()
        self.scale, self.outputs = nn.Parameter(torch.tensor(scale)), outputs
        self.offset = offset

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stripes = images.unflatten(2, (3, -1)).mean(dim=(1, 3, 4))
        return self.scale * (stripes[:, : self.outputs] - self.offset)


def write_python(
    folder: Path, answer: str = "logits", classes: tuple[str, ...] | None = NAMES
) -> str:
    """The same as the source `python:`, with an expression of the logits as its outputs."""
    names = list(classes) if classes else None
    text = FILE.format(classes=names, scale=SCALE, offset=OFFSET, answer=answer)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "stripes.py").write_text(text)
    return f"python:{folder / 'stripes.py'}:make"


def write_onnx(path: Path, last: str = "", outputs: int = 3) -> Path:
    """The same as an ONNX file, which ends in the operator `last`, if any."""
    import onnx
    from onnx import helper, numpy_helper

    kind, high = onnx.TensorProto.FLOAT, SIDE // 3
    steps = [
        helper.make_node(
            "AveragePool", ["images"], ["pooled"], kernel_shape=[high, SIDE], strides=[high, SIDE]
        ),
        helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    weights = {
        "scale": np.float32(SCALE) * np.eye(3, outputs, dtype=np.float32),
        "bias": np.full(outputs, -SCALE * OFFSET, np.float32),
    }
    if last:
        steps.append(helper.make_node(last, ["logits"], ["answers"]))
    graph = helper.make_graph(
        steps,
        "stripes",
        [helper.make_tensor_value_info("images", kind, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(steps[-1].output[0], kind, ["n", outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path
