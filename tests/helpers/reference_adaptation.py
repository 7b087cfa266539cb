"""Methods of adaptation once more, from their papers, in plain loops and with numerical slopes.

The network is layer norm with scales and shifts, and then a linear layer. Its parameters are one
list of numbers: scales, shifts, the rows of the linear layer, and its biases.
"""

import math


class Network:
    """Layer norm of `width` features and a linear layer to `classes`, on lists of floats."""

    def __init__(self, width, classes):
        self.width, self.classes = width, classes

    def features(self, parameters, image):
        mean = sum(image) / len(image)
        variance = sum((value - mean) ** 2 for value in image) / len(image)
        scales, shifts = parameters[: self.width], parameters[self.width : 2 * self.width]
        return [
            (value - mean) / math.sqrt(variance + 1e-5) * scale + shift
            for value, scale, shift in zip(image, scales, shifts, strict=True)
        ]

    def linear(self, parameters, features):
        rows, biases = parameters[2 * self.width : -self.classes], parameters[-self.classes :]
        return [
            sum(rows[at * self.width + k] * features[k] for k in range(self.width)) + biases[at]
            for at in range(self.classes)
        ]

    def logits(self, parameters, image):
        return self.linear(parameters, self.features(parameters, image))


def softmax(logits):
    top = max(logits)
    shares = [math.exp(logit - top) for logit in logits]
    return [share / sum(shares) for share in shares]


def entropy(logits):
    return -sum(p * math.log(p) for p in softmax(logits) if p > 0)


def slopes(function, parameters, count):
    """Central differences along the first `count` parameters; 0 along the others."""
    result, step = [0.0] * len(parameters), 1e-5
    for at in range(count):
        high, low = list(parameters), list(parameters)
        high[at] += step
        low[at] -= step
        result[at] = (function(high) - function(low)) / (2 * step)
    return result


class Descent:
    """Steps with momentum 0.9."""

    def __init__(self, rate, size):
        self.rate, self.speed = rate, [0.0] * size

    def step(self, parameters, gradient):
        self.speed = [0.9 * v + g for v, g in zip(self.speed, gradient, strict=True)]
        return [p - self.rate * v for p, v in zip(parameters, self.speed, strict=True)]


def mean_entropy(network, images):
    return lambda p: sum(entropy(network.logits(p, image)) for image in images) / len(images)


def tent(network, parameters, batches, rate, steps=1):
    descent, answers = Descent(rate, len(parameters)), []
    for batch in batches:
        for _ in range(steps):
            logits = [network.logits(parameters, image) for image in batch]
            gradient = slopes(mean_entropy(network, batch), parameters, 2 * network.width)
            parameters = descent.step(parameters, gradient)
        answers += logits
    return answers


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def fisher(network, parameters, batches):
    """The mean over batches of squared slopes of the loss of the network's own answers."""
    total = [0.0] * len(parameters)
    for batch in batches:
        logits = [network.logits(parameters, image) for image in batch]
        answers = [row.index(max(row)) for row in logits]

        def loss(p, batch=batch, answers=answers):
            rows = zip(batch, answers, strict=True)
            losses = [-math.log(softmax(network.logits(p, i))[answer]) for i, answer in rows]
            return sum(losses) / len(losses)

        gradient = slopes(loss, parameters, 2 * network.width)
        total = [t + g * g / len(batches) for t, g in zip(total, gradient, strict=True)]
    return total


def eata(network, parameters, batches, rate, margin, redundancy, weight, source):
    descent, answers, mean = Descent(rate, len(parameters)), [], None
    held, first = fisher(network, parameters, source), list(parameters)
    limit = margin * math.log(network.classes)
    for batch in batches:
        logits = [network.logits(parameters, image) for image in batch]
        answers += logits
        chosen = []
        for image, row in zip(batch, logits, strict=True):
            if entropy(row) >= limit:
                continue
            if mean is not None and abs(cosine(softmax(row), mean)) >= redundancy:
                continue
            chosen.append((image, softmax(row), math.exp(limit - entropy(row))))
        if not chosen:
            continue
        new = [sum(c[1][k] for c in chosen) / len(chosen) for k in range(network.classes)]
        mean = new if mean is None else [0.9 * m + 0.1 * n for m, n in zip(mean, new, strict=True)]

        def loss(p, chosen=chosen):
            uncertain = sum(w * entropy(network.logits(p, image)) for image, _, w in chosen)
            moved = sum(f * (a - b) ** 2 for f, a, b in zip(held, p, first, strict=True))
            return uncertain / len(chosen) + weight * moved

        parameters = descent.step(parameters, slopes(loss, parameters, 2 * network.width))
    return answers


def sar(network, parameters, batches, rate, margin, radius, reset_below):
    descent, answers, mean = Descent(rate, len(parameters)), [], None
    first, limit = list(parameters), margin * math.log(network.classes)
    for batch in batches:
        logits = [network.logits(parameters, image) for image in batch]
        answers += logits
        sure = [i for i, row in zip(batch, logits, strict=True) if entropy(row) < limit]
        gradient = slopes(mean_entropy(network, sure), parameters, 2 * network.width)
        length = math.sqrt(sum(g * g for g in gradient))
        worst = [p + radius * g / length for p, g in zip(parameters, gradient, strict=True)]
        still = [image for image in sure if entropy(network.logits(worst, image)) < limit]
        value = mean_entropy(network, still)
        parameters = descent.step(parameters, slopes(value, worst, 2 * network.width))
        mean = value(worst) if mean is None else 0.9 * mean + 0.1 * value(worst)
        if mean < reset_below:
            parameters = list(first)
    return answers


def cotta(network, parameters, batches, rate, kept, augment):
    """With one augmentation that draws nothing, and without weights that come back."""
    descent, answers, teacher = Descent(rate, len(parameters)), [], list(parameters)
    for batch in batches:
        told = [network.logits(teacher, augment(image)) for image in batch]
        answers += told

        def loss(p, batch=batch, told=told):
            total = 0.0
            for image, row in zip(batch, told, strict=True):
                own = softmax(network.logits(p, image))
                total -= sum(t * math.log(o) for t, o in zip(softmax(row), own, strict=True))
            return total / len(batch)

        parameters = descent.step(parameters, slopes(loss, parameters, len(parameters)))
        teacher = [kept * t + (1 - kept) * p for t, p in zip(teacher, parameters, strict=True)]
    return answers


def unit(vector):
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def t3a(network, parameters, batches, count):
    width = network.width
    rows = parameters[2 * width : -network.classes]
    supports = []  # a feature, its class and its entropy

    def add(features):
        logits = network.linear(parameters, features)
        supports.append((features, logits.index(max(logits)), entropy(logits)))

    for at in range(network.classes):
        add(rows[at * width : (at + 1) * width])
    answers = []
    for batch in batches:
        seen = [network.features(parameters, image) for image in batch]
        for features in seen:
            add(features)
        centres = []
        for label in range(network.classes):
            members = sorted((s for s in supports if s[1] == label), key=lambda s: s[2])[:count]
            sums = [sum(unit(s[0])[k] for s in members) for k in range(width)]
            centres.append(unit(sums) if members else sums)
        answers += [
            [sum(a * b for a, b in zip(features, centre, strict=True)) for centre in centres]
            for features in seen
        ]
    return answers


def affinities(points, name, neighbours):
    apart = [[math.dist(a, b) for b in points] for a in points]
    near = [sorted(row) for row in apart]
    count = len(points)
    if name == "linear":
        return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in points] for a in points]
    if name == "knn":
        limits = [row[min(neighbours, count - 1)] for row in near]
        return [
            [float(0 < value <= limit) for value in row]
            for row, limit in zip(apart, limits, strict=True)
        ]
    width = sum(row[min(neighbours, count) - 1] for row in near) / count
    return [[math.exp(-(value**2) / (2 * width**2)) for value in row] for row in apart]


def lame(network, parameters, batches, affinity, neighbours):
    """Probabilities, not logits."""
    answers = []
    for batch in batches:
        points = [unit(network.features(parameters, image)) for image in batch]
        near = affinities(points, affinity, neighbours)
        logs = [
            [math.log(p + 1e-10) for p in softmax(network.logits(parameters, image))]
            for image in batch
        ]
        shares = [softmax(row) for row in logs]
        for _ in range(100):
            pulled = [
                [
                    sum(w * share[k] for w, share in zip(row, shares, strict=True))
                    for k in range(network.classes)
                ]
                for row in near
            ]
            shares = [
                softmax([one + other for one, other in zip(*rows, strict=True)])
                for rows in zip(logs, pulled, strict=True)
            ]
        answers += shares
    return answers


def mixed_batch_norm(batches, mean, variance, source, momentum):
    """Batch norm without scale and shift of images `[channels][pixels]`, one list of batches.

    `mean` and `variance` are those of training, for each channel.
    """
    moving = [list(mean), list(variance)]
    answers = []
    for batch in batches:
        for channel in range(len(mean)):
            pixels = [pixel for image in batch for pixel in image[channel]]
            own = sum(pixels) / len(pixels)
            spread = sum((pixel - own) ** 2 for pixel in pixels) / len(pixels)
            for at, new in enumerate((own, spread)):
                moving[at][channel] = (1 - momentum) * moving[at][channel] + momentum * new
        share = source / (source + len(batch))
        centre, width = (
            [share * old + (1 - share) * new for old, new in zip(stored, moved, strict=True)]
            for stored, moved in zip((mean, variance), moving, strict=True)
        )
        answers += [
            [
                [(pixel - centre[c]) / math.sqrt(width[c] + 1e-5) for pixel in image[c]]
                for c in range(len(mean))
            ]
            for image in batch
        ]
    return answers
