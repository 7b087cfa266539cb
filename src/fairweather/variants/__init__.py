"""A model as it stands plus something fitted or changed at test time; a row of its own beside it.

A variant has cells of its own and no checkpoint, and is called `MODEL+VARIANT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairweather.errors import InputError, unknown_name
from fairweather.variants.batchnorm import adapt_batchnorm as adapt_batchnorm
from fairweather.variants.batchnorm import even_batches as even_batches
from fairweather.variants.batchnorm import predict_adapted as predict_adapted
from fairweather.variants.temperature import Temperature as Temperature
from fairweather.variants.temperature import fit_temperature as fit_temperature
from fairweather.variants.temperature import scale as scale

# What each is, as a report writes it behind the model's title.
VARIANTS: Mapping[str, str] = {
    "temperature": "temperature scaling",
    "batchnorm": "batch norm of the test batch",
}


def check_names(variants: Sequence[str]) -> None:
    """Raise `InputError` unless each is a name in `VARIANTS` and stands there once."""
    for variant in variants:
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS)
        if variants.count(variant) > 1:
            raise InputError(f"variants: {variant} stands twice")


def variant_name(model: str, variant: str) -> str:
    """Name a variant of a model, as folders and scores.csv do.

    >>> variant_name("basic", "temperature")
    'basic+temperature'
    """
    return f"{model}+{variant}"
