"""Calibrators change logits, by numbers that are fitted on images the model was not trained on.

Each is a frozen type with these numbers and a method `apply`. It is stored as JSON, and checked
when it is read.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from fairweather.inference.calibrators.calibrator import Calibrator as Calibrator
from fairweather.inference.calibrators.isotonic import Isotonic as Isotonic
from fairweather.inference.calibrators.isotonic import Steps as Steps
from fairweather.inference.calibrators.isotonic import fit_isotonic as fit_isotonic
from fairweather.inference.calibrators.isotonic import fit_steps as fit_steps
from fairweather.inference.calibrators.top_versus_all import TopVersusAll as TopVersusAll
from fairweather.inference.calibrators.top_versus_all import (
    fit_top_versus_all as fit_top_versus_all,
)
from fairweather.inference.calibrators.vector_scaling import VectorScaling as VectorScaling
from fairweather.inference.calibrators.vector_scaling import (
    fit_vector_scaling as fit_vector_scaling,
)

AnyCalibrator = VectorScaling | Isotonic | TopVersusAll
# Reads one back from its JSON, and checks it.
CALIBRATOR: pydantic.TypeAdapter[AnyCalibrator] = pydantic.TypeAdapter(
    Annotated[AnyCalibrator, pydantic.Field(discriminator="kind")]
)
