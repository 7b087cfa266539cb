"""What the steps of a study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from fairweather.measuring import Setting
from fairweather.runs import RunFolder
from fairweather.study.schema import Study
from fairweather.types import Dataset


class PretrainingImages(NamedTuple):
    """The data whose training images a pre-training takes, and the digest of these."""

    dataset: Dataset
    digest: str


NO_IMAGES: Mapping[str, PretrainingImages] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Context(Setting):
    """A study, and the setting that its models are trained and measured in."""

    study: Study
    pretraining_images: Mapping[str, PretrainingImages]
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
        pretraining_images: Mapping[str, PretrainingImages] = NO_IMAGES,
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
            pretraining_images=pretraining_images,
            offline=offline,
        )
