"""A model that gets images of another size than its own configuration says."""

from __future__ import annotations

from dataclasses import replace

from fairweather.models.classifier import Classifier
from fairweather.models.gray import runs
from fairweather.models.opened import Opened
from fairweather.types import Preparation


def prepared_at(opened: Opened, size: int, *, keep: bool) -> Opened:
    """Use the size that was asked for instead of the one in the model's configuration.

    A network that takes any size then gets the images at this size. With `keep`, or if the network
    takes only its own size, the images are resized once more inside the model.
    """
    model = opened.model
    origin = "the size given"
    if isinstance(model, Classifier) and model.input_size not in (None, size):
        if keep or not runs(model.network, 3, size):
            origin += f", then {model.input_size} inside the model"
        else:
            model.input_size = None
    preparation = Preparation(size)
    facts = {**opened.facts, "preparation": {**preparation._asdict(), "from": origin}}
    return replace(opened, preparation=preparation, facts=facts)
