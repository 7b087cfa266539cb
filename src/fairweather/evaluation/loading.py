"""The model and the data of an evaluation, made to fit each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fairweather.data import digest, list_source, load_data
from fairweather.data.source import WHOLE
from fairweather.errors import InputError
from fairweather.evaluation.request import Request
from fairweather.models import Classifier, Opened, describe_preprocessing, open_model
from fairweather.models.labels import LabelMap, match_labels, relabel
from fairweather.models.outputs import (
    GIVEN,
    LOGITS,
    LogProbabilities,
    Outputs,
    asked_for,
    kind_of,
    like_sigmoids,
    logarithms,
    single_output,
)
from fairweather.progress import Notify
from fairweather.runs import fingerprint
from fairweather.types import Dataset, Images, Preparation
from fairweather.yamlfile import read_yaml

LOOKED_AT = 64  # test images, where outputs may be probabilities


class Brought(NamedTuple):
    """A model and data that fit each other.

    Attributes:
        opened: the model as it was opened.
        outputs: what the model's outputs are taken for.
        model: to logits of the data's classes.
        labels: how the model's outputs became the data's classes.
        digest: of the weights and of everything else that was decided about the model.
        dataset: what it is evaluated on.
        others: other data sets, by name, prepared in the same way.
    """

    opened: Opened
    outputs: Outputs
    model: nn.Module
    labels: LabelMap
    digest: str
    dataset: Dataset
    others: Mapping[str, Images]

    def lines(self) -> list[str]:
        """Say what is evaluated, in lines of their own."""
        test, notes = self.dataset.test, self.dataset.notes
        height, width = test.images.shape[2:]
        some = f" of {notes['limit_of']:,}, a stratified subset" if "limit_of" in notes else ""
        lines = [
            f"model          {self.opened.facts.get('source', self.opened.name)}",
            f"preprocessing  {describe_preprocessing(self.opened)}",
            f"data           {self.dataset.name}: n = {len(test):,}{some}, {width} x {height} "
            f"pixels, {len(test.classes)} classes",
            f"labels         {self.labels.note}",
        ]
        if self.outputs.kind == "probabilities" or self.outputs.origin == GIVEN:
            lines.insert(2, f"outputs        {self.outputs}")
        if code := self.opened.facts.get("runs_code"):
            lines.insert(1, f"note           {code}")
        if fitting := notes.get("fitting"):
            lines.append(f"fitting        {fitting}")
        return lines


def bring_together(request: Request, progress: Notify | None = None) -> Brought:
    """Open the model, load the data the way it wants them, and match their classes.

    Raises:
        InputError: something is wrong with the model, the data, or how they fit.
    """
    opened = _open(request)
    if request.size is not None:
        opened = _prepared_at(opened, request.size, keep=request.input_size is not None)
    dataset = _load(request, opened, progress)
    first = _outputs(opened, dataset.test[:1])
    outputs = opened.outputs or asked_for(request.outputs) or _seen(opened, first, request, dataset)
    labels = match_labels(opened.classes, first.shape[1], dataset.classes, request.labels)
    decided = {
        "weights": opened.digest,
        "normalisation": opened.facts.get("normalisation"),
        "fed_at": getattr(opened.model, "input_size", None),
        "outputs": outputs.kind,
        "columns": labels.columns,
    }
    model = opened.model
    if opened.outputs is None and outputs.kind == "probabilities":
        logarithms(first)  # negative numbers show here
        model = LogProbabilities(opened.model).eval()
    others = {source: _load_other(request, opened, dataset, source) for source in request.ood}
    return Brought(
        opened, outputs, relabel(model, labels), labels, fingerprint(decided), dataset, others
    )


def digests(dataset: Dataset, others: Mapping[str, Images]) -> dict[str, str]:
    """The digest of each part that is used, and of each other data set, by name."""
    parts = {"val": dataset.val, "test": dataset.test, **others}
    return {name: digest(part) for name, part in parts.items() if part is not None}


def _open(request: Request) -> Opened:
    if isinstance(request.model, str):
        return open_model(
            request.model,
            architecture=request.architecture,
            weights=request.weights,
            mean=request.mean,
            std=request.std,
            input_size=request.input_size,
            outputs=request.outputs,
            offline=request.offline,
        )
    kind = type(request.model).__name__
    facts = {"source": f"a {kind} of this process", "architecture": kind}
    digest = _module_digest(request.model)
    return Opened(request.model.eval(), kind, digest, None, None, facts, outputs=None)


def _prepared_at(opened: Opened, size: int, *, keep: bool) -> Opened:
    """Take the size that was asked for in place of the model's own configuration.

    A network that takes any size is fed the images as they are then, unless the size that it is to
    be fed was asked for too and is kept.
    """
    model = opened.model
    origin = "the size given"
    if isinstance(model, Classifier) and model.input_size not in (None, size):
        if keep or not _takes(model.network, size):
            origin += f", then {model.input_size} inside the model"
        else:
            model.input_size = None
    preparation = Preparation(size)
    facts = {**opened.facts, "preparation": {**preparation._asdict(), "from": origin}}
    return replace(opened, preparation=preparation, facts=facts)


@torch.inference_mode()
def _takes(network: nn.Module, size: int) -> bool:
    try:
        network(torch.zeros(1, 3, size, size))
    except Exception:  # networks say in ways of their own that their size is fixed
        return False
    return True


def _module_digest(model: nn.Module) -> str:
    """What tells one module in memory from another: its structure as text, and its tensors."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def _load(request: Request, opened: Opened, progress: Notify | None) -> Dataset:
    if isinstance(request.dataset, Dataset):
        if request.size or request.limit or request.root or request.validation_fraction:
            raise InputError(
                "size, root, limit and validation_fraction go with the name of a data set; this "
                "one is loaded already"
            )
        return request.dataset
    own = _own_data(request)
    options = own or _options(request, opened)
    dataset = load_data(
        parts=("val", "test"),
        limit=request.limit,
        skip_unreadable=request.skip_unreadable,
        offline=request.offline,
        progress=progress,
        **options,
    )
    return replace(dataset, notes={**dataset.notes, **_fitting_note(dataset, own)})


def _options(request: Request, opened: Opened) -> dict[str, Any]:
    """How the data are cut into parts, and prepared as the model wants them."""
    options: dict[str, Any] = {"source": request.dataset, "root": request.root}
    if request.size is not None:
        options["size"] = request.size
    elif opened.preparation is not None:
        options["preparation"] = opened.preparation
    share = request.validation_fraction
    if not 0 <= share < 1:
        raise InputError(f"validation_fraction must be in [0, 1), found {share}")
    listed = list_source(str(request.dataset), request.root, offline=request.offline)
    if WHOLE not in listed.splits:
        return options | {"validation_fraction": share}
    # All that is not tested is there to fit something on: nothing is trained.
    return options | {"test_fraction": 1 - share, "validation_fraction": 1.0 if share else 0.0}


def _own_data(request: Request) -> dict[str, Any] | None:
    """The data of the run that a model comes from, if these are asked for.

    They are cut as they were for its training, so that no training image is tested.
    """
    source = str(request.model)
    study = Path(source.removeprefix("run:")).parent.parent.parent / "study.yaml"
    if not source.startswith("run:") or not study.is_file():
        return None
    data = dict(read_yaml(study)["data"])
    same_root = request.root is None or str(request.root) == data.get("root")
    if request.size is not None or data["source"] != request.dataset or not same_root:
        return None
    del data["skip_unreadable"]
    return data


def _fitting_note(dataset: Dataset, own: Mapping[str, Any] | None) -> dict[str, str]:
    if own:
        return {"fitting": "test and validation images are those that the run set apart itself"}
    if dataset.val is None:
        return {}
    return {
        "fitting": "what is fitted on the data's validation images is right only for a model that "
        "did not train on them"
    }


def _load_other(request: Request, opened: Opened, dataset: Dataset, source: str) -> Images:
    """Another data set at the same size; its labels mean nothing to the model."""
    side = dataset.test.images.shape[-1]
    given = request.size or opened.preparation is None
    squares: dict[str, Any] = {"size": side} if given else {"preparation": opened.preparation}
    test = load_data(
        source,
        parts=("test",),
        test_fraction=1.0,
        limit=request.limit,
        skip_unreadable=request.skip_unreadable,
        offline=request.offline,
        **squares,
    ).test
    return Images(test.images, torch.zeros_like(test.labels), test.keys, dataset.classes)


def _seen(opened: Opened, first: torch.Tensor, request: Request, dataset: Dataset) -> Outputs:
    """What the outputs look like, where nobody says it: one image alone shows most logits."""
    if kind_of(first) == "logits":
        return LOGITS
    images = dataset.test[: min(LOOKED_AT, request.batch_size)]
    kind = kind_of(_outputs(opened, images))
    if kind == "logits":
        return LOGITS
    if kind == "sigmoids":
        raise like_sigmoids(f"{opened.name} gives numbers in [0, 1] that do not sum to one")
    return Outputs(kind, f"of {len(images)} test images, they are >= 0 and sum to one")


def _outputs(opened: Opened, test: Images) -> torch.Tensor:
    """A model's outputs `[B, outputs]`; what goes wrong there is one sentence."""
    height, width = test.images.shape[2:]
    try:
        with torch.inference_mode():
            logits = opened.model.cpu()(test.images.float() / 255)
    # What a network does with images that it was not made for is its own.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{opened.name} cannot take images of {height}x{width} "
            f"({str(error).splitlines()[0]}); set size or input_size"
        ) from error
    if isinstance(logits, torch.Tensor) and logits.shape[1:] in ((), (1,)):
        raise single_output(opened.name)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        kind = type(logits).__name__
        raise InputError(f"a classifier must return logits [B, classes]; {opened.name}: {kind}")
    if not torch.isfinite(logits).all():
        raise InputError(
            f"the logits of {opened.name} are not finite: {logits[0, :3].tolist()} ..."
        )
    return logits
