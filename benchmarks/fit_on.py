"""What do thresholds and temperature gain that are fitted on shifted validation images too?

    python benchmarks/fit_on.py                                 # 5,000 digits; prints markdown
    python benchmarks/fit_on.py pathmnist --root FOLDER         # pathmnist.npz is in FOLDER

Trains a small ResNet-18 (`--seeds 3 --epochs 3` by default) and measures it under shifts. Beside
what is fitted on clean validation images alone stands what is fitted on them under other shifts too
(`fit_on`), none of which is tested. Printed are the numbers of scores.csv: means over the levels of
a shift and over seeds, with their 95 % intervals over seeds and images.
"""

import argparse
import tempfile

import fairweather as fw
from fairweather.requests.study.schema import check_study

RISK = "risk_above_validation_threshold/0.05"
COVERAGE = "coverage_above_validation_threshold/0.05"
STUDY = {
    "name": "fit-on",
    "threads": 1,
    "shifts": [
        {"gaussian_blur": {"sigma": [0.8, 1.2, 1.6]}},
        {"brightness_factor": [0.3, 0.5, 0.7]},
        {"rotation": [15, 30, 45]},
    ],
    "fit_on": [
        "clean",
        {"imagenet_c/gaussian_noise": [1, 3, 5]},
        {"jpeg": [10, 30]},
        {"translate": [0.1, 0.2]},
    ],
    "variants": ["temperature"],
    "models": {
        "basic": {
            "title": "Basic",
            "backbone": "timm:resnet18",
            "width": 0.25,
            "recipe": {
                "batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 5e-3,
                "weight_decay": 1e-4,
                "schedule": "cosine",
            },
        }
    },
}
# The metric, how it is written, the model that is fitted on clean images, and that with `fit_on`.
QUESTIONS = [
    (RISK, "risk (%)", "basic", "basic+thresholds-fit_on"),
    (COVERAGE, "coverage (%)", "basic", "basic+thresholds-fit_on"),
    ("atc_accuracy_error", "ATC − accuracy (points)", "basic", "basic+thresholds-fit_on"),
    (
        "confidence_gap",
        "tempered confidence − accuracy (points)",
        "basic+temperature",
        "basic+temperature-fit_on",
    ),
    (
        "rms_calibration_error",
        "tempered RMS calibration error (points)",
        "basic+temperature",
        "basic+temperature-fit_on",
    ),
]


def written(row):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[name] for name in ("value", "low", "high")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="?", default="mnist5k")
    parser.add_argument("--root")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    study = STUDY | {"data": {"source": asked.source, "root": asked.root}, "seeds": asked.seeds}
    study["models"]["basic"]["recipe"] |= {
        "epochs": asked.epochs,
        "warmup_epochs": int(asked.epochs > 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        scores = fw.run(check_study(study), out=f"{folder}/run", device="cpu").scores
    scores = scores[scores["seed"] == ("mean" if asked.seeds > 1 else "0")]
    scores = scores.set_index(["model", "shift", "level", "metric"])
    places = [("clean", "none"), *((name, "mean") for entry in STUDY["shifts"] for name in entry)]
    print("| " + " | ".join(["", "fitted on", *(shift for shift, _ in places)]) + " |")
    print("|---" * (2 + len(places)) + "|")
    for metric, label, *models in QUESTIONS:
        for model, fitted in zip(models, ("clean", "clean and shifted"), strict=True):
            cells = [written(scores.loc[(model, *place, metric)]) for place in places]
            print("| " + " | ".join([label, fitted, *cells]) + " |")


if __name__ == "__main__":
    main()
