"""The forms in which soft labels are stored and travel, from float32 logits to a few classes of each image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.ground.errors import InputError

FORMS = ("float32", "float16", "topk", "int8")


@dataclass(frozen=True)
class LabelForm:
    """The form of a soft label."""

    form: str = "float32"
    """float32, float16, topk or int8: 4 K, 2 K, 3 or 4 times ``top``, or K + 2 bytes a label."""
    top: int = 10
    """For topk: the number of classes whose probabilities are stored."""


def record(settings: LabelForm, num_classes: int) -> np.dtype:
    """The structured dtype of an image's label, with the fields of `encode`.

    Raises:
      InputError: an unknown form, or ``top`` not in 1 .. K.
    """
    if settings.form not in FORMS:
        raise InputError(f"labels of `form` {settings.form!r} cannot be stored; use {', '.join(FORMS)}")
    if settings.form == "topk":
        if not 1 <= settings.top <= num_classes:
            raise InputError(f"`top` {settings.top} of {num_classes} classes cannot be stored; use 1 to {num_classes}")
        place = np.min_scalar_type(num_classes - 1).newbyteorder("<")
        return np.dtype([("above", "<f2", (settings.top,)), ("classes", place, (settings.top,))])
    if settings.form == "int8":
        return np.dtype([("codes", "u1", (num_classes,)), ("scale", "<f2")])
    return np.dtype([("logits", {"float32": "<f4", "float16": "<f2"}[settings.form], (num_classes,))])


def encode(settings: LabelForm, logits: jax.Array, temperature: float) -> dict[str, jax.Array]:
    r"""Encode logits z for storage. Adding a constant to z does not change the softmax, so constants are dropped.

    - float32: z itself.
    - float16: :math:`z_k - \bar z`, rounded with a relative error of at most 2^-11.
    - int8: :math:`q_k = \mathrm{round}((z_k - \min z) / s)` with
      :math:`s = \max((\max z - \min z) / 255, 2^{-14})` in float16 for each image; the error is at most s / 2 per
      logit.
    - topk: for the k = ``top`` largest logits, their distance above the level r of the other K - k, called the tail:

      .. math:: d_k = z_k - r, \quad e^{r / T} = \frac1{K - k} \sum_{j \text{ in the tail}} e^{z_j / T},

      in float16. With the logit 0 for the whole tail, every stored class has its exact probability at temperature T,
      and the remaining mass is spread evenly over the tail. If there is no tail, r is taken over all classes.

    Args:
      logits: [N, K].
      temperature: T, which only topk needs.

    Returns:
      The fields of `record`, [N] or [N, ...] each.
    """
    logits = logits.astype(jnp.float32)
    if settings.form == "float32":
        return {"logits": logits}
    if settings.form == "float16":
        return {"logits": (logits - logits.mean(-1, keepdims=True)).astype(jnp.float16)}
    if settings.form == "int8":
        low = logits.min(-1, keepdims=True)
        # 2^-14 is the smallest normal float16. A smaller scale could be rounded down so far that the codes overflow.
        scale = jnp.maximum((logits.max(-1, keepdims=True) - low) / 255, 2.0**-14).astype(jnp.float16)
        codes = jnp.round((logits - low) / scale.astype(jnp.float32)).astype(jnp.uint8)
        return {"codes": codes, "scale": scale[..., 0]}
    num_classes = logits.shape[-1]
    largest, classes = jax.lax.top_k(logits, settings.top)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), classes, True, -1, inplace=False)
    tail = (~kept | (settings.top == num_classes)).astype(jnp.float32)
    count = num_classes - settings.top or num_classes
    level = temperature * jax.nn.logsumexp(logits / temperature, -1, b=tail / count, keepdims=True)
    index_type = record(settings, num_classes)["classes"].base
    return {"above": (largest - level).astype(jnp.float16), "classes": classes.astype(index_type)}


def decode(kept: dict[str, jax.Array], num_classes: int) -> jax.Array:
    """The logits that `encode` stored, float32 [N, K], up to a constant per image; the fields determine the form."""
    if "codes" in kept:
        return kept["codes"].astype(jnp.float32) * kept["scale"].astype(jnp.float32)[..., None]
    if "classes" in kept:
        above, classes = kept["above"].astype(jnp.float32), kept["classes"].astype(jnp.int32)
        tail = jnp.zeros((*above.shape[:-1], num_classes), jnp.float32)
        return jnp.put_along_axis(tail, classes, above, -1, inplace=False)
    return kept["logits"].astype(jnp.float32)


def coded(form: LabelForm, logits: jax.Array, temperature: float) -> jax.Array:
    """The logits [N, K] as they arrive when they travel in a form: encoded and decoded."""
    if form.form == "float32":
        return logits
    return decode(encode(form, logits, temperature), logits.shape[-1])
