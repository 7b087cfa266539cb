"""What a test may ask of something random: p-values, held against one chance of a false alarm.

A test with random numbers states what is true of them (a share, a distribution, two attacks of
equal strength) and fails where what it found, or anything farther off, would be rarer than
`FALSE_ALARM_RATE`, were that true. The standard error is in the p-value, so no tolerance is one
that
was seen once. Draws are seeded: the chance is met when a change draws other numbers, not daily.
"""

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-4
"""Chance that a comparison fails although the code is right."""


def share_p(hits, expected: float) -> float:
    """Two-sided p-value of booleans `[n]` of which this share should be true: exact, binomial.

    >>> share_p(np.arange(1000) < 310, 0.3) > FALSE_ALARM > share_p(np.arange(1000) < 360, 0.3)
    True
    """
    hits = np.asarray(hits)
    return float(stats.binomtest(int(hits.sum()), hits.size, expected).pvalue)


def fewest(n: int, chance: float) -> int:
    """Number of hits among n, each with at least this chance, below which is a false alarm.

    >>> fewest(100, 0.95)
    85
    >>> bool(stats.binom.cdf(84, 100, 0.95) < FALSE_ALARM < stats.binom.cdf(85, 100, 0.95))
    True
    """
    return int(stats.binom.ppf(FALSE_ALARM, n, chance))


def most(n: int, chance: float) -> int:
    """Number of hits among n, each with at most this chance, above which is a false alarm.

    >>> most(100, 0.05) == 100 - fewest(100, 0.95)
    True
    """
    return n - fewest(n, 1 - chance)


def counts_p(counts, shares=None) -> float:
    """p-value of counts that should have these shares, or equal ones: Pearson's chi-square.

    >>> counts_p([90, 110, 100]) > FALSE_ALARM > counts_p([50, 150, 100])
    True
    """
    counts = np.asarray(counts)
    expected = counts.mean() if shares is None else counts.sum() * np.asarray(shares)
    return float(stats.chisquare(counts, np.broadcast_to(expected, counts.shape)).pvalue)


def distribution_p(values, distribution: str, *parameters: float) -> float:
    """p-value of independent values that should follow a continuous distribution of `scipy.stats`.

    Kolmogorov and Smirnov's.

    >>> values = np.random.default_rng(0).random(1000)
    >>> distribution_p(values, "uniform") > FALSE_ALARM > distribution_p(values, "beta", 1, 1.5)
    True
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    return float(stats.kstest(values, distribution, parameters).pvalue)


def mean_p(values, expected: float) -> float:
    """Two-sided p-value of the mean of independent values: Student's, with their own deviation.

    >>> values = np.random.default_rng(0).normal(3, 2, 1000)
    >>> mean_p(values, 3) > FALSE_ALARM > mean_p(values, 3.5)
    True
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    return float(stats.ttest_1samp(values, expected).pvalue)


def means_p(first, second) -> float:
    """Two-sided p-value of two sets of independent values with the same mean: Welch's.

    >>> values = np.random.default_rng(0).normal(3, 2, (2, 500))
    >>> means_p(*values) > FALSE_ALARM > means_p(values[0], values[1] + 1)
    True
    """
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def pairs_p(first, second) -> float:
    """Two-sided p-value of two columns of booleans whose pairs have the same chance each.

    The sign test: where the two of a pair differ, either is as likely to be the true one. It is
    exact for pairs that are independent of each other, and each pair may have another chance.

    >>> images = np.arange(400)
    >>> pairs_p(images < 200, images < 205) > FALSE_ALARM > pairs_p(images < 200, images < 220)
    True
    """
    first, second = np.asarray(first), np.asarray(second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def deviations(comparisons: int = 1) -> float:
    """Standard errors that a normal value may lie off, either way, as the farthest of several.

    >>> round(deviations(), 2), round(deviations(100), 2)
    (3.89, 4.89)
    """
    return float(stats.norm.isf(FALSE_ALARM / comparisons / 2))


def quantile_error(n: int, share: float = 0.025) -> float:
    """Standard error of this quantile of n normal values, in their standard deviations.

    >>> round(quantile_error(1000), 3)
    0.084
    """
    density = stats.norm.pdf(stats.norm.ppf(share))
    return float(np.sqrt(share * (1 - share) / n) / density)
