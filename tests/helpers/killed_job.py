"""A job that is killed in the midst of a step, once the run has some finished ones.

A kill from outside could come between two steps: a job that does nothing is not needed, and the run
goes on without it.
"""

import os
import signal

from fairweather.workers import jobs

ENOUGH = 5  # finished steps


def perform_or_be_killed(steps, worker, run, tell):
    """Do steps as a job does, or be killed in place of that."""
    if len(list(run.file("steps").rglob("*.json"))) >= ENOUGH:
        os.kill(os.getpid(), signal.SIGKILL)
    return perform(steps, worker, run, tell)


if __name__ == "__main__":
    perform, jobs.perform_locally = jobs.perform_locally, perform_or_be_killed
    jobs.main()
