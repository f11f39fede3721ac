"""The classes of ImageNet-1K."""

from functools import cache
from pathlib import Path


@cache
def class_names() -> tuple[str, ...]:
    """The 1,000 WordNet identifiers, such as n01440764, in the order in which published classifiers have them."""
    return tuple(Path(__file__).with_name("imagenet.txt").read_text(encoding="ascii").split())
