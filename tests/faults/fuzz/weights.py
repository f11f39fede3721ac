"""Published weights: safetensors files, their index, and the variables that are filled from them."""

import json
from types import SimpleNamespace

import ml_dtypes
import numpy as np
from faults.fuzz import mutate
from faults.fuzz.rules import Target, packed, placed, unpacked
from safetensors.numpy import save

from jaxdd.pretrained.tensors import Naming, fill, tensors

NAME = "diffusion_pytorch_model"


def held(dtype=np.float32):
    """The tensors of a model of one layer."""
    return {"a.weight": np.arange(6, dtype=dtype).reshape(2, 3), "a.bias": np.ones(2, dtype),
            "n.running_var": np.ones(2, dtype), "x.num_batches_tracked": np.array(3)}  # fmt: skip


KINDS = (np.float16, ml_dtypes.bfloat16, np.float64)
SHARDS = ("a.safetensors", "b.safetensors")
LIKE = {
    "params": {"a": {"kernel": SimpleNamespace(shape=(3, 2)), "bias": SimpleNamespace(shape=(2,))}},
    "batch_stats": {"n": {"var": SimpleNamespace(shape=(2,))}},
}
WHOLE = {f"{NAME}.safetensors": save(held())}
INDEX = {
    f"{NAME}.safetensors.index.json": json.dumps({"weight_map": dict(zip(held(), SHARDS * 2))}).encode(),
    SHARDS[0]: save({name: tensor for k, (name, tensor) in enumerate(held().items()) if k % 2 == 0}),
    SHARDS[1]: save({name: tensor for k, (name, tensor) in enumerate(held().items()) if k % 2}),
}
FILES = WHOLE | INDEX


def read(folder, data):
    # Nothing lies there but what the input says, as one file hides the others.
    files = unpacked(data, FILES)
    with placed(folder, files, {}):
        filled = fill(LIKE, tensors(folder), Naming(), folder)
        assert filled["params"]["a"]["kernel"].shape == (3, 2)


def change(rng, data):
    known = unpacked(data, FILES)
    base = WHOLE if WHOLE.keys() & known.keys() else INDEX
    return mutate.of_files(base, {".json": mutate.as_json, ".safetensors": mutate.as_safetensors})(rng, data)


TARGET = Target(
    "weights",
    lambda: [packed(files) for files in (WHOLE, INDEX, *({f"{NAME}.safetensors": save(held(kind))} for kind in KINDS))],
    change,
    read,
)
