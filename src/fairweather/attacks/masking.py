"""Signs of gradient masking: an attack that fails because the gradient misleads it."""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.types import in_255ths

BLACK_BOX = "square"
# One step along the gradient need not reach chance, and may overshoot: only a search is a sign.
ONE_STEP = ("fgsm",)
# Random starts and squares move an accuracy this much without meaning.
TOLERANCE = 0.01


def masking_warning(
    accuracy: Mapping[str, Mapping[float, float]], chance: float, tolerance: float = TOLERANCE
) -> str:
    """Say why a robust accuracy is not to be believed, or nothing.

    Three signs (Athalye et al., "Obfuscated gradients give a false sense of security", 2018,
    section 3.1; Carlini et al., "On evaluating adversarial robustness", 2019): an attack that may
    change every pixel at will leaves more than chance; accuracy rises with epsilon; a black-box
    attack does better than one that sees the gradient.

    Args:
        accuracy: of one model, in the maximum norm: attack to epsilon to accuracy in [0, 1].
        chance: accuracy of the best constant answer: the share of the most frequent class.
        tolerance: differences up to this are put down to the attacks' random numbers.

    A single step, FGSM, is a sign of nothing and is not looked at.

    >>> print(masking_warning({"pgd": {0.03: 0.6, 1.0: 0.4}}, chance=0.1))
    gradient masking is likely: pgd leaves an accuracy of 0.4 at epsilon 1, above chance (0.1)
    >>> masking_warning({"pgd": {0.03: 0.6, 1.0: 0.0}}, chance=0.1)
    ''
    """
    accuracy = {attack: values for attack, values in accuracy.items() if attack not in ONE_STEP}
    signs = [
        *_unbounded(accuracy, chance, tolerance),
        *_rising(accuracy, tolerance),
        *_black_box(accuracy, tolerance),
    ]
    return f"gradient masking is likely: {'; '.join(signs)}" if signs else ""


def _unbounded(
    accuracy: Mapping[str, Mapping[float, float]], chance: float, tolerance: float
) -> list[str]:
    return [
        f"{attack} leaves an accuracy of {value:.3g} at epsilon {_budget(epsilon)}, "
        f"above chance ({chance:.3g})"
        for attack, values in accuracy.items()
        for epsilon, value in sorted(values.items())
        if epsilon >= 1 and value > chance + tolerance
    ]


def _rising(accuracy: Mapping[str, Mapping[float, float]], tolerance: float) -> list[str]:
    found = []
    for attack, values in accuracy.items():
        least, at = 1.0, 0.0
        for epsilon, value in sorted(values.items()):
            if value > least + tolerance:
                found.append(
                    f"the accuracy under {attack} rises from {least:.3g} at epsilon {_budget(at)} "
                    f"to {value:.3g} at epsilon {_budget(epsilon)}"
                )
            if value <= least:
                least, at = value, epsilon
    return found


def _black_box(accuracy: Mapping[str, Mapping[float, float]], tolerance: float) -> list[str]:
    blind = accuracy.get(BLACK_BOX, {})
    return [
        f"{BLACK_BOX} sees no gradient and leaves {blind[epsilon]:.3g} at epsilon "
        f"{_budget(epsilon)}, {attack} leaves {value:.3g}"
        for attack, values in accuracy.items()
        for epsilon, value in sorted(values.items())
        if attack != BLACK_BOX and epsilon in blind and blind[epsilon] < value - tolerance
    ]


def _budget(epsilon: float) -> str:
    return in_255ths(epsilon) or f"{epsilon:.3g}"
