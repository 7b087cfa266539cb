"""Images with three findings, some of them unknown, and what a model says of them."""

import numpy as np
import torch
from torch import nn

from fairweather.tasks.multilabel import FindingsPredictions
from fairweather.types.measurement import UNKNOWN, Dataset, Groups, Images

NAMES = ("Effusion", "Mass", "Nodule")
SHARES = (0.4, 0.2, 0.1)


def draw_predictions(count=200, seed=0, unknown=0.2):
    """Predictions whose logits say too much, of findings that are independent of each other."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < SHARES).astype(np.int64)
    logits = rng.normal(3 * labels - 1.5, 2).astype(np.float32)
    labels[rng.random((count, 3)) < unknown] = UNKNOWN
    return FindingsPredictions(np.arange(count), labels, logits, NAMES)


def draw_images(count, seed, patients=None):
    """Images of 9 x 9 pixels; each third is brighter if its finding is there."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, 3, generator=generator) < torch.tensor(SHARES)
    pixels = torch.full((count, 3, 9, 9), 90.0)
    for place in range(3):
        pixels[:, :, 3 * place : 3 * place + 3] += 60 * truth[:, place, None, None, None]
    pixels += torch.randn(count, 1, 3, 1, generator=generator).repeat_interleave(3, 2) * 25
    labels = truth.long()
    labels[torch.rand(count, 3, generator=generator) < 0.15] = UNKNOWN
    groups = None
    if patients is not None:
        groups = Groups("patient", np.array([f"{number % patients}" for number in range(count)]))
    keys = torch.arange(count)
    return Images(pixels.clamp(0, 255).to(torch.uint8), labels, keys, NAMES, groups=groups)


def draw_dataset(val=300, test=200, patients=None):
    """A data set of such images."""
    parts = (draw_images(val, 1, patients), draw_images(test, 2, patients))
    return Dataset("toys", None, *parts, (0.4,) * 3, (0.2,) * 3, {}, "multilabel")


class Brightness(nn.Module):
    """The brightness of each third of an image as the logit of its finding."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return self.scale * (images.unflatten(2, (3, -1)).mean(dim=(1, 3, 4)) - 0.47)
