"""Load a saved guard, or make one from a model of a finished run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fairweather.deploy.guard import FindingsGuard, Guard, is_guard, open_guard
from fairweather.deploy.promise import Promise
from fairweather.errors import InputError, check_path
from fairweather.metrics.grouping import check_weigh
from fairweather.types.options import WrittenShare, read_share

# The promise by default.
DEFAULT_CONFIDENCE, DEFAULT_COVERAGE = 0.95, 0.9


def load_guard(
    source: str | os.PathLike[str],
    *,
    risk: WrittenShare | None = None,
    missed: Mapping[str, WrittenShare] | WrittenShare | None = None,
    false_alarms: Mapping[str, WrittenShare] | WrittenShare | None = None,
    confidence: WrittenShare | None = None,
    coverage: WrittenShare | None = None,
    weigh: str | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    offline: bool = False,
) -> Guard | FindingsGuard:
    """Load a guard: a model that answers images, or defers them to a person.

    A saved guard (`fairweather guard RUN FOLDER --risk 5%`) loads without the code that trains and
    measures, in less than a second beside the import of torch. For a run, a new guard is made.
    Shares may be written as 5%.

    Args:
        source: the folder of a saved guard, `RUN[:MODEL[:SEED]]`, or a `Run`.
        risk: of a run: the largest share of wrong answers, in (0, 1). It is kept for images like
            the validation images, not under a shift. It may be left out if there are other limits.
        missed: of a run: limits by the name of a class, such as `{"melanoma": 0.01}`, or one number
            for every class. Of the answered images of the class, at most this share is answered as
            another class. Of a finding: at most this share of the answered images that have it is
            answered as absent.
        false_alarms: of a run with findings: the same for the answered images without the finding,
            and the answer that it is present.
        confidence: of a run: the share of draws of validation images in which the risk and all
            limits are kept together; 0.95 if not given.
        coverage: of a run: the share of images whose set holds the right class, on average over
            draws of validation images; 0.9 if not given. Findings have no sets.
        weigh: of a run that knows which images belong together. With `groups` (the default), groups
            such as patients count equally. With `images`, risk and coverage are shares of all
            images, also if some patients have many.
        device: `auto`, `cpu`, `cuda`, ...
        data_root: of a run: the folder with the files of its data set, if it is not where the run
            found it. The features of validation images are made again from these files.
        offline: of a run: download nothing.

    Returns:
        A `Guard`: call it with a batch for `Answers`, and ask `check` whether a batch is like the
        validation images. Of a run with several findings an image, it is a `FindingsGuard`, which
        gives `FindingsAnswers`.

    Raises:
        InputError: there is no such guard or run, a file is damaged, or the validation images do
            not support the promise.
    """
    promised = (risk, missed, false_alarms, confidence, coverage, weigh)
    place = check_path(source, "the guard or run")
    if is_guard(Path(place).expanduser()):
        if any(asked is not None for asked in promised):
            raise InputError(f"{place} is a guard that promises already: leave out what it is")
        return open_guard(place, device=device)
    from fairweather.deploy.making import (
        add_limits,  # a service needs none of it
        check_asked,
        make_guard,
    )
    from fairweather.steps.run_model import open_run_model, split_model_name

    if risk is None and missed is None and false_alarms is None:
        if not split_model_name(place)[0].exists():
            raise InputError(f"there is no file or folder {place!r}")
        raise InputError(
            f"{place} is not a saved guard, and the risk is missing: give the maximum error rate "
            "of the answers, such as --risk 5%, or risk=0.05 in Python"
        )
    promise = make_promise(risk, confidence, coverage, weigh)
    model = open_run_model(place, offline=offline)
    check_asked(model, weigh, coverage)
    promise = add_limits(promise, model, missed, false_alarms)
    return make_guard(model, promise, device=device, root=data_root, offline=offline)


def make_promise(
    risk: WrittenShare | None,
    confidence: WrittenShare | None = None,
    coverage: WrittenShare | None = None,
    weigh: str | None = None,
) -> Promise:
    """Fill in the defaults of a promise; raises `InputError` for a share outside (0, 1).

    >>> make_promise(0.05)
    Promise(risk=0.05, certainty=0.95, coverage=0.9, weigh='groups', missed={}, false_alarms={})
    """
    return Promise(
        risk=None if risk is None else read_share(risk, "risk"),
        certainty=read_share(
            DEFAULT_CONFIDENCE if confidence is None else confidence, "confidence"
        ),
        coverage=read_share(DEFAULT_COVERAGE if coverage is None else coverage, "coverage"),
        weigh=check_weigh(weigh or "groups"),
    )
