"""What a function will take in memory, told from its shapes before anything runs."""

from collections.abc import Callable, Iterator

import jax


def values(function: Callable, *arguments) -> Iterator[tuple[str, int]]:
    """Name of the primitive and bytes of every array that ``function`` makes along the way."""
    return _values(jax.make_jaxpr(function)(*arguments).jaxpr)


def _values(jaxpr):
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        for part in inner:
            yield from _values(getattr(part, "jaxpr", part))
        if not inner:
            yield equation.primitive.name, sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)


def forward_bytes(function: Callable, *arguments) -> int:
    """An estimate of the most that a pass without gradients holds at a time: four of its largest arrays."""
    return 4 * max(size for _, size in values(function, *arguments))
