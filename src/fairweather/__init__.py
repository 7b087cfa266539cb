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
    from fairweather.as_seeds import join_seeds as join_seeds
    from fairweather.as_seeds import pack_run as pack_run
    from fairweather.attacks import make_attack as make_attack
    from fairweather.comparison import compare_runs as compare_runs
    from fairweather.comparison import compare_with_published as compare_with_published
    from fairweather.contact_sheet import preview as preview
    from fairweather.data import load_data as load_data
    from fairweather.errors import InputError as InputError
    from fairweather.estimation import AccuracyEstimate as AccuracyEstimate
    from fairweather.estimation import estimate as estimate
    from fairweather.evaluation import evaluate as evaluate
    from fairweather.exporting import export as export
    from fairweather.finished_run import Run as Run
    from fairweather.guard import Answers as Answers
    from fairweather.guard import Guard as Guard
    from fairweather.guard import Likeness as Likeness
    from fairweather.guarding import load_guard as load_guard
    from fairweather.inference import predict as predict
    from fairweather.metrics import score as score
    from fairweather.models import load_model as load_model
    from fairweather.shifts import make_shift as make_shift
    from fairweather.shifts import suite as suite
    from fairweather.study import plan as plan
    from fairweather.study import run as run
    from fairweather.types import Attack as Attack
    from fairweather.types import Dataset as Dataset
    from fairweather.types import GroupColumns as GroupColumns
    from fairweather.types import Images as Images
    from fairweather.types import Predictions as Predictions
    from fairweather.types import Score as Score
    from fairweather.types import Shift as Shift

__version__ = "0.2.0"

_HOME = {
    "AccuracyEstimate": "estimation",
    "Answers": "guard",
    "Attack": "types",
    "Dataset": "types",
    "GroupColumns": "types",
    "Guard": "guard",
    "Images": "types",
    "InputError": "errors",
    "Likeness": "guard",
    "Predictions": "types",
    "Run": "finished_run",
    "Score": "types",
    "Shift": "types",
    "compare_runs": "comparison",
    "compare_with_published": "comparison",
    "estimate": "estimation",
    "evaluate": "evaluation",
    "export": "exporting",
    "join_seeds": "as_seeds",
    "pack_run": "as_seeds",
    "load_data": "data",
    "load_guard": "guarding",
    "load_model": "models",
    "make_attack": "attacks",
    "make_shift": "shifts",
    "plan": "study",
    "predict": "inference",
    "preview": "contact_sheet",
    "run": "study",
    "score": "metrics",
    "suite": "shifts",
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
