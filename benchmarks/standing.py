"""How often does the interval of effective robustness relative to standard models hold?

    python benchmarks/standing.py    # half an hour on an idle core; writes benchmarks/standing.csv

The standard models come in families, whose sizes are those of the ImageNet testbed. On the logit
scale each lies around a true line by an error of its family and one of its own. The model in
question lies five points above that line. Its accuracies are shares of its images; its clean
accuracy is amid those of the standard models, or at their upper end.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from fairweather.judge.standing import Line
from fairweather.metrics import Estimate, to_score

TABLE = Path(__file__).with_suffix(".csv")
DRAWS, RESAMPLES = 2_000, 400
SIZES = (17, 16, 8, 5, 4, 4, 3, 3, *[2] * 5, *[1] * 15)  # 28 families, 85 models
CODES = np.repeat(np.arange(len(SIZES)), SIZES)
FAMILIES = tuple(map(str, CODES))
SLOPE, INTERCEPT, TRUTH = 1.0, -1.8, 0.05
PUBLISHED = 50_000  # images of each published accuracy
IMAGES = (2_000, 50_000)
ERRORS = ((0.0, 0.1), (0.1, 0.05), (0.15, 0.1))  # of a family and of a model, in logits
CLEAN = (0.76, 0.86)


def draw_line(rng: np.random.Generator, family_sd: float, model_sd: float) -> Line:
    """Draw the published accuracies of the standard models."""
    centres = logit(rng.uniform(0.56, 0.85, len(SIZES)))
    x = np.clip(centres[CODES] + rng.normal(0, 0.2, len(CODES)), logit(0.55), logit(0.87))
    y = INTERCEPT + SLOPE * x + rng.normal(0, model_sd, len(CODES))
    y += rng.normal(0, family_sd, len(SIZES))[CODES]
    shares = (rng.binomial(PUBLISHED, expit(side)) / PUBLISHED for side in (x, y))
    return Line(*shares, FAMILIES)


def draw_estimate(rng: np.random.Generator, truth: float, images: int) -> Estimate:
    """Draw an accuracy; its resamples are binomial, which resampling images amounts to."""
    share = rng.binomial(images, truth) / images
    return Estimate(share, rng.binomial(images, share, RESAMPLES) / images, images)


def simulate(images: int, family_sd: float, model_sd: float, clean: float) -> dict[str, object]:
    """How often the truth is below the interval and above it, in %, and the interval's width."""
    rng = np.random.default_rng(0)
    shifted = float(expit(INTERCEPT + SLOPE * logit(clean))) + TRUTH
    scores = [
        to_score(
            draw_line(rng, family_sd, model_sd).effective(
                draw_estimate(rng, clean, images), draw_estimate(rng, shifted, images)
            ),
            (-1, 1),
        )
        for _ in range(DRAWS)
    ]
    return {
        "images": images,
        "sd_family": family_sd,
        "sd_model": model_sd,
        "clean": clean,
        "draws": DRAWS,
        "truth_below": round(100 * np.mean([score.low > TRUTH for score in scores]), 2),
        "truth_above": round(100 * np.mean([score.high < TRUTH for score in scores]), 2),
        "width_points": round(100 * np.mean([score.high - score.low for score in scores]), 2),
    }


def read_rows() -> list[dict[str, str]]:
    """The stored table."""
    return pd.read_csv(TABLE, dtype=str, keep_default_na=False).to_dict("records")


def main() -> None:
    """Simulate every setting, print its row, and write the table."""
    rows = []
    for images, (family_sd, model_sd), clean in itertools.product(IMAGES, ERRORS, CLEAN):
        rows.append(simulate(images, family_sd, model_sd, clean))
        print(*rows[-1].values(), sep=", ", flush=True)
    pd.DataFrame(rows).to_csv(TABLE, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
