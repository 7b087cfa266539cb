"""A process that claims steps and does them for its parent; see `fairweather.executors.jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import cv2

from fairweather import children
from fairweather.claims import claiming
from fairweather.executors.failed import Failed
from fairweather.executors.jobs import Began, Told, lasting_steps
from fairweather.executors.local import perform_here
from fairweather.executors.schedule import Outcome
from fairweather.executors.shared import execute_shared
from fairweather.executors.work import Assigned
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder, Shared
from fairweather.steps import Step, Worker

LOOKS = 0.1  # seconds between two looks at what the other jobs have done


def main() -> None:
    """Read from standard input what the run is, and work in its folder until all is done."""
    output = children.answers()
    assigned = Assigned.model_validate_json(children.first_line())
    cv2.setNumThreads(assigned.plan.steps[0].threads)  # jobs share the cores

    def answer(message: Began | Told | Failed) -> None:
        output.write(message.model_dump_json() + "\n")
        output.flush()

    def perform(steps: Sequence[Step], worker: Worker, run: RunFolder, _: Notify) -> Outcome:
        answer(Began(steps=tuple(step.id for step in steps)))
        return perform_here(steps, worker, run, lambda event: answer(Told(event=event)))

    def finished(event: Event) -> None:
        if event.finished is not None:
            answer(Told(event=event))

    run = RunFolder(Path(assigned.folder))
    try:
        with closing(assigned.worker()) as worker, claiming(run.file, None) as claims:
            execute_shared(
                assigned.plan,
                Shared(run, claims),
                worker,
                finished,
                perform=perform,
                only=lasting_steps(assigned.plan),
                looks=LOOKS,
            )
    except Exception as error:  # raised again in the parent
        answer(Failed.of(error))


if __name__ == "__main__":
    main()
