"""Small published models: those in golden/latent, and a text encoder with its tokenizer."""

import functools
import json

import jax
from golden_helpers import HERE

from jaxdd import pretrained
from jaxdd.latent import clip
from jaxdd.pretrained.tensors import Naming, write

FOLDER = HERE / "latent"
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
FILES = {"vae": DIFFUSERS, "transformer": DIFFUSERS, "unet": DIFFUSERS, "text_encoder": TRANSFORMERS}
READ = {"vae": pretrained.vae, "transformer": pretrained.dit, "unet": pretrained.unet,
        "text_encoder": pretrained.text_encoder}  # fmt: skip


@functools.cache
def golden():
    """A small vocabulary, and what transformers' tokenizer makes of it."""
    return json.loads((HERE / "tokenizer.json").read_text())


def vocabulary(place, **files):
    """Write a tokenizer with that vocabulary, and JSON files beside it; return its folder."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps(golden()["vocab"]))
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(golden()["merges"]) + "\n")
    for name, record in files.items():
        (place / f"{name}.json").write_text(json.dumps(record))
    return place


def pipeline(place, vocab_size):
    """Write that tokenizer and a drawn text encoder of so many tokens; return the encoder's function and variables."""
    vocabulary(place / "tokenizer")
    config = clip.CLIPTextConfig(vocab_size, 8, 16, 1, 2)
    encoder = clip.text_encoder(config)
    variables = encoder.init(jax.random.key(0))
    (place / "text_encoder").mkdir(exist_ok=True)
    record = {**vars(config), "model_type": "clip_text_model"}
    (place / "text_encoder" / "config.json").write_text(json.dumps(record))
    write(place / "text_encoder" / "model.safetensors", variables, variables, Naming())
    return jax.jit(encoder.apply), variables
