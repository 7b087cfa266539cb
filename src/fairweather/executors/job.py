"""A process that does steps of a plan for another process; see `fairweather.executors.jobs`."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import TextIO

import cv2

from fairweather.executors.jobs import Did, Failed, JobSettings, Order, Told
from fairweather.executors.local import perform_here
from fairweather.progress import Event
from fairweather.runs import RunFolder
from fairweather.steps import Worker


def main() -> None:
    """Read settings and then orders from standard input; write answers to standard output."""
    answers = _own_standard_output()
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    settings = JobSettings.model_validate_json(orders.get())
    steps = {step.id: step for step in settings.plan.steps}
    cv2.setNumThreads(settings.plan.steps[0].threads)  # jobs share the cores
    run = RunFolder(Path(settings.folder))

    def answer(message: Told | Did | Failed) -> None:
        answers.write(message.model_dump_json() + "\n")
        answers.flush()

    def tell(event: Event) -> None:
        answer(Told(event=event))

    worker = Worker(
        settings.plan,
        device=settings.device,
        offline=settings.offline,
        workers=settings.workers,
        networks=settings.networks,
        jobs=settings.jobs,
    )
    while True:
        asked = [steps[name] for name in Order.model_validate_json(orders.get()).steps]
        try:
            outcome = perform_here(asked, worker, run, tell)
        except Exception as error:  # raised again where the order came from
            answer(Failed.of(error))
        else:
            done = tuple(outcome.done)
            answer(Did(done=done, machine=outcome.machine, seconds=outcome.seconds))


def _own_standard_output() -> TextIO:
    """Take standard output for answers; whatever else is printed goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _listen(orders: queue.SimpleQueue[str]) -> None:
    """Pass on orders; at the end of the input, end the process, whatever it does."""
    try:
        for line in sys.stdin:
            orders.put(line)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
