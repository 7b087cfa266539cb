"""spatter's water layer without OpenCV: edges, distances, equalising, as OpenCV documents them."""

import numpy as np
from scipy import ndimage


def shifted(image, mode):
    """The nine 3 x 3 neighbours of each pixel, [3, 3, H, W]."""
    height, width = image.shape
    padded = np.pad(image, 1, mode=mode)
    return np.array([[padded[y : y + height, x : x + width] for x in range(3)] for y in range(3)])


def canny(image, low, high):
    """Canny with 3 x 3 Sobel (edge pixels repeated) and the L1 norm: True on edges.

    Thinning compares along the gradient, in four directions split at 22.5 and 67.5 degrees; a tie
    with the left or upper neighbour loses, with the right or lower one wins, on a diagonal loses.
    """
    near = shifted(image.astype(np.int64), "edge")
    weights = np.array([1, 2, 1])
    gx = np.tensordot(weights, near[:, 2] - near[:, 0], 1)
    gy = np.tensordot(weights, near[2] - near[0], 1)
    size = np.abs(gx) + np.abs(gy)
    around = shifted(size, "constant")
    kept = np.zeros(size.shape, dtype=bool)
    for y, x in np.argwhere(size > low):
        across, along = abs(int(gx[y, x])), abs(int(gy[y, x])) << 15
        lower = across * 13573  # tan 22.5 degrees in 15-bit fixed point
        here, side = size[y, x], around[:, :, y, x]
        if along < lower:
            kept[y, x] = here > side[1, 0] and here >= side[1, 2]
        elif along > lower + (across << 16):
            kept[y, x] = here > side[0, 1] and here >= side[2, 1]
        else:
            turn = -1 if (gx[y, x] < 0) != (gy[y, x] < 0) else 1
            kept[y, x] = here > side[0, 1 - turn] and here > side[2, 1 + turn]
    parts, _ = ndimage.label(kept, structure=np.ones((3, 3)))
    strong = np.unique(parts[kept & (size > high)])
    return np.isin(parts, strong[strong > 0])


def distance(edges, limit):
    """Chamfer distance to the next edge, steps 1, 1.4, 2.1969 (Borgefors 1986), up to `limit`."""
    steps = [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.4), (1, 2, 2.1969), (2, 1, 2.1969)]
    steps = {(sy * y, sx * x, cost) for y, x, cost in steps for sy in (1, -1) for sx in (1, -1)}
    found = np.where(edges, 0.0, limit)
    height, width = found.shape
    before = None
    while before is None or (found != before).any():
        before = found.copy()
        padded = np.pad(found, 2, constant_values=limit)
        for y, x, cost in steps:
            near = padded[2 + y : 2 + y + height, 2 + x : 2 + x + width]
            found = np.minimum(found, near + cost)
    return found


def equalize(image):
    counts = np.bincount(image.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    if counts[first] == image.size:
        return image
    counts[first] = 0
    table = np.rint(np.cumsum(counts) * 255.0 / counts.sum())
    return table[image].astype(np.uint8)


def wetness(layer):
    """Light and shadow by distance from a drop's rim. float [H, W] -> float [H, W] in [0, 1]."""
    layer = np.floor(layer * 255).astype(np.int64) & 255
    far = distance(canny(layer, 50, 150), 20.0)
    far = equalize(shifted(far, "reflect").mean(axis=(0, 1)).astype(np.uint8)).astype(np.int64)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.clip((shifted(far, "reflect") * kernel[:, :, None, None]).sum(axis=(0, 1)), 0, 255)
    wet = layer * np.rint(shifted(lit, "reflect").mean(axis=(0, 1)))
    return wet / wet.max() if wet.max() > 0 else np.zeros(wet.shape)
