"""Reading and writing tiny autoencoders: encoder.safetensors and decoder.safetensors, with the published names.

There is no config. The sizes are those of the arrays.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jax

from jaxdd.ground import settings
from jaxdd.ground.errors import InputError
from jaxdd.latent import tiny as networks
from jaxdd.latent.tiny import TinyConfig, autoencoder
from jaxdd.nn.classifier import Variables
from jaxdd.pretrained.hub import find, patterns_of
from jaxdd.pretrained.latent import Loaded
from jaxdd.pretrained.tensors import Naming, Stored, fill, tensors_of, write

PARTS = ("encoder", "decoder")
_REMEDY = "give encoder and decoder of one model of the TAESD family"


def files(folder: Path) -> dict[str, Path] | None:
    """The files of the encoder and of the decoder in a folder; None if it does not hold one of each.

    They are called encoder.safetensors and decoder.safetensors, or taesd_encoder.safetensors and so on.

    Raises:
      InputError: several of a kind.
    """
    found: dict[str, Path] = {}
    for part in PARTS:
        of_part = sorted([*folder.glob(f"{part}.safetensors"), *folder.glob(f"tae*_{part}.safetensors")])
        if len(of_part) > 1:
            raise InputError(f"{folder} holds {', '.join(file.name for file in of_part)}; keep one of them")
        found |= dict.fromkeys([part], *of_part) if of_part else {}
    return found if len(found) == len(PARTS) else None


def tiny(place: str | Path, subfolder: str = "vae") -> Loaded:
    """A tiny autoencoder of the TAESD family: `TinyConfig` and its variables, in NumPy float32.

    Members differ in the channels of the latents, and in whether some blocks have a pool; both are read off the arrays.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub; see `find`.
      subfolder: a folder in ``place`` that is looked into first.

    Raises:
      InputError: no such files, damaged files, or arrays that are not those of such a model.
    """
    folder = find(place, patterns_of(subfolder))
    found = files(folder / subfolder) or files(folder)
    if found is None:
        raise InputError(f"no encoder.safetensors and decoder.safetensors in {folder}; {_REMEDY}")
    contents = {part: tensors_of(file) for part, file in found.items()}
    where = str(found["encoder"].parent)
    config = _config(contents, where)
    like, params = _like(config)["params"], {}
    for part, file in found.items():
        params[part] = fill({"params": like[part]}, contents[part], Naming(), file)["params"]
    return Loaded(config, {"params": params})


def save_tiny(folder: str | Path, config: TinyConfig, variables: Variables) -> None:
    """Write an autoencoder in the format of `tiny`, in float32.

    Raises:
      InputError: the variables do not fit the config.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    like = _like(config)["params"]
    for part in PARTS:
        held = {"params": variables["params"].get(part, {})}
        write(folder / f"{part}.safetensors", {"params": like[part]}, held, Naming())


@cache
def _like(config):
    side = config.reduction
    return jax.eval_shape(lambda: autoencoder(config).init(jax.random.key(0), (side, side, config.in_channels)))


def _config(contents: Mapping[str, Mapping[str, Stored]], where: str) -> TinyConfig:
    """The sizes of the arrays of both files; what else does not fit is found when they are filled."""
    encoder, decoder = (_levels(contents[part], f"{part} in {where}") for part in PARTS)
    first, last = _shape(contents["encoder"], encoder[0][0], where), _shape(contents["encoder"], encoder[0][-1], where)
    config = TinyConfig(first[1], last[0], first[0], encoder[1], decoder[1], encoder[2], decoder[2])
    settings.check(config, where)
    networks.check(config, where)
    return config


def _levels(contents: Mapping[str, Stored], what: str) -> tuple[list[int], tuple[int, ...], tuple[int, ...]]:
    """The places of the plain convolutions, and the blocks and the channels of the pool of each level.

    Convolutions (c) and blocks (b) follow each other as in cbcbbbcbbbcbbbc: a level begins with a convolution.
    """
    kinds = {int(name.partition(".")[0]): "b" if ".conv." in name else "c"
             for name in contents if re.match(r"\d{1,3}\.(conv\.|weight$|bias$)", name)}  # fmt: skip
    places = sorted(kinds)
    line = "".join(kinds[place] for place in places)
    if not re.fullmatch("(cb+)+c", line):
        raise InputError(f"the {what} has layers {line[:40] or 'of other names'}, not convolutions with blocks between "
                         f"them; {_REMEDY}")  # fmt: skip
    convolutions = [place for place in places if kinds[place] == "c"]
    blocks = tuple(len(level) for level in re.findall("b+", line))
    firsts = [match.end() for match in re.finditer("c(?=b)", line)]
    pools = [contents.get(f"{places[first]}.pool.0.weight") for first in firsts]
    return convolutions, blocks, tuple(pool.shape[0] if pool and pool.shape else 0 for pool in pools)


def _shape(contents: Mapping[str, Stored], place: int, where: str) -> tuple[int, ...]:
    """The shape of the kernel of a convolution, [out, in, 3, 3]."""
    stored = contents.get(f"{place}.weight")
    if stored is None or len(stored.shape) != 4:
        raise InputError(f"{place}.weight of the encoder in {where} is no kernel [out, in, 3, 3]; {_REMEDY}")
    return stored.shape
