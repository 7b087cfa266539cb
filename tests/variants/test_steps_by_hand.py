"""One or two steps of each method of adaptation, worked out on paper in the docstrings.

Most networks are layer norm of two pixels: an image that is brighter left gives (1, -1), one that
is brighter right gives (-1, 1), and a gray one (0, 0). Scales and shifts follow, and the two
numbers are the logits. With scales of 1 + s and shifts of t and -t, a bright image has the logits
+-(1 + s + t), a dark one -+(1 + s - t), and a gray one +-t.

For logits at a distance d, the larger probability is p = 1 / (1 + exp(-d)). The entropy has the
slope -p (1 - p) d along the first logit, and the opposite along the second.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.variants.adaptation import cotta, lame
from fairweather.variants.variant import read_variant

BRIGHT, DARK, GRAY = [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]  # named by their left pixel


def make_batch(*images):
    """Images of one channel and one row, `[B, 1, 1, W]`."""
    return torch.tensor(images)[:, None, None]


def make_norm(shift=0.0):
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(2, eps=1e-12))
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([shift, -shift]))
    return network.eval()


def give_logits(scale, shift, *images):
    """The logits of images of two pixels, given 1 + s and t."""
    place = {tuple(BRIGHT): scale + shift, tuple(DARK): shift - scale, tuple(GRAY): shift}
    return [[place[tuple(image)], -place[tuple(image)]] for image in images]


def see(text, network, *batches, source=()):
    """The outputs for each batch, and the network afterwards."""
    variant = read_variant(text)
    adapted = variant.adapt(network).eval()
    if source:
        adapted.memory |= variant.learn(variant.adapt(network).eval(), source)
    with torch.no_grad():
        return [adapted(batch).numpy() for batch in batches], adapted


def larger(distance):
    return 1 / (1 + math.exp(-distance))


def slope(distance):
    """How fast the entropy falls along the larger logit."""
    return larger(distance) * (1 - larger(distance)) * distance


def entropy(distance):
    p = larger(distance)
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def check(outputs, expected):
    assert len(outputs) == len(expected)
    for output, rows in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, rows, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- statistics of batch norm


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("batchnorm", (4, 4), (2, 1)),
        ("batchnorm: {source: 6}", (1, 1.75), (0.5, 1)),
        ("batchnorm: {momentum: 0.5}", (2, 2.5), (2, 1.75)),
        ("batchnorm: {source: 2, momentum: 0.5}", (1, 1.75), (1, 1.375)),
    ],
)
def test_a_step_of_batch_norm(text, first, second):
    """Training had the mean 0 and the variance 1. The batches (2, 6) and (1, 3) have 4, 4 and 2, 1.

    Six source images beside two count 3/4: the means are 4/4 and 2/4, the variances 3/4 + 4/4 and
    3/4 + 1/4. With a momentum of 1/2, the means are 0/2 + 4/2 = 2 and 2/2 + 2/2 = 2, the variances
    1/2 + 4/2 = 2.5 and 2.5/2 + 1/2 = 1.75. Two source images then add half of 0 and of 1.
    """
    network = nn.Sequential(nn.BatchNorm2d(1, eps=1e-12, affine=False)).eval()
    outputs, _ = see(text, network, make_batch([2.0], [6.0]), make_batch([1.0], [3.0]))
    expected = [
        [(pixel - mean) / math.sqrt(variance) for pixel in pixels]
        for pixels, (mean, variance) in zip(((2, 6), (1, 3)), (first, second), strict=True)
    ]
    check([output.ravel() for output in outputs], expected)


# ---------------------------------------------------------------- steps along gradients


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("tent: {optimiser: sgd, learning_rate: 1}", larger(2) * (1 - larger(2)) * 2),
        ("tent: {learning_rate: 0.1}", 0.1),
    ],
)
def test_a_step_of_tent(text, step):
    """The distance is 2, and p = 1 / (1 + exp(-2)). The slope along the first logit is -0.20999.

    A step of 1 adds this to the first scale and shift, and to the second scale; it takes it from
    the second shift. The logits are then 1 + 2 * 0.20999 and its opposite. The first step of Adam
    is as long as the learning rate, whatever the slope is.
    """
    bright = make_batch(BRIGHT)
    outputs, _ = see(text, make_norm(), bright, bright)
    check(outputs, [[[1, -1]], [[1 + 2 * step, -1 - 2 * step]]])


def test_a_step_of_eata():
    """The limit is 0.9 ln 2 = 0.62: bright and dark images have 0.37 and count, gray 0.69 does not.

    First batch, bright and gray: one image counts, with the weight exp(limit - entropy). Both
    scales and the first shift have the slope -g, where g = weight p (1 - p) 2, and the second
    shift has g. With a rate r, s = t = r g. The mean of probabilities is (p, 1 - p).

    Second batch, bright and dark: bright is near the mean and does not count. Dark has the logits
    -1 and 1 as before, and the cosine 2 p (1 - p) / (p^2 + (1 - p)^2) = 0.27. Its slopes are -g for
    the scales, and g and -g for the shifts.

    Fisher: the loss of a model's own answer has slopes of 1 - p or its opposite for a bright image.
    For a gray one, they are 1/2 along shifts and 0 along scales. The mean squares of a batch of
    each are F = (1 - p)^2 / 2 for scales, and F + 1/8 for shifts. With the weight w = 3, the second
    step has 2 w F s and 2 w (F + 1/8) t more. Its momentum is 0.9 of the first step.
    """
    rate, weight = 0.5, 3
    text = f"margin: 0.9, redundancy: 0.5, learning_rate: {rate}, fisher_weight: {weight}"
    batches = make_batch(BRIGHT, GRAY), make_batch(BRIGHT, DARK), make_batch(BRIGHT, DARK, GRAY)
    known = make_batch(BRIGHT, BRIGHT), make_batch(GRAY)
    outputs, _ = see(f"eata: {{{text}}}", make_norm(), *batches, source=known)
    p = larger(2)
    g = math.exp(0.9 * math.log(2) - entropy(2)) * slope(2)
    scale, shift, fisher = 1 + rate * g, rate * g, (1 - p) ** 2 / 2
    expected = [[[1, -1], [0, 0]], give_logits(scale, shift, BRIGHT, DARK)]
    pull, pull_of_shift = (2 * weight * f * rate * g for f in (fisher, fisher + 1 / 8))
    scale += rate * (0.9 * g + g - pull)
    shift += rate * (0.9 * g - g - pull_of_shift)
    check(outputs, [*expected, give_logits(scale, shift, BRIGHT, DARK, GRAY)])
    _, adapted = see(f"eata: {{{text}}}", make_norm(), *batches[:2], source=known)
    mean = 0.9 * p + 0.1 * (1 - p)
    np.testing.assert_allclose(adapted.memory["mean"], [mean, 1 - mean], rtol=1e-5)


@pytest.mark.parametrize(("reset_below", "comes_back"), [(0.3, False), (0.5, True)])
def test_a_step_of_sar(reset_below, comes_back):
    """With t = 1/4, the distances are 2.5 (bright), 1.5 (dark) and 0.5 (gray).

    The limit is 0.9 ln 2 = 0.62. The entropies are 0.27, 0.47 and 0.66, so that gray does not
    count. Let a and b be p (1 - p) d of bright and dark. The mean entropy of both has the slope
    -u = -(a + b) / 2 along both scales, v = (b - a) / 2 along the first shift and -v along the
    second. Its length is the root of 2 u^2 + 2 v^2, and the worst place at a radius of 1/2 has
    the scales 1 - u / 2 / length and the shifts 1/4 + v / 2 / length and its opposite.

    There the entropy of bright is 0.39 and that of dark 0.63, so that only bright counts. The step
    is its slope there, taken from the first place: s = r c and t = 1/4 + r c. The mean entropy is
    0.39: it is below 0.5, and scales and shifts come back.
    """
    rate, radius, before = 0.5, 0.5, 0.25
    text = f"margin: 0.9, radius: {radius}, learning_rate: {rate}, reset_below: {reset_below}"
    every = make_batch(BRIGHT, DARK, GRAY)
    outputs, adapted = see(f"sar: {{{text}}}", make_norm(before), every, every)
    a, b = slope(2.5), slope(1.5)
    u, v = (a + b) / 2, (b - a) / 2
    length = math.sqrt(2 * u**2 + 2 * v**2)
    scale, shift = 1 - radius * u / length, before + radius * v / length
    worst = 2 * (scale + shift)
    assert entropy(worst) < 0.9 * math.log(2) < entropy(2 * (scale - shift))
    step = 0.0 if comes_back else rate * slope(worst)
    images = BRIGHT, DARK, GRAY
    after = give_logits(1 + step, before + step, *images)
    check(outputs, [give_logits(1, before, *images), after])
    assert adapted.passes.resets == 2 * comes_back
    _, once = see(f"sar: {{{text}}}", make_norm(before), every)
    np.testing.assert_allclose(once.memory["entropy"], entropy(worst), rtol=1e-5)


@pytest.mark.parametrize("restored", [0, 1])
def test_a_step_of_cotta(restored, monkeypatch):
    """A bright image. Its augmentations are a dark and a gray one, each time.

    The teacher gives them (-1, 1) and (0, 0): the mean of the logits is (-1/2, 1/2), with the
    probability q of the first class. The student has p. The cross-entropy has the slope
    e = p - q along both scales and the first shift, and -e along the second. So the student has
    s = t = -r e. The teacher gets the share 1 - k of this. If all weights come back, the student
    has s = t = 0 again; its momentum stays.

    To the teacher, a dark image is still (-1, 1), since s = t. A gray one is (t, -t).
    """
    rate, kept = 0.5, 0.8
    seen = itertools.cycle([make_batch(DARK), make_batch(GRAY)])
    monkeypatch.setattr(cotta, "augment", lambda images, random: next(seen))
    text = f"optimiser: sgd, learning_rate: {rate}, kept: {kept}, restored: {restored}"
    bright = make_batch(BRIGHT)
    outputs, adapted = see(
        f"cotta: {{{text}, augmentations: 2, sure: 0.89}}", make_norm(), bright, bright, bright
    )
    student = teacher = speed = 0.0
    expected = []
    for _ in range(3):
        answer = (-1 + teacher) / 2
        expected.append([[answer, -answer]])
        speed = 0.9 * speed + larger(2 * (1 + 2 * student)) - larger(2 * answer)
        student -= rate * speed
        teacher = kept * teacher + (1 - kept) * student
        student *= not restored
    check(outputs, expected)
    np.testing.assert_allclose(
        adapted.network[1].bias.detach(), [student, -student], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(("sure", "answer"), [(0.88, 1), (0.89, -0.5)])
def test_what_cotta_augments(sure, answer, monkeypatch):
    """The model is 1 / (1 + exp(-2)) = 0.8808 sure of a bright image."""
    seen = itertools.cycle([make_batch(DARK), make_batch(GRAY)])
    monkeypatch.setattr(cotta, "augment", lambda images, random: next(seen))
    text = f"cotta: {{sure: {sure}, augmentations: 2}}"
    outputs, _ = see(text, make_norm(), make_batch(BRIGHT))
    check(outputs, [[[answer, -answer]]])


# ---------------------------------------------------------------- the last layer alone


@pytest.mark.parametrize(
    ("text", "own", "other"),
    [
        ("lame: {affinity: linear}", 1, 1 / 2),
        ("lame: {affinity: knn, neighbours: 1}", 0, 1),
        ("lame", 1, math.exp(-1 / 2)),
    ],
)
@pytest.mark.parametrize("steps", [1, 100])
def test_a_step_of_lame(text, own, other, steps, monkeypatch):
    """Features of length 1 and 1/2 at an angle of 60 degrees; the logits are (L, 0) and (-L, 0).

    Without their lengths, the product of the features is 1/2, and their distance is 1. That is also
    the width of `rbf`, so that it gives exp(-1/2). An image is as similar to itself as `own` says.

    By symmetry, the images have the probabilities (a, 1 - a) and (1 - a, a). A step has the log
    odds L + (own - other) (2 a - 1), from the network's a. It leaves a = 3/4 as it is, whose log
    odds are ln 3, if L = ln 3 - (own - other) / 2. So the last step gives 3/4, and the first one
    what it makes of the network's 1 / (1 + exp(-L)).
    """
    monkeypatch.setattr(lame, "MOST_STEPS", steps)
    logit = math.log(3) - (own - other) / 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    # (L, w) has the product L with (1, 0), and -L with (1/4, sqrt(3) / 4).
    rows = [[logit, -5 * logit / math.sqrt(3)], [0, 0]]
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor(rows))
    (output,), _ = see(text, network, make_batch([1.0, 0.0], [1 / 4, math.sqrt(3) / 4]))
    share = larger(logit + (own - other) * (2 * larger(logit) - 1)) if steps == 1 else 3 / 4
    # It ends when its energy changes by less than 1e-8, and shares then by less than its root.
    np.testing.assert_allclose(np.exp(output), [[share, 1 - share], [1 - share, share]], atol=1e-4)


@pytest.mark.parametrize("supports", [1, 2])
def test_a_step_of_t3a(supports):
    """The rows of the last layer, (1, 0) and (0, 1), are the first supports; logits are features.

    (8, 6) is of the first class and surer than (1, 0), with a distance of 2 and not 1. The centre
    is (0.8, 0.6) with one support, which leaves (1, 0) out; with two, it is the direction of
    (1.8, 0.6). Then (4, 4.5) is of the second class, and less sure than (0, 1). The centre stays
    (0, 1) with one support; with two, (8, 9) / sqrt(145) is added.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2))
    text = f"t3a: {{supports: {supports}}}"
    outputs, _ = see(text, network, make_batch([8.0, 6.0]), make_batch([4.0, 4.5]))
    if supports == 1:
        check(outputs, [[[10, 6]], [[5.9, 4.5]]])
        return
    first = (8 * 1.8 + 6 * 0.6) / math.sqrt(3.6), (4 * 1.8 + 4.5 * 0.6) / math.sqrt(3.6)
    length = math.sqrt(145)
    across, down = 8 / length, 1 + 9 / length
    second = (4 * across + 4.5 * down) / math.hypot(across, down)
    check(outputs, [[[first[0], 6]], [[first[1], second]]])


# ---------------------------------------------------------------- views


def look_at_first_pixel(pixels):
    """A network whose first logit is the pixel at the top left, and whose second is 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.zero_()[0, 0] = 1
    return network


@pytest.mark.parametrize(("views", "share"), [("five_crop", 5 / 8), ("ten_crop", 47 / 80)])
def test_crops(views, share):
    """Crops of 7 x 7 of 8 x 8 pixels, whose first pixel stays the first when they are resized.

    It is the pixel (0, 0), (0, 1), (1, 0) or (1, 1) of a corner, and (0, 0) of the centre. Their
    probabilities are 1/2, 3/4, 7/8, 1/2 and 1/2, with a mean of 5/8. In mirror images, it is the
    last of its row: (0, 6), (0, 7), (1, 6), (1, 7) or (0, 6), with 3/4 at (0, 7) and else 1/2. The
    mean of those is 11/20, and of all ten 47/80.
    """
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 0, 1], image[0, 0, 1, 0], image[0, 0, 0, 7] = (math.log(n) for n in (3, 7, 3))
    (output,), _ = see(f"views: {{views: {views}}}", look_at_first_pixel(64), image)
    np.testing.assert_allclose(np.exp(output), [[share, 1 - share]], rtol=1e-5)


def test_mirror_images():
    """The image has the probability 3/4, its mirror image 1/2: the mean is 5/8."""
    (output,), _ = see("views", look_at_first_pixel(2), make_batch([math.log(3), 0.0]))
    np.testing.assert_allclose(np.exp(output), [[5 / 8, 3 / 8]], rtol=1e-5)
