"""How the steps of a plan get done: each executor does the same steps in its own way."""

from __future__ import annotations

from fairweather.executors.local import execute as execute
