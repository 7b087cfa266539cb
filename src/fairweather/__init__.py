"""Train image classifiers, and measure their accuracy and calibration under shifts.

That is: measure the accuracy and the calibration of image classifiers under shifts of the test
images. All public names are here; each is loaded when it is first used, so that importing the
package is fast (PEP 562).

>>> import fairweather as fw
>>> fw.make_shift("brightness_factor", factor=0.8).id
'brightness_factor,factor=0.8'
"""

import importlib

# Without `typing`: with `python -m`, whatever is imported here may come from the current folder.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from fairweather import metrics as metrics
    from fairweather.attacks.table import make_attack as make_attack
    from fairweather.data.loading import load_data as load_data
    from fairweather.deploy.guard import Answers as Answers
    from fairweather.deploy.guard import FindingsAnswers as FindingsAnswers
    from fairweather.deploy.guard import FindingsGuard as FindingsGuard
    from fairweather.deploy.guard import Guard as Guard
    from fairweather.deploy.guard import Likeness as Likeness
    from fairweather.deploy.loading import load_guard as load_guard
    from fairweather.errors import InputError as InputError
    from fairweather.inference.prediction import predict as predict
    from fairweather.judge.accuracy_estimate import AccuracyEstimate as AccuracyEstimate
    from fairweather.judge.comparison import compare_runs as compare_runs
    from fairweather.judge.estimation import estimate as estimate
    from fairweather.judge.model_card import WrittenCard as WrittenCard
    from fairweather.judge.model_card import write_card as write_card
    from fairweather.judge.planning import PlannedTest as PlannedTest
    from fairweather.judge.planning import plan_test as plan_test
    from fairweather.judge.published import compare_with_published as compare_with_published
    from fairweather.judge.verification import verify as verify
    from fairweather.metrics import score as score
    from fairweather.models.opening import load_model as load_model
    from fairweather.report.contact_sheet import preview as preview
    from fairweather.report.finished_run import Run as Run
    from fairweather.report.runs_page import view as view
    from fairweather.requests.demonstration import demo as demo
    from fairweather.requests.evaluation.run import evaluate as evaluate
    from fairweather.requests.seeds.joining import join_seeds as join_seeds
    from fairweather.requests.seeds.joining import pack_run as pack_run
    from fairweather.requests.study.run import plan as plan
    from fairweather.requests.study.run import run as run
    from fairweather.share.export import export as export
    from fairweather.shifts.table import make_shift as make_shift
    from fairweather.shifts.table import suite as suite
    from fairweather.types.measurement import Attack as Attack
    from fairweather.types.measurement import Dataset as Dataset
    from fairweather.types.measurement import Images as Images
    from fairweather.types.measurement import Predictions as Predictions
    from fairweather.types.measurement import Score as Score
    from fairweather.types.measurement import Shift as Shift
    from fairweather.types.options import GroupColumns as GroupColumns

__version__ = "0.2.0"

_HOME = {
    "AccuracyEstimate": "judge.accuracy_estimate",
    "Answers": "deploy.guard",
    "Attack": "types.measurement",
    "Dataset": "types.measurement",
    "FindingsAnswers": "deploy.guard",
    "FindingsGuard": "deploy.guard",
    "GroupColumns": "types.options",
    "Guard": "deploy.guard",
    "Images": "types.measurement",
    "InputError": "errors",
    "Likeness": "deploy.guard",
    "Predictions": "types.measurement",
    "PlannedTest": "judge.planning",
    "Run": "report.finished_run",
    "Score": "types.measurement",
    "Shift": "types.measurement",
    "WrittenCard": "judge.model_card",
    "compare_runs": "judge.comparison",
    "compare_with_published": "judge.published",
    "demo": "requests.demonstration",
    "estimate": "judge.estimation",
    "evaluate": "requests.evaluation.run",
    "export": "share.export",
    "join_seeds": "requests.seeds.joining",
    "pack_run": "requests.seeds.joining",
    "load_data": "data.loading",
    "load_guard": "deploy.loading",
    "load_model": "models.opening",
    "make_attack": "attacks.table",
    "make_shift": "shifts.table",
    "plan": "requests.study.run",
    "plan_test": "judge.planning",
    "predict": "inference.prediction",
    "preview": "report.contact_sheet",
    "run": "requests.study.run",
    "score": "metrics",
    "suite": "shifts.table",
    "verify": "judge.verification",
    "view": "report.runs_page",
    "write_card": "judge.model_card",
}

__all__ = ["metrics", *_HOME]


def __getattr__(name: str) -> object:
    if name == "metrics":
        return importlib.import_module("fairweather.metrics")
    if name in _HOME:
        return getattr(importlib.import_module(f"fairweather.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fairweather' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
