"""An evaluation whose model and data other processes can open by name."""

SOURCE = """
import torch
from torch import nn


def make():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()
"""


def named_evaluation(folder, data):
    """Write a model to a folder, and give the arguments of `fairweather.evaluate`."""
    (folder / "mine.py").write_text(SOURCE)
    return {
        "model": f"python:{folder / 'mine.py'}:make",
        "dataset": f"folder:{data}",
        "shifts": ["gaussian_blur: {sigma: [1], kernel_size: 5}", "fgsm: [4/255]"],
        "size": 16,
        "validation_fraction": 0.2,
        "variants": ("temperature",),
        "bootstrap": 100,
        "threads": 1,
        "device": "cpu",
    }
