"""The layouts of published autoencoders: how each is recognised, read, written and built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdd.latent import tiny as tiny_networks
from jaxdd.latent import vae as vae_networks
from jaxdd.latent.vae import Autoencoder
from jaxdd.nn.classifier import Variables
from jaxdd.pretrained.hub import find, patterns_of
from jaxdd.pretrained.latent import Loaded, save_vae, vae
from jaxdd.pretrained.tiny import files, save_tiny, tiny


class Layout(NamedTuple):
    """A layout of files.

    Attributes:
      config: the class of its configs.
      is_in: whether a folder holds it.
      load: (place) -> `Loaded`.
      save: (folder, config, variables) writes it.
      build: (config, dtype of activations) -> the functions of the autoencoder.
    """

    config: type
    is_in: Callable[[Path], bool]
    load: Callable[[Path], Loaded]
    save: Callable[[Path, Any, Variables], None]
    build: Callable[[Any, jnp.dtype | None], Autoencoder]


LAYOUTS = (
    # Some folders hold a tiny autoencoder in two layouts, of which the other is not read.
    Layout(tiny_networks.TinyConfig, lambda folder: files(folder) is not None, tiny, save_tiny,
           tiny_networks.autoencoder),
    Layout(vae_networks.VAEConfig, lambda folder: (folder / "config.json").is_file(), vae, save_vae,
           vae_networks.autoencoder),
)  # fmt: skip


def autoencoder(place: str | Path) -> Loaded:
    """The autoencoder of any layout in ``place``/vae, or in ``place`` itself: its config and variables.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub; see `find`.

    Raises:
      InputError: there is none, or see `vae` and `tiny`.
    """
    folder = find(place, patterns_of("vae"))
    for candidate in (folder / "vae", folder):
        for layout in LAYOUTS:
            if layout.is_in(candidate):
                return layout.load(candidate)
    return vae(folder)  # which says what is missing


def save_autoencoder(folder: str | Path, config: Any, variables: Variables) -> None:
    """Write an autoencoder in the layout of its config.

    Raises:
      InputError: the variables do not fit the config.
    """
    _layout(config).save(Path(folder), config, variables)


def build(config: Any, dtype: jnp.dtype | None = None) -> Autoencoder:
    """The functions of the autoencoder of a config; ``dtype`` is that of activations, and parameters are float32.

    Raises:
      InputError: sizes that do not go together.
    """
    return _layout(config).build(config, dtype)


def _layout(config):
    return next(layout for layout in LAYOUTS if type(config) is layout.config)
