"""Moments of the input of `flax.linen.BatchNorm` layers, taken while a module is applied, wherever they are in it.

Some moments cannot be taken, for example those of a layer whose input does not have one row per image. Such a layer is
left out, so that the model can still be trained and tested. Inside of `strict` it is an `InputError`, so that no loss
silently lacks a layer.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.ground.errors import InputError
from jaxdd.nn.batchnorm import BatchNorm, Moments, image_moments

_STRICT: ContextVar[bool] = ContextVar("strict", default=False)


@contextmanager
def strict() -> Iterator[None]:
    """A context manager in which layers whose moments cannot be taken are errors. It holds for the current thread."""
    token = _STRICT.set(True)
    try:
        yield
    finally:
        _STRICT.reset(token)


def cannot(name: str, reason: str) -> None:
    """Raise InputError for the layer ``name`` inside of `strict`, otherwise do nothing."""
    if _STRICT.get():
        raise InputError(f"the moments of BatchNorm {name!r} cannot be taken, since {reason}; use "
                         "`imager.moment_weight` 0, or change the model")  # fmt: skip


def input_moments(name: str, x: jax.Array, axis: int | Iterable[int], mask: Any, images: int) -> Moments | None:
    """The moments of each image in the input of a BatchNorm layer, over all axes but those of images and features.

    Args:
      name: the name of the layer, for messages.
      x: the input, [N, ...].
      axis: the axis of features, or several, whose product is then ch.
      mask: that of the layer, which must be None.
      images: N.

    Returns:
      Moments of [N, ch], or None if they cannot be taken.
    """
    features = sorted({i % x.ndim for i in (axis if isinstance(axis, Iterable) else (axis,))})
    reason = None
    if mask is not None:
        reason = "it has a mask"
    elif 0 in features:
        reason = "its `axis` includes the first one, that of the images"
    elif x.shape[0] != images:
        reason = f"its input has {x.shape[0]} rows for {images} images"
    if reason:
        cannot(name, reason)
        return None
    last = jnp.moveaxis(x, features, range(-len(features), 0))
    return image_moments(last.reshape(*last.shape[: x.ndim - len(features)], -1))


class Interceptor:
    """A method interceptor of Linen that sows `input_moments` of every BatchNorm layer into the collection ``moments``.

    The collection passes through `nn.remat` and `nn.jit` by itself, and through `nn.scan` and `nn.vmap` with
    ``variable_axes={"moments": 0}``.
    """

    def __init__(self, images: int):
        self.images = images
        self.order: dict[str, None] = {}
        self.inside: nn.Module | None = None

    def __call__(self, method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """See `flax.linen.intercept_methods`."""
        layer = context.module
        # A subclass may call the method that it overrides: the same layer.
        if not isinstance(layer, nn.BatchNorm) or context.method_name != "__call__" or layer is self.inside:
            return method(*args, **kwargs)
        holder = layer.parent if isinstance(layer.parent, BatchNorm) else layer
        name = "/".join(holder.path)
        if holder.is_mutable_collection("moments"):
            x = args[0] if args else kwargs["x"]
            moments = input_moments(name, x, layer.axis, kwargs.get("mask"), self.images)
            if moments is not None:
                self.order[name] = None
                holder.sow("moments", "input", moments)
        else:
            cannot(name, "a transformation around it drops them: give it variable_axes={'moments': 0}")
        outside, self.inside = self.inside, layer
        try:
            return method(*args, **kwargs)
        finally:
            self.inside = outside

    def layers(self, sown: Mapping[str, Any]) -> dict[str, Moments]:
        """The collection as moments [N, ch] by the name of the layer, see `named`."""
        found = {}
        for path, calls in flax.traverse_util.flatten_dict(sown).items():
            found["/".join(path[:-1] if path[-1] == "input" else path)] = calls
        return named(found, list(self.order), self.images)


def named(found: Mapping[str, Any], order: list[str], images: int) -> dict[str, Moments]:
    """Moments [N, ch] by name, in the order in which the layers were executed.

    The second call of a layer is NAME#2, and repetition i of a layer in a scan is NAME[i].

    Args:
      found: by the name of the layer, the moments of all its calls, [N, ch] each, or [..., N, ch] inside of scans.
      order: the names in the order of execution; others follow.
      images: N.
    """
    layers: dict[str, Moments] = {}
    for name in sorted(found, key=lambda name: order.index(name) if name in order else len(order)):
        calls = [found[name]] if isinstance(found[name], Moments) else found[name]
        for k, moments in enumerate(calls):
            label = name if k == 0 else f"{name}#{k + 1}"
            *repeats, rows, width = moments.mean.shape
            if rows != images:
                cannot(label, "a transformation around it puts its repetitions elsewhere than in the first axis")
            elif not repeats:
                layers[label] = moments
            else:
                stacks = Moments(*(x.reshape(-1, rows, width) for x in moments))
                layers |= {f"{label}[{i}]": Moments(*(x[i] for x in stacks)) for i in range(len(stacks.mean))}
    return layers
