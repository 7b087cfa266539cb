"""Training: the recipe, augmentation of whole batches, and the supervised loop."""

from __future__ import annotations

from fairweather.training.recipe import RECIPE_KEYS as RECIPE_KEYS
from fairweather.training.recipe import Recipe as Recipe
from fairweather.training.recipe import Rotation as Rotation
from fairweather.training.supervised import Epoch as Epoch
from fairweather.training.supervised import fit as fit
from fairweather.training.supervised import selected_epoch as selected_epoch
