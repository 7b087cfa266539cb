"""ONNX files as classifiers: they run in ONNX Runtime and give logits, but no gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fairweather.download import file_digest, files_digest
from fairweather.errors import InputError, missing_extra
from fairweather.models.building import given_statistics
from fairweather.models.classifier import Classifier
from fairweather.models.foreign import refuse_foreign
from fairweather.models.gray import NOTE
from fairweather.models.onnx_graph import (
    ImageInput,
    Steps,
    class_names,
    ends_in,
    external_files,
    first_steps,
    image_input,
    logits_output,
    parameters,
    read_graph,
)
from fairweather.models.onnx_network import OnnxNetwork, Sessions
from fairweather.models.outputs import (
    LOGITS,
    LogProbabilities,
    Outputs,
    asked_for,
    kind_of,
    like_sigmoids,
    single_output,
)
from fairweather.models.preprocessing import NOTHING, Statistics, in_words
from fairweather.models.source import OF_ANY, Opened, Source, closest_file, folder_name
from fairweather.types import SMALLEST_SIDE, Preparation

USUAL_SIZE = 224  # pixels: a graph that takes any size is tried on these


def open_onnx(
    path: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    outputs: str = "auto",
) -> Opened:
    """Open an ONNX file as a classifier, with everything that its graph says about it.

    If the outputs are probabilities, their logarithm is taken (`LogProbabilities`). They are
    probabilities if the graph ends in a Softmax, or if every row is >= 0 and sums to one. The model
    runs on a GPU if its images are there and ONNX Runtime can, and with as many threads as torch.

    Args:
        path: the file; weights may be in other files in the same folder.
        mean, std: per-channel normalisation of images in [0, 1], if it is not part of the graph.
        input_size: resize images to this square first, if the graph takes any size.
        outputs: `auto`, or `logits` or `probabilities`, whatever the graph says.

    Raises:
        InputError: it is not an ONNX file, takes neither RGB nor gray images, does not give logits
            or probabilities of classes, needs another size, or is already normalised.

    >>> open_onnx("nowhere.onnx")
    Traceback (most recent call last):
    fairweather.errors.InputError: onnx:nowhere.onnx: there is no such file
    """
    path = Path(path).expanduser()
    _check_packages()
    if not path.is_file():
        raise InputError(f"onnx:{path}: there is no such file")
    model = read_graph(path)
    files = [path, *external_files(model, path)]
    images, output = image_input(model, path), logits_output(model, path)
    sessions = Sessions(path.absolute())
    sessions.open()  # raises for a damaged graph, before its nodes are looked at
    taken = asked_for(outputs) or _stated(ends_in(model, output), path)
    steps = first_steps(model, path, images)
    given = _given_statistics(path, mean, std, images, steps)
    size = _size(path, images, input_size)
    graph = OnnxNetwork(sessions, images, output, steps.scale)
    tried = _try(graph, given, size)
    width, taken = tried.shape[1], taken or _seen(tried)
    logarithm = taken is not None and taken.kind == "probabilities"
    network = LogProbabilities(graph) if logarithm else graph
    preparation = None if size is None else Preparation(size)
    origin = f"{'the graph' if images.size else 'input_size'}; filter and crop are assumed"
    prepared = preparation and {**preparation._asdict(), "from": origin}
    names = class_names(model)
    fitting = names if names is not None and len(names) == width else None
    described = images._asdict()
    if images.channels == 3:
        del described["channels"]  # as records were before there were others
    facts: dict[str, object] = {
        "source": f"onnx:{path}",
        "architecture": model.graph.name or "ONNX graph",
        "parameters": parameters(model),
        "outputs": width,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "input": {**described, "dtype": images.dtype.__name__, "fed_in": [0, steps.scale]},
        "output": output,
        "class_names": None if names is None else f"{len(names)} for {width} outputs",
        "normalisation": _normalisation_facts(given, steps),
        "preparation": prepared,
    }
    if images.channels == 1:
        facts["gray"] = NOTE
    classifier = Classifier(network, *given, size).eval()
    digest = file_digest(path, "sha256") if len(files) == 1 else files_digest(files)
    return Opened(classifier, folder_name(path.stem), digest, fitting, preparation, facts, taken)


def _check_packages() -> None:
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", "ONNX files")


def _given_statistics(
    path: Path,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    images: ImageInput,
    steps: Steps,
) -> Statistics:
    given = given_statistics(mean, std)
    if given is None:
        return NOTHING
    if steps.normalise:
        raise InputError(
            f"onnx:{path} contains its own normalisation (mean {in_words(steps.mean)}, std "
            f"{in_words(steps.std)}): leave mean and std out"
        )
    if images.dtype is np.uint8:
        raise InputError(f"onnx:{path} takes 8-bit images as they are: leave mean and std out")
    return given


def _size(path: Path, images: ImageInput, input_size: int | None) -> int | None:
    if images.size is not None and input_size not in (None, images.size):
        raise InputError(f"onnx:{path} takes images of {images.size} pixels, not of {input_size}")
    if input_size is not None and input_size < SMALLEST_SIDE:
        raise InputError(f"input_size must be >= {SMALLEST_SIDE}, found {input_size}")
    return images.size or input_size


def _stated(last: str, path: Path) -> Outputs | None:
    """What the outputs are, if the last operator of the graph says it."""
    if last == "Sigmoid":
        raise like_sigmoids(f"onnx:{path} ends in Sigmoid")
    if last in ("Softmax", "LogSoftmax"):
        return Outputs("probabilities" if last == "Softmax" else "logits", f"it ends in {last}")
    return None


def _seen(outputs: torch.Tensor) -> Outputs | None:
    """What the outputs look like; None if two pictures of noise are too few to say."""
    kind = kind_of(outputs)
    if kind == "probabilities":
        return Outputs(kind, "rows are >= 0 and sum to one")
    return LOGITS if kind == "logits" else None


def _try(network: OnnxNetwork, given: Statistics, size: int | None) -> torch.Tensor:
    """Run the network on two pictures of noise and give the outputs."""
    side = size or USUAL_SIZE
    pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        outputs = Classifier(network, *given)(pictures)
    except InputError as error:
        if size is None:
            raise InputError(f"{error}; if it needs another size, give input_size") from error
        raise
    if outputs.shape[1] < 2:
        raise single_output(f"onnx:{network.sessions.path}")
    return outputs


def _normalisation_facts(given: Statistics, steps: Steps) -> dict[str, object]:
    if steps.normalise:
        return {"mean": steps.mean, "std": steps.std, "from": "the graph itself"}
    if given != NOTHING:
        return {"mean": given.mean, "std": given.std, "from": "given"}
    origin = (
        "no normalisation: the graph has none, and mean and std were not given; images are in "
        f"[0, {steps.scale}]"
    )
    return {"mean": None, "std": None, "from": origin}


def _check(place: str, _: str | None) -> None:
    path = Path(place)
    if path.suffix.lower() != ".pb" or path.name == "saved_model.pb":  # TensorFlow's own name
        refuse_foreign(path)  # some programs write ONNX files as .pb
    if not path.expanduser().is_file():
        raise InputError(f"onnx:{place}: there is no such file{closest_file(path)}")


ONNX = Source(
    "onnx:FILE",
    "an ONNX file",
    open_onnx,
    options=OF_ANY,
    check=_check,
    guess=lambda text: f"onnx:{text}" if Path(text).suffix == ".onnx" else None,
)
