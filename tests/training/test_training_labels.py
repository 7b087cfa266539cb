"""Label noise and imbalance: how much, of what, and that only training images have them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairweather.data.loading import load_data
from fairweather.data.splits import add_label_noise, choose_imbalanced
from fairweather.errors import InputError
from tests.helpers.chance import FALSE_ALARM, counts_p, share_p

pytestmark = pytest.mark.usefixtures("undrawn")


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0.01, 1), st.integers(0, 2**31))
def test_imbalance_keeps_the_stated_share_of_every_class(labels, ratio, seed):
    labels = np.array(labels, dtype=np.int64)
    kept = np.bincount(labels[choose_imbalanced(labels, 5, ratio, seed)], minlength=5)
    for label, count in enumerate(np.bincount(labels, minlength=5)):
        exact = count * ratio ** (label / 4)
        assert kept[label] == min(count, max(1, int(exact + 0.5)))


def test_the_first_class_keeps_all_and_ratio_one_keeps_everything():
    labels = np.repeat(np.arange(10), 50)
    assert choose_imbalanced(labels, 10, 1.0, seed=3).all()
    assert choose_imbalanced(labels, 10, 0.01, seed=3)[:50].all()
    assert not np.array_equal(
        choose_imbalanced(labels, 10, 0.1, 0), choose_imbalanced(labels, 10, 0.1, 1)
    )


def test_noise_is_uniform_over_all_classes():
    labels = np.repeat(np.arange(4), 20_000)
    noisy = add_label_noise(labels, 4, 0.4, seed=0)
    matrix = np.array([np.bincount(noisy[labels == label], minlength=4) for label in range(4)])
    expected = 0.6 * np.eye(4) + 0.4 / 4
    for counts, shares in zip(matrix, expected, strict=True):
        assert counts_p(counts, shares) > FALSE_ALARM / 4


def test_noise_zero_changes_nothing_and_the_argument_stays():
    labels = np.arange(6)
    assert np.array_equal(add_label_noise(labels, 6, 0.0, seed=0), labels)
    add_label_noise(labels, 6, 1.0, seed=0)
    assert np.array_equal(labels, np.arange(6))


def test_a_label_does_not_depend_on_which_images_are_used():
    whole = load_data("mnist5k", size=8, label_noise=0.3)
    thinned = load_data("mnist5k", size=8, label_noise=0.3, imbalance=0.1)
    places = torch.searchsorted(whole.train.keys, thinned.train.keys)
    assert torch.equal(whole.train.labels[places], thinned.train.labels)


def test_only_training_images_change():
    clean = load_data("mnist5k", size=8)
    worse = load_data("mnist5k", size=8, label_noise=0.2, imbalance=0.1)
    for part in ("val", "test"):
        before, after = getattr(clean, part), getattr(worse, part)
        assert torch.equal(before.keys, after.keys)
        assert torch.equal(before.labels, after.labels)
    true_labels = dict(zip(clean.train.keys.tolist(), clean.train.labels.tolist(), strict=True))
    true = torch.tensor([true_labels[key] for key in worse.train.keys.tolist()])
    assert torch.bincount(true).tolist() == [
        int(360 * 0.1 ** (digit / 9) + 0.5) for digit in range(10)
    ]
    # A fifth of the labels are drawn anew, one of ten of them as it was.
    assert share_p(true != worse.train.labels, 0.2 * 0.9) > FALSE_ALARM
    assert worse.notes["label_noise"] == 0.2
    assert worse.notes["imbalance"] == 0.1


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"label_noise": -0.1}, r"label_noise .*between 0 and 1.* -0.1"),
        ({"label_noise": float("nan")}, "label_noise .*nan"),
        ({"imbalance": 0.0}, r"imbalance .*\(0, 1\].* 0.0"),
        ({"imbalance": 2.0}, "imbalance .*2.0"),
    ],
)
def test_wrong_options_are_one_sentence(option, sentence):
    with pytest.raises(InputError, match=sentence):
        load_data("mnist5k", **option)
