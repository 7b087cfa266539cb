"""The steps of a run as plain data, and the functions that run each kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairweather.progress import Notify
from fairweather.report import build_report
from fairweather.runs import RunFolder
from fairweather.steps.features import do_features
from fairweather.steps.grouping import do_group
from fairweather.steps.plan import Done as Done
from fairweather.steps.plan import Plan as Plan
from fairweather.steps.plan import PredictStep as PredictStep
from fairweather.steps.plan import ReportStep
from fairweather.steps.plan import Step as Step
from fairweather.steps.plan import fingerprint_of as fingerprint_of
from fairweather.steps.plan import in_order as in_order
from fairweather.steps.predicting import do_fit, do_predict, do_predictions
from fairweather.steps.predicting import pixels_of as pixels_of
from fairweather.steps.sampling import do_sample
from fairweather.steps.scoring import do_score
from fairweather.steps.training import do_choose, do_pretrain, do_train
from fairweather.steps.worker import Worker as Worker
from fairweather.steps.worker import using_threads

# Each takes its own kind of step, hence `Any`.
Do = Callable[[Any, Worker, RunFolder, Notify], Done]


def do_report(step: ReportStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Build tables, figures and page."""
    return Done(files=build_report(folder))


DO: Mapping[str, Do] = {
    "pretrain": do_pretrain,
    "train": do_train,
    "choose": do_choose,
    "fit": do_fit,
    "features": do_features,
    "predict": do_predict,
    "group": do_group,
    "score": do_score,
    "sample": do_sample,
    "report": do_report,
}


def perform(step: Step, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Run a step in a folder that contains `record.json` and the files of the steps it needs.

    The step writes its files there and records nothing. An unfinished training also writes
    `resume/`, and continues from it.
    """
    with using_threads(step.threads):
        return DO[step.kind](step, worker, folder, progress)


def perform_together(
    steps: Sequence[PredictStep], worker: Worker, folder: RunFolder, progress: Notify
) -> list[Done]:
    """Run predictions that share their shifted images (`pixels_of`); otherwise as `perform`."""
    with using_threads(steps[0].threads):
        return do_predictions(steps, worker, folder, progress)
