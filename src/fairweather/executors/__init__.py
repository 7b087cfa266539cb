"""Executors run the steps of a plan, each in its own way."""

from __future__ import annotations

from fairweather.executors.local import execute as execute
from fairweather.executors.local import execute_side_by_side as execute_side_by_side
from fairweather.executors.shared import Share as Share
from fairweather.executors.shared import execute_shared as execute_shared
from fairweather.executors.together import assist as assist
from fairweather.executors.together import execute_together as execute_together
from fairweather.executors.together import started as started
