"""The steps from a model to a run's scores and pictures, each done once, whatever interrupts them.

A study measures the models that it has trained, an evaluation the one that it was given.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from fairweather.measuring.derived import DERIVED as DERIVED
from fairweather.measuring.describe import describe_run as describe_run
from fairweather.measuring.describe import describe_shifts as describe_shifts
from fairweather.measuring.describe import kind_of as kind_of
from fairweather.measuring.ensembles import ensemble_plan
from fairweather.measuring.predicting import measure, plain_plan
from fairweather.measuring.reporting import report_step as report_step
from fairweather.measuring.samples import pick_pictures as pick_pictures
from fairweather.measuring.samples import samples_step as samples_step
from fairweather.measuring.scoring import names_of as names_of
from fairweather.measuring.scoring import score_run as score_run
from fairweather.measuring.setting import Setting as Setting
from fairweather.measuring.setting import Subject as Subject
from fairweather.measuring.variant_plans import PLANS
from fairweather.measuring.variant_plans import check_variants as check_variants
from fairweather.measuring.variant_plans import variant_phrase as variant_phrase
from fairweather.progress import Event


def predict_subject(setting: Setting, subject: Subject) -> Iterator[Event]:
    """Predict a model under every shift, then each of its variants; what is there is kept."""
    model = functools.cache(subject.load)
    plan = ensemble_plan if subject.members else plain_plan
    yield from measure(setting, plan(setting, subject, model))
    for variant in setting.variants:
        yield from measure(setting, PLANS[variant](setting, subject, model))
