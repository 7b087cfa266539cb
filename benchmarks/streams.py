"""How often do intervals over streams hold the truth, for a made-up network that adapts?

    python benchmarks/streams.py    # five minutes on an idle core; writes streams.csv
    python benchmarks/streams.py --trials 20    # a try, which writes nothing
    python benchmarks/streams.py --digits    # ten minutes: the network of the demo, real digits

The logit of the right class of image i, seen at place t of a stream, is m + d_i + z_t. Here d is
normal. The state z_t is what the network has learnt: the mean of a normal property of the 64 images
before it, times a strength ("steered"); a slope along the stream, with a normal end ("drift"); or
both. From a random place on, a share of streams answers one class of ten and is 99 % sure
("collapse"). An image is right if its logit is above 0; the confidence is 1 / (1 + exp(-1.5 |l|)).

The truth is the mean over new test images and new orders, from 20,000 streams of images of their
own. The form that is used crosses streams with images: each stream has every image once, in an
order of its own. "One stream" has the bootstrap interval of the first stream. Other forms draw the
images of each stream with replacement, and use only the spread between streams. "Minus plain" is
the paired difference to the same network that does not adapt. With "networks", several trainings
with a normal effect have five streams each, in orders of their own. "Shared orders" has five orders
for all trainings, and what else a stream draws: what a stream does to one, it then does to all.

Digits: 3,000 digits that the network was not trained on are divided into ten test sets. How much a
number varies between these sets is compared with what the interval of each set says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.signal
import scipy.special
import torch

import fairweather as fw
from fairweather import metrics
from fairweather.metrics import (
    Estimate,
    paired_change,
    paired_difference,
    recipe_estimate,
    to_score,
)
from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.metrics.intervals import stream_estimate
from fairweather.metrics.seeds import crossed_mean
from fairweather.requests.demonstration import NETWORK
from fairweather.types.measurement import Score
from fairweather.variants.variant import read_variant

STORED = Path(__file__).with_suffix(".csv")
TRIALS, RESAMPLES, IMAGES, TRUTH = 2000, 200, 500, 20_000
STREAMS = (5, 10, 20)
WINDOW, SHARPNESS, BINS, CLASSES = 64, 1.5, 10, 10
METRICS = ("accuracy", "rms_calibration_error", "negative_log_likelihood")
USED, ONE, MINUS = "used", "one stream", "used, minus plain"
OVER_NETWORKS, MINUS_NETWORKS = "used, networks", "used, networks, minus plain"
SHARED = "networks, shared orders"
SPREADS: dict[str, Callable[[int], float]] = {
    "sd / sqrt(S)": lambda count: count**-0.5,
    "sd": lambda count: 1.0,
    "sd sqrt(1 + 1/S)": lambda count: (1 + 1 / count) ** 0.5,
}


DIGIT_SETS, DIGIT_STREAMS, DIGIT_BATCH = 10, 3, 60
DIGIT_VARIANTS = ("batchnorm", "tent: {learning_rate: 0.001}")
DIGIT_SHIFTS = {"imagenet_c/fog": 5, "imagenet_c/snow": 3, "imagenet_c/contrast": 3}
DIGIT_SHIFTS |= {"imagenet_c/motion_blur": 3, "imagenet_c/pixelate": 5}
# Intervals that are used hold at least so often where nothing collapses or steers strongly.
LEAST = 0.9


class Setting(NamedTuple):
    """A made-up network."""

    margin: float
    steered: float = 0.0
    drift: float = 0.0
    collapse: float = 0.0
    networks: int = 1
    of_networks: float = 0.0


SETTINGS = {
    "does not adapt": Setting(1.0),
    "steered": Setting(1.0, steered=0.5),
    "steered, half right": Setting(0.0, steered=0.5),
    "steered, 98 % right": Setting(2.1, steered=0.5),
    "steered strongly": Setting(1.0, steered=1.0),
    "drift": Setting(1.0, steered=0.5, drift=0.3),
    "drift, half right": Setting(0.0, steered=0.5, drift=0.3),
    "drift, 98 % right": Setting(2.1, steered=0.5, drift=0.3),
    "collapse of 5 %": Setting(1.0, steered=0.5, collapse=0.05),
    "collapse of 20 %": Setting(1.0, steered=0.5, collapse=0.2),
    "3 networks alike": Setting(1.0, steered=0.5, drift=0.3, networks=3),
    "3 networks differ": Setting(1.0, steered=0.5, drift=0.3, networks=3, of_networks=0.1),
    "3 networks, half right": Setting(0.0, steered=0.5, drift=0.3, networks=3, of_networks=0.1),
    "3 networks, steered strongly": Setting(1.0, steered=1.0, networks=3, of_networks=0.1),
    "3 networks, collapse of 5 %": Setting(
        1.0, steered=0.5, collapse=0.05, networks=3, of_networks=0.1
    ),
    "5 networks differ": Setting(1.0, steered=0.5, drift=0.3, networks=5, of_networks=0.1),
}


class Columns(NamedTuple):
    """What is known of each image of each stream, `[..., n]`."""

    correct: FloatArray
    confidence: FloatArray
    nll: FloatArray

    def values(self) -> FloatArray:
        """The three metrics, `[..., 3]`."""
        images = self.correct.shape[-1]
        gaps, squares = self.confidence - self.correct, np.zeros(self.correct.shape[:-1])
        bins = np.minimum(self.confidence * BINS, BINS - 1).astype(int)
        for number in range(BINS):
            inside = bins == number
            squares += (inside * gaps).sum(axis=-1) ** 2 / np.maximum(inside.sum(axis=-1), 1)
        means = [column.mean(axis=-1) for column in (self.correct, self.nll)]
        return np.stack([means[0], np.sqrt(squares / images), means[1]], axis=-1)


def predict(
    rng: np.random.Generator, setting: Setting, images: FloatArray, order: IntArray
) -> Columns:
    """Predict streams of images `[..., 2, n]` in an order `[..., n]`, each image at its place."""
    logits, pulls = (np.take_along_axis(images[..., at, :], order, axis=-1) for at in (0, 1))
    keep = 1 - 1 / WINDOW
    state = scipy.signal.lfilter([0, setting.steered * (1 - keep)], [1, -keep], pulls, axis=-1)
    ends = rng.normal(size=(*order.shape[:-1], 1)) * setting.drift
    logits = logits + state + ends * np.linspace(0, 1, order.shape[-1])
    confidence = scipy.special.expit(SHARPNESS * np.abs(logits))
    nll, right = np.logaddexp(0, -SHARPNESS * logits), logits > 0
    begins, luck = rng.random((2, *order.shape[:-1], 1))
    begins = np.where(luck < setting.collapse, begins * order.shape[-1], np.inf)
    gone, answered = np.arange(order.shape[-1]) >= begins, order % CLASSES == 0
    right = np.where(gone, answered, right).astype(float)
    nll = np.where(gone, -np.log(np.where(answered, 0.99, 0.01)), nll)
    return Columns(right, np.where(gone, 0.99, confidence), nll)


def draw_images(rng: np.random.Generator, setting: Setting, *count: int) -> FloatArray:
    """The logits and the pulls of new images, `[..., 2, n]`."""
    images = rng.normal(size=(*count, 2, IMAGES))
    images[..., 0, :] += setting.margin
    return images


def draw_orders(rng: np.random.Generator, *count: int) -> IntArray:
    """Orders of all images, each once."""
    return np.argsort(rng.random((*count, IMAGES)), axis=-1)


def in_image_order(columns: Columns, order: IntArray) -> Columns:
    """The columns of streams with the images in one order."""
    back = np.argsort(order, axis=-1)
    return Columns(*(np.take_along_axis(column, back, axis=-1) for column in columns))


def find_truth(rng: np.random.Generator, setting: Setting) -> FloatArray:
    """The expected metrics, and those of the network that does not adapt: `[2, 3]`."""
    found = []
    for _ in range(TRUTH // 1000):
        images, order = draw_images(rng, setting, 1000), draw_orders(rng, 1000)
        images[:, 0] += setting.of_networks * rng.normal(size=(1000, 1))
        plain = Setting(setting.margin)
        both = [predict(rng, one, images, order).values() for one in (setting, plain)]
        found.append([values.mean(axis=0) for values in both])
    truth: FloatArray = np.mean(found, axis=0)
    return truth


def estimate(columns: Columns, weights: FloatArray) -> list[Estimate]:
    """The three metrics of one stream, with replicates."""
    values = columns.values()
    replicates = _replicate(columns, weights)
    kinds = [metrics.METRICS[name].interval for name in METRICS]
    return [
        Estimate(float(value), drawn, IMAGES, kind)
        for value, drawn, kind in zip(values, replicates.T, kinds, strict=True)
    ]


def _replicate(columns: Columns, weights: FloatArray) -> FloatArray:
    """`Columns.values` of each resample, by one product of matrices."""
    bins = np.minimum(columns.confidence * BINS, BINS - 1).astype(int)
    inside = np.eye(BINS)[bins]
    gaps = inside * (columns.confidence - columns.correct)[:, None]
    sums = weights @ np.column_stack([inside, gaps, columns.correct, columns.nll])
    squares = (sums[:, BINS : 2 * BINS] ** 2 / np.maximum(sums[:, :BINS], 1)).sum(axis=1)
    means = sums[:, 2 * BINS :] / IMAGES
    return np.column_stack([means[:, 0], np.sqrt(squares / IMAGES), means[:, 1]])


def read_score(estimate: Estimate, name: str) -> Score:
    return to_score(estimate, metrics.METRICS[name].bounds)


def simulate(name: str, trials: int) -> Iterator[tuple[object, ...]]:
    """The rows of a setting."""
    setting = SETTINGS[name]
    rng = np.random.default_rng([len(name), *name.encode()])
    truth = find_truth(rng, setting)
    held: dict[tuple[int, str, str], list[tuple[bool, float]]] = {}
    for trial in range(trials):
        if trial % 50 == 0:
            weights = metrics.bootstrap_weights(IMAGES, RESAMPLES, seed=trial).astype(float)
        score = _score_networks if setting.networks > 1 else _score_forms
        for key, (found, true) in score(rng, setting, weights, truth).items():
            row = bool(found.low <= true <= found.high), found.high - found.low
            held.setdefault(key, []).append(row)
    for (count, form, metric), rows in held.items():
        share, width = np.mean(rows, axis=0)
        error = (share * (1 - share) / trials) ** 0.5
        true = truth[0, METRICS.index(metric)]
        if form in (MINUS, MINUS_NETWORKS):
            true -= truth[1, METRICS.index(metric)]
        yield (name, count, form, metric, true, trials, share, error, width)


def _estimate_streams(
    rng: np.random.Generator, setting: Setting, images: FloatArray, count: int, weights: FloatArray
) -> list[list[Estimate]]:
    """The estimates of each stream, by metric."""
    order = draw_orders(rng, count)
    columns = in_image_order(
        predict(rng, setting, np.broadcast_to(images, (count, *images.shape)), order), order
    )
    streams = [
        estimate(Columns(*(column[at] for column in columns)), weights) for at in range(count)
    ]
    return [list(of_metric) for of_metric in zip(*streams, strict=True)]


Scored = dict[tuple[int, str, str], tuple[Score, float]]


def _score_networks(
    rng: np.random.Generator, setting: Setting, weights: FloatArray, truth: FloatArray
) -> Scored:
    """The interval over networks, streams and images of each form and metric, with its truth."""
    images, shared = draw_images(rng, setting), int(rng.integers(2**32))
    plain: list[list[Estimate]] = []
    own: list[list[list[Estimate]]] = []
    alike: list[list[list[Estimate]]] = []
    for effect in setting.of_networks * rng.normal(size=setting.networks):
        seen = images + np.array([[effect], [0.0]])
        unchanged = predict(rng, Setting(setting.margin), seen, np.arange(IMAGES))
        plain.append(estimate(unchanged, weights))
        for of_form, draws in ((own, rng), (alike, np.random.default_rng(shared))):
            of_form.append(_estimate_streams(draws, setting, seen, STREAMS[0], weights))
    scores: Scored = {}
    for at, metric in enumerate(METRICS):
        both = [
            recipe_estimate([stream_estimate(streams[at]) for streams in of_form])
            for of_form in (own, alike)
        ]
        for form, joint in zip((OVER_NETWORKS, SHARED), both, strict=True):
            scores[STREAMS[0], form, metric] = read_score(joint, metric), float(truth[0, at])
        change = paired_change(recipe_estimate([network[at] for network in plain]), both[0])
        true = float(truth[0, at] - truth[1, at])
        scores[STREAMS[0], MINUS_NETWORKS, metric] = change, true
    return scores


def _score_forms(
    rng: np.random.Generator, setting: Setting, weights: FloatArray, truth: FloatArray
) -> Scored:
    """The interval of each number of streams, form and metric, with its truth."""
    images, most = draw_images(rng, setting), max(STREAMS)
    streams = _estimate_streams(rng, setting, images, most, weights)
    plain = estimate(predict(rng, Setting(setting.margin), images, np.arange(IMAGES)), weights)
    drawn = rng.integers(IMAGES, size=(most, IMAGES))
    again = predict(rng, setting, np.broadcast_to(images, (most, *images.shape)), drawn)
    values, scores = again.values(), Scored()
    for count, (at, metric) in product(STREAMS, enumerate(METRICS)):
        joint, true = stream_estimate(streams[at][:count]), float(truth[0, at])
        scores[count, USED, metric] = read_score(joint, metric), true
        gap = paired_difference(plain[at], joint)
        scores[count, MINUS, metric] = gap, true - float(truth[1, at])
        spread = values[:count, at].std(ddof=1) * scipy.special.stdtrit(count - 1, 0.975)
        for form, factor in SPREADS.items():
            centre, half = values[:count, at].mean(), spread * factor(count)
            scores[count, form, metric] = Score(centre, centre - half, centre + half, IMAGES), true
    for at, metric in enumerate(METRICS):
        scores[1, ONE, metric] = read_score(streams[at][0], metric), float(truth[0, at])
    return scores


COLUMNS = ("setting", "streams", "form", "metric", "truth", "trials", "held", "error", "width")


def read_rows() -> pd.DataFrame:
    """The stored table."""
    return pd.read_csv(STORED)


def summary(table: pd.DataFrame) -> list[str]:
    """The lines of the notes: of each setting and form, the smallest share held, by streams."""
    lines = ["| setting | form | 1 stream | 5 | 10 | 20 |", "|---|---|---|---|---|---|"]
    for (setting, form), rows in table.groupby(["setting", "form"], sort=False):
        least = rows.groupby("streams")["held"].min()
        shares = " | ".join(f"{100 * least[s]:.1f}" if s in least else "" for s in (1, *STREAMS))
        lines.append(f"| {setting} | {form} | {shares} |")
    return lines


def measure_digits() -> Iterator[str]:
    """Lines of a table: the variance between test sets, divided by the estimated one."""
    digits = fw.load_data("mnist5k", validation_fraction=0.5)
    assert digits.val is not None, "it has a part for validation"
    pixels = torch.cat([digits.val.images, digits.test.images])
    labels = torch.cat([digits.val.labels, digits.test.labels])
    network = fw.load_model(f"python:{NETWORK / 'network.py'}:load_digits")
    sets = np.random.default_rng(0).permutation(len(pixels)).reshape(DIGIT_SETS, -1)
    yield "| shift | variant | accuracy | minus plain | NLL | minus plain |"
    yield "|---|---|---|---|---|---|"
    for shift, level in DIGIT_SHIFTS.items():
        shifted = fw.make_shift(shift, severity=level)(pixels, torch.arange(len(pixels)))
        for written in DIGIT_VARIANTS:
            numbers: list[list[tuple[float, float]]] = []
            for places in sets:
                images, truth = shifted[places], labels[places].numpy()
                plain = _outcomes(network, [images], truth)[:, None]
                streams = np.stack(
                    [_adapt_once(network, written, images, truth, s) for s in range(DIGIT_STREAMS)],
                    axis=1,
                )
                columns = (streams, streams - plain)
                found = [crossed_mean(c[..., at]) for at in (0, 1) for c in columns]
                numbers.append([(mean.value, mean.variance) for mean in found])
            values, variances = np.moveaxis(np.array(numbers), -1, 0)
            ratios = values.var(axis=0, ddof=1) / variances.mean(axis=0)
            yield f"| {shift} {level} | {written} | {' | '.join(f'{r:.2f}' for r in ratios)} |"


def _adapt_once(
    network: torch.nn.Module, written: str, images: torch.Tensor, labels: IntArray, seed: int
) -> FloatArray:
    """What a stream gives for each image, in the order of the images: `[n, 2]`."""
    adapting = read_variant(written).adapting
    assert adapting is not None, "the variants adapt"
    order = np.random.default_rng(seed).permutation(len(images))
    batches = np.array_split(order, -(-len(order) // DIGIT_BATCH))
    adapted = adapting.adapt(network).eval()
    outcomes = np.empty((len(images), 2))
    outcomes[order] = _outcomes(adapted, [images[batch] for batch in batches], labels[order])
    return outcomes


def _outcomes(
    network: torch.nn.Module, batches: Sequence[torch.Tensor], labels: IntArray
) -> FloatArray:
    """Whether each image is right, and its NLL: `[n, 2]`."""
    with torch.no_grad():
        logits = torch.cat([network(batch.float() / 255) for batch in batches]).numpy()
    columns = metrics.per_image(logits, labels)
    return np.column_stack([columns.predicted == labels, columns.nll])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--digits", action="store_true")
    given = parser.parse_args()
    if given.digits:
        for line in measure_digits():
            print(line, flush=True)
        return
    trials = given.trials
    rows: list[tuple[object, ...]] = []
    for name in SETTINGS:
        rows += simulate(name, trials)
        print(name, file=sys.stderr, flush=True)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if trials == TRIALS:
        table.to_csv(STORED, index=False, float_format="%.5g")
    print("\n".join(summary(table)))


if __name__ == "__main__":
    main()
