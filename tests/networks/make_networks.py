"""Train the small networks that tests attack, and write them beside this file.

    python -m tests.networks.make_networks    # from the root, a few seconds

Only for networks that shall change: another machine's kernels round otherwise, and after a few
hundred steps that is another network.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from fairweather.models.wrappers import Classifier
from tests.helpers.attack_models import MEAN, STD, digits, network, network_file

EPOCHS, BATCH, RATE, NOISE = 20, 64, 0.01, 0.1


def train(classes: int) -> nn.Module:
    """Cross-entropy on the first half of the digits, with noise, by Adam."""
    images, labels = digits(classes)
    images, labels = images[: len(images) // 2], labels[: len(images) // 2]
    torch.manual_seed(0)
    model = Classifier(network(classes), MEAN, STD)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            noisy = images[batch] + NOISE * torch.randn_like(images[batch])
            loss = F.cross_entropy(model(noisy), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    for classes in (5, 10):
        save_file(train(classes).state_dict(), network_file(classes))
