"""What the steps of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fairweather.measuring import Setting
from fairweather.runs import RunFolder
from fairweather.study.schema import Study
from fairweather.types import Dataset


@dataclass(frozen=True, kw_only=True)
class Context(Setting):
    """A study, and the setting that its models are trained and measured in."""

    study: Study
    offline: bool

    @classmethod
    def of(
        cls,
        study: Study,
        run: RunFolder,
        dataset: Dataset,
        digests: Mapping[str, str],
        device: torch.device,
        offline: bool,
    ) -> Context:
        """Bring a study together with the folder it runs in, its data, and where it runs."""
        return cls(
            run=run,
            dataset=dataset,
            digests=digests,
            device=device,
            shifts=tuple(study.all_shifts()),
            shift_seed=study.shift_seed,
            batch_size=study.prediction_batch_size,
            bootstrap=study.bootstrap,
            variants=tuple(study.variants),
            study=study,
            offline=offline,
        )
