"""The demonstration: a small network that is in this package, 1,000 digits, and five shifts."""

from __future__ import annotations

import shlex
import shutil
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairweather.data.loading import load_data
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.report.finished_run import Run
from fairweather.requests.evaluation.run import make_request, run_request
from fairweather.share.export import write_png_tree
from fairweather.shifts.table import make_shift
from fairweather.types.measurement import Images, Score
from fairweather.types.record import CLEAN, NO_LEVEL

# How the network was trained stands in study.yaml beside it, with the same split of the digits.
NETWORK = Path(str(resources.files("fairweather") / "demo_network"))
SOURCE = f"python:{NETWORK / 'network.py'}:load_digits"
MODEL, TITLE = "digits", "Digit classifier"
DATA, VALIDATION_FRACTION = "mnist5k", 0.5
FOG, WORST_LEVEL = "imagenet_c/fog", "5"
# It does not survive the first three, and survives the other two.
SHIFTS = tuple(
    f"imagenet_c/{name}: [1, 3, 5]"
    for name in ("fog", "brightness", "snow", "motion_blur", "pixelate")
)
DEFAULT_OUT = "runs/demo"

# Images for `estimate` and `predict`: digits, a level and fogs that the run did not measure.
FOGGY, FOGGY_IMAGES, FOGGY_LEVEL, FOGGY_SEED = "foggy", 200, 4, 1


class Finding(NamedTuple):
    """What the demonstration finds: three shares of the test images, with their intervals."""

    clean: Score
    """How many clean images are answered right."""

    fog: Score
    """How many are answered right in fog of the highest level."""

    confidence: Score
    """The mean confidence there."""

    def __str__(self) -> str:
        """The finding as a headline.

        >>> print(Finding(*(Score(share, 0, 1, 1000) for share in (0.97, 0.118, 0.884))))
        97 % right on clean images. 12 % right in fog, and still 88 % sure.
        """
        clean, fog, sure = (f"{100 * score.value:.0f} %" for score in self)
        return f"{clean} right on clean images. {fog} right in fog, and still {sure} sure."


@shows_progress
def demo(
    *, out: str | Path = DEFAULT_OUT, replace: bool = False, progress: Notify | bool | None = True
) -> Run:
    """Show in a minute what fairweather does: a digit classifier in fog and under four more shifts.

    The network comes with the package, the 5,000 digits with the extra `demo`. It was trained on
    2,000 of them; it is measured on 1,000 others, and 2,000 are for validation. Foggy digits for
    `fairweather.estimate` and `fairweather predict` are written to the folder `foggy` of the run.

    Args:
        out: the run folder; finished work in it is not computed again.
        replace: replace work of another version in the folder.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: the digits are not installed, or the folder holds something else.
    """
    tell = to_notify(progress)

    def show(event: Event) -> None:
        if not event.line:  # facts about a model that nobody here has chosen
            tell(event)

    request = make_request(
        {MODEL: SOURCE},
        DATA,
        SHIFTS,
        # One thread, since numbers are to be the same on machines with more or fewer cores.
        {"validation_fraction": VALIDATION_FRACTION, "title": TITLE, "threads": 1},
    )
    run = run_request(request, Path(out), replace=replace, progress=show)
    if not (foggy := Path(out) / FOGGY).exists():
        digits = load_data(DATA, validation_fraction=VALIDATION_FRACTION, progress=show)
        assert digits.val is not None, "the fraction asks for it"
        _write_foggy(foggy, digits.val)
    return run


def _write_foggy(folder: Path, validation: Images) -> None:
    """Write foggy images of all classes, with one folder for each."""
    places = np.linspace(0, len(validation) - 1, FOGGY_IMAGES).astype(np.int64)
    images = validation[places]
    fog = make_shift(FOG, severity=FOGGY_LEVEL)
    pixels = fog.apply(images.images, images.keys, FOGGY_SEED).permute(0, 2, 3, 1).numpy()
    unfinished = folder.with_name(f".{FOGGY}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_png_tree(unfinished, images, [(pixels, images.labels.tolist(), images.keys.tolist())])
    unfinished.rename(folder)


def read_finding(run: Run) -> Finding:
    """Read the finding from the scores of a run of the demonstration."""
    return Finding(
        read_score(run, CLEAN, NO_LEVEL, "accuracy"),
        read_score(run, FOG, WORST_LEVEL, "accuracy"),
        read_score(run, FOG, WORST_LEVEL, "average_confidence"),
    )


def read_score(run: Run, shift: str, level: str, metric: str) -> Score:
    """Read one score of a run of the demonstration, which has one model and one seed."""
    scores, asked = run.scores, {"shift": shift, "level": level, "metric": metric}
    is_asked = np.all([scores[name] == wanted for name, wanted in asked.items()], axis=0)
    ((value, low, high, n),) = scores.loc[is_asked, ["value", "low", "high", "n"]].to_numpy()
    return Score(value, low, high, int(n))


def next_commands(run: Run) -> dict[str, str]:
    """The commands to go on with, and what each does."""
    folder, foggy = shlex.quote(str(run.path)), shlex.quote(f"images:{run.path / FOGGY}")
    rule = f"'accuracy[{FOG}={WORST_LEVEL}] >= 90%'"
    table = shlex.quote(str(run.path / f"{FOGGY}.csv"))  # replaced, so that it can be run again
    return {
        f"fairweather check {folder} {rule}": "stops a pipeline: status 1",
        f"fairweather estimate {folder} {foggy}": f"gives no number for {FOGGY_IMAGES} foggy "
        "images, and says what they look like: status 4",
        f"fairweather predict {folder} {foggy} --risk 5% --out {table} --replace": "warns that "
        "these images differ from the validation images: status 4",
    }
