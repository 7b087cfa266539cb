"""A graph in ONNX Runtime as a module: float images in, outputs out, without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fairweather.devices import is_out_of_memory
from fairweather.errors import InputError, first_line
from fairweather.models.gray import to_gray
from fairweather.models.onnx_graph import ImageInput

Session = Any  # onnxruntime.InferenceSession, of an extra

CUDA = "CUDAExecutionProvider"
SILENT = 4  # ONNX Runtime's level for fatal errors; its exceptions say the rest


class Sessions:
    """A file in ONNX Runtime; a copy shares its sessions, and a pickle opens the file again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[tuple[str, int, bool, bool], Session] = {}

    def open(self) -> None:
        """Raise `InputError` unless ONNX Runtime can open the file."""
        with self._explained("opened"):
            self._session(torch.device("cpu"))

    def run(self, output: str, inputs: dict[str, np.ndarray], device: torch.device) -> np.ndarray:
        """Compute one output of one batch."""
        images = next(iter(inputs.values()))
        with self._explained(f"run on {images.dtype} {list(images.shape)}"):
            return self._session(device).run([output], inputs)[0]

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        # ONNX Runtime's exceptions share no base class but Exception.
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            # Of "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : the sentence", the sentence.
            reason = first_line(error).rpartition(" : ")[2]
            raise InputError(f"onnx:{self.path} cannot be {what} ({reason})") from error

    def leave_devices(self) -> None:
        """Close the sessions that hold memory of a device; they are opened again when needed."""
        self._open = {key: each for key, each in self._open.items() if key[0] == "cpu"}

    def _session(self, device: torch.device) -> Session:
        import onnxruntime

        cuda = device.type == "cuda"
        tf32 = cuda and torch.backends.cuda.matmul.allow_tf32
        by_speed = cuda and torch.backends.cudnn.benchmark
        key = (str(device), torch.get_num_threads(), tf32, by_speed)
        if key not in self._open:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = SILENT
            options.intra_op_num_threads = torch.get_num_threads()
            providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
            if cuda and CUDA in onnxruntime.get_available_providers():
                # ONNX Runtime's own defaults are TF32, and to try all algorithms by their speed.
                search = "EXHAUSTIVE" if by_speed else "HEURISTIC"
                chosen = {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": search}
                providers.insert(0, (CUDA, {"device_id": str(device.index or 0), **chosen}))
            session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
            # It takes the CPU without a word if the libraries of CUDA cannot be loaded.
            if device.type != "cpu" and CUDA not in session.get_providers():
                warnings.warn(
                    f"onnx:{self.path} runs on the CPU, not on {device}: on a GPU it needs CUDA "
                    "and the package onnxruntime-gpu",
                    stacklevel=2,
                )
            self._open[key] = session
        return self._open[key]

    def __deepcopy__(self, memo: object) -> Sessions:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_open": {}}


class OnnxNetwork(nn.Module):
    """The graph as a module without parameters: float `[B, 3, H, W]` to float32 `[B, outputs]`.

    Args:
        sessions: the file.
        images: its input; images are converted to its layout and type, and a batch of another
            size is run in parts.
        output: the name of its output.
        scale: what images in [0, 1] are multiplied by.
    """

    def __init__(self, sessions: Sessions, images: ImageInput, output: str, scale: int) -> None:
        super().__init__()
        self.sessions, self.images = sessions, images
        self.output, self.scale = output, scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the outputs; raises `InputError` if gradients are needed."""
        if images.requires_grad and torch.is_grad_enabled():
            raise InputError("an ONNX model gives no gradients; the attack square needs none")
        return torch.from_numpy(self._run(images)).to(images.device)

    def _run(self, images: torch.Tensor) -> np.ndarray:
        values = images.detach().float() * self.scale
        if self.images.channels == 1:
            values = to_gray(values)
        if self.images.dtype is np.uint8:
            values = values.round().clamp(0, 255)
        if self.images.channels_last:
            values = values.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(values.cpu().numpy(), dtype=self.images.dtype)
        parts = _parts(array, self.images.batch or len(array))
        place = images.device
        outputs = [self.sessions.run(self.output, {self.images.name: p}, place) for p in parts]
        if outputs[0].ndim != 2:
            found = list(outputs[0].shape)
            raise InputError(f"onnx:{self.sessions.path} must give [batch, classes], gave {found}")
        return np.concatenate(outputs)[: len(array)].astype(np.float32)


def _parts(array: np.ndarray, size: int) -> list[np.ndarray]:
    """Split into parts of `size`, the last filled up with copies of its last image."""
    short = -len(array) % size
    if short:
        array = np.concatenate([array, np.repeat(array[-1:], short, axis=0)])
    return [array[start : start + size] for start in range(0, len(array), size)]
