"""Open a model with its options by name."""

from fairweather.models.opening import open_with_options
from fairweather.types.options import ModelOptions


def open_model(source, *, classes=None, offline=False, seed=0, **options):
    given = ModelOptions(**options)
    return open_with_options(source, given, classes=classes, offline=offline, seed=seed)
