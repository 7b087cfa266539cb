"""The images of the goldens: integer formulae, so every platform has the same bytes."""

import numpy as np


def scene(height, width):
    """Gradients, a disk, stripes, soft grain, flat black, white, gray areas. 8 bits [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    ramps = (255 * x // max(width - 1, 1), 255 * y // max(height - 1, 1))
    image = np.stack([*ramps, (ramps[0] + 2 * ramps[1]) // 3], axis=-1)
    disk = (y - height * 2 // 5) ** 2 + (x - width * 2 // 5) ** 2 < (min(height, width) // 5) ** 2
    image[disk] = (210, 60, 90)
    stripes = ((x // 3 + y // 5) % 2 == 0) & (y > height * 3 // 4) & (x > width * 3 // 4)
    image[stripes] = (30, 220, 160)
    grain = np.random.RandomState(7).randint(-24, 25, size=(height, width, 3))
    image = image + (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) // 3
    image[: height // 6, width * 2 // 3 :] = 255
    image[height * 5 // 6 :, : width // 4] = 0
    image[height // 2 : height * 2 // 3, width // 2 : width * 4 // 5] = 128
    return np.clip(image, 0, 255).astype(np.uint8)


def texture(height, width):
    """Block noise of six scales around a muted colour, few flat areas. 8 bits [H, W, 3]."""
    rng = np.random.RandomState(11)
    image = np.full((height, width, 3), (150, 110, 125))
    for block in (32, 16, 8, 4, 2, 1):
        rows, columns = -(-height // block), -(-width // block)
        tones = rng.randint(-30, 31, size=(rows, columns, 1))
        tints = rng.randint(-12, 13, size=(rows, columns, 3))
        grown = np.repeat(np.repeat(tones + tints, block, axis=0), block, axis=1)
        image = image + grown[:height, :width]
    return np.clip(image, 0, 255).astype(np.uint8)


IMAGES = {"scene": scene, "texture": texture}
