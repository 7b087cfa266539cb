"""Training: recipes, augmentation of whole batches, the supervised and self-supervised loops."""

from __future__ import annotations

from fairweather.training.objective import RotationTask as RotationTask
from fairweather.training.objective import check_square as check_square
from fairweather.training.recipe import RECIPE_KEYS as RECIPE_KEYS
from fairweather.training.recipe import Adversarial as Adversarial
from fairweather.training.recipe import AugMix as AugMix
from fairweather.training.recipe import GaussianNoise as GaussianNoise
from fairweather.training.recipe import RandAugment as RandAugment
from fairweather.training.recipe import RandomErasing as RandomErasing
from fairweather.training.recipe import Recipe as Recipe
from fairweather.training.recipe import Rotation as Rotation
from fairweather.training.supervised import Epoch as Epoch
from fairweather.training.supervised import fit as fit
from fairweather.training.supervised import selected_epoch as selected_epoch
