"""What all requests have in common: a study and both kinds of evaluations end here.

A request becomes `Inputs`; of these follow the `Measurement`, the plan and the record of the run,
and one function begins and executes it.
"""

from __future__ import annotations

from fairweather.running.executing import carry_out as carry_out
from fairweather.running.executing import outlook as outlook
from fairweather.running.inputs import Inputs as Inputs
from fairweather.running.inputs import Settings as Settings
