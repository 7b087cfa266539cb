"""Files of other programs, which are refused with the way to make an ONNX file of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fairweather.errors import InputError

_TF2ONNX = "pip install tf2onnx; python -m tf2onnx.convert"
# What they are, and how an ONNX file is made of them.
CONVERTERS: Mapping[str, tuple[str, str]] = {
    ".tflite": ("a TensorFlow Lite model", f"{_TF2ONNX} --tflite {{path}} --output {{onnx}}"),
    ".h5": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".keras": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".pb": ("a TensorFlow model", f"{_TF2ONNX} --saved-model {{folder}} --output {{onnx}}"),
    ".mlmodel": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".mlpackage": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".engine": ("a TensorRT engine", "or take the ONNX file that it was built from"),
    ".trt": ("a TensorRT engine", "or take the ONNX file that it was built from"),
}


def refuse_foreign(path: Path) -> None:
    """Raise `InputError` for a file of another program, by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in CONVERTERS:
        return
    what, how = CONVERTERS[suffix]
    onnx = path.with_suffix(".onnx")
    told = how.format(path=path, folder=path.parent, onnx=onnx)
    raise InputError(
        f"{path} is {what}, which cannot be opened: convert it to ONNX ({told}), then give "
        f"onnx:{onnx}"
    )
