"""Pre-training without labels, or with labels as a comparison: views, losses, methods, loop."""

from __future__ import annotations

from fairweather.training.selfsupervised.diagnostics import Probe as Probe
from fairweather.training.selfsupervised.diagnostics import (
    correlation_of_views as correlation_of_views,
)
from fairweather.training.selfsupervised.diagnostics import knn_accuracy as knn_accuracy
from fairweather.training.selfsupervised.loop import PretrainingEpoch as PretrainingEpoch
from fairweather.training.selfsupervised.loop import pretrain as pretrain
from fairweather.training.selfsupervised.methods import METHODS as METHODS
from fairweather.training.selfsupervised.methods import barlow_twins_loss as barlow_twins_loss
from fairweather.training.selfsupervised.methods import cross_correlation as cross_correlation
from fairweather.training.selfsupervised.methods import rotate_quarter as rotate_quarter
from fairweather.training.selfsupervised.methods import rotation_loss as rotation_loss
from fairweather.training.selfsupervised.pretraining_recipe import NAMED_VIEWS as NAMED_VIEWS
from fairweather.training.selfsupervised.pretraining_recipe import (
    PRETRAINING_KEYS as PRETRAINING_KEYS,
)
from fairweather.training.selfsupervised.pretraining_recipe import SMALL_VIEWS as SMALL_VIEWS
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining as Pretraining
from fairweather.training.selfsupervised.pretraining_recipe import Views as Views
from fairweather.training.selfsupervised.views import two_views as two_views
