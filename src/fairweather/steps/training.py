"""Steps that train: pre-training, training, and the choice among the tries of a sweep."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pydantic
import safetensors.torch
import torch

from fairweather.attacks.shift_lists import expand_only_shifts
from fairweather.attacks.table import make_training_attack
from fairweather.data.splits import choose_labelled, corrupt_labels
from fairweather.devices import explain_memory, is_out_of_memory
from fairweather.errors import InputError, TrainingDivergedError
from fairweather.files.tables import frame_to_csv
from fairweather.models.backbones import make_encoder, state_without_head
from fairweather.models.building import (
    ModelSpec,
    build,
    check_channels,
    describe_weights,
    find_head,
    render_model_json,
)
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder, read_json
from fairweather.steps.plan import (
    DATA,
    ChooseStep,
    PretrainStep,
    Step,
    StepResult,
    TrainStep,
    step_fingerprint,
)
from fairweather.steps.worker import Worker
from fairweather.tasks import find_task
from fairweather.training.losses import ONE_CLASS, LabelLoss, find_loss
from fairweather.training.ranks import ALONE, Ranks, synchronise_batchnorm
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.methods import METHODS
from fairweather.training.selfsupervised.pretraining import (
    NeighbourProbe,
    PretrainingEpoch,
    pretrain,
)
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.training.supervised import fit, select_epoch
from fairweather.types.measurement import Attack, Dataset, Images
from fairweather.types.record import CORRELATION, DESCRIPTION, DIVERGED, HISTORY, PROBED, WEIGHTS

RESUME = "resume"  # the folder of an unfinished training's state
STATE = f"{RESUME}/state.pt"
# The end of its file, after its SHA-256; files of earlier versions have neither.
SEALED = b"fwstate1"
DECIMALS = 4  # of correlations, which are only plotted
T = TypeVar("T")
State = dict[str, Any]  # tensors, numbers and lists, as torch.save takes them


def do_train(step: TrainStep, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Train a model, or continue its training, and store the weights that its recipe selects."""
    with worker.ranks.agreeing():
        recipe = _read_recipe(step, folder)
    if step.tries:
        _copy_try(step, folder, recipe)
        progress(Event(step.task, 1, 1, "copied from a try of the sweep"))
        return StepResult("copied from a try of the sweep")
    try:
        return _train(step, recipe, worker, folder, progress)
    except TrainingDivergedError as error:
        if not step.may_diverge:
            raise
        if worker.ranks.is_first:
            folder.write(f"{step.folder}/{DIVERGED}", json.dumps({"diverged": str(error)}) + "\n")
        return StepResult(str(error))


def _read_recipe(step: TrainStep, folder: RunFolder) -> Recipe:
    """The recipe of a training: that of its step, or the one that the sweep has chosen."""
    if step.recipe is not None:
        return step.recipe
    assert step.choice is not None
    return pydantic.TypeAdapter(Recipe).validate_json(folder.file(step.choice).read_bytes())


def _copy_try(step: TrainStep, folder: RunFolder, recipe: Recipe) -> None:
    """Copy the files of the sweep's try that had the same recipe and seed."""
    # Through JSON, where tuples become lists.
    wanted = json.loads(json.dumps(asdict(recipe)))
    for source in step.tries:
        described = folder.file(f"{source}/{DESCRIPTION}")
        if described.is_file() and read_json(described)["recipe"] == wanted:
            break
    for name in (WEIGHTS, DESCRIPTION, HISTORY, PROBED):
        if (trained := folder.file(f"{source}/{name}")).is_file():
            folder.write(f"{step.folder}/{name}", trained.read_bytes())


def _train(
    step: TrainStep, recipe: Recipe, worker: Worker, folder: RunFolder, progress: Notify
) -> StepResult:
    with worker.ranks.agreeing():
        dataset = worker.dataset(step.train.data)
        spec = _loaded_spec(step, dataset, folder)
        weights = _weights_facts(step, spec, worker.offline)
        train, val = training_images(step, worker.images(step.train)), worker.images(step.val)
        loss = training_loss(dataset)
        recipe = loss.complete(recipe)
        model = build(spec, step.seed, offline=worker.offline)
    training = _Training(step, recipe.epochs, worker, folder, progress)
    training.tell(_start_note(weights))
    if recipe.freeze_batchnorm:
        model.freeze_batchnorm()
    if step.sync_batchnorm:
        synchronise_batchnorm(model)
    epochs = fit(
        model,
        train,
        val,
        recipe,
        head=find_head(model, spec.backbone),
        seed=step.seed,
        device=worker.device,
        precision=step.precision,
        state=training.state,
        train_shifts=expand_only_shifts(step.train_shifts) if step.train_shifts else (),
        attack=training_attack(recipe),
        after_step=training.tell_part,
        ranks=worker.ranks,
        jobs=worker.jobs_on_device,
        loss=loss,
    )
    for epoch in give_epochs(epochs, recipe.batch_size):
        row = epoch.state["history"][-1]
        shown = loss.shown(row[f"val_{loss.metric}"])
        note = f"validation {shown}, loss {row['val_loss']:.3f}"
        training.end_epoch(epoch.state, note)
    state = training.state
    assert state is not None
    if not worker.ranks.is_first:
        return training.finish({})
    history = state["history"]
    chosen = history[select_epoch(history, recipe)]
    facts = {
        "classes": list(dataset.classes),
        "seed": step.seed,
        "recipe": asdict(recipe),
        "weights": weights,
        "training_images": len(train),
        "label_fraction": step.label_fraction,
        "label_noise": step.label_noise,
        "train_shifts": list(step.train_shifts),
        "precision": step.precision,
        **{key: chosen[key] for key in loss.selected()},
    }
    if (weighed := loss.weigh(recipe, train)) is not None:
        facts["positive_weights"] = dict(zip(dataset.classes, weighed.tolist(), strict=True))
    files: dict[str, bytes | str] = {
        WEIGHTS: encode_safetensors(state["best"]),
        DESCRIPTION: render_model_json(replace(spec, weights=step.spec.weights), facts),
        HISTORY: frame_to_csv(pd.DataFrame(history), None),
    }
    if "probed" in state:
        files[PROBED] = encode_safetensors(state["probed"])
    return training.finish(files)


def give_epochs(epochs: Iterator[T], batch_size: int) -> Iterator[T]:
    """Give the epochs of a training; raise `InputError` when memory runs out.

    Unlike in predictions, batches are not halved: another size would be another training.

    >>> list(give_epochs(iter([1, 2]), 256))
    [1, 2]
    """
    what = f"memory ran out in training with batches of {batch_size}"
    with explain_memory(what, "choose a smaller batch_size in the recipe"):
        yield from epochs


class _Training:
    """The common part of trainings and pre-trainings: state, events and files.

    Attributes:
        state: that of the last epoch; None before the first.
    """

    def __init__(
        self,
        step: TrainStep | PretrainStep,
        epochs: int,
        worker: Worker,
        folder: RunFolder,
        progress: Notify,
    ) -> None:
        self._step, self._epochs, self._folder, self._progress = step, epochs, folder, progress
        with worker.ranks.agreeing():
            files = [name for name in step.reads if folder.file(name).is_file()]
            fingerprint = step_fingerprint(step, {name: folder.checksum(name) for name in files})
        self._resume = Resumption(step.folder, fingerprint, worker.ranks)
        self.state = self._resume.read(folder, step.task, progress)
        self._begun = self._done = len(self.state["history"]) if self.state else 0
        self._note = ""

    def tell(self, note: str) -> None:
        self._progress(Event(self._step.task, self._done, self._epochs, note))

    def tell_part(self, part: float) -> None:
        self._progress(Event(self._step.task, self._done, self._epochs, self._note, part=part))

    def end_epoch(self, state: State, note: str) -> None:
        self._resume.write(self._folder, state)
        self.state, self._done, self._note = state, len(state["history"]), note
        self.tell(note)

    def finish(self, files: Mapping[str, bytes | str]) -> StepResult:
        """Write the files on rank 0, and remove the state."""
        for name, content in files.items():
            self._folder.write(f"{self._step.folder}/{name}", content)
        if files:
            drop_state(self._step, self._folder)
        return StepResult(self._note, share=1 - self._begun / self._epochs)


def training_loss(dataset: Dataset) -> LabelLoss:
    """How the labels of a data set are learned; raises `InputError` if no loss accepts its task."""
    loss = find_loss(find_task(dataset.task).kinds)
    if loss is None:
        raise InputError(
            f"no loss of a training accepts the task of {dataset.name}, {dataset.task}"
        )
    return loss


def pretraining_loss(recipe: Pretraining, dataset: Dataset) -> LabelLoss:
    """How a pre-training learns labels, if it does; then `InputError` as in `training_loss`."""
    return training_loss(dataset) if METHODS[recipe.method].learns_labels else ONE_CLASS


def training_images(step: TrainStep, train: Images) -> Images:
    """The training images with the labels that this model gets."""
    # The true labels decide which images stay, so that these are the same for any label noise.
    if step.label_seed is None:
        return train
    noisy = corrupt_labels(train, step.label_noise, step.label_seed)
    if step.label_fraction == 1:
        return noisy  # not a copy: the pixels may be larger than memory
    return noisy[choose_labelled(train, step.label_fraction, step.label_seed)]


def training_attack(recipe: Recipe) -> Attack | None:
    """The attack on the training images of an adversarial recipe; None for other recipes."""
    if (settings := recipe.adversarial) is None:
        return None
    chosen = {key: value for key, value in asdict(settings).items() if value is not None}
    return make_training_attack("pgd", **chosen)


def with_statistics(spec: ModelSpec, dataset: Dataset) -> ModelSpec:
    """A network that is normalised by the statistics of the training images."""
    # A channel without contrast has standard deviation 0.
    std = [max(deviation, 1 / 255) for deviation in dataset.std]
    return replace(
        spec,
        mean=check_channels("mean", dataset.mean),
        std=check_channels("std", std),
    )


def _loaded_spec(step: TrainStep, dataset: Dataset, folder: RunFolder) -> ModelSpec:
    """The network with its normalisation, and with the weights file of a pre-training, if any."""
    spec = with_statistics(step.spec, dataset) if step.own_statistics else step.spec
    if step.start is None:
        return spec
    file = folder.file(step.start)
    if step.spec.mean is None:  # weights come with the statistics that they were trained with
        start = read_json(file.with_name(DESCRIPTION))["spec"]
        spec = replace(spec, mean=tuple(start["mean"]), std=tuple(start["std"]))
    return replace(spec, weights=str(file))


def _start_note(weights: Mapping[str, Any]) -> str:
    """Name the weights that a training starts from; empty if none."""
    if weights["weights"] == "none":
        return ""
    left_out = weights.get("left_out")
    beside = f", without {', '.join(left_out)}" if left_out else ""
    return f"weights: {weights.get('file', weights['weights'])}{beside}; head {weights['head']}"


def _weights_facts(step: TrainStep, spec: ModelSpec, offline: bool) -> dict[str, Any]:
    facts = describe_weights(spec, offline=offline)
    if step.start is not None:  # its path within the run, which survives moving the run
        facts |= {"file": step.start, "weights": step.spec.weights}
    return facts


def do_choose(step: ChooseStep, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Choose the best try of a sweep by validation, and write the table of all tries."""
    loss = find_loss(folder.task.kinds)
    assert loss is not None  # it has trained the tries
    rows: list[dict[str, Any]] = []
    for number, (values, source) in enumerate(zip(step.values, step.folders, strict=True), 1):
        diverged = folder.file(f"{source}/{DIVERGED}")
        if diverged.is_file():
            result = read_json(diverged)
        else:
            facts = read_json(folder.file(f"{source}/{DESCRIPTION}"))
            result = {key: facts[key] for key in loss.selected()}
        rows.append({"try": number, **values, **result})
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    if "val_loss" not in table:
        raise TrainingDivergedError(f"every try of {step.title} diverged; {rows[-1]['diverged']}")
    metric = f"val_{loss.metric}"
    ranked = table.assign(**{metric: -table[metric]}).dropna(subset=["val_loss"])
    order = ["val_loss"] if step.metric == "nll" else [metric, "val_loss"]
    chosen = int(ranked.sort_values(order, kind="stable").index[0])
    table["chosen"] = table.index == chosen
    recipe = read_json(folder.file(f"{step.folders[chosen]}/{DESCRIPTION}"))["recipe"]
    folder.write(step.leaves[0], frame_to_csv(table, None))
    folder.write(step.leaves[1], json.dumps(recipe, indent=1) + "\n")
    return StepResult(f"try {chosen + 1} of {len(table)}")


def do_pretrain(
    step: PretrainStep, worker: Worker, folder: RunFolder, progress: Notify
) -> StepResult:
    """Pre-train a backbone, or continue its pre-training."""
    with worker.ranks.agreeing():
        dataset, images = worker.dataset(step.images.data), worker.images(step.images)
        # Features are judged on the run's own images, also if others were used for pre-training.
        own = training_loss(worker.dataset(DATA))
        known, asked = map(worker.images, step.probe)
        probe = NeighbourProbe(known, asked, own)
        loss = pretraining_loss(step.recipe, dataset)
        spec = with_statistics(step.spec, dataset) if step.own_statistics else step.spec
        classifier = build(spec, step.seed, offline=worker.offline)
    training = _Training(step, step.recipe.epochs, worker, folder, progress)
    training.tell("")
    encoder, quality = make_encoder(classifier, spec.backbone), f"knn_{own.metric}"
    last: PretrainingEpoch | None = None
    epochs = pretrain(
        encoder.module,
        images,
        step.recipe,
        features=encoder.features,
        probe=probe,
        seed=step.seed,
        device=worker.device,
        precision=step.precision,
        state=training.state,
        after_step=training.tell_part,
        ranks=worker.ranks,
        jobs=worker.jobs_on_device,
        sync_batchnorm=step.sync_batchnorm,
        loss=loss,
    )
    for last in give_epochs(epochs, step.recipe.batch_size):
        row = last.history[-1]
        note = (
            f"k-NN {own.shown(row[quality])}, loss {row['train_loss']:.3g}, "
            f"embedding spread {row['embedding_std']:.2f}"
        )
        training.end_epoch(last.state, note)
    assert last is not None
    if not worker.ranks.is_first:
        return training.finish({})
    assert dataset.train is not None
    facts = {
        "title": step.title,
        "data": dataset.name,
        "images": len(dataset.train),
        "labels_used": METHODS[step.recipe.method].learns_labels,
        "seed": step.seed,
        "recipe": asdict(step.recipe),
        "weights": describe_weights(spec, offline=worker.offline),
        "precision": step.precision,
        **{key: last.history[-1][key] for key in ("epoch", quality, "embedding_std")},
    }
    files: dict[str, bytes | str] = {
        WEIGHTS: encode_safetensors(state_without_head(classifier, spec.backbone)),
        DESCRIPTION: render_model_json(spec, facts),
        HISTORY: frame_to_csv(pd.DataFrame(last.history), None),
    }
    if last.correlation is not None and last.correlation_before is not None:
        matrices = {"before": last.correlation_before, "after": last.correlation}
        files[CORRELATION] = json.dumps(
            {key: matrix.round(DECIMALS).tolist() for key, matrix in matrices.items()}
        )
    return training.finish(files)


def encode_safetensors(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Write weights as safetensors, which needs contiguous memory; training has channels last."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()})


class Resumption(NamedTuple):
    """The state that an unfinished training continues from: `resume/state.pt` in its folder.

    Rank 0 reads and writes it, and sends the others what it has read.
    """

    folder: str
    fingerprint: str
    ranks: Ranks = ALONE

    def write(self, run: RunFolder, state: State) -> None:
        """Store the state for the next epoch, with the fingerprint of the training."""
        if not self.ranks.is_first:
            return
        buffer = io.BytesIO()
        torch.save({"inputs": self.fingerprint, "state": state}, buffer)
        # Neither of these copies the state, which is several times as large as the network.
        buffer.write(hashlib.sha256(buffer.getbuffer()).digest() + SEALED)
        run.write(f"{self.folder}/{STATE}", buffer.getvalue())

    def read(self, run: RunFolder, task: str, progress: Notify) -> State | None:
        """Read the state of an interrupted training; None if this training has none.

        A damaged state is not used, and a line says so: the training starts over.
        """
        path = run.file(f"{self.folder}/{STATE}")
        is_stored = self.ranks.is_first and path.is_file()
        content = self.ranks.from_first(path.read_bytes() if is_stored else None)
        if content is None:
            return None
        try:
            stored = self._unsealed(content)
            state: State = stored["state"]
            return state if stored["inputs"] == self.fingerprint else None
        # On damaged files, torch.load raises any kind of error.
        except Exception as error:
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise
            line = f"the state of the unfinished training ({task}) is damaged; it starts over"
            progress(Event(task, 0, None, line=line))
            return None

    def _unsealed(self, content: bytes) -> State:
        if content.endswith(SEALED):
            sealed, content = content[-len(SEALED) - 32 :], content[: -len(SEALED) - 32]
            if hashlib.sha256(content).digest() != sealed[:32]:
                raise ValueError("the checksum is another one")
        # Not onto a device, which may lack float64; the training moves its tensors itself.
        stored: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return stored


def drop_state(step: Step, run: RunFolder) -> None:
    """Remove the state, which only an unfinished training needs."""
    if isinstance(step, TrainStep | PretrainStep):
        shutil.rmtree(run.file(f"{step.folder}/{RESUME}"), ignore_errors=True)
