"""What takes long in a run is computed once; its files are written each time that it is done.

For tests that do the same small study hundreds of times. What is computed again from other inputs
is computed in earnest.
"""

import hashlib
from contextlib import contextmanager

import pytest

from fairweather.report import building as report
from fairweather.report.charts import Figure
from fairweather.report.overview import OVERVIEW
from fairweather.report.section import Section
from fairweather.runs import provenance
from fairweather.runs.folder import RunFolder
from fairweather.steps import dispatch as steps
from fairweather.steps import training

FEW = (Section("answer", "The answer", (OVERVIEW,)),)
FIGURE = Figure("level", "A figure", '<svg xmlns="http://www.w3.org/2000/svg"/>')


@contextmanager
def quick_steps():
    """Remember trainings, samples and scores; a report has few tables and one empty figure."""
    do = {kind: computed_once(steps.STEP_FUNCTIONS[kind]) for kind in ("score", "sample", "report")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", trained_once(training.fit))
        # Most tables and figures are left out: the loop that writes them is the same for all.
        patch.setattr(report, "SECTIONS", FEW)
        patch.setattr(report, "_draw_figures", lambda *_: [FIGURE])
        patch.setattr(report, "begin_work", lambda *_: lambda: b"a picture")
        patch.setattr(report, "render_page", lambda *_: "a page")
        patch.setattr(steps, "STEP_FUNCTIONS", {**steps.STEP_FUNCTIONS, **do})
        patch.setattr(provenance, "_git_revision", lambda _: None)
        yield


def trained_once(fit):
    """A function that trains, and remembers the epochs by the network before, recipe and seed."""
    known = {}

    def again(model, train, val, recipe, *, state, seed, **options):
        done, digest = 0 if state is None else len(state["history"]), hashlib.sha256()
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        key = digest.hexdigest(), repr(recipe), seed
        if key not in known and not done:
            known[key] = list(fit(model, train, val, recipe, state=state, seed=seed, **options))
        yield from known[key][done:]

    return again


def computed_once(do):
    """A function that does a step, and remembers what it wrote by what it reads."""
    known = {}

    def again(step, worker, folder, progress):
        read = [folder.file(name) for name in step.reads]
        content = tuple(path.read_bytes() if path.is_file() else b"" for path in read)
        key = hashlib.sha256(repr((step, content)).encode()).hexdigest()
        if key not in known:
            written = Written(folder.path)
            known[key] = do(step, worker, written, progress), written.files
        done, files = known[key]
        for name, text in files:
            folder.write(name, text)
        return done

    return again


class Written(RunFolder):
    """A run folder that keeps what is to be written."""

    def __init__(self, path):
        super().__init__(path)
        self.files = []

    def write(self, name, content):
        self.files.append((name, content))
