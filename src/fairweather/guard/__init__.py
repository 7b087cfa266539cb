"""A guard: a model that answers where a promised risk is kept, as data that a service loads.

What opens a guard imports nothing of training, runs, reports or data, and neither torchvision, timm
nor pandas. `guarding` makes guards.
"""

from __future__ import annotations

from fairweather.guard.answering import Answers as Answers
from fairweather.guard.answering import Guard as Guard
from fairweather.guard.answering import Likeness as Likeness
from fairweather.guard.answering import Seen as Seen
from fairweather.guard.facts import VALIDATION as VALIDATION
from fairweather.guard.facts import Chosen as Chosen
from fairweather.guard.facts import Fit as Fit
from fairweather.guard.facts import GuardRecord as GuardRecord
from fairweather.guard.facts import Kept as Kept
from fairweather.guard.facts import Kind as Kind
from fairweather.guard.facts import Measured as Measured
from fairweather.guard.facts import Promise as Promise
from fairweather.guard.facts import percent as percent
from fairweather.guard.folder import files_of as files_of
from fairweather.guard.folder import is_guard as is_guard
from fairweather.guard.folder import open_guard as open_guard
from fairweather.guard.graph import ARITHMETIC as ARITHMETIC
from fairweather.guard.graph import IMAGES as IMAGES
from fairweather.guard.graph import OPERATIONS as OPERATIONS
from fairweather.guard.graph import Graph as Graph
from fairweather.guard.graph import GraphNetwork as GraphNetwork
from fairweather.guard.graph import Of as Of
from fairweather.guard.graph import Operation as Operation
from fairweather.guard.graph import Weight as Weight
from fairweather.guard.graph import check_pure as check_pure
