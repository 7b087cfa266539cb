"""Facts in JSON files are those that were published: digests of tables once typed in Python.

Tests of each table compare it with its source: test_imagenet_c, test_medmnist_c, test_medmnist.
"""

import hashlib
import re

import pytest

from fairweather.data import named_sets as cifar10
from fairweather.data import named_sets as fashion_mnist
from fairweather.data import named_sets as oxford_pets
from fairweather.data import npz as medmnist
from fairweather.shifts.imagenet_c import corruptions as imagenet_c
from fairweather.shifts.medmnist_c import layers as hershey
from fairweather.shifts.medmnist_c.corruptions import (
    FAMILIES,
    GREY_DATASETS,
    PARAMETERS,
    published_constants,
)

IMAGENET_C = {
    name: [
        imagenet_c.published_constants(name, severity, size)
        for size in (32, 64, 224)
        for severity in range(1, 6)
    ]
    for name in imagenet_c.PARAMETERS
}
MEDMNIST_C = (
    {
        dataset: {
            name: [published_constants(name, dataset, severity) for severity in range(1, 6)]
            for name in family
        }
        for dataset, family in FAMILIES.items()
    },
    {dataset: dataset in GREY_DATASETS for dataset in FAMILIES},
    PARAMETERS,
)
KNOWN_SETS = (
    *(cifar10.CIFAR_CLASSES, cifar10.CIFAR_MD5, cifar10.CIFAR_BATCHES),
    *(
        fashion_mnist.FASHION_CLASSES,
        fashion_mnist.FASHION_COMPRESSED_MD5,
        fashion_mnist.FASHION_CONTENT_MD5,
    ),
    oxford_pets.PETS_ARCHIVES,
)
MEDMNIST = (medmnist.MEDMNIST_SETS, medmnist.REFUSED_SETS, medmnist.NATURAL_SHIFT)


@pytest.mark.parametrize(
    ("facts", "digest"),
    [
        (IMAGENET_C, "093291048a6e68937b0f7370f697a1fbb3dcddca67ef11f45a6c82c76cd9608d"),
        (MEDMNIST_C, "9ea637b2f3cd677f2e16481062434db781ea379ca029f17d476bba716f098ff4"),
        (MEDMNIST, "4ca953fa5295eab0a664cc98fbb603e4377d2131b4413764c7ac43a10307e60c"),
        (KNOWN_SETS, "f752a74fbe286b5aa90a8837d291585c1e261e2d1560c41dbf31c58f81e2625c"),
        (hershey._LETTERS, "0e821ca3b475f4bd1c2e8ac3d4606a1c3233e821c7f81f32368559b2f71f22de"),
    ],
    ids=["imagenet_c", "medmnist_c", "medmnist", "known sets", "letters"],
)
def test_every_digit_is_as_published(facts, digest):
    without_class_names = re.sub(r"\b[A-Z]\w*\(", "(", repr(facts))
    assert hashlib.sha256(without_class_names.encode()).hexdigest() == digest
