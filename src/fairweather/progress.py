"""Progress: bars on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


# ---------------------------------------------------------------- events


class FinishedStep(NamedTuple):
    """A step of a run that has just finished."""

    label: str
    """What was done."""

    seconds: float
    """How long that took."""

    left: float | None = None
    """Seconds that the remaining steps may take; None where that is not known."""


class Event(NamedTuple):
    """How much of a task is done, and a short note about it.

    Functions that take long have an argument `progress`. True, the default, shows bars on a
    terminal and in a notebook, and lines elsewhere; False shows nothing; a function is called with
    every event.
    """

    task: str
    """What is being done; events of the same task belong together."""

    done: int
    """How much of it is done: images, cells, epochs, or megabytes of a download."""

    total: int | None
    """How much there is to do; None where that is not known."""

    note: str = ""
    """Such as the accuracy so far."""

    line: str = ""
    """Text for a person, printed on its own line even where no progress is shown."""

    finished: FinishedStep | None = None
    """The step that has just been done; `done` and `total` then count the run's steps."""

    part: float = 0.0
    """Share of the next unit that is done, in [0, 1), such as of a long epoch."""

    step: str = ""
    """Id of the step of the run that is done now, whether just now or before."""


Notify = Callable[[Event], None]


def format_duration(seconds: float) -> str:
    """Write a duration in words.

    >>> format_duration(45), format_duration(600), format_duration(9000)
    ('45 s', '10 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def silent(_: Event) -> None:
    """Ignore an event."""


# ---------------------------------------------------------------- showing

# Widths of a terminal in characters: WIDE has room for a bar, NARROW for times.
WIDE, NARROW = 110, 66
# Seconds between two plain lines about a long step, where there is no terminal.
BETWEEN_LINES = 60.0
# Seconds before a call in Python shows bars, and between two updates of them.
SOON, BETWEEN_PICTURES = 0.5, 0.25

P = ParamSpec("P")
R = TypeVar("R")
Say = Callable[[str], None]


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function show its progress, unless `progress` is False, None or a function.

    The function gets something to call with every `Event`.
    """

    @functools.wraps(function)
    def showing(*given: P.args, **named: P.kwargs) -> R:
        progress = named.get("progress", True)
        with ExitStack() as stack:
            if not callable(progress):
                progress = stack.enter_context(_show_when_slow()) if progress else silent
            named["progress"] = progress
            return function(*given, **named)

    return showing


def to_notify(progress: Notify | bool | None) -> Notify:
    """The callback that `shows_progress` gives to a function."""
    return progress if callable(progress) else silent


@contextmanager
def _show_when_slow() -> Iterator[Notify]:
    """Show lines at once, and bars if a call takes long; quick calls set nothing up."""
    began, notebook = time.monotonic(), _is_notebook()
    # Looked up each time, because bars replace the stream.
    say: Say = print if notebook else lambda line: print(line, file=sys.stderr)
    with ExitStack() as stack:
        shown: list[Notify] = []

        def tell(event: Event) -> None:
            if not shown and time.monotonic() - began >= SOON:
                bars = _notebook_bars(say) if notebook else display(say, every_stage=False)
                shown.append(stack.enter_context(bars))
            if shown:
                shown[0](event)
            elif event.line:
                say(event.line)

        yield tell


def _is_notebook() -> bool:
    """Say whether this runs in a notebook; importing ipykernel alone does not mean that."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def display(say: Say, *, every_stage: bool) -> Iterator[Notify]:
    """Show a bar for every task on a terminal; elsewhere print plain lines; both on stderr.

    Args:
        say: called with the lines that a person should read.
        every_stage: print a line for every stage of a run too, where there is no terminal.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines(say, every_stage=every_stage)
        return
    with Progress(*_progress_columns(console.width), console=console, expand=True) as bars:
        yield _ProgressBars(bars, say)


@contextmanager
def _notebook_bars(say: Say) -> Iterator[Notify]:
    """Show the same bars in a notebook cell, as text that is updated."""
    from IPython.display import display as place
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=StringIO(), width=WIDE, force_jupyter=False)
    bars = Progress(*_progress_columns(WIDE), console=console, auto_refresh=False, expand=True)
    show = _ProgressBars(bars, say)
    handle = place({"text/plain": ""}, raw=True, display_id=True)
    drawn = 0.0

    def draw() -> None:
        with console.capture() as picture:
            console.print(bars.get_renderable())
        handle.update({"text/plain": picture.get().rstrip()}, raw=True)

    def tell(event: Event) -> None:
        nonlocal drawn
        show(event)
        if time.monotonic() - drawn >= BETWEEN_PICTURES:
            draw()
            drawn = time.monotonic()

    try:
        yield tell
    finally:
        draw()


class _ProgressBars:
    """Keep a bar for every task."""

    def __init__(self, bars: Progress, say: Say) -> None:
        self.bars, self.say = bars, say
        self.tasks: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        if event.line:
            self.say(event.line)
        if event.line or event.finished:
            return
        if event.task not in self.tasks:
            self.tasks[event.task] = self.bars.add_task(event.task, total=event.total, note="")
        completed = event.done + event.part  # the display counts whole units
        task = self.tasks[event.task]
        self.bars.update(task, completed=completed, total=event.total, note=event.note)


def _progress_columns(width: int) -> list[ProgressColumn]:
    """The columns of the progress display on a terminal of this width.

    Numbers are never cut: 8 of 15 must not read 8/1. Names and notes are cut instead, and a narrow
    terminal has no bar and no times.
    """
    from rich import progress as rich
    from rich.table import Column

    whole = functools.partial(Column, no_wrap=True)
    text = functools.partial(rich.TextColumn, markup=False)
    name = whole(overflow="ellipsis", max_width=max(width * 2 // 5, 1))
    columns: list[ProgressColumn] = [text("{task.description}", table_column=name)]
    if width >= WIDE:
        columns.append(rich.BarColumn(bar_width=20))
    columns.append(rich.MofNCompleteColumn(table_column=whole()))
    if width >= NARROW:
        columns.append(rich.TimeElapsedColumn(table_column=whole()))
        columns.append(rich.TextColumn("left", table_column=whole()))
        columns.append(rich.TimeRemainingColumn(table_column=whole()))
    rest = whole(overflow="ellipsis", ratio=1)  # what the other columns leave
    return [*columns, text("{task.fields[note]}", table_column=rest)]


class _PlainLines:
    """Print a line a minute, and maybe one when the first step of a stage is finished."""

    def __init__(self, say: Say, *, every_stage: bool) -> None:
        self.say, self.every_stage = say, every_stage
        self.stages: set[str] = set()
        self.printed = time.monotonic()
        self.began: dict[str, tuple[float, float]] = {}  # by task: the time, and what was done then

    def __call__(self, event: Event) -> None:
        if event.line:
            self.say(event.line)
        now = time.monotonic()
        soon = now - self.printed < BETWEEN_LINES
        if event.finished is not None:
            stage = event.finished.label.partition(" ")[0]  # train, predict, fit, score, ...
            if soon and (stage in self.stages or not self.every_stage):
                return
            self.stages.add(stage)
            line = finished_line(event.finished, event.done, event.total)
        elif event.line or event.total is None or event.done >= event.total:
            return
        else:
            since, before = self.began.setdefault(event.task, (now, event.done + event.part))
            if soon:
                return
            line = working_line(event, now - since, event.done + event.part - before)
        self.printed = now
        print(line, file=sys.stderr)


def working_line(event: Event, seconds: float, units: float) -> str:
    """Describe an unfinished task in one plain line, with an estimate from its last units.

    >>> from fairweather.progress import Event
    >>> working_line(Event("train Basic, seed 0", 2, 8, "validation accuracy 93.1%"), 460.0, 2.0)
    '...   train Basic, seed 0  2 of 8, about 23 min to go  validation accuracy 93.1%'
    """
    done, total = event.done + event.part, event.total or 0
    exact = f"{done:.1f}" if event.part else f"{event.done}"
    left = f", about {format_duration((total - done) * seconds / units)} to go" if units else ""
    return f"...   {event.task}  {exact} of {total}{left}  {event.note}".rstrip()


def finished_line(step: FinishedStep, done: int, total: int | None) -> str:
    """Describe a finished step in one plain line.

    >>> from fairweather.progress import FinishedStep
    >>> finished_line(FinishedStep("train Basic, seed 0", 41.2, 720.0), 3, 24)
    'done  train Basic, seed 0  41 s  (3 of 24, about 12 min to go)'
    """
    time = f"{step.seconds:.1f} s" if step.seconds < 9.95 else format_duration(step.seconds)
    left = "" if step.left is None else f", about {format_duration(step.left)} to go"
    return f"done  {step.label}  {time}  ({done} of {total}{left})"
