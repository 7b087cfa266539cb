"""The tasks: what is to be told of each image. Only classification is one of the package."""

from __future__ import annotations

from fairweather.errors import unknown_name
from fairweather.tasks.classification import TASK
from fairweather.tasks.task import Strata as Strata
from fairweather.tasks.task import Task as Task
from fairweather.tasks.task import Unit as Unit

TASKS: dict[str, Task] = {TASK.name: TASK}


def task_named(name: str) -> Task:
    """Find a task by its name in a data set or in record.json.

    >>> task_named("classification").name
    'classification'
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
