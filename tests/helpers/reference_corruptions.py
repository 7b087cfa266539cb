"""The 19 corruptions once more, slowly: as published, with randomness from outside.

Each function takes an 8-bit image [H, W, 3] of any size, the set's parameters by name
(`golden/constants.json`) and, for the stochastic ones, the drawn arrays; `corrupt` draws them from
a legacy generator in the published order. `golden/README.md` states operations, borders, rounding,
and how closely these agree with the package. Definitions: Hendrycks & Dietterich 2019,
arXiv:1903.12261, and hendrycks/robustness, ImageNet-C/create_c.
"""

import colorsys
import io

import numpy as np
from PIL import Image

from tests.golden.reference_spatter import wetness


def quantise(values):
    """[0, 1] -> 8 bits, cut off, not rounded."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def weighted_taps(image, taps, mode):
    """Sum of weight * image[y + dy, x + dx] over the taps (dy, dx, weight)."""
    height, width = image.shape[:2]
    reach = max(max(abs(dy), abs(dx)) for dy, dx, _ in taps)
    pad = ((reach, reach), (reach, reach)) + ((0, 0),) * (image.ndim - 2)
    padded = np.pad(image, pad, mode=mode)
    total = np.zeros(image.shape)
    for dy, dx, weight in taps:
        top, left = reach + dy, reach + dx
        total += weight * padded[top : top + height, left : left + width]
    return total


def bell(radius, sigma):
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def gaussian(image, sigma, mode="edge", truncate=4.0):
    if sigma == 0:
        return image
    radius = int(truncate * sigma + 0.5)
    line = list(zip(range(-radius, radius + 1), bell(radius, sigma), strict=True))
    image = weighted_taps(image, [(k, 0, weight) for k, weight in line], mode)
    return weighted_taps(image, [(0, k, weight) for k, weight in line], mode)


def gaussian_noise(image, normal, std):
    return quantise(image / 255 + std * normal)


def shot_noise(image, counts, photons):
    return quantise(counts / photons)


def impulse_noise(image, flip, salt, amount):
    noisy = np.where(flip < amount, np.where(salt < 0.5, 1.0, 0.0), image / 255)
    return quantise(noisy)


def speckle_noise(image, normal, std):
    return quantise(image / 255 * (1 + std * normal))


def gaussian_blur(image, sigma):
    return quantise(gaussian(image / 255, sigma))


def glass_blur(image, offsets, sigma, max_delta, iterations):
    """offsets: int [iterations, H - 2 d, W - 2 d, 2], (dx, dy) in the order of the walk."""
    moved = (gaussian(image / 255, sigma) * 255).astype(np.uint8)
    height, width = image.shape[:2]
    for i in range(iterations):
        for a, h in enumerate(range(height - max_delta, max_delta, -1)):
            for b, w in enumerate(range(width - max_delta, max_delta, -1)):
                dx, dy = offsets[i, a, b]
                moved[h, w] = moved[h + dy, w + dx]
    return quantise(gaussian(moved / 255, sigma))


def disk_kernel(radius, alias_blur):
    reach, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = (y**2 + x**2 <= radius**2).astype(np.float64)
    line = bell(soft, alias_blur)
    taps = [
        (dy, dx, line[dy + soft] * line[dx + soft])
        for dy in range(-soft, soft + 1)
        for dx in range(-soft, soft + 1)
    ]
    return weighted_taps(inside / inside.sum(), taps, "reflect")


def defocus_blur(image, radius, alias_blur):
    kernel = disk_kernel(radius, alias_blur)
    reach = len(kernel) // 2
    taps = [(y - reach, x - reach, kernel[y, x]) for y, x in np.argwhere(kernel)]
    return quantise(weighted_taps(image / 255, taps, "reflect"))


def streak(image, radius, sigma, angle):
    """ImageMagick's MotionBlur, unrounded: a one-sided line of pixels, edge pixels repeated."""
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    dx = np.ceil(steps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    dy = np.ceil(steps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    return weighted_taps(image, list(zip(dy, dx, weights / weights.sum(), strict=True)), "edge")


def streak_8bit(image, radius, sigma, angle):
    """Rounded to ImageMagick's 16 bits, then cut off to 8."""
    wide = np.rint(streak(image.astype(np.float64), radius, sigma, angle) * 257)
    return (wide // 257).astype(np.uint8)


def motion_blur(image, angle, radius, sigma):
    return streak_8bit(image, radius, sigma, angle)


def zoomed_axis(size, zoom):
    """Lower neighbour, upper neighbour and upper weight of each of `size` zoomed positions."""
    crop = int(np.ceil(size / zoom))
    grown = round(crop * zoom)
    step = (crop - 1) / (grown - 1) if grown > 1 else 0.0
    place = (np.arange(size) + (grown - size) // 2) * step
    low = np.minimum(np.floor(place).astype(int), crop - 1)
    high = np.minimum(low + 1, crop - 1)
    start = (size - crop) // 2
    return start + low, start + high, place - low


def zoomed(image, zoom):
    low, high, share = zoomed_axis(image.shape[0], zoom)
    share = share.reshape(-1, *(1,) * (image.ndim - 1))
    image = image[low] * (1 - share) + image[high] * share
    low, high, share = zoomed_axis(image.shape[1], zoom)
    share = share.reshape(1, -1, *(1,) * (image.ndim - 2))
    return image[:, low] * (1 - share) + image[:, high] * share


def zoom_blur(image, zoom_factors):
    values = image / 255
    layers = [values, *(zoomed(values, zoom) for zoom in zoom_factors)]
    return quantise(sum(layers) / len(layers))


def snow(image, normal, angle, **parameters):
    mean, std, zoom, threshold, radius, sigma, weight = parameters.values()
    flakes = zoomed(mean + std * normal, zoom)
    flakes = quantise(np.where(flakes < threshold, 0, flakes))
    flakes = streak_8bit(flakes, radius, sigma, angle) / 255
    values = image / 255
    pale = (values @ [0.299, 0.587, 0.114])[..., None] * 1.5 + 0.5
    values = weight * values + (1 - weight) * np.maximum(values, pale)
    return quantise(values + (flakes + flakes[::-1, ::-1])[..., None])


def shrunk(photo, scale):
    """Linear resize without smoothing, centres at (k + 1/2) / scale - 1/2, rounded to 8 bits."""
    values = photo.astype(np.float64)
    for axis in (0, 1):
        size = photo.shape[axis]
        place = np.clip((np.arange(round(size * scale)) + 0.5) / scale - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        upper = np.take(values, np.minimum(low + 1, size - 1), axis)
        values = np.take(values, low, axis) * (1 - share) + upper * share
    return np.floor(values + 0.5).astype(np.uint8)


def frost(image, photo, row, column, image_weight, frost_weight):
    """photo: 8-bit RGB, already scaled for the set (`shrunk`)."""
    height, width = image.shape[:2]
    crop = photo[row : row + height, column : column + width]
    return np.clip(image_weight * image + frost_weight * crop, 0, 255).astype(np.uint8)


def plasma(uniform, mapsize, decay):
    """Diamond-square on a torus; uniform: values in [-1, 1], consumed in the published order."""
    heights = np.zeros((mapsize, mapsize))
    uniform, wibble, step = iter(uniform), 100.0, mapsize
    while step >= 2:
        half = step // 2
        corners = range(0, mapsize, step)
        centres = range(half, mapsize, step)
        for rows, columns, near in (
            (centres, centres, ((-1, -1), (-1, 1), (1, -1), (1, 1))),
            (corners, centres, ((-1, 0), (1, 0), (0, -1), (0, 1))),
            (centres, corners, ((-1, 0), (1, 0), (0, -1), (0, 1))),
        ):
            for y in rows:
                for x in columns:
                    total = sum(
                        heights[(y + half * a) % mapsize, (x + half * b) % mapsize] for a, b in near
                    )
                    heights[y, x] = total / 4 + wibble**2 * next(uniform)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def plasma_size(height, width):
    return 1 << (max(height, width) - 1).bit_length()


def fog(image, uniform, scale, wibble_decay):
    height, width = image.shape[:2]
    clouds = plasma(uniform, plasma_size(height, width), wibble_decay)[:height, :width, None]
    values = image / 255
    top = values.max()
    return quantise((values + scale * clouds) * top / (top + scale))


def through_hsv(image, change):
    height, width = image.shape[:2]
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
        for pixel in (image / 255).reshape(-1, 3)
    ]
    return quantise(np.array(pixels).reshape(height, width, 3))


def brightness(image, shift):
    return through_hsv(image, lambda h, s, v: (h, s, min(v + shift, 1.0)))


def saturate(image, factor, shift):
    return through_hsv(image, lambda h, s, v: (h, min(s * factor + shift, 1.0), v))


def contrast(image, factor):
    values = image / 255
    mean = values.mean(axis=(0, 1))
    return quantise((values - mean) * factor + mean)


def pixelate(image, fraction):
    height, width = image.shape[:2]
    small = (int(width * fraction), int(height * fraction))
    blocks = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.array(blocks.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def mirrored(index, size, edge_repeats):
    """Index into `size` pixels mirrored without end, the edge pixel counted twice or once."""
    period = 2 * size if edge_repeats else max(2 * size - 2, 1)
    index = np.mod(index, period)
    return np.minimum(index, period - (1 if edge_repeats else 0) - index)


def sampled(values, y, x, edge_repeats):
    """Linear interpolation at float positions [H, W] of a mirrored image."""
    low_y, low_x = np.floor(y).astype(int), np.floor(x).astype(int)
    total = 0
    for a in (0, 1):
        for b in (0, 1):
            share = np.abs(1 - a - (y - low_y)) * np.abs(1 - b - (x - low_x))
            rows = mirrored(low_y + a, values.shape[0], edge_repeats)
            columns = mirrored(low_x + b, values.shape[1], edge_repeats)
            total = total + share[..., None] * values[rows, columns]
    return total


def affine_positions(height, width, shifts):
    """Where each output pixel reads, on OpenCV's grid of 1/32 px (10-bit fixed point inside)."""
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    before = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    after = (before.astype(np.float32) + shifts.astype(np.float32)).astype(np.float64)
    backward = np.linalg.solve(np.column_stack([after, np.ones(3)]), before).T
    rows = np.rint((backward[:, 1, None] * np.arange(height) + backward[:, 2, None]) * 1024)
    columns = np.rint(backward[:, 0, None] * np.arange(width) * 1024)
    place = np.floor((rows[:, :, None] + columns[:, None, :] + 16) / 32) / 32
    return place[1], place[0]


def elastic_transform(image, shifts, dx, dy, alpha, sigma, affine):
    """shifts: [3, 2] in [-1, 1], times `affine`; dx, dy: [H, W] in [-1, 1]."""
    height, width = image.shape[:2]
    y, x = affine_positions(height, width, affine * shifts)
    warped = sampled(image / 255, y, x, edge_repeats=False)
    dx, dy = (alpha * gaussian(field, sigma, "symmetric", truncate=3) for field in (dx, dy))
    y, x = np.mgrid[:height, :width]
    return quantise(sampled(warped, y + dy, x + dx, edge_repeats=True))


def spatter(image, normal, mean, std, sigma, threshold, strength, mud):
    values = image / 255
    layer = gaussian(mean + std * normal, sigma)
    if mud:
        cover = gaussian((layer > threshold).astype(np.float64), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return quantise(values * (1 - cover) + cover * np.array([63, 42, 20]) / 255)
    water = strength * wetness(np.where(layer < threshold, 0, layer))[..., None]
    return quantise(values + water * np.array([175, 238, 238]) / 255)


def draw_glass(rng, image, sigma, max_delta, iterations):
    height, width = image.shape[:2]
    shape = (iterations, height - 2 * max_delta, width - 2 * max_delta, 2)
    return {"offsets": rng.randint(-max_delta, max_delta, size=shape)}


def draw_snow(rng, image, **_):
    return {"normal": rng.normal(size=image.shape[:2]), "angle": rng.uniform(-135, -45)}


def draw_elastic(rng, image, **_):
    size = image.shape[:2]
    return {
        "shifts": rng.uniform(-1, 1, (3, 2)),
        "dx": rng.uniform(-1, 1, size),
        "dy": rng.uniform(-1, 1, size),
    }


def draw_fog(rng, image, **_):
    return {"uniform": rng.uniform(-1, 1, plasma_size(*image.shape[:2]) ** 2 - 1)}


def draw_frost(rng, image, photos, **_):
    """photos: the six, 8-bit RGB, scaled for the set; the sixth is never drawn."""
    photo = photos[rng.randint(5)]
    row = rng.randint(0, photo.shape[0] - image.shape[0])
    column = rng.randint(0, photo.shape[1] - image.shape[1])
    return {"photo": photo, "row": row, "column": column}


DRAWS = {
    "gaussian_noise": lambda rng, image, **_: {"normal": rng.normal(size=image.shape)},
    "speckle_noise": lambda rng, image, **_: {"normal": rng.normal(size=image.shape)},
    "shot_noise": lambda rng, image, photons: {"counts": rng.poisson(image / 255 * photons)},
    "impulse_noise": lambda rng, image, **_: {
        "flip": rng.random_sample(image.shape),
        "salt": rng.random_sample(image.shape),
    },
    "glass_blur": draw_glass,
    "motion_blur": lambda rng, image, **_: {"angle": rng.uniform(-45, 45)},
    "snow": draw_snow,
    "frost": draw_frost,
    "fog": draw_fog,
    "elastic_transform": draw_elastic,
    "spatter": lambda rng, image, **_: {"normal": rng.normal(size=image.shape[:2])},
}

CORRUPTIONS = {
    function.__name__: function
    for function in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur),
        *(zoom_blur, snow, frost, fog, brightness, contrast, elastic_transform, pixelate),
        *(jpeg_compression, speckle_noise, gaussian_blur, spatter, saturate),
    )
}


def corrupt(name, image, parameters, rng=None, photos=None):
    """One corruption of one image, drawn from `rng`, a legacy RandomState."""
    extra = {"photos": photos} if name == "frost" else {}
    drawn = DRAWS[name](rng, image, **extra, **parameters) if name in DRAWS else {}
    return CORRUPTIONS[name](image, **drawn, **parameters)
