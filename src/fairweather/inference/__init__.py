"""Compute predictions from a model and images: unchanged, adapted, scaled, or as an ensemble.

A variant is a model plus something that is fitted or changed at test time. It has its own
predictions but no checkpoint, and its name is `MODEL+VARIANT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairweather.errors import InputError, unknown_name
from fairweather.inference.batches import MOST_STORED_CLASSES as MOST_STORED_CLASSES
from fairweather.inference.batches import Known as Known
from fairweather.inference.batches import Reader as Reader
from fairweather.inference.batches import check_logits as check_logits
from fairweather.inference.batches import from_logits as from_logits
from fairweather.inference.batches import join as join
from fairweather.inference.batches import predict as predict
from fairweather.inference.batches import predict_each as predict_each
from fairweather.inference.batches import predict_logits as predict_logits
from fairweather.inference.batchnorm import adapt_batchnorm as adapt_batchnorm
from fairweather.inference.batchnorm import even_batches as even_batches
from fairweather.inference.batchnorm import join_adapted as join_adapted
from fairweather.inference.batchnorm import predict_adapted as predict_adapted
from fairweather.inference.features import Outputs as Outputs
from fairweather.inference.features import outputs_of as outputs_of
from fairweather.inference.shared import predict_shared as predict_shared
from fairweather.inference.temperature import Temperature as Temperature
from fairweather.inference.temperature import fit_temperature as fit_temperature
from fairweather.inference.temperature import scale as scale
from fairweather.inference.together import mean_log_probability as mean_log_probability

# The text for each variant that reports append to the model's title.
VARIANTS: Mapping[str, str] = {
    "temperature": "temperature scaling",
    "batchnorm": "batch norm of the test batch",
}


def check_variant_names(variants: Sequence[str]) -> None:
    """Raise `InputError` unless each is a name in `VARIANTS`, without duplicates."""
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
        if variants.count(variant) > 1:
            raise InputError(f"variants: {variant} is listed twice")
