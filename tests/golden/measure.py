"""What is kept of outputs: windows and block means to compare, moments and spectra of draws."""

import numpy as np

WINDOWS = (0, 92, 184)  # top left of the three 40 x 40 windows on the diagonal of 224 x 224
WINDOW, BLOCK, BANDS = 40, 16, 16
REGIONS = {  # of a unit square: top, bottom, left, right
    "whole": (0.0, 1.0, 0.0, 1.0),
    "white": (0.02, 0.15, 0.7, 0.98),
    "black": (0.86, 0.98, 0.02, 0.23),
    "gray": (0.53, 0.64, 0.53, 0.77),
    "disk": (0.3, 0.5, 0.3, 0.5),
}


def windows(image):
    """8 bits [224, 224, 3] -> 8 bits [3, 40, 40, 3]."""
    return np.stack([image[k : k + WINDOW, k : k + WINDOW] for k in WINDOWS])


def block_means(image):
    """8 bits [H, W, 3] -> float32 [H / 16, W / 16, 3]."""
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    blocks = image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    return blocks.mean(axis=(1, 3)).astype(np.float32)


def region_moments(output):
    """8 bits [H, W, 3] -> mean and variance over each region's pixels, float64 [2, regions, 3]."""
    height, width = output.shape[:2]
    found = []
    for top, bottom, left, right in REGIONS.values():
        rows = slice(int(top * height), int(bottom * height))
        part = output[rows, int(left * width) : int(right * width)].astype(np.float64)
        found.append((part.mean(axis=(0, 1)), part.var(axis=(0, 1))))
    return np.moveaxis(np.array(found), 1, 0)


def spectrum(output, image):
    """Power of output - image per radial frequency band, mean over channels. float64 [16].

    Band k holds the frequencies k / 32 < f <= (k + 1) / 32 cycles per pixel, f^2 = fy^2 + fx^2;
    f = 0 is in none: the mean is measured elsewhere. Power is |FFT|^2 / (H W).
    """
    change = output.astype(np.float64) - image
    height, width = image.shape[:2]
    power = (np.abs(np.fft.fft2(change, axes=(0, 1))) ** 2 / (height * width)).mean(axis=2)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    band = np.ceil(frequency * 2 * BANDS).astype(int)
    count = np.bincount(band.ravel(), minlength=BANDS + 1)[1 : BANDS + 1]
    total = np.bincount(band.ravel(), weights=power.ravel(), minlength=BANDS + 1)[1 : BANDS + 1]
    return total / np.maximum(count, 1)


def mean_and_error(draws):
    """[N, ...] -> the mean over draws and its standard error, each [...]."""
    draws = np.asarray(draws)
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
