"""Streams of networks that adapt, on a device that only pretends to be one."""

import pytest
import torch

from fairweather.inference.prediction import Predictor, learn_from_source, predict_streams
from fairweather.shifts.table import make_shift
from fairweather.variants.variant import VARIANTS, Adapting, read_variant, variant_class
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import pretended
from tests.inference.test_memory_habits import same

DEVICES = ("mps", "cuda", "xpu")
ADAPTING = [kind for kind in VARIANTS if issubclass(variant_class(kind), Adapting)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ADAPTING)
def test_streams_of_every_method_go_on_from_cell_to_cell(kind, device, toy_images):
    orders = "" if variant_class(kind).alone else ", orders: 2"
    adapting = read_variant(f"{kind}: {{batch_size: 20{orders}}}").adapting

    def cells(on):
        model, learned = Plain(), {}
        if adapting.source_images:
            learned = learn_from_source(model, adapting, toy_images[:30], batch_size=20, device=on)
        predictor = Predictor(model, adapting=adapting, learned=learned, carried=[])
        return [
            predict_streams(
                predictor,
                adapting,
                images=toy_images[30:],
                shift=make_shift("gamma", exponent=exponent),
                batch_size=20,
                device=on,
            )
            for exponent in (1.5, 2)
        ], predictor.carried

    expected, kept = cells(torch.device("cpu"))
    with pretended(device) as there:
        found, carried = cells(there)
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    for one, other in zip(carried, kept, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
