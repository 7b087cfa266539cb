"""Compute predictions from a model and images: unchanged, adapted, scaled, or as an ensemble."""

from __future__ import annotations

from fairweather.inference.batches import Known as Known
from fairweather.inference.batches import Reader as Reader
from fairweather.inference.batches import check_logits as check_logits
from fairweather.inference.batches import from_logits as from_logits
from fairweather.inference.batches import join as join
from fairweather.inference.batches import predict as predict
from fairweather.inference.batches import predict_each as predict_each
from fairweather.inference.batches import tells_images as tells_images
from fairweather.inference.features import Outputs as Outputs
from fairweather.inference.features import outputs_of as outputs_of
from fairweather.inference.shared import predict_shared as predict_shared
from fairweather.inference.untouched import untouched as untouched
