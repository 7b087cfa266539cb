"""Compute predictions from a model and images: unchanged, adapted, scaled, or as an ensemble."""

from __future__ import annotations

from fairweather.inference.batches import Known as Known
from fairweather.inference.batches import Reader as Reader
from fairweather.inference.batches import check_logits as check_logits
from fairweather.inference.batches import join as join
from fairweather.inference.batches import predict as predict
from fairweather.inference.batches import predict_each as predict_each
from fairweather.inference.batches import predict_logits as predict_logits
from fairweather.inference.batches import tells_images as tells_images
from fairweather.inference.batchnorm import adapt_batchnorm as adapt_batchnorm
from fairweather.inference.batchnorm import even_batches as even_batches
from fairweather.inference.batchnorm import join_adapted as join_adapted
from fairweather.inference.batchnorm import predict_adapted as predict_adapted
from fairweather.inference.conformal import FittedSets as FittedSets
from fairweather.inference.conformal import check_enough as check_enough
from fairweather.inference.conformal import check_sets as check_sets
from fairweather.inference.conformal import fit_sets as fit_sets
from fairweather.inference.conformal import read_sets as read_sets
from fairweather.inference.conformal import with_sets as with_sets
from fairweather.inference.features import Outputs as Outputs
from fairweather.inference.features import outputs_of as outputs_of
from fairweather.inference.shared import predict_shared as predict_shared
from fairweather.inference.temperature import Change as Change
from fairweather.inference.temperature import Temperature as Temperature
from fairweather.inference.temperature import divide_by as divide_by
from fairweather.inference.temperature import fit_temperature as fit_temperature
from fairweather.inference.temperature import recalibrate as recalibrate
from fairweather.inference.untouched import untouched as untouched
