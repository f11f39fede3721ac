"""Scores that separate the value of images from that of labels and augmentation (DD-Ranking).

Li et al. 2025, arXiv 2505.13300, section 3. All accuracies are in [0, 1]. A method that is no better than random real
images, and loses nothing against the full data under hard labels, scores (1 - e^-1) / (e - e^-1) = 0.269. A higher
score means that the images are better than random real ones.
"""

import math

from jaxdd.ground.errors import InputError


def hard_label_recovery(full: float, distilled: float) -> float:
    """HLR = acc(full real) - acc(distilled), both under hard labels: the loss in accuracy; lower is better."""
    return _share(full=full) - _share(distilled=distilled)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR = acc(distilled) - acc(random real images), for the same number of images under the same protocol."""
    return _share(distilled=distilled) - _share(random=random)


def label_robust(ior: float, hlr: float, weight: float = 0.5) -> float:
    r"""LRS = (e^a - e^-1) / (e - e^-1) with a = w IOR - (1 - w) HLR; in [0, 1], higher is better."""
    return _normalised(_share(weight=weight) * ior - (1 - weight) * hlr)


def augmentation_robust(with_augmentation: float, without: float, weight: float = 0.5) -> float:
    r"""ARS = (e^b - e^-1) / (e - e^-1) with b = g IOR_with + (1 - g) IOR_without augmentation; higher is better."""
    return _normalised(_share(weight=weight) * with_augmentation + (1 - weight) * without)


def _normalised(x: float) -> float:
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _share(**named: float) -> float:
    ((name, value),) = named.items()
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value} is out of range; give a number from 0 to 1")
    return value
