"""The function that does each kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fairweather.progress import Notify
from fairweather.report.building import build_report
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import ReportStep, Step, StepResult
from fairweather.steps.predictions import do_features, do_fit, do_group, do_predict, do_read
from fairweather.steps.samples import do_sample
from fairweather.steps.scoring import do_score
from fairweather.steps.training import do_choose, do_pretrain, do_train
from fairweather.steps.worker import Worker, using_threads

# Each takes its own kind of step, hence `Any`.
StepFunction = Callable[[Any, Worker, RunFolder, Notify], StepResult]


def do_report(step: ReportStep, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Build tables, figures and page."""
    return StepResult(files=build_report(folder))


STEP_FUNCTIONS: Mapping[str, StepFunction] = {
    "pretrain": do_pretrain,
    "train": do_train,
    "choose": do_choose,
    "fit": do_fit,
    "features": do_features,
    "predict": do_predict,
    "group": do_group,
    "read": do_read,
    "score": do_score,
    "sample": do_sample,
    "report": do_report,
}


def perform(step: Step, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Run a step in a folder that contains `record.json` and the files of the steps it needs.

    The step writes its files there and records nothing. An unfinished training also writes
    `resume/`, and continues from it.
    """
    with using_threads(step.threads):
        return STEP_FUNCTIONS[step.kind](step, worker, folder, progress)
