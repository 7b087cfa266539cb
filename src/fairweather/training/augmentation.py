"""From 8-bit training images to the input of a training step: augmented floats and targets.

Flips, rotation and training shifts change 8-bit images; noise, erased boxes, MixUp and CutMix
change float images in [0, 1]. All parameters are drawn for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.data.batches import gathered_batches, to_input
from fairweather.devices import has_room_for, send
from fairweather.training.policies import augmix, rand_augment, trivial_augment
from fairweather.training.recipe import GaussianNoise, RandomErasing, Recipe
from fairweather.types.measurement import UNKNOWN, Images, Shift

Integers = npt.NDArray[np.int64]
_BOX_TRIES = 10  # random boxes per image, as in torchvision; if none fits, nothing is erased


class Geometry(NamedTuple):
    """The changes of each image: flips, bool `[B]`, and rotations in degrees, float64 `[B]`."""

    horizontal: torch.Tensor
    vertical: torch.Tensor
    degrees: torch.Tensor


def draw_geometry(n: int, recipe: Recipe, rng: np.random.Generator) -> Geometry:
    """Draw flips and rotations for `n` images.

    >>> recipe = Recipe(horizontal_flip=0.5)
    >>> draw_geometry(4, recipe, np.random.default_rng(0)).degrees.tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    flip_h, flip_v, rotate, angle = torch.from_numpy(rng.random((4, n)))
    degrees = torch.zeros(n, dtype=torch.float64)
    if recipe.rotation is not None:
        drawn = (2 * angle - 1) * recipe.rotation.degrees
        degrees = torch.where(rotate < recipe.rotation.probability, drawn, degrees)
    return Geometry(flip_h < recipe.horizontal_flip, flip_v < recipe.vertical_flip, degrees)


def apply_geometry(images: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Flip, then rotate about the centre: uint8 `[B, 3, H, W]` in and out.

    Both are one look-up of the nearest source pixel, black outside the image, like `transpose` and
    `rotate` of PIL. Positive degrees rotate counter-clockwise.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> flip = Geometry(torch.tensor([True]), torch.tensor([False]), torch.zeros(1))
    >>> apply_geometry(image, flip)[0, 0].tolist()
    [[1, 0], [3, 2]]
    """
    n, channels, height, width = images.shape
    angle = send((geometry.degrees * (math.pi / 180)).float(), images.device)
    cos, sin = angle.cos().reshape(n, 1, 1), angle.sin().reshape(n, 1, 1)
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).reshape(1, height, 1)
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2).reshape(1, 1, width)
    columns, inside = _find_sources(cos * x - sin * y, geometry.horizontal, width)
    rows, also_inside = _find_sources(sin * x + cos * y, geometry.vertical, height)
    source = (rows * width + columns).long().reshape(n, 1, -1).expand(n, channels, -1)
    picked = images.reshape(n, channels, -1).gather(2, source).reshape(images.shape)
    return picked * (inside & also_inside)[:, None]


def _find_sources(
    offsets: torch.Tensor, flipped: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The row or column that each pixel `[B, H, W]` is taken from, and whether it is inside.

    Args:
        offsets: float32, from the centre of the image.
        flipped: bool `[B]`.
        side: pixels along this axis.
    """
    # In float32, which is exact here: calls of torch take several times as long on int64.
    place = (offsets + side / 2).floor_()
    nearest = place.clamp(0, side - 1)
    inside = nearest == place
    flip = send(flipped, offsets.device).reshape(-1, 1, 1)
    return torch.where(flip, side - 1 - nearest, nearest).int(), inside


def apply_train_shifts(
    batch: Images, train_shifts: Sequence[Shift], rng: np.random.Generator
) -> Images:
    """Apply one of several shifts, or none, to each image of a batch, all equally likely.

    Every batch has its own seed for the shifts, so the same image gets other noise in each epoch.

    >>> from fairweather.types.measurement import Shift
    >>> black = Shift("black", 1.0, {}, lambda images, keys, seed: images * 0)
    >>> pixels, column = torch.full((64, 3, 8, 8), 9, dtype=torch.uint8), torch.arange(64)
    >>> batch = Images(pixels, column * 0, column, ("a",))
    >>> changed = apply_train_shifts(batch, [black], np.random.default_rng(0)).images
    >>> sorted(set(changed.flatten().tolist()))
    [0, 9]
    """
    chosen = torch.from_numpy(rng.integers(len(train_shifts) + 1, size=len(batch)))
    seed = int(rng.integers(2**31))
    images = batch.images.clone()
    for number, shift in enumerate(train_shifts):
        places = (chosen == number).nonzero().flatten()
        if len(places):
            images[places] = shift(batch.images[places], batch.keys[places], seed)
    return replace(batch, images=images)


class PixelBoxes(NamedTuple):
    """Rows from `top` to `bottom` and columns from `left` to `right`, all int64 `[B]`.

    `bottom` and `right` are exclusive: a box with equal ends is empty.
    """

    top: Integers
    bottom: Integers
    left: Integers
    right: Integers


def box_areas(boxes: PixelBoxes) -> Integers:
    """Count the pixels of each box, `[B]`.

    >>> box_areas(PixelBoxes(*np.array([[1], [3], [0], [4]]))).tolist()
    [8]
    """
    return (boxes.bottom - boxes.top) * (boxes.right - boxes.left)


def mask_boxes(boxes: PixelBoxes, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Tell which pixels lie in the box of each image: bool `[B, 1, H, W]`.

    >>> mask_boxes(PixelBoxes(*np.array([[1], [3], [0], [1]])), 3, 2, torch.device(
    ...     "cpu"
    ... )).int().tolist()
    [[[[0, 0], [1, 0], [1, 0]]]]
    """
    ends = send(torch.from_numpy(np.stack(boxes)), device).reshape(4, -1, 1, 1, 1)
    top, bottom, left, right = ends.unbind(0)
    rows = torch.arange(height, device=device).reshape(height, 1)
    columns = torch.arange(width, device=device)
    return ((rows >= top) & (rows < bottom)) & ((columns >= left) & (columns < right))


def random_erase(
    images: torch.Tensor, rng: np.random.Generator, erasing: RandomErasing
) -> torch.Tensor:
    """Fill a rectangle of an image with uniform noise in [0, 1], a new value for every pixel.

    Source: Zhong et al. 2020, Random Erasing Data Augmentation, algorithm 1: area and aspect are
    uniform. The position is uniform among those where the box fits, as in the authors' code.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        rng: random source of the boxes and of the seed for the noise, which is made on the images'
            device.
        erasing: probability, areas and aspects; the defaults are torchvision's.

    >>> images = torch.zeros(4, 3, 8, 8)
    >>> erased = random_erase(images, np.random.default_rng(0), RandomErasing(probability=1))
    >>> (erased > 0).any(1).sum((1, 2)).tolist()
    [15, 6, 2, 1]
    """
    n, _, height, width = images.shape
    boxes = draw_erased_boxes(n, (height, width), erasing, rng)
    erased = rng.random(n) < erasing.probability
    chosen = PixelBoxes(*(np.where(erased, end, 0) for end in boxes))
    noise = torch.empty_like(images).uniform_(0, 1, generator=_seeded_generator(rng, images.device))
    return torch.where(mask_boxes(chosen, height, width, images.device), noise, images)


def draw_erased_boxes(
    n: int, size: tuple[int, int], erasing: RandomErasing, rng: np.random.Generator
) -> PixelBoxes:
    """Draw a box inside each image: the first of ten random boxes that fits, or an empty one.

    >>> quarter = RandomErasing(area=(0.25, 0.25), aspect=(1, 1))
    >>> boxes = draw_erased_boxes(1, (8, 8), quarter, np.random.default_rng(0))
    >>> [int(end) for end in np.ravel(boxes)]
    [2, 6, 0, 4]
    """
    height, width = size
    pixels = rng.uniform(*erasing.area, (_BOX_TRIES, n)) * height * width
    ratio = rng.uniform(*erasing.aspect, (_BOX_TRIES, n))
    high = np.maximum(np.rint(np.sqrt(pixels * ratio)), 1).astype(np.int64)
    wide = np.maximum(np.rint(np.sqrt(pixels / ratio)), 1).astype(np.int64)
    fits = (high <= height) & (wide <= width)
    first = fits.argmax(0), np.arange(n)
    high, wide = np.where(fits[first], high[first], 0), np.where(fits[first], wide[first], 0)
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    return PixelBoxes(top, top + high, left, left + wide)


def add_gaussian_noise(
    images: torch.Tensor, rng: np.random.Generator, options: GaussianNoise
) -> torch.Tensor:
    """Add Gaussian noise with a random standard deviation per image, and clip to [0, 1].

    Standard deviations are uniform in (0, std]. Source: Lopes et al. 2019, Improving Robustness
    Without Sacrificing Accuracy with Patch Gaussian Augmentation, for noise on the whole image.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        rng: random source of the standard deviations and of the seed for the noise, which is made
            on the images' device.
        options: the largest standard deviation, and how often an image is changed.

    >>> images = torch.full((4, 3, 8, 8), 0.5)
    >>> noisy = add_gaussian_noise(images, np.random.default_rng(1), GaussianNoise(0.1))
    >>> (noisy != images).any(3).any(2).any(1).tolist()
    [True, True, False, True]
    """
    n = len(images)
    deviations = options.std * (1 - rng.random(n)) * (rng.random(n) < options.probability)
    noise = torch.empty_like(images).normal_(generator=_seeded_generator(rng, images.device))
    scale = send(torch.from_numpy(deviations).to(images.dtype), images.device)
    return noise.mul_(scale.reshape(n, 1, 1, 1)).add_(images).clamp_(0, 1)


def _seeded_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))


class TrainingBatch(NamedTuple):
    """The input of one training step."""

    views: tuple[torch.Tensor, ...]
    """Views of the same images, each float `[B, 3, H, W]` in [0, 1]; the targets belong to the
    first."""

    targets: torch.Tensor
    """Labels as in `Images`, or soft labels float `[B, classes]`: of one class, they sum to one; of
    several findings, each is in [0, 1], or NaN where it is unknown."""


def soft_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Make float32 labels `[B, classes]`, which can be mixed, from those of `Images`.

    A label that is unknown is NaN, and so is each mixture with it.

    >>> soft_labels(torch.tensor([1]), 3), soft_labels(torch.tensor([[1, UNKNOWN, 0]]), 3)
    (tensor([[0., 1., 0.]]), tensor([[1., nan, 0.]]))
    """
    if labels.ndim == 1:
        return F.one_hot(labels, classes).float()
    return labels.float().masked_fill(labels == UNKNOWN, math.nan)


def known_share(targets: torch.Tensor) -> torch.Tensor:
    """The share of labels or soft labels that are known, a scalar.

    >>> known_share(torch.tensor([[1.0, math.nan]])), known_share(torch.tensor([[1, 0]]))
    (tensor(0.5000), tensor(1.))
    """
    return (targets.isfinite() & (targets != UNKNOWN)).float().mean()


def mix_up(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> TrainingBatch:
    """Mix every image with a partner from its batch: MixUp (Zhang et al. 2018, section 2).

    Args:
        images: float `[B, 3, H, W]`.
        labels: int64, as in `Images`. A mixed label of a finding is known only where both are.
        classes: number of classes, the width of the soft labels.
        alpha: each image's own weight is drawn from Beta(alpha, alpha).
        rng: random source of weights and partners.

    >>> mixed = mix_up(torch.rand(4, 3, 8, 8), torch.arange(4), 4, 0.3, np.random.default_rng(0))
    >>> bool(torch.isclose(mixed.targets.sum(1), torch.ones(4)).all())
    True
    """
    n = len(images)
    weight = send(torch.from_numpy(rng.beta(alpha, alpha, n)).to(images.dtype), images.device)
    partner = send(torch.from_numpy(rng.permutation(n)), images.device)
    targets = soft_labels(labels, classes).to(images)
    mixed = torch.lerp(images[partner], images, weight.reshape(n, 1, 1, 1))
    return TrainingBatch((mixed,), torch.lerp(targets[partner], targets, weight.reshape(n, 1)))


def cut_mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> TrainingBatch:
    """Paste a rectangle of a partner from the batch into every image: CutMix.

    Source: Yun et al. 2019, CutMix, section 3 and algorithm A1. The share of the image outside the
        box is drawn from Beta(alpha, alpha), its centre uniformly. The box is cut off at the
        image's edges, and labels are mixed by the pasted area. Here each image has its own box.

    Args:
        images: float `[B, 3, H, W]`.
        labels: int64 `[B]`.
        classes: number of classes, the width of the soft labels.
        alpha: parameter of the Beta distribution; published: 1.
        rng: random source of boxes and partners.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    >>> mixed = cut_mix(images, labels, 4, 1.0, np.random.default_rng(0))
    >>> bool(torch.isclose(mixed.targets.sum(1), torch.ones(4)).all())
    True
    """
    n, _, height, width = images.shape
    boxes = draw_pasted_boxes(rng.beta(alpha, alpha, n), (height, width), rng)
    partner = send(torch.from_numpy(rng.permutation(n)), images.device)
    pasted = mask_boxes(boxes, height, width, images.device)
    covered = torch.from_numpy(box_areas(boxes)[:, None] / (height * width))
    share = send(covered.to(images.dtype), images.device)
    targets = soft_labels(labels, classes).to(images)
    mixed = torch.where(pasted, images[partner], images)
    return TrainingBatch((mixed,), torch.lerp(targets, targets[partner], share))


def draw_pasted_boxes(
    spared: npt.NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator
) -> PixelBoxes:
    """Draw boxes that leave a share `spared` `[B]` of an image uncovered, with uniform centres.

    Sides are rounded down to even numbers of pixels, as in the published code. The part of a box
    outside the image is cut off.

    >>> boxes = draw_pasted_boxes(np.zeros(1), (4, 4), np.random.default_rng(0))
    >>> [int(end) for end in np.ravel(boxes)]
    [1, 4, 0, 4]
    """
    half = np.sqrt(1 - spared) / 2
    ends = []
    for side in size:
        centre, reach = rng.integers(side, size=len(spared)), (half * side).astype(np.int64)
        ends += [np.maximum(centre - reach, 0), np.minimum(centre + reach, side)]
    return PixelBoxes(*ends)


# --- Batches


def move_if_room(
    images: Images,
    device: torch.device,
    jobs: int = 1,
    room: Callable[[torch.device, int], bool] = has_room_for,
) -> Images:
    """Copy the pixels of training images to the device if those of so many jobs fit there.

    Labels and keys stay where they are: reading them must not wait for the device.
    """
    if not room(device, jobs * images.images.nbytes):
        return images
    return replace(images, images=images.images.to(device))


def training_batches(
    images: Images, indices: Sequence[torch.Tensor], device: torch.device
) -> Iterator[Images]:
    """Yield batches of training images in order.

    If the images are not on the GPU (`near`), a thread gathers the next batch in page-locked memory
    during the current step.

    Args:
        images: the training images.
        indices: int64, the places of the images of each batch.
        device: the device of the training.
    """
    if device.type == "cuda" and images.images.device.type == "cpu":
        yield from gathered_batches(images, indices)
        return
    for index in indices:
        pixels = images.images[send(index, images.images.device)]
        yield Images(pixels, images.labels[index], images.keys[index], images.classes)


def make_batch(
    batch: Images,
    recipe: Recipe,
    rng: np.random.Generator,
    device: torch.device,
    train_shifts: Sequence[Shift] = (),
) -> TrainingBatch:
    """Augment a batch as its recipe says; each image has its own random parameters.

    The order is: training shifts, flips and rotation, policies (all on 8-bit images), AugMix,
    noise, erasing, MixUp or CutMix.

    >>> pixels, column = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    >>> made = make_batch(
    ...     Images(pixels, column, column, tuple("abcd")),
    ...     Recipe(mixup=0.3),
    ...     np.random.default_rng(0),
    ...     torch.device("cpu"),
    ... )
    >>> len(made.views), made.targets.shape
    (1, torch.Size([4, 4]))
    """
    if train_shifts:
        batch = apply_train_shifts(batch, train_shifts, rng)
    images, labels = send(batch.images, device), send(batch.labels, device)
    if recipe.horizontal_flip or recipe.vertical_flip or recipe.rotation:
        images = apply_geometry(images, draw_geometry(len(images), recipe, rng))
    if recipe.trivial_augment:
        images = trivial_augment(images, rng)
    if policy := recipe.rand_augment:
        images = rand_augment(images, rng, policy)
    if options := recipe.augmix:
        mixtures = tuple(
            augmix(images, rng, options) for _ in range(2 if options.consistency else 1)
        )
        views = (to_input(images), *mixtures) if options.consistency else mixtures
    else:
        views = (to_input(images),)
    views = tuple(_add_disturbances(view, recipe, rng) for view in views)
    alphas = [(mix_up, recipe.mixup), (cut_mix, recipe.cutmix)]
    mixings = [(mixing, alpha) for mixing, alpha in alphas if alpha]
    if not mixings:
        return TrainingBatch(views, labels)
    mixing, alpha = mixings[int(rng.integers(2)) if len(mixings) == 2 else 0]
    return mixing(views[0], labels, len(batch.classes), alpha, rng)


def _add_disturbances(
    images: torch.Tensor, recipe: Recipe, rng: np.random.Generator
) -> torch.Tensor:
    if recipe.gaussian_noise:
        images = add_gaussian_noise(images, rng, recipe.gaussian_noise)
    if recipe.random_erasing:
        images = random_erase(images, rng, recipe.random_erasing)
    return images
