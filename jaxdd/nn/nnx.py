"""A classifier of pure functions from a module of Flax NNX, with the moments of its `nnx.BatchNorm` layers.

Every call merges fresh objects from the variables, so that nothing is shared between calls, threads or traces. In these
objects the class of each BatchNorm layer is replaced by a subclass that keeps the moments of its input in a variable of
the layer. Variables pass through NNX's own transformations, such as `nnx.remat`.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdd.ground.errors import InputError
from jaxdd.ground.promotion import standard
from jaxdd.nn.classifier import Classifier, Output, Variables, logits_and_features
from jaxdd.nn.interception import cannot, input_moments, named

# The number of images of the call that is traced, and the names of the BatchNorm layers that it has reached.
_CALL: ContextVar[tuple[int, list[str]]] = ContextVar("call")


class _Taken(nnx.Variable):
    """The `Moments` of the calls of a layer."""


def from_nnx(model: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Classifier:
    """Wrap an NNX module whose ``__call__(x)`` returns (logits [N, K], features [N, d]).

        classifier = jaxdd.nn.from_nnx(lambda rngs: Net(num_classes=10, rngs=rngs))
        teacher = jaxdd.Teacher(classifier.apply, jaxdd.nn.nnx_variables(trained), norm)

    ``apply`` calls it after `nnx.Module.eval`, ``apply_train`` after `nnx.Module.train`. The variables are {"params":
    those of `nnx.Param`, "statistics": all others}, by their paths in the module. The output of ``apply`` has the
    moments of all `nnx.BatchNorm` layers.

    Args:
      model: a function that makes the module, or one such module. With the latter, ``init`` is an error, since no new
        weights can be drawn.
    """
    module = model if isinstance(model, nnx.Module) else nnx.eval_shape(lambda: model(nnx.Rngs(0)))
    graph, state = nnx.split(module)
    template = {"/".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}

    def merged(variables: Variables) -> nnx.Module:
        values = {**variables["params"], **variables["statistics"]}
        filled = [(path, _filled(variable, values[name])) for name, (path, variable) in template.items()]
        return nnx.merge(graph, nnx.from_flat_state(filled))

    def init(key, image_shape):
        if isinstance(model, nnx.Module):
            raise InputError("a finished NNX module draws no new weights; give from_nnx a function of nnx.Rngs instead")
        return standard(jax.jit(lambda key: nnx_variables(model(nnx.Rngs(key)))))(key)

    def apply(variables, images):
        net = merged(variables)
        net.set_attributes(**_EVALUATING, raise_if_not_found=False)
        logits, features, found, reached = _observed(net, images)
        return Output(logits, features, named(found, reached, len(images)))

    def apply_train(variables, images):
        net = merged(variables)
        net.train()
        logits, _ = logits_and_features(standard(net)(images))
        after = nnx_variables(net)["statistics"]
        return logits, {**variables, "statistics": {name: after[name] for name in variables["statistics"]}}

    return Classifier(init, apply, apply_train)


# What evaluation mode sets in the layers of a module.
_EVALUATING = {"deterministic": True, "use_running_average": True}


def nnx_variables(model: nnx.Module) -> Variables:
    """The variables of a module in the form of `from_nnx`; keys of random numbers become their data, uint32."""
    params, statistics = nnx.state(model, nnx.Param, ...)
    plain = lambda state: {"/".join(map(str, path)): _plain(v.get_value()) for path, v in nnx.to_flat_state(state)}
    return {"params": plain(params), "statistics": plain(statistics)}


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(value: Any) -> Any:
    """Arrays as they are, keys as their data: not everything that holds variables takes keys."""
    return jax.random.key_data(value) if _is_key(value) else value


def _filled(variable: nnx.Variable, value: jax.Array) -> nnx.Variable:
    like = variable.get_value()
    if _is_key(like):
        value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(like) if isinstance(like, jax.Array) else None)
    return variable.replace(value)


def _observed(net: nnx.Module, images: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, Any], list[str]]:
    """Logits, features, the moments of all calls by the name of the layer, and the names in the order of execution."""
    for path, layer in nnx.iter_modules(net):
        if isinstance(layer, nnx.BatchNorm):
            _observe(layer, "/".join(map(str, path)))
    reached: list[str] = []
    token = _CALL.set((len(images), reached))
    try:
        logits, features = logits_and_features(standard(net)(images))
    finally:
        _CALL.reset(token)
    found = {"/".join(map(str, path[:-1])): v.get_value() for path, v in nnx.to_flat_state(nnx.pop(net, _Taken))}
    for name in reached:
        if name not in found:
            cannot(name, "a transformation around it drops them")
    return logits, features, found, reached


def _observe(layer: Any, name: str) -> None:
    object.__setattr__(layer, "__class__", _observing(layer.__class__))
    layer.layer_name = name


@cache
def _observing(kind: type[nnx.BatchNorm]) -> type[nnx.BatchNorm]:
    """The subclass of a BatchNorm layer whose call also keeps the moments of its input."""

    def call(self, x, *arguments, mask=None, **options):
        images, reached = _CALL.get()
        moments = input_moments(self.layer_name, x, self.axis, mask, images)
        if moments is not None:
            reached.append(self.layer_name)
            before = getattr(self, "taken", None)
            self.taken = _Taken((*(() if before is None else before.get_value()), moments))
        return kind.__call__(self, x, *arguments, **options, **({} if mask is None else {"mask": mask}))

    return type(kind.__name__, (kind,), {"__call__": call})
