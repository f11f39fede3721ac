"""Tiny autoencoders: two safetensors files without a config, whose sizes are read off the arrays."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target, packed, placed, unpacked

from jaxdd.latent.tiny import TinyConfig, autoencoder
from jaxdd.pretrained.tiny import PARTS, save_tiny, tiny

# With a pool in the deepest level of each part, and without.
CONFIGS = (
    TinyConfig(3, 5, 4, (1, 2), (2, 1), (0, 4), (4, 0)),
    TinyConfig(1, 4, 4, (1, 1), (1, 1), (0, 0), (0, 0)),
)


def held(config):
    """Both files of a model of ones."""
    init = lambda: autoencoder(config).init(jax.random.key(0), (4, 4, config.in_channels))
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), jax.eval_shape(init))
    with tempfile.TemporaryDirectory() as folder:
        save_tiny(folder, config, ones)
        return {f"{part}.safetensors": Path(folder, f"{part}.safetensors").read_bytes() for part in PARTS}


FILES = [held(config) for config in CONFIGS]


def read(folder, data):
    with placed(folder, unpacked(data, FILES[0]), {}):
        config, variables = tiny(folder)
        assert variables["params"]["encoder"] and config.latent_channels >= 1


def change(rng, data):
    return mutate.of_files(rng.choice(FILES), {".safetensors": mutate.as_safetensors})(rng, data)


TARGET = Target("tiny", lambda: [packed(files) for files in FILES], change, read)
