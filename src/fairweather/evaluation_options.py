"""The options of an evaluation: one definition for Python, the command line and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fairweather.errors import InputError, unknown_name

Channels = tuple[float, float, float]


def _option(
    default: Any,  # noqa: ANN401 - of any option
    description: str,
    *,
    flag: str = "",
    least: int | None = None,
    most: int | None = None,
) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Describe an option: its default, its help, and its limits."""
    told = {"help": description, "flag": flag, "least": least, "most": most}
    return field(default=default, metadata=told)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Everything that may be said of an evaluation besides model, data and shifts.

    The descriptions are the help of the command line, whose options have these names with dashes
    unless `flag` names another; what takes a mapping takes the path of a file there.
    """

    architecture: str | None = _option(None, "Of a checkpoint: timm:NAME or torchvision:NAME.")
    weights: str | None = _option(
        None, "Of a name: imagenet (the default), none, lite0, a file, an address."
    )
    mean: Channels | None = _option(None, "Normalisation, R,G,B in [0, 1]; with std.")
    std: Channels | None = _option(None, "Normalisation, R,G,B; with mean.")
    input_size: int | None = _option(None, "Resize to this inside the model, after the shifts.")
    outputs: str = _option(
        "auto",
        "Of onnx: and python: logits, or probabilities, whose logarithm is taken; auto looks at "
        "those of the first images.",
    )
    labels: Mapping[str, object] | Path | None = _option(
        None, "YAML, JSON or CSV: each class of the data, and the model's for it."
    )
    size: int | None = _option(
        None,
        "Resize and crop images to this, not as the model is configured, and feed them so.",
    )
    root: str | None = _option(None, "The folder of the data set.", flag="--data-root")
    limit: int | None = _option(None, "A stratified subset of this many test images.", least=1)
    validation_fraction: float = _option(
        0.0, "Share to set apart for fitting, where there is no validation part."
    )
    skip_unreadable: bool = _option(False, "Leave damaged files out and count them.")
    variants: tuple[str, ...] = _option(
        (), "temperature or batchnorm: rows of their own; repeatable.", flag="--variant"
    )
    ood: tuple[str, ...] = _option(
        (), "Another data source that confidence should tell apart; repeatable."
    )
    priors: Mapping[str, object] | Path | None = _option(
        None, "YAML: by a name, the probability of some classes."
    )
    batch_size: int = _option(256, "Images in a forward pass.", least=1)
    bootstrap: int = _option(1000, "Resamples behind every interval.", least=100, most=100_000)
    shift_seed: int = _option(0, "Of stochastic shifts and attacks.")
    threads: int | None = _option(
        None, "Of torch; by default as many as it takes.", least=1, most=1024
    )
    title: str | None = _option(None, "What tables call the model.")
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, mps.")
    offline: bool = _option(False, "Never touch the network.")


def check_options(given: Mapping[str, object]) -> EvaluationOptions:
    """Check options by name; raises `InputError` with one sentence for the first that is wrong.

    >>> check_options({"batch_size": 32}).batch_size
    32
    """
    import pydantic  # the command line's help does without

    known = {option.name: option for option in fields(EvaluationOptions)}
    for name in given:
        if name not in known:
            raise unknown_name("option", name, known)
    plain = {name: str(v) if name == "root" and v is not None else v for name, v in given.items()}
    try:
        checked = pydantic.TypeAdapter(EvaluationOptions).validate_python(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{first['loc'][0]}: {message}, found {first['input']!r}") from None
    for name, option in known.items():
        _check_limits(name, getattr(checked, name), **option.metadata)
    return checked


def _check_limits(
    name: str, value: object, *, least: int | None, most: int | None, **_: object
) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        return
    if least is not None and value < least:
        raise InputError(f"{name} must be at least {least}, found {value}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, found {value}")
