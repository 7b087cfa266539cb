"""Signs of gradient masking: gradient attacks fail, although the model is not robust."""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.types.measurement import format_255ths

Accuracies = Mapping[str, Mapping[float, float]]  # of one model: by attack, then by epsilon
BLACK_BOX = "square"
# One step along the gradient may overshoot or not reach chance, so it is not a sign of masking.
ONE_STEP = ("fgsm",)
# Differences up to this can come from random starts and random squares.
TOLERANCE = 0.01


def masking_warning(accuracy: Accuracies, chance: float, tolerance: float = TOLERANCE) -> str:
    """Return a warning if gradient masking probably makes a robust accuracy too high, or "".

    There are three signs (Athalye et al., "Obfuscated gradients give a false sense of security",
    2018, section 3.1; Carlini et al., "On evaluating adversarial robustness", 2019):

    * an attack that may change every pixel to any value leaves more accuracy than chance;
    * accuracy rises with epsilon;
    * a black-box attack breaks more images than an attack that uses the gradient.

    Args:
        accuracy: the accuracies of one model in the maximum norm, in [0, 1]: by attack, then by
            epsilon.
        chance: accuracy of the best constant answer: the share of the most frequent class.
        tolerance: differences up to this are attributed to the attacks' random numbers.

    FGSM makes a single step and is ignored.

    >>> print(masking_warning({"pgd": {0.03: 0.6, 1.0: 0.4}}, chance=0.1))
    gradient masking is likely: pgd leaves an accuracy of 0.4 at epsilon 1, above chance (0.1)
    >>> masking_warning({"pgd": {0.03: 0.6, 1.0: 0.0}}, chance=0.1)
    ''
    """
    accuracy = {attack: values for attack, values in accuracy.items() if attack not in ONE_STEP}
    signs = [
        *_unbounded_signs(accuracy, chance, tolerance),
        *_rising_signs(accuracy, tolerance),
        *_black_box_signs(accuracy, tolerance),
    ]
    return f"gradient masking is likely: {'; '.join(signs)}" if signs else ""


def _unbounded_signs(accuracy: Accuracies, chance: float, tolerance: float) -> list[str]:
    return [
        f"{attack} leaves an accuracy of {value:.3g} at epsilon {_format_budget(epsilon)}, "
        f"above chance ({chance:.3g})"
        for attack, values in accuracy.items()
        for epsilon, value in sorted(values.items())
        if epsilon >= 1 and value > chance + tolerance
    ]


def _rising_signs(accuracy: Accuracies, tolerance: float) -> list[str]:
    signs = []
    for attack, values in accuracy.items():
        least, at = 1.0, 0.0
        for epsilon, value in sorted(values.items()):
            if value > least + tolerance:
                signs.append(
                    f"the accuracy under {attack} rises from {least:.3g} at epsilon "
                    f"{_format_budget(at)} "
                    f"to {value:.3g} at epsilon {_format_budget(epsilon)}"
                )
            if value <= least:
                least, at = value, epsilon
    return signs


def _black_box_signs(accuracy: Accuracies, tolerance: float) -> list[str]:
    blind = accuracy.get(BLACK_BOX, {})
    return [
        f"{BLACK_BOX}, which uses no gradients, leaves {blind[epsilon]:.3g} at epsilon "
        f"{_format_budget(epsilon)}, but {attack} leaves {value:.3g}"
        for attack, values in accuracy.items()
        for epsilon, value in sorted(values.items())
        if attack != BLACK_BOX and epsilon in blind and blind[epsilon] < value - tolerance
    ]


def _format_budget(epsilon: float) -> str:
    return format_255ths(epsilon) or f"{epsilon:.3g}"
