"""The table of tasks."""

from __future__ import annotations

from fairweather.errors import unknown_name
from fairweather.tasks.classification import CLASSIFICATION_TASK
from fairweather.tasks.multilabel import MULTILABEL_TASK
from fairweather.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION_TASK, MULTILABEL_TASK)}


def find_task(name: str) -> Task:
    """Find a task by its name in a data set or in record.json.

    >>> find_task("classification").name
    'classification'
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
