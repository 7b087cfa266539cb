"""Make the goldens with the benchmark authors' package: see README.md for its environment.

python make_imagenet_c.py exact
python make_imagenet_c.py draws CORRUPTION ...
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast"),
    *("pixelate", "jpeg_compression", "gaussian_blur", "saturate"),
)
STOCHASTIC = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform", "spatter"),
)
SIZE, DRAWS = 224, 200


def exact():
    """One archive of outputs: the generator is seeded with the severity before each call."""
    from imagenet_c import corrupt
    from images import IMAGES
    from measure import block_means, windows

    kept = {}
    for corruption in [*DETERMINISTIC, *STOCHASTIC]:
        names = IMAGES if corruption in DETERMINISTIC else ["scene"]
        for name in names:
            image = IMAGES[name](SIZE, SIZE)
            outputs = []
            for severity in range(1, 6):
                np.random.seed(severity)  # noqa: NPY002
                outputs.append(corrupt(image, severity, corruption))
            kept[f"{corruption}.{name}.windows"] = np.stack([windows(o) for o in outputs])
            kept[f"{corruption}.{name}.blocks"] = np.stack([block_means(o) for o in outputs])
    np.savez_compressed(HERE / "imagenet_c_exact.npz", **kept)


def draws(corruption):
    """Moments and spectra of 200 draws per severity, means and standard errors over the draws."""
    from imagenet_c import corrupt
    from images import scene
    from measure import mean_and_error, region_moments, spectrum

    image = scene(SIZE, SIZE)
    kept = {"moments": [], "moments_error": [], "spectrum": [], "spectrum_error": []}
    for severity in range(1, 6):
        moments, spectra = [], []
        for draw in range(DRAWS):
            np.random.seed(1000 * severity + draw)  # noqa: NPY002
            output = corrupt(image, severity, corruption)
            moments.append(region_moments(output))
            spectra.append(spectrum(output, image))
        for name, values in (("moments", moments), ("spectrum", spectra)):
            mean, error = mean_and_error(values)
            kept[name].append(mean)
            kept[f"{name}_error"].append(error)
    arrays = {name: np.array(rows) for name, rows in kept.items()}
    np.savez_compressed(HERE / f"imagenet_c_draws_{corruption}.npz", **arrays)


if __name__ == "__main__":
    if sys.argv[1] == "exact":
        exact()
    else:
        for chosen in sys.argv[2:] or STOCHASTIC:
            draws(chosen)
