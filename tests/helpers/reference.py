"""The metrics once more, from their definitions, in plain loops: slow, and independent of numpy."""

import itertools
import math

import scipy.stats


def paired_ends(value, replicates, n):
    """The ends of a difference of shares: percentiles, or Bonett and Price's where few differ."""
    mean = sum(replicates) / len(replicates)
    variance = sum((each - mean) ** 2 for each in replicates) / len(replicates)
    differing = n * (n * variance + value**2)
    if differing >= 30:
        ordered = sorted(replicates)

        def quantile(q):
            place = q * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (place - below) * (ordered[above] - ordered[below])

        return min(quantile(0.025), value), max(quantile(0.975), value)
    centre = value * n / (n + 2)
    half = 1.959963984540054 * math.sqrt(((differing + 2) / (n + 2) - centre**2) / (n + 2))
    return min(max(centre - half, -1), value), max(min(centre + half, 1), value)


def tango_statistic(only_a, only_b, n, difference):
    """The score statistic of a true difference, with the likelihood maximised by search."""

    def log_likelihood(share):  # of images that only the first gets right
        parts = (only_a, share), (only_b, share + difference)
        parts += ((n - only_a - only_b, 1 - 2 * share - difference),)
        return sum(count * math.log(max(chance, 1e-300)) for count, chance in parts if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(200):
        third = (high - low) / 3
        if log_likelihood(low + third) < log_likelihood(high - third):
            low += third
        else:
            high -= third
    variance = n * (2 * low + difference - difference**2)
    return (only_b - only_a - n * difference) / math.sqrt(max(variance, 1e-12))


def tango_interval(only_a, only_b, n):
    value, ends = (only_b - only_a) / n, []
    for bound in (-1.0, 1.0):
        inside, outside = value, bound
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(tango_statistic(only_a, only_b, n, middle)) > 1.959963984540054:
                outside = middle
            else:
                inside = middle
        ends.append(inside)
    return tuple(ends)


def paired_shares_interval(only_a, only_b, n):
    """The outermost ends of Tango's interval and of that of Bonett and Price."""
    shift, extra = (only_b - only_a) / (n + 2), (only_a + only_b + 2) / (n + 2)
    half = 1.959963984540054 * math.sqrt((extra - shift**2) / (n + 2))
    low, high = tango_interval(only_a, only_b, n)
    return max(min(low, shift - half), -1), min(max(high, shift + half), 1)


def design_effect(differing, groups):
    """By how much images of groups count for less, by pairs of images of one group."""
    sizes = [groups.count(group) for group in groups]
    size, n, count = sum(sizes) / len(groups), len(groups), sum(differing)
    pairs = [
        differing[i] * differing[j] for i in range(n) for j in range(n) if groups[i] == groups[j]
    ]
    others = (sum(pairs) + 3 * size) / (count + 3) - 1
    chance = (size - 1) * count / n
    return 1 + (size - 1) * min(max((others - chance) / (size - 1 - chance), 0), 1)


def balanced_accuracy(correct, labels):
    recalls = []
    for label in sorted(set(labels)):
        hits = [right for right, of in zip(correct, labels, strict=True) if of == label]
        recalls.append(sum(hits) / len(hits))
    return sum(recalls) / len(recalls)


def macro_auc(probabilities, labels):
    areas = []
    for label in range(len(probabilities[0])):
        positive = [
            row[label] for row, of in zip(probabilities, labels, strict=True) if of == label
        ]
        negative = [
            row[label] for row, of in zip(probabilities, labels, strict=True) if of != label
        ]
        if positive and negative:
            wins = [(p > q) + (p == q) / 2 for p in positive for q in negative]
            areas.append(sum(wins) / len(wins))
    return sum(areas) / len(areas) if areas else math.nan


def average_precision(scores, positive):
    precisions = []
    for score, is_positive in zip(scores, positive, strict=True):
        if is_positive:
            called = [
                right for other, right in zip(scores, positive, strict=True) if other >= score
            ]
            precisions.append(sum(called) / len(called))
    return sum(precisions) / len(precisions)


def macro_pr_auc(probabilities, labels):
    present = sorted(set(labels))
    areas = [
        average_precision([row[label] for row in probabilities], [of == label for of in labels])
        for label in present
        if len(present) > 1
    ]
    return sum(areas) / len(areas) if areas else math.nan


def one_vs_rest(name, predicted, labels, label):
    """Sensitivity, specificity, PPV, NPV, F1 or MCC of a class; NaN if it is not defined."""
    pairs = [(call == label, of == label) for call, of in zip(predicted, labels, strict=True)]
    if name == "mcc":
        return matthews_correlation(*(list(side) for side in zip(*pairs, strict=True)))
    of = {
        "sensitivity": [call for call, truth in pairs if truth],
        "specificity": [not call for call, truth in pairs if not truth],
        "ppv": [truth for call, truth in pairs if call],
        "npv": [not truth for call, truth in pairs if not call],
        "f1": [call and truth for pair in pairs for call, truth in [pair] * sum(pair)],
    }[name]
    return sum(of) / len(of) if of else math.nan


def mean_over_classes(name, predicted, labels):
    """`macro_ppv`, `weighted_f1` and so on, over the classes where it is defined."""
    mean, _, of = name.partition("_")
    found = []
    for label in sorted({*predicted, *labels}):
        value = one_vs_rest(of, predicted, labels, label)
        if not math.isnan(value):
            found.append((value, 1 if mean == "macro" else labels.count(label)))
    return sum(value * weight for value, weight in found) / sum(weight for _, weight in found)


def kappa(predicted, labels, power):
    """Cohen's kappa with the weights |a - b|^power; power 0 counts every disagreement once."""

    def distance(a, b):
        return abs(a - b) ** power if a != b else 0

    observed = [distance(a, b) for a, b in zip(predicted, labels, strict=True)]
    chance = [distance(a, b) for a in predicted for b in labels]
    return 1 - sum(observed) / len(observed) / (sum(chance) / len(chance))


def mean_absolute_error(predicted, labels):
    return sum(abs(a - b) for a, b in zip(predicted, labels, strict=True)) / len(labels)


def off_by_two(predicted, labels):
    far = [not b - 2 < a < b + 2 for a, b in zip(predicted, labels, strict=True)]
    return sum(far) / len(far)


def ranked_probability_score(probabilities, labels):
    """By cumulative distributions from the lowest grade on, as Murphy 1971 writes it."""
    total = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        below, squares = 0.0, []
        for grade, p in enumerate(row[:-1]):
            below += p
            squares.append((below - (1.0 if label <= grade else 0.0)) ** 2)
        total += sum(squares) / len(squares)
    return total / len(labels)


def cumulative_calibration_error(probabilities, labels, bins=10):
    errors = []
    for k in range(1, len(probabilities[0])):
        sure = [min(sum(row[k:]), 1.0) for row in probabilities]
        right = [label >= k for label in labels]
        errors.append(expected_calibration_error(sure, right, bins, "equal-width"))
    return sum(errors) / len(errors)


def equal_width_bins(confidence, correct, bins):
    members = [[] for _ in range(bins)]
    for sure, right in zip(confidence, correct, strict=True):
        k = 0
        while sure > (k + 1) / bins:
            k += 1
        members[k].append((sure, right))
    return members


def equal_mass_bins(confidence, correct, bins):
    images = []
    for sure in sorted(confidence):
        tied = [right for other, right in zip(confidence, correct, strict=True) if other == sure]
        images.append((sure, sum(tied) / len(tied)))
    members = []
    for k in range(bins):
        size = len(images) // bins + (k < len(images) % bins)
        start = sum(map(len, members))
        members.append(images[start : start + size])
    return members


BINS = {"equal-width": equal_width_bins, "equal-mass": equal_mass_bins}


def gaps_and_sizes(confidence, correct, bins, binning):
    for members in BINS[binning](list(confidence), list(correct), bins):
        if members:
            sure = sum(member[0] for member in members) / len(members)
            right = sum(member[1] for member in members) / len(members)
            yield abs(right - sure), len(members)


def expected_calibration_error(confidence, correct, bins=10, binning="equal-width"):
    bins_found = list(gaps_and_sizes(confidence, correct, bins, binning))
    return sum(gap * size for gap, size in bins_found) / len(confidence)


def maximum_calibration_error(confidence, correct, bins=10, binning="equal-width"):
    return max(gap for gap, _ in gaps_and_sizes(confidence, correct, bins, binning))


def rms_calibration_error(confidence, correct, bins=10, binning="equal-width"):
    bins_found = list(gaps_and_sizes(confidence, correct, bins, binning))
    return math.sqrt(sum(gap**2 * size for gap, size in bins_found) / len(confidence))


def per_image(logits, label):
    """(predicted, confidence, top5_correct, nll, brier) of one image's logits."""
    top = max(logits)
    powers = [math.exp(logit - top) for logit in logits]
    probabilities = [power / sum(powers) for power in powers]
    nll = math.log(sum(powers)) - (logits[label] - top)
    brier = sum((p - (k == label)) ** 2 for k, p in enumerate(probabilities))
    greater = sum(logit > logits[label] for logit in logits)
    return logits.index(top), max(probabilities), greater < 5, nll, brier


def classwise_calibration_error(probabilities, labels, bins=10):
    errors = []
    for label in range(len(probabilities[0])):
        of_class = [row[label] for row in probabilities]
        truth = [each == label for each in labels]
        errors.append(expected_calibration_error(of_class, truth, bins))
    return sum(errors) / len(errors)


def adaptive_rms_calibration_error(confidence, correct, per_bin=100):
    images = [image for members in equal_mass_bins(confidence, correct, 1) for image in members]
    bins = [[]]
    for image in images:
        if len(bins[-1]) == per_bin:
            bins.append([])
        bins[-1].append(image)
    if len(bins) > 1 and len(bins[-1]) < per_bin:
        rest = bins.pop()
        bins[-1] += rest
    squares = 0.0
    for members in bins:
        gap = sum(right for _, right in members) - sum(sure for sure, _ in members)
        squares += len(members) / len(images) * (gap / len(members)) ** 2
    return math.sqrt(squares)


def debiased_calibration_error(confidence, correct, bins=10, binning="equal-width"):
    squares = 0.0
    for members in BINS[binning](list(confidence), list(correct), bins):
        m = len(members)
        if m < 2:
            continue
        accuracy = sum(right for _, right in members) / m
        gap = accuracy - sum(sure for sure, _ in members) / m
        squares += m / len(confidence) * (gap**2 - accuracy * (1 - accuracy) / (m - 1))
    return math.copysign(math.sqrt(abs(squares)), squares)


def brier_parts(confidence, correct, bins=10, binning="equal-width"):
    """Reliability, resolution, uncertainty, variance and covariance within bins."""
    found = BINS[binning](list(confidence), list(correct), bins)
    n = len(confidence)
    overall = sum(correct) / n
    reliability = resolution = variance = covariance = 0.0
    for members in filter(None, found):
        m = len(members)
        accuracy = sum(right for _, right in members) / m
        certainty = sum(sure for sure, _ in members) / m
        reliability += m / n * (accuracy - certainty) ** 2
        resolution += m / n * (accuracy - overall) ** 2
        for sure, right in members:
            variance += (sure - certainty) ** 2 / n
            covariance += 2 * (sure - certainty) * (right - accuracy) / n
    return reliability, resolution, overall * (1 - overall), variance, covariance


# Loops over images, nothing sorted.


def risk_above(confidence, correct, threshold):
    answers = [right for sure, right in zip(confidence, correct, strict=True) if sure >= threshold]
    return answers.count(False) / len(answers) if answers else math.nan


def coverage_above(confidence, threshold):
    return sum(sure >= threshold for sure in confidence) / len(confidence)


def area_under_risk_coverage(confidence, correct):
    return sum(risk_above(confidence, correct, sure) for sure in confidence) / len(confidence)


def coverage_at_risk(confidence, correct, risk=0.05):
    allowed = [sure for sure in confidence if risk_above(confidence, correct, sure) <= risk]
    return coverage_above(confidence, min(allowed, default=math.inf))


def binomial_tail(hits, n, share):
    """The chance of at most so many hits among n."""
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(hits + 1))


def guaranteed_threshold(confidence, correct, candidates, risk, certainty):
    found = math.inf
    for sure in candidates:
        answers = [right for own, right in zip(confidence, correct, strict=True) if own >= sure]
        if binomial_tail(answers.count(False), len(answers), risk) > 1 - certainty:
            break
        found = sure
    return found


def thresholds_to_try(confidence, correct, risk, steps=100):
    ordered = sorted(confidence, reverse=True)
    n = len(ordered)
    tried = sorted({ordered[math.ceil(step * n / steps) - 1] for step in range(1, steps + 1)})
    tails = {}
    for sure in tried:
        answers = [right for own, right in zip(confidence, correct, strict=True) if own >= sure]
        tails[sure] = binomial_tail(answers.count(False), len(answers), risk)
    least = min(tails.values())
    first = max(sure for sure in tried if math.isclose(tails[sure], least, rel_tol=1e-9))
    return [sure for sure in reversed(tried) if sure <= first]


def reached(scores, rule):
    """Which images a rule of two thresholds answers."""
    return [first >= rule[0] and second >= rule[1] for first, second in scores]


def rule_p(limited, rule):
    return max(limit_ps(limited, rule))


def limit_ps(limited, rule):
    """The p-value of each limit, which has a share, the scores of images, and which are wrong."""
    chances = []
    for limit, scores, wrong in limited:
        answers = [
            own for own, is_answered in zip(wrong, reached(scores, rule), strict=True)
            if is_answered
        ]  # fmt: skip
        chances.append(binomial_tail(sum(answers), len(answers), limit) if answers else 1)
    return chances


def rules_to_try(scores, limited, steps=100):
    levels = []
    for column in zip(*scores, strict=True):
        ordered, n = sorted(column, reverse=True), len(column)
        taken = {ordered[math.ceil(step * n / steps) - 1] for step in range(1, steps + 1)}
        levels.append(sorted(taken))
    tried, shown = {}, {}
    for i, first in enumerate(levels[0]):
        for j, second in enumerate(levels[1]):
            shown[i, j] = [
                round(math.log(p), 9) if p else -math.inf
                for p in limit_ps(limited, (first, second))
            ]
            tried[i, j] = max(shown[i, j]), sum(reached(scores, (first, second)))
    places, most = [], 0
    for (_, less), place in sorted(((p, -count), place) for place, (p, count) in tried.items()):
        if -less > most:
            places.append(place)
            most = -less
    # Before the first: the way from the strictest rule that shows each limit as well, or clearly.
    i, j = places[0]
    enough = [max(p, math.log(1e-6)) for p in shown[i, j]]
    safe = {
        place
        for place, own in shown.items()
        if all(p <= most for p, most in zip(own, enough, strict=True))
    }
    strict = [place for place in safe if place[0] >= i and place[1] >= j]
    fewest = min(tried[place][1] for place in strict)
    top = max(place for place in strict if tried[place][1] == fewest)
    count = max(top[0] - i, top[1] - j)
    before = [
        (i + math.ceil(step * (top[0] - i) / count), j + math.ceil(step * (top[1] - j) / count))
        for step in range(count, 0, -1)
    ]
    before = [place for place in before if place in safe]
    return [[levels[0][i], levels[1][j]] for i, j in [*before, *places]]


def guaranteed_rule(limited, candidates, certainty):
    found = (math.inf, math.inf)
    for rule in candidates:
        if rule_p(limited, rule) > 1 - certainty:
            break
        found = rule
    return found


def confidence_auroc(confidence, correct):
    images = list(zip(confidence, correct, strict=True))
    wins = [
        (sure > doubt) + (sure == doubt) / 2
        for sure, right in images
        if right
        for doubt, other in images
        if not other
    ]
    return sum(wins) / len(wins) if wins else math.nan


# ---------------------------------------------------------------- prediction sets


def ordinal_scores(probabilities):
    """The score of each grade of one image: what the set that grows from the mode has before it."""
    most = max(probabilities)
    modes = [k for k, own in enumerate(probabilities) if own == most]
    grown = list(range(modes[0], modes[-1] + 1))
    scores = dict.fromkeys(grown, 0.0)
    while len(grown) < len(probabilities):
        sides = [k for k in (min(grown) - 1, max(grown) + 1) if 0 <= k < len(probabilities)]
        best = max(probabilities[k] for k in sides)
        before = sum(probabilities[k] for k in grown)
        for k in sides:
            if probabilities[k] == best:
                scores[k] = before
                grown.append(k)
    return [scores[k] for k in range(len(probabilities))]


def class_scores(probabilities, method, penalty, free):
    """The score of each class of one image, as the papers define it."""
    if method == "ordinal":
        return ordinal_scores(probabilities)
    scores = []
    for own in probabilities:
        more = sorted(each for each in probabilities if each > own)
        if method == "lac":
            scores.append(1 - own)
        else:
            rank = len(more) + 1
            scores.append(sum(more) + (penalty * max(0, rank - free) if method == "raps" else 0))
    return scores


def prediction_set(probabilities, scores, threshold):
    """The classes whose score is at most the threshold; never none."""
    found = {k for k, score in enumerate(scores) if score <= threshold}
    return found or {k for k, own in enumerate(probabilities) if own == max(probabilities)}


def lowest_stratum(sizes, covered, weights=None):
    """The lowest coverage of the images of a size stratum with at least 30 images."""
    shares = []
    for low, high in ((1, 1), (2, 3), (4, 10), (11, 100), (101, math.inf)):
        members = [at for at, size in enumerate(sizes) if low <= size <= high]
        counts = [1 if weights is None else weights[at] for at in members]
        if len(members) >= 30 and sum(counts):
            hits = sum(count for at, count in zip(members, counts, strict=True) if covered[at])
            shares.append(hits / sum(counts))
    return min(shares, default=math.nan)


# Calibrators.


def isotonic(places, hits):
    """The shares of hits that never fall: at each place the largest of the smallest means."""
    at = sorted(set(places))
    of = [[hit for place, hit in zip(places, hits, strict=True) if place == each] for each in at]

    def mean(first, last):
        members = [hit for each in of[first : last + 1] for hit in each]
        return sum(members) / len(members)

    values = [
        max(min(mean(a, b) for b in range(k, len(at))) for a in range(k + 1))
        for k in range(len(at))
    ]
    return [values[at.index(place)] for place in places]


def vector_scaling_slopes(logits, labels, scales, biases):
    """The derivatives of the mean negative log-likelihood by each scale, and by each bias."""
    classes = len(scales)
    by_scale, by_bias = [0.0] * classes, [0.0] * classes
    for row, label in zip(logits, labels, strict=True):
        scaled = [s * z + b for z, s, b in zip(row, scales, biases, strict=True)]
        powers = [math.exp(each - max(scaled)) for each in scaled]
        for k in range(classes):
            excess = powers[k] / sum(powers) - (k == label)
            by_scale[k] += excess * row[k] / len(labels)
            by_bias[k] += excess / len(labels)
    return by_scale + by_bias


def shared_out(shares, total, most):
    """Fill the largest place to the most, as long as it would get more; then share the rest."""
    found, left = [0.0] * len(shares), total
    places = sorted(range(len(shares)), key=lambda place: -shares[place])
    while places:
        rest = sum(shares[place] for place in places)
        if len(places) == 1 or left * shares[places[0]] / rest <= most:
            for place in places:
                found[place] = left * shares[place] / rest
            return found
        found[places.pop(0)] = most
        left -= most
    return found


def max_logit(logits):
    return max(logits)


def energy(logits):
    top = max(logits)
    return -top - math.log(math.fsum(math.exp(each - top) for each in logits))


def softmax_entropy(logits):
    top = max(logits)
    parts = [math.exp(each - top) for each in logits]
    shares = [part / math.fsum(parts) for part in parts]
    return -math.fsum(share * math.log(share) for share in shares if share > 0)


def knn_distance(feature, known, k):
    def direction(vector):
        length = math.hypot(*vector)
        return [each / length if length else 0.0 for each in vector]

    here = direction(feature)
    return sorted(math.dist(here, direction(each)) for each in known)[min(k, len(known)) - 1]


def placements(scores, positive):
    """Of each image, the share of the other side that it is ranked rightly against."""
    found = []
    for score, is_positive in zip(scores, positive, strict=True):
        others = [s for s, of in zip(scores, positive, strict=True) if of != is_positive]
        sign = 1 if is_positive else -1
        wins = [(sign * (score - s) > 0) + (score == s) / 2 for s in others]
        found.append(sum(wins) / len(wins))
    return found


def least_pairs(labels, grouping):
    """How many independent pairs the mean AUC is worth: 1 over what is in pairs of one group, and
    in pairs of two, at most."""
    classes, touched, shared = sorted(set(labels)), {}, {}
    for label in classes:
        own = [name for of, name in zip(labels, grouping, strict=True) if of == label]
        others = [name for of, name in zip(labels, grouping, strict=True) if of != label]
        for one in own:
            for other in others:
                weight = 1 / len(classes) / len(own) / len(others)
                pair = frozenset((one, other))
                shared[pair] = shared.get(pair, 0) + weight
                for name in pair:
                    touched[name] = touched.get(name, 0) + weight
    return 1 / (max(touched.values()) + max(shared.values()))


def bound_ends(value, pairs, tests=1):
    """Chernoff's bound for the mean of so many pairs, at 2.5 % a side; by halving."""

    def divergence(truth):
        parts = [(value, truth), (1 - value, 1 - truth)]
        return sum(share * math.log(share / other) for share, other in parts if share)

    ends = []
    for end in (0.0, 1.0):
        inside, outside = value, end
        for _ in range(200):
            middle = (inside + outside) / 2
            if middle in (0, 1) or pairs * divergence(middle) > math.log(40 * tests):
                outside = middle
            else:
                inside = middle
        ends.append(inside)
    return tuple(ends)


def auc_covariance(first, second, positive, grouping):
    """The covariance of two AUCs on the same images, with Obuchowski's sums over groups.

    Equations 2 to 5 of Obuchowski 1997, and their form for two tests; with each image a group of
    its own it is that of DeLong et al. 1988.
    """
    names = sorted(set(grouping))
    sides = {side: [of == side for of in positive] for side in (True, False)}
    sums = {}
    for test, scores in enumerate((first, second)):
        found = placements(scores, positive)
        for side, inside in sides.items():
            area = sum(v for v, of in zip(found, inside, strict=True) if of) / sum(inside)
            sums[test, side] = [
                sum(
                    v - area
                    for v, of, name in zip(found, inside, grouping, strict=True)
                    if of and name == one
                )
                for one in names
            ]
    having = {
        side: len({name for name, of in zip(grouping, inside, strict=True) if of})
        for side, inside in sides.items()
    }

    def product(one, other, count):
        pairs = zip(sums[0, one], sums[1, other], strict=True)
        scale = sum(sides[one]) * sum(sides[other])
        return count / (count - 1) * sum(a * b for a, b in pairs) / scale

    return sum(
        product(one, other, having[one] if one == other else len(names))
        for one in (True, False)
        for other in (True, False)
    )


def net_benefit(probability, present, threshold, prevalence=None):
    """The dcurves formula: test-positive rates of both sides at a prevalence, and the odds."""
    sides = {True: [], False: []}
    for score, truth in zip(probability, present, strict=True):
        sides[bool(truth)].append(score >= threshold)
    n = len(sides[True]) + len(sides[False])
    share = len(sides[True]) / n if prevalence is None else prevalence
    rates = {side: sum(calls) / len(calls) if calls else math.nan for side, calls in sides.items()}
    if prevalence is None:
        right, wrong = sum(sides[True]) / n, sum(sides[False]) / n
    else:
        right, wrong = rates[True] * share, rates[False] * (1 - share)
    return right - wrong * threshold / (1 - threshold)


def cost_numbers(predicted, probabilities, labels, costs):
    """The metrics of costs, image by image; of a review only if there is a last column for it."""
    classes = len(costs)

    def cheapest(image, options):
        expected = [sum(p * row[d] for p, row in zip(image, costs, strict=True)) for d in options]
        tied = [cost <= min(expected) * (1 + 1e-12) for cost in expected]  # but for rounding
        return options[tied.index(True)]

    def constant(options):
        return min(sum(costs[label][d] for label in labels) for d in options) / len(labels)

    found = {}
    has_review = len(costs[0]) > classes
    every, classes_only = list(range(len(costs[0]))), list(range(classes))
    kinds = {
        "expected_cost": (predicted, classes_only),
        "bayes_cost": ([cheapest(p, classes_only) for p in probabilities], classes_only),
    }
    if has_review:
        kinds["cost_with_review"] = ([cheapest(p, every) for p in probabilities], every)
        reviews = [decision == classes for decision in kinds["cost_with_review"][0]]
        found["reviewed_share"] = sum(reviews) / len(reviews)
    for name, (decisions, options) in kinds.items():
        paid = [costs[label][d] for label, d in zip(labels, decisions, strict=True)]
        found[name] = sum(paid) / len(paid)
        least = constant(options)
        found[f"{name}/normalised"] = found[name] / least if least else math.nan
    return found


def finding_numbers(probability, present):
    """Every number of a finding, by its name in scores.csv."""
    pairs = list(zip(probability, present, strict=True))
    called = [p >= 0.5 for p in probability]
    losses = [-math.log(p if y else 1 - p) for p, y in pairs]
    calls = ("sensitivity", "specificity", "ppv", "npv", "f1", "mcc")
    return {
        **calibration_numbers(probability, present),
        "auc": macro_auc([[1 - p, p] for p in probability], [int(y) for y in present]),
        "pr_auc": average_precision(probability, present),
        "brier": sum((p - y) ** 2 for p, y in pairs) / len(pairs),
        "nll": sum(losses) / len(losses),
        "probability_gap": sum(p - y for p, y in pairs) / len(pairs),
        "prevalence": sum(present) / len(present),
        **{
            f"{name}/10-{binning}": error(probability, present, binning=binning)
            for name, error in (
                ("ece", expected_calibration_error),
                ("rms_ece", rms_calibration_error),
            )
            for binning in ("equal-width", "equal-mass")
        },
        **{name: one_vs_rest(name, called, present, True) for name in calls},
        "decision_accuracy": sum(a == b for a, b in zip(called, present, strict=True)) / len(pairs),
    }


def image_numbers(probabilities, labels):
    """Every number of whole images, whose labels are 0, 1 or -1."""
    wrong = [
        [(p >= 0.5) != (y == 1) for p, y in zip(*rows, strict=True) if y != -1]
        for rows in zip(probabilities, labels, strict=True)
    ]
    judged = [row for row in wrong if row]
    return {
        "exact_match": sum(not any(row) for row in judged) / len(judged),
        "hamming_loss": sum(map(sum, judged)) / sum(map(len, judged)),
    }


def error_share(probability, present, threshold, rate, groups):
    """The mean over groups of the share of wrong calls of the images that a rate is about."""
    shares = {}
    for number, has_it, group in zip(probability, present, groups, strict=True):
        if has_it == (rate == "sensitivity"):
            shares.setdefault(group, []).append(has_it != (number >= threshold))
    means = [sum(own) / len(own) for own in shares.values()]
    return sum(means) / len(means), len(means), max(map(len, shares.values()))


def keeps_target(probability, present, threshold, rate, target, groups):
    """Whether a test rejects, at 5 %, that the true rate at a threshold is below the target."""
    share, n, most = error_share(probability, present, threshold, rate, groups)
    allowed = 1 - target
    if most == 1:
        return binomial_tail(round(n * share), n, allowed) <= 0.05
    level = min(share, allowed)
    entropy = (1 - level) * math.log((1 - level) / (1 - allowed))
    entropy += level * math.log(level / allowed) if level else 0
    hits = math.ceil(round(n * share, 9))
    return min(math.exp(-n * entropy), math.e * binomial_tail(hits, n, allowed)) <= 0.05


def best_other_rate(probability, present, rate, target, groups):
    """The best other rate of the thresholds that keep a target; all that differ are tried."""
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    thresholds = {*probability, *(math.nextafter(p, 2) for p in probability)}
    return max(
        1 - error_share(probability, present, threshold, other, range(len(probability)))[0]
        for threshold in thresholds
        if keeps_target(probability, present, threshold, rate, target, groups)
    )


def freeman_halton(sizes, hits):
    """The chance of tables that are no more probable than this one, of all with its margins."""

    def ways(table):
        return math.prod(math.comb(n, k) for n, k in zip(sizes, table, strict=True))

    tables = itertools.product(*(range(n + 1) for n in sizes))
    chances = [ways(table) for table in tables if sum(table) == sum(hits)]
    return sum(c for c in chances if c <= ways(hits)) / sum(chances)


def sensitivity_at(scores, positive, specificity):
    """The sensitivity of the ROC curve at a specificity, from each threshold and straight lines."""
    yes = [score for score, is_positive in zip(scores, positive, strict=True) if is_positive]
    no = [score for score, is_positive in zip(scores, positive, strict=True) if not is_positive]
    corners = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        alarms = sum(score >= threshold for score in no) / len(no)
        corners.append((alarms, sum(score >= threshold for score in yes) / len(yes)))
    share = 1 - specificity
    there = [y for x, y in corners if abs(x - share) < 1e-9]
    if there:
        return max(there)
    left = max((x, y) for x, y in corners if x < share)
    right = min((x, y) for x, y in corners if x > share)
    return left[1] + (share - left[0]) / (right[0] - left[0]) * (right[1] - left[1])


def average_over_readers(values, covariance):
    """Mean, its squared standard error, and Hillis's degrees of freedom, from their definitions."""
    count = len(values)
    mean = sum(values) / count
    between = sum((value - mean) ** 2 for value in values) / (count - 1)
    pairs = [covariance[a][b] for a in range(count) for b in range(count) if a != b]
    shared = max(count * sum(pairs) / len(pairs), 0)
    fixed = sum(sum(row) for row in covariance) / count**2
    freedom = (between + shared) ** 2 / (between**2 / (count - 1))
    return mean, max((between + shared) / count, fixed), freedom


def cohen_kappa_of_two(first, second):
    n = len(first)
    alike = sum(a == b for a, b in zip(first, second, strict=True)) / n
    by_chance = sum(
        sum(a == name for a in first) * sum(b == name for b in second)
        for name in set(first) | set(second)
    )
    return (alike - by_chance / n**2) / (1 - by_chance / n**2)


def fleiss_kappa(calls):
    """Of images that all raters have called, as Fleiss 1971 defines it."""
    n, raters, names = len(calls), len(calls[0]), sorted({call for row in calls for call in row})
    alike = [
        sum(row.count(name) * (row.count(name) - 1) for name in names) / (raters * (raters - 1))
        for row in calls
    ]
    shares = [sum(row.count(name) for row in calls) / (n * raters) for name in names]
    by_chance = sum(share**2 for share in shares)
    return (sum(alike) / n - by_chance) / (1 - by_chance)


def krippendorff_alpha(calls, missing=-1):
    """From the matrix of coincidences, pair by pair."""
    known = [[call for call in row if call != missing] for row in calls]
    known = [row for row in known if len(row) > 1]
    coincidences = {}
    for row in known:
        for at, first in enumerate(row):
            for other, second in enumerate(row):
                if at != other:
                    pair = first, second
                    coincidences[pair] = coincidences.get(pair, 0) + 1 / (len(row) - 1)
    totals = {}
    for (first, _), count in coincidences.items():
        totals[first] = totals.get(first, 0) + count
    number = sum(totals.values())
    observed = sum(count for (a, b), count in coincidences.items() if a != b) / number
    expected = sum(
        totals[a] * totals[b] / (number * (number - 1)) for a in totals for b in totals if a != b
    )
    return 1 - observed / expected


def aggregated_probability(probabilities, name):
    """The probability of a patient, from those of the images, one by one."""
    if name == "mean":
        return sum(probabilities) / len(probabilities)
    if name in ("max", "any"):
        return max(probabilities)
    absent = 1.0
    for probability in probabilities:
        absent *= 1 - probability
    return 1 - absent


def aggregated_grades(images, name):
    """The probabilities of a patient's grades, from those of each image, `[n][grades]`.

    The probability of each grade or a higher one is aggregated, and those of the grades are
    differences.
    """
    grades = len(images[0])
    reached = [
        aggregated_probability([sum(image[grade:]) for image in images], name)
        for grade in range(1, grades)
    ]
    ends = [1.0, *reached, 0.0]
    return [ends[grade] - ends[grade + 1] for grade in range(grades)]


def log_odds(p):
    kept = min(max(p, 1e-7), 1 - 1e-7)
    return math.log(kept / (1 - kept))


def dot(first, second):
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def solve(matrix, target):
    """Gauss and Jordan's elimination, with the largest pivot."""
    rows = [[*row, right] for row, right in zip(matrix, target, strict=True)]
    for at in range(len(rows)):
        pivot = max(range(at, len(rows)), key=lambda k: abs(rows[k][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for k in range(len(rows)):
            if k != at:
                factor = rows[k][at] / rows[at][at]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[at], strict=True)]
    return [row[-1] / row[at] for at, row in enumerate(rows)]


def logistic(rows, happened, offsets, rounds=200):
    """Maximum likelihood by Newton's method in small steps."""
    found = [0.0] * len(rows[0])
    for number in range(rounds):
        links = [offset + dot(row, found) for row, offset in zip(rows, offsets, strict=True)]
        shares = [1 / (1 + math.exp(-link)) for link in links]
        gradient = [
            math.fsum((y - p) * row[k] for row, y, p in zip(rows, happened, shares, strict=True))
            for k in range(len(found))
        ]
        hessian = [
            [
                math.fsum(
                    p * (1 - p) * row[k] * row[j] for row, p in zip(rows, shares, strict=True)
                )
                for j in range(len(found))
            ]
            for k in range(len(found))
        ]
        # Small at first, because full steps may lead away from the maximum.
        part = min(1.0, 0.2 + 0.01 * number)
        found = [
            old + part * step for old, step in zip(found, solve(hessian, gradient), strict=True)
        ]
    return found


def quantile(values, share):
    ordered = sorted(values)
    below, part = divmod(share * (len(ordered) - 1), 1)
    above = min(int(below) + 1, len(ordered) - 1)
    return ordered[int(below)] + part * (ordered[above] - ordered[int(below)])


def spline_row(x, knots):
    """1, x, and truncated cubes that are combined so that they are straight beyond the knots."""

    def cube(knot):
        return max(x - knot, 0.0) ** 3

    row = [1.0, x]
    for knot in knots[:-2] if len(knots) > 2 else ():
        last, before = knots[-1], knots[-2]
        row.append(
            (
                cube(knot)
                - cube(before) * (last - knot) / (last - before)
                + cube(last) * (before - knot) / (last - before)
            )
            / (last - knots[0]) ** 2
        )
    return row


def calibration_numbers(probability, happened):
    """Slope, both intercepts, O:E and ICI with 4 knots."""
    probability = [min(max(p, 1e-7), 1 - 1e-7) for p in probability]
    odds = [log_odds(p) for p in probability]
    n, nothing = len(odds), [0.0] * len(odds)
    free, slope = logistic([[1.0, x] for x in odds], happened, nothing)
    [fixed] = logistic([[1.0]] * n, happened, odds)
    knots = sorted({quantile(odds, share) for share in (0.05, 0.35, 0.65, 0.95)})
    rows = [spline_row(x, knots) for x in odds]
    curve = logistic(rows, happened, nothing)
    fitted = [1 / (1 + math.exp(-dot(row, curve))) for row in rows]
    return {
        "calibration_slope": slope,
        "recalibration_intercept": free,
        "calibration_intercept": fixed,
        "observed_expected_ratio": sum(happened) / sum(probability),
        "ici_4_knots": sum(abs(c - p) for c, p in zip(fitted, probability, strict=True)) / n,
    }


def spiegelhalter_z(probability, happened):
    excess = sum((y - p) * (1 - 2 * p) for p, y in zip(probability, happened, strict=True))
    return excess / math.sqrt(sum((1 - 2 * p) ** 2 * p * (1 - p) for p in probability))


def matthews_correlation(predicted, labels):
    """The correlation of two groups of 0/1 columns, one for each class (Gorodkin 2004)."""
    classes, n = sorted({*predicted, *labels}), len(labels)

    def covariance(first, second):
        total = 0.0
        for k in classes:
            means = [sum(value == k for value in side) / n for side in (first, second)]
            total += sum(
                ((a == k) - means[0]) * ((b == k) - means[1])
                for a, b in zip(first, second, strict=True)
            )
        return total

    spread = covariance(predicted, predicted) * covariance(labels, labels)
    return covariance(predicted, labels) / math.sqrt(spread) if spread else math.nan


def excess_area(confidence, correct):
    risk = 1 - sum(correct) / len(correct)
    best = risk + (1 - risk) * math.log(1 - risk)
    return area_under_risk_coverage(confidence, correct) - best


def betting_interval(values, sizes=None, tail=0.025, stakes=12, steps=20_000):
    """The means that are not rejected, of all on a grid: numbers in [0, 1], one bet for each."""
    sizes = [1] * len(values) if sizes is None else sizes
    largest = max(sizes)

    def capital(numbers, mean):
        total = 0.0
        for k in range(stakes):
            stake, own = (k + 0.5) / stakes, 1.0
            for number, size in zip(numbers, sizes, strict=True):
                own *= 1 + stake * size / largest * (mean - number) / (1 - mean)
            total += own / stakes
        return total

    value = sum(x * size for x, size in zip(values, sizes, strict=True)) / sum(sizes)
    grid = [step / steps for step in range(steps)]
    high = next((m for m in grid if m > value and capital(values, m) >= 1 / tail), 1.0)
    mirrored = [1 - x for x in values]
    below = next((m for m in grid if m > 1 - value and capital(mirrored, m) >= 1 / tail), 1.0)
    return 1 - below, high


def debiased_interval(confidence, correct, bins=10, worth=1.0, steps=1000):
    """The true errors that are not rejected, of all on a grid of squares."""
    parts = [
        list(zip(*members, strict=True)) for members in equal_mass_bins(confidence, correct, bins)
    ]
    seen, known = 0.0, []
    for sure, right in parts:
        m = len(sure)
        share, accuracy, mean = m / len(confidence), sum(right) / m, sum(sure) / m
        own = accuracy * (1 - accuracy) / (m - 1)
        smooth = (sum(right) + mean + 0.5) / (m + 2)
        noise = max(smooth * (1 - smooth) / m, own) / worth
        square = (accuracy - mean) ** 2 - own
        seen += share * square
        known.append((m, share, mean, square, noise, max(mean, 1 - mean) ** 2))

    def distribution(true):
        total = sum(share * min(max(square, 0), most) for _, share, _, square, _, most in known)
        gaps = [min(max(square, 0), most) for *_, square, _, most in known]
        if total > true:
            gaps = [gap * true / total for gap in gaps]
        left = true - min(total, true)
        for k in sorted(range(len(known)), key=lambda k: -known[k][1] * known[k][4]):
            more = max(min(left / known[k][1], known[k][5] - gaps[k]), 0)
            gaps[k] += more
            left -= more * known[k][1]
        offset = variance = 0.0
        for (m, share, mean, _, noise, _), gap in zip(known, gaps, strict=True):
            for rate in (mean - math.sqrt(gap), mean + math.sqrt(gap)):
                rate = min(max(rate, 0), 1)
                noise = max(noise, rate * (1 - rate) / m / worth)
            offset += share * noise
            variance += share**2 * (2 * noise**2 + 4 * gap * noise)
        squares = sum(part[1] * gap**2 for part, gap in zip(known, gaps, strict=True))
        mean = sum(part[1] * gap for part, gap in zip(known, gaps, strict=True))
        variance += (squares - mean**2) / len(confidence) / worth
        scale = variance / (true + offset)
        return (true + offset) / scale, scale, offset

    largest = sum(share * most for _, share, *_, most in known)
    kept = [0.0] if seen <= 0 else []
    below = seen - (1 - worth) * sum(share * noise for _, share, _, _, noise, _ in known)
    for step in range(steps + 1):
        true = largest * step / steps
        shape, scale, offset = distribution(true)
        lower = scipy.stats.gamma.cdf(max(seen, 0) + offset, shape, scale=scale)
        upper = scipy.stats.gamma.sf(below + offset, shape, scale=scale)
        if true >= max(seen, 0) and lower >= 0.025:
            kept.append(true)
        if true <= below and upper >= 0.025:
            kept.append(true)
    return math.sqrt(min(kept)), math.sqrt(max(kept)), largest / steps


def unseen_value(values, variances, shares):
    """Quantiles of a new true value: normal, with a variance that is averaged over.

    The density of the variance between the true values is proportional to the restricted likelihood
    over (variance + harmonic mean of the variances of the errors, at most 0.25). Rectangles on a
    fine grid.
    """
    typical = min(len(variances) / sum(1 / v for v in variances), 0.25)
    parts = []
    for step in range(8000):
        between = typical * (math.exp((step + 0.5) / 500) - 1)
        precisions = [1 / (v + between) for v in variances]
        total = sum(precisions)
        mean = sum(p * y for p, y in zip(precisions, values, strict=True)) / total
        distance = sum(p * (y - mean) ** 2 for p, y in zip(precisions, values, strict=True))
        log_density = (sum(math.log(p) for p in precisions) - math.log(total) - distance) / 2
        parts.append((math.exp(log_density), mean, math.sqrt(between + 1 / total)))
    whole = sum(weight for weight, _, _ in parts)

    def below(value):
        scale = math.sqrt(2)
        return sum(
            weight * (1 + math.erf((value - mean) / (scale * deviation))) / 2
            for weight, mean, deviation in parts
        )

    ends = []
    for share in shares:
        low, high = -1e3, 1e3
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < share * whole else (low, middle)
        ends.append((low + high) / 2)
    return ends


def mean_variance(numbers, grouping):
    """The variance of a mean over images, linearised: of the sums within groups."""
    names, n = sorted(set(grouping)), len(numbers)
    mean = sum(numbers) / n
    sums = [
        sum(number - mean for number, of in zip(numbers, grouping, strict=True) if of == name)
        for name in names
    ]
    return len(names) / (len(names) - 1) * sum(each**2 for each in sums) / n**2


def recall_variance(right, labels, grouping):
    """The variance of a balanced accuracy: of the sums within groups, over all classes."""
    classes, sums = sorted(set(labels)), dict.fromkeys(grouping, 0.0)
    for label in classes:
        members = [place for place, of in enumerate(labels) if of == label]
        groups = len({grouping[place] for place in members})
        recall = sum(right[place] for place in members) / len(members)
        for place in members:
            scale = math.sqrt(groups / (groups - 1)) / len(members) / len(classes)
            sums[grouping[place]] += scale * (right[place] - recall)
    return sum(each**2 for each in sums.values())


def student_p(column, value, added=0.0):
    """Student's two-sided p of a value, from what each image adds to it, by its kurtosis.

    Args:
        column: whose sum of squares is the variance.
        added: a variance that is known.
    """
    n, squares = len(column), [each**2 for each in column]
    variance = sum(squares)
    excess = n * sum(each**2 for each in squares) / variance**2 - 1
    freedom = min(n / excess, n - 1) * ((variance + added) / variance) ** 2
    deviate = abs(value) / math.sqrt(variance + added)
    return 2 * scipy.stats.t.sf(deviate, freedom)


# ---------------------------------------------------------------- class masks and several labels


def judge_choice(logits, chosen, right=None, shares=None, label=None):
    """One image in plain loops: a dictionary of what is stored of it.

    Args:
        logits: a number for each class.
        chosen: the places of the classes that count.
        right: the places of the right classes; None for `label` alone.
        shares: the share of people by place, instead.
        label: the place of the class that the image counts for.
    """
    highest = max(logits[place] for place in chosen)
    raised = {place: math.exp(logits[place] - highest) for place in chosen}
    total = sum(raised.values())
    share = {place: value / total for place, value in raised.items()}
    answer = min(place for place in chosen if logits[place] == highest)
    allowed = [label] if right is None else right
    better = sorted((logits[place] for place in chosen), reverse=True)
    best = max(logits[place] for place in allowed)
    if shares is None:
        together = sum(share[place] for place in allowed)
        nll = -math.log(together)
        brier = (1 - together) ** 2 + sum(
            value**2 for place, value in share.items() if place not in allowed
        )
    else:
        nll = -sum(part * math.log(share[place]) for place, part in shares.items() if part)
        brier = sum((value - shares.get(place, 0)) ** 2 for place, value in share.items())
    return {
        "correct": answer in allowed,
        "confidence": share[answer],
        "top5_correct": sum(value > best for value in better) < 5,
        "nll": nll,
        "brier": brier,
    }
