"""How often do the 95 % intervals hold the truth if images come in groups, such as patients?

    python benchmarks/groups.py    # about a quarter of an hour on one core; prints markdown

Simulated, with 10 images a group on average: all the same, or of gamma-distributed sizes (their
standard deviation is about 0.9 of the mean, the smallest is 1), or one of as many images as all
others together. Accuracy: each group has a
probability of being right from a Beta distribution, so that right and wrong have exactly the
intra-class correlation. NLL and Brier score: the logit of an image is 2 + 2 z, where z is standard
normal with this correlation; the probability of the label is 1 / (1 + exp(-logit)). The difference
is that of the accuracies of two models with the same probabilities, so that the truth is 0; its
test is the t-test over groups of `crossed_difference`. The truth of the others is an integral, or
the parameter itself. The interval on the page is the one of charts and tables of a single cell,
which has no resamples.
"""

import numpy as np
import scipy.special
from coverage import percent, print_table  # the script beside this one

from fairweather import metrics
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.intervals import widen_for_groups
from fairweather.metrics.seeds import crossed_difference

TRIALS, RESAMPLES = 1000, 500
NULL_TRIALS = 4000
OF_IMAGES = 250  # trials in which images are resampled too, which takes longer
OVER_GROUPS, CORRELATIONS, MEAN_SIZE = (8, 20, 50, 200), (0.0, 0.1, 0.3), 10
SIZES = ("equal", "unequal", "one has half")
SHARES = (0.8, 0.95)
MARGIN, SPREAD = 2.0, 2.0
COLUMNS = ("accuracy", "negative_log_likelihood", "brier_score")
ROW = metrics.METRICS


def losses_of(logits):
    """NLL and Brier score, `[..., 2]`."""
    wrong = scipy.special.expit(-logits)
    return np.stack([np.logaddexp(0, -logits), 2 * wrong**2], axis=-1)


def draw_groups(generator, count, sizes):
    images = np.full(count, MEAN_SIZE)
    if sizes == "unequal":
        shape = 1.5
        images = np.maximum(1, generator.poisson(generator.gamma(shape, MEAN_SIZE / shape, count)))
    if sizes == "one has half":
        images[0] = images[1:].sum()
    return Grouping(np.repeat(np.arange(count), images))


def draw_columns(generator, grouping, share, correlation):
    """Right, NLL, Brier score and whether another model is right: float64 `[n, 4]`."""
    n, of = len(grouping.numbers), grouping.numbers
    chance = np.full(grouping.count, share)
    if correlation:
        both = 1 / correlation - 1
        chance = generator.beta(share * both, (1 - share) * both, grouping.count)
    right = generator.random((n, 2)) < chance[of, None]
    of_group, of_image = generator.normal(size=grouping.count), generator.normal(size=n)
    z = np.sqrt(correlation) * of_group[of] + np.sqrt(1 - correlation) * of_image
    columns = [right[:, :1], losses_of(MARGIN + SPREAD * z), right[:, 1:]]
    return np.concatenate(columns, axis=1).astype(np.float64)


def resample_groups(generator, grouping, columns):
    """Replicates of the means on resampled groups, `[4, B]`."""
    sums = np.column_stack([grouping.sizes, grouping.sums(columns)])
    counts = generator.multinomial(
        grouping.count, np.full(grouping.count, 1 / grouping.count), RESAMPLES
    )
    totals = counts @ sums
    return (totals[:, 1:] / totals[:, :1]).T


def resample_images(generator, columns):
    """Replicates of the means on resampled images, `[4, B]`."""
    n = len(columns)
    weights = [np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]
    return (np.array(weights, dtype=np.float64) @ columns / n).T


def coverage(count, sizes, share, correlation):
    """Share held by the intervals of each column over groups, on the page and over images, and of
    the difference."""
    z = scipy.special.ndtri((np.arange(400_000) + 0.5) / 400_000)
    truth = [share, *losses_of(MARGIN + SPREAD * z).mean(axis=0)]
    over_images = [f"images {each}" for each in COLUMNS]
    held = {name: [] for name in (*COLUMNS, "page", *over_images, "difference")}
    rejected = []
    for trial in range(TRIALS):
        generator = np.random.default_rng([count, trial, round(100 * correlation), len(sizes)])
        grouping = draw_groups(generator, count, sizes)
        columns = draw_columns(generator, grouping, share, correlation)
        replicates = resample_groups(generator, grouping, columns)
        of_images = resample_images(generator, columns) if trial < OF_IMAGES else None
        n, values = len(columns), columns.mean(axis=0)
        estimates = []
        for at, name in enumerate((*COLUMNS, "accuracy")):
            kind, bounds = ROW[name].interval, ROW[name].bounds
            drawn = metrics.Estimate(float(values[at]), replicates[at], n, kind)
            estimates.append(widen_for_groups(drawn, grouping))
            if at < len(COLUMNS):
                score = metrics.to_score(estimates[-1], bounds)
                held[name].append(score.low <= truth[at] <= score.high)
            if at < len(COLUMNS) and of_images is not None:
                images = metrics.Estimate(float(values[at]), of_images[at], n, kind)
                score = metrics.to_score(images, bounds)
                held[f"images {name}"].append(score.low <= truth[at] <= score.high)
        none = np.zeros(n, dtype=np.int64)
        [low], [high] = share_interval(columns[:, 0], none, 1, grouping)
        held["page"].append(low <= share <= high)
        gap = metrics.paired_difference(estimates[0], estimates[-1])
        held["difference"].append(gap.low <= 0 <= gap.high)
        rejected.append(crossed_difference(columns[:, [0]], columns[:, [3]], grouping).p < 0.05)
    return [*map(percent, held.values()), percent(rejected)]


def null_studies(tail, count, share, correlation):
    """Two models of equal accuracy, each with its own chance in each group; Pareto sizes.

    Size of the test, how often it contradicts its interval, how often the interval of another
    difference is above or below the truth, and mean share of images in the largest group.
    """
    both = 1 / correlation - 1
    rejected, contradicts, missed, largest = [], [], [], []
    for trial in range(NULL_TRIALS):
        generator = np.random.default_rng([trial, count, round(100 * share), round(10 * tail)])
        sizes = np.minimum(np.ceil(3 * (1 + generator.pareto(tail, count))), 3000).astype(int)
        grouping = Grouping(np.repeat(np.arange(count), sizes))
        largest.append(sizes.max() / sizes.sum())
        chances = generator.beta(share * both, (1 - share) * both, (count, 2))
        right = generator.random((len(grouping.numbers), 2)) < chances[grouping.numbers]
        columns = right.astype(np.float64)
        found = crossed_difference(columns[:, :1], columns[:, 1:], grouping, (0.0, 1.0))
        low, high = found.interval
        rejected.append(found.p < 0.05)
        contradicts.append(rejected[-1] != (low > 0 or high < 0))
        # The second model is right on half of the images that it would get wrong.
        better = np.maximum(columns[:, 1:], generator.random((len(right), 1)) < 0.5)
        low, high = crossed_difference(columns[:, :1], better, grouping, (0.0, 1.0)).interval
        truth = (1 - share) / 2
        missed.append((truth < low, truth > high))
    below, above = map(percent, np.transpose(missed))
    return [percent(largest), percent(rejected), percent(contradicts), below, above]


def main():
    header = ["Tail", "Groups", "Accuracy", "Correlation", "largest group, % of images"]
    print_table(
        [*header, "test rejects", "contradicts its interval", "truth below", "truth above"],
        (
            [tail, count, share, correlation, *null_studies(tail, count, share, correlation)]
            for tail in (1.3, 1.1)
            for count in (20, 40, 100)
            for share, correlation in ((0.8, 0.1), (0.8, 0.3), (0.95, 0.3))
        ),
    )
    header = ["Accuracy", "Sizes", "Groups", "Correlation", "Accuracy held", "NLL", "Brier"]
    header += [
        "on the page",
        "over images: accuracy",
        "NLL",
        "Brier",
        "Difference",
        "t-test rejects",
    ]
    print_table(
        header,
        (
            [share, sizes, count, correlation, *coverage(count, sizes, share, correlation)]
            for share in SHARES
            for sizes in SIZES
            for count in OVER_GROUPS
            for correlation in CORRELATIONS
        ),
    )


if __name__ == "__main__":
    main()
