"""The stored PyTorch references, and arrays that both sides draw from their names."""

import functools
import zlib
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdd.nn import get

HERE = Path(__file__).parent / "golden"
MODELS = {
    "resnet18_small": ("resnet18", 16, 8, "small"),
    "resnet18_imagenet": ("resnet18", 48, 8, "imagenet"),
    "resnet50": ("resnet50", 48, 4, "imagenet"),
    "convnet3": ("convnet3", 16, 8, "auto"),
}


def close(ours, truth, rtol=1e-4):
    """Each number within rtol of itself or of the array's root mean square, whichever is larger."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.shape == truth.shape
    scale = np.maximum(np.abs(truth), np.sqrt(np.mean(np.square(truth))))
    np.testing.assert_array_less(np.abs(ours - truth) / scale, rtol)


def uniform(name, shape):
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape).astype(np.float32)


def parameter(name, shape):
    u = uniform(name, shape)
    if len(shape) > 1:
        return (2 * u - 1) * np.float32(np.sqrt(3 / np.prod(shape[1:])))
    return u + np.float32(0.5) if name.endswith(("weight", "running_var")) else u - np.float32(0.5)


def torch_name(path):
    """The PyTorch name of a Flax module path: layer1_0/shortcut_norm -> layer1.0.downsample.1."""
    rename = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1", "head": "fc"}
    parts = [rename.get(p, p.replace("norm", "bn").replace("_", ".")) for p in path if p != "bn"]
    return ".".join(parts)


def torch_leaf(tag, path, shape):
    """The PyTorch array of a Flax leaf: OIHW -> HWIO, [out, in] -> [in, out], flattened CHW -> HWC."""
    *modules, kind = path[1:]
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    name = f"{tag}/{torch_name(modules)}.{kinds.get(kind, kind)}"
    if kind != "kernel":
        return parameter(name, shape)
    if len(shape) == 4:
        return parameter(name, (shape[3], shape[2], *shape[:2])).transpose(2, 3, 1, 0)
    side = 2 if tag == "convnet3" else 1  # of the last feature map
    flat = parameter(name, shape[::-1])
    return flat.reshape(shape[1], -1, side, side).transpose(2, 3, 1, 0).reshape(shape)


@functools.cache
def golden(tag):
    with np.load(HERE / f"{tag}.npz", allow_pickle=False) as stored:
        return dict(stored)


@functools.cache
def model(tag):
    name, size, width, stem = MODELS[tag]
    classifier = get(name, 10, size, width, stem)
    shapes = flatten_dict(jax.eval_shape(lambda: classifier.init(jax.random.key(0), (size, size, 3))))
    variables = {path: torch_leaf(tag, path, leaf.shape) for path, leaf in shapes.items()}
    return classifier.apply, unflatten_dict(variables)
