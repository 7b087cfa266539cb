"""Compare each method of adaptation with its authors' code on the same network and batches.

It needs copies of the authors' repositories, one folder each, named OWNER+NAME, below the folder
that is given:

    python benchmarks/official_adaptation.py FOLDER

The network has batch norm and is drawn by a fixed seed; it sees batches of random images. The
largest difference of any logit, or probability, is written to official_adaptation.csv, and the
first logits to tests/variants/official_logits.json, which a test compares without the copies.
"""

import importlib.util
import json
import math
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from fairweather.variants.variant import read_variant

HERE = Path(__file__).parent
EXPECTED = HERE.parent / "tests" / "variants" / "official_logits.json"
CLASSES, BATCHES, SIZE, SIDE = 4, 4, 16, 32


def make_network(norm=nn.BatchNorm2d):
    """A small network whose last layer is linear; with `norm` between its convolutions."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        norm(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    with torch.no_grad():
        network[8].weight *= 3
        for parameter in (network[1].weight, network[4].bias):
            parameter += 0.2 * torch.randn(8)
    return network.eval()


def group_norm(channels):
    """Group norm with two groups."""
    return nn.GroupNorm(2, channels)


def make_batches():
    """Four batches of images of different brightness and colour."""
    torch.manual_seed(2)
    colours = torch.rand(BATCHES, SIZE, 3, 1, 1)
    return [(0.6 * colour + 0.4 * torch.rand(SIZE, 3, SIDE, SIDE)) for colour in colours]


def load(folder, name, **modules):
    """Import a file of a copy, with modules that it imports and that are not installed."""
    for key, module in modules.items():
        sys.modules[key] = module
    spec = importlib.util.spec_from_file_location(f"official_{Path(name).stem}", folder / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours(text, network, batches, seed=0):
    """The outputs of this package."""
    variant = read_variant(text)
    adapted = variant.adapt(network, seed).eval()
    if variant.source_images:
        adapted.memory |= variant.learn(variant.adapt(network).eval(), make_batches()[:2])
    with torch.no_grad():
        return torch.cat([adapted(batch.clone()) for batch in batches])


def run_all(model, batches):
    """The outputs of a module for one batch after the other."""
    return torch.cat([model(batch.clone()).detach() for batch in batches])


def tent(folder, network, batches, steps=1):
    official = load(folder / "DequanWang+tent", "tent.py")
    model = official.configure_model(network)
    parameters, _ = official.collect_params(model)
    optimiser = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    return run_all(official.Tent(model, optimiser, steps), batches)


def tent_of_groups(folder, network, batches):
    official = load(folder / "mr-eggplant+SAR", "tent.py")
    model = official.configure_model(network)
    parameters, _ = official.collect_params(model)
    optimiser = torch.optim.SGD(parameters, 0.01, momentum=0.9)
    return run_all(official.Tent(model, optimiser), batches)


def eata_of(folder, network, batches, *, weight, size=2, steps=1):
    official = load(folder / "mr-eggplant+EATA", "eata.py")
    model = official.configure_model(network)
    parameters, _ = official.collect_params(model)
    fishers = None
    if weight:  # as in main.py of the copy
        fishers, source = {}, make_batches()[:size]
        for number, images in enumerate(source, start=1):
            outputs = model(images)
            nn.functional.cross_entropy(outputs, outputs.max(1)[1]).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    fisher = parameter.grad.data.clone() ** 2
                    fisher += fishers[name][0] if number > 1 else 0
                    fisher = fisher / number if number == len(source) else fisher
                    fishers[name] = [fisher, parameter.data.clone()]
            model.zero_grad()
    optimiser = torch.optim.SGD(parameters, 0.02, momentum=0.9)
    margin = 0.9 * math.log(CLASSES)
    adapted = official.EATA(
        model, optimiser, fishers, weight, steps, e_margin=margin, d_margin=0.999
    )
    return run_all(adapted, batches)


def eata(folder, network, batches, steps=1):
    return eata_of(folder, network, batches, weight=20.0, steps=steps)


def eta(folder, network, batches):
    return eata_of(folder, network, batches, weight=0.0)


def sar_of(folder, network, batches, *, rate=0.02, steps=1):
    official = load(folder / "mr-eggplant+SAR", "sar.py")
    sam = load(folder / "mr-eggplant+SAR", "sam.py")
    model = official.configure_model(network)
    parameters, _ = official.collect_params(model)
    optimiser = sam.SAM(parameters, torch.optim.SGD, lr=rate, momentum=0.9)
    margin = 0.9 * math.log(CLASSES)
    return run_all(official.SAR(model, optimiser, steps, margin_e0=margin), batches)


def sar(folder, network, batches, steps=1):
    return sar_of(folder, network, batches, steps=steps)


def sar_of_large_steps(folder, network, batches):
    return sar_of(folder, network, batches, rate=0.2)


def cotta(folder, network, batches, steps=1):
    copy = folder / "qinenergy+cotta" / "cifar"
    jitter = load(copy, "my_transforms.py")
    official = load(copy, "cotta.py", my_transforms=jitter)
    transforms = official.transforms

    def affine(resample, fillcolor, **options):  # their names in today's torchvision
        bilinear = transforms.InterpolationMode.BILINEAR
        return transforms_affine(interpolation=bilinear, **options)

    transforms_affine = transforms.RandomAffine
    transforms.RandomAffine, cuda = affine, torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor: tensor
    try:
        model = official.configure_model(network)
        parameters, _ = official.collect_params(model)
        optimiser = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.999))
        adapted = official.CoTTA(model, optimiser, steps, mt_alpha=0.999, rst_m=0.01, ap=1.0)
        # Images of 32 pixels are hard-coded.
        outputs = []
        for number, batch in enumerate(batches):
            torch.manual_seed(number)
            outputs.append(adapted(batch.clone()).detach())
        return torch.cat(outputs)
    finally:
        transforms.RandomAffine, torch.Tensor.cuda = transforms_affine, cuda


def lame_of(folder, network, batches, affinity):
    package, build = types.ModuleType("lame_copy"), types.ModuleType("lame_copy.build")
    base = types.ModuleType("lame_copy.non_adaptive")
    build.ADAPTER_REGISTRY = types.SimpleNamespace(register=lambda: lambda kind: kind)
    base.NonAdaptiveMethod = object
    package.__path__ = []
    sys.modules |= {"lame_copy": package, "lame_copy.build": build}
    sys.modules["lame_copy.non_adaptive"] = base
    path = folder / "fiveai+LAME" / "src" / "adaptation" / "lame.py"
    spec = importlib.util.spec_from_file_location("lame_copy.lame", path)
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    kernel = getattr(official, f"{affinity}_affinity")(sigma=1.0, knn=5)
    outputs = []
    with torch.no_grad():
        for batch in batches:
            features = network[:8](batch)
            probabilities = network[8](features).softmax(1)
            unary = -torch.log(probabilities + 1e-10)
            similar = kernel(nn.functional.normalize(features, p=2, dim=-1))
            outputs.append(official.laplacian_optimization(unary, similar))
    return torch.cat(outputs)


def lame(folder, network, batches):
    return lame_of(folder, network, batches, "rbf")


def lame_of_neighbours(folder, network, batches):
    return lame_of(folder, network, batches, "kNN")


def t3a(folder, network, batches):
    domainbed, algorithms = types.ModuleType("domainbed"), types.ModuleType("domainbed.algorithms")

    class Algorithm(nn.Module):
        def __init__(self, input_shape, num_classes, num_domains, hparams):
            super().__init__()
            self.hparams = hparams

    algorithms.Algorithm = Algorithm
    official = load(
        folder / "matsuolab+T3A",
        "domainbed/adapt_algorithms.py",
        domainbed=domainbed,
        **{"domainbed.algorithms": algorithms},
    )
    trained = types.SimpleNamespace(featurizer=network[:8], classifier=network[8])
    options = {"filter_K": 5, "cached_loader": False}
    model = official.T3A((3, SIDE, SIDE), CLASSES, 3, options, trained)
    with torch.no_grad():
        return torch.cat([model(batch, adapt=True) for batch in batches])


EATA = "{margin: 0.9, redundancy: 0.999, learning_rate: 0.02, fisher_weight: %s, steps: %s}"
CASES = {
    # The authors' code, our variant, and the norm of the network.
    "tent": (tent, "tent", nn.BatchNorm2d),
    "tent, group norm": (
        tent_of_groups,
        "tent: {optimiser: sgd, learning_rate: 0.01}",
        group_norm,
    ),
    "eata": (eata, f"eata: {EATA % (20, 1)}", nn.BatchNorm2d),
    "eata, no Fisher information": (eta, f"eata: {EATA % (0, 1)}", nn.BatchNorm2d),
    "sar": (sar, "sar: {margin: 0.9, learning_rate: 0.02}", nn.BatchNorm2d),
    "sar, group norm": (sar, "sar: {margin: 0.9, learning_rate: 0.02}", group_norm),
    "sar, coming back": (sar, "sar: {margin: 0.9, learning_rate: 0.02}", nn.BatchNorm2d),
    "sar, coming back in the stream": (
        sar_of_large_steps,
        "sar: {margin: 0.9, learning_rate: 0.2}",
        nn.BatchNorm2d,
    ),
    "cotta": (cotta, "cotta: {sure: 1.0}", nn.BatchNorm2d),
    "tent, two steps": (partial(tent, steps=2), "tent: {steps: 2}", nn.BatchNorm2d),
    "eata, two steps": (partial(eata, steps=2), f"eata: {EATA % (20, 2)}", nn.BatchNorm2d),
    "sar, two steps": (
        partial(sar, steps=2),
        "sar: {margin: 0.9, learning_rate: 0.02, steps: 2}",
        nn.BatchNorm2d,
    ),
    "cotta, two steps": (partial(cotta, steps=2), "cotta: {sure: 1.0, steps: 2}", nn.BatchNorm2d),
    "lame, rbf": (lame, "lame", nn.BatchNorm2d),
    "lame, knn": (lame_of_neighbours, "lame: {affinity: knn}", nn.BatchNorm2d),
    "t3a": (t3a, "t3a: {supports: 5}", nn.BatchNorm2d),
}
# How much more certain the network of a case is. SAR comes back after each batch with the first;
# with the second, after batches 5, 6 and 8 of 8.
CERTAINTY = {"sar, coming back": 20, "sar, coming back in the stream": 3.65}
LONG = ("sar, coming back in the stream",)  # sees all batches twice


def network_of(case):
    """The network of a case."""
    network = make_network(CASES[case][2])
    with torch.no_grad():
        network[8].weight *= CERTAINTY.get(case, 1)
    return network


def batches_of(case):
    """The batches of a case."""
    return make_batches() * (2 if case in LONG else 1)


def compare(case, folder):
    """The outputs of the authors' code and of this package, `[images, classes]`."""
    function, text, _ = CASES[case]
    official = function(folder, network_of(case), batches_of(case))
    own = ours(text, network_of(case), batches_of(case))
    return official, own.exp() if case.startswith("lame") else own


def without_steps(case):
    """The outputs of a case without its method, but with the statistics of the batch."""
    network, batches = network_of(case), batches_of(case)
    if CASES[case][2] is nn.BatchNorm2d and not case.startswith(("lame", "t3a")):
        return ours("batchnorm", network, batches)
    logits = torch.cat([network(batch).detach() for batch in batches])
    return logits.softmax(1) if case.startswith("lame") else logits


def main(folder):
    rows, expected = [], {}
    for case in CASES:
        official, own = compare(case, folder)
        compared = without_steps(case)
        rows.append(
            {
                "case": case,
                "difference": f"{(official - own).abs().max():.1e}",
                "moved": f"{(official - compared).abs().max():.2g}",
            }
        )
        expected[case] = np.round(official[-3:].numpy().astype(float), 6).tolist()
        print(*rows[-1].values(), sep="\t")
    pd.DataFrame(rows).to_csv(HERE / "official_adaptation.csv", index=False)
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
