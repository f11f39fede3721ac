"""Reading and writing the components of latent diffusion models in the layout of diffusers."""

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdd.ground.files import atomic
from jaxdd.latent import clip
from jaxdd.latent import dit as transformer
from jaxdd.latent import unet as unet_2d
from jaxdd.latent.clip import CLIPTextConfig
from jaxdd.latent.diffusion import Schedule
from jaxdd.latent.dit import DiTConfig
from jaxdd.latent.unet import UNetConfig
from jaxdd.latent.vae import VAEConfig, autoencoder
from jaxdd.nn.classifier import Variables
from jaxdd.pretrained.hub import component, read_config, read_json
from jaxdd.pretrained.tensors import Naming, fill, tensors, write

_WEIGHTS = "diffusion_pytorch_model.safetensors"


class Loaded(NamedTuple):
    """The config of a model, and its variables in NumPy float32."""

    config: Any
    variables: Variables


# The first value is the default of a key that is missing.
_VAE_ONLY = {
    "_class_name": ("AutoencoderKL",),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "act_fn": ("silu", "swish"),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
_DIT_ONLY = {
    "_class_name": ("DiTTransformer2DModel", "Transformer2DModel"),
    "norm_type": ("ada_norm_zero",),
    "attention_bias": (True,),
    "activation_fn": ("gelu-approximate",),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-5,),
    "cross_attention_dim": (None,),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
    "use_linear_projection": (False,),
}
_UNET_ONLY = {
    "_class_name": ("UNet2DConditionModel",),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "act_fn": ("silu", "swish"),
    "use_linear_projection": (False,),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (False,),
    "num_attention_heads": (None,),
    "transformer_layers_per_block": (1,),
    "reverse_transformer_layers_per_block": (None,),
    "attention_type": ("default",),
    "cross_attention_norm": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "class_embeddings_concat": (False,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "center_input_sample": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
}
_CLIP_ONLY = {"model_type": ("clip_text_model",), "hidden_act": ("quick_gelu", "gelu")}
_SCHEDULE_ONLY = {
    "beta_schedule": ("linear", "scaled_linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "trained_betas": (None,),
    "clip_sample": (False,),
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
    "timestep_spacing": ("leading",),
}


def vae(place: str | Path, subfolder: str = "vae") -> Loaded:
    """The KL-regularised autoencoder (AutoencoderKL): `VAEConfig` and its variables.

    Args:
      place: a folder, or "owner/name[@revision]" on the Hugging Face hub; see `find`.
      subfolder: the folder of this component in ``place``; if it is missing, ``place`` is the component itself.

    Raises:
      InputError: no such component, damaged files, weights that do not fit, or a config that is not supported.
    """
    folder = component(place, subfolder)
    record = read_json(folder / "config.json")
    only = _VAE_ONLY | {"out_channels": (record.get("in_channels", VAEConfig.in_channels),)}
    optional = ("in_channels", "latent_channels", "norm_num_groups", "scaling_factor", "sample_size")
    config = read_config(folder / "config.json", VAEConfig, only, optional, record)
    return Loaded(config, fill(_vae_like(config), tensors(folder), _VAE_NAMING, folder))


def save_vae(folder: str | Path, config: VAEConfig, variables: Variables) -> None:
    """Write an autoencoder in the format of `vae` and diffusers' AutoencoderKL.

    Raises:
      InputError: the variables do not fit the config.
    """
    levels = len(config.block_out_channels)
    fixed = {
        **{key: values[0] for key, values in _VAE_ONLY.items()},
        "down_block_types": levels * ["DownEncoderBlock2D"],
        "up_block_types": levels * ["UpDecoderBlock2D"],
        "out_channels": config.in_channels,
    }
    _save(Path(folder), fixed | dataclasses.asdict(config), _vae_like(config), variables, _VAE_NAMING)


def dit(place: str | Path, subfolder: str = "transformer") -> Loaded:
    """The diffusion transformer (DiTTransformer2DModel): `DiTConfig` and its variables. Arguments as for `vae`.

    Raises:
      InputError: see `vae`, or blocks whose embeddings of time or class differ.
    """
    folder = component(place, subfolder)
    record = read_json(folder / "config.json")
    if record.get("out_channels") is None:
        record |= {"out_channels": record.get("in_channels", DiTConfig.in_channels)}
    config = read_config(folder / "config.json", DiTConfig, _DIT_ONLY, ("in_channels", "patch_size"), record)
    transformer.check(config, str(folder / "config.json"))
    return Loaded(config, fill(_dit_like(config), tensors(folder), _dit_naming(config), folder))


def save_dit(folder: str | Path, config: DiTConfig, variables: Variables) -> None:
    """Write a diffusion transformer in the format of `dit` and diffusers' DiTTransformer2DModel.

    Raises:
      InputError: the variables do not fit the config.
    """
    fixed = {"_class_name": "DiTTransformer2DModel", "norm_type": "ada_norm_zero", "attention_bias": True,
             "activation_fn": "gelu-approximate", "norm_elementwise_affine": False, "norm_eps": 1e-5}  # fmt: skip
    _save(Path(folder), fixed | dataclasses.asdict(config), _dit_like(config), variables, _dit_naming(config))


def unet(place: str | Path, subfolder: str = "unet") -> Loaded:
    """The UNet of Stable Diffusion v1 (UNet2DConditionModel): `UNetConfig` and {"params": ...}.

    `jaxdd.latent.unet.denoiser` also needs a ``context``, see `class_context`. Arguments as for `vae`.

    Raises:
      InputError: see `vae`.
    """
    folder = component(place, subfolder)
    optional = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "norm_eps")
    config = read_config(folder / "config.json", UNetConfig, _UNET_ONLY, optional)
    return Loaded(config, fill(_unet_like(config), tensors(folder), Naming(), folder))


def text_encoder(place: str | Path, subfolder: str = "text_encoder") -> Loaded:
    """CLIP's text encoder (CLIPTextModel): `CLIPTextConfig` and its variables. Arguments as for `vae`.

    Raises:
      InputError: see `vae`.
    """
    folder = component(place, subfolder)
    optional = ("vocab_size", "max_position_embeddings", "hidden_act", "layer_norm_eps")
    config = read_config(folder / "config.json", CLIPTextConfig, _CLIP_ONLY, optional)
    # Some files leave out the name of the outer module.
    naming = Naming(rename=lambda name: "text_model." + name.removeprefix("text_model."))
    return Loaded(config, fill(_text_encoder_like(config), tensors(folder), naming, folder))


def schedule(place: str | Path, subfolder: str = "scheduler") -> Schedule:
    """The noise schedule of a denoiser. Arguments and errors as for `vae`."""
    file = component(place, subfolder, "scheduler_config.json") / "scheduler_config.json"
    return read_config(file, Schedule, _SCHEDULE_ONLY, [field.name for field in dataclasses.fields(Schedule)])


def save_schedule(folder: str | Path, schedule: Schedule) -> None:
    """Write a schedule in the format of `schedule` and diffusers' DDIMScheduler."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"_class_name": "DDIMScheduler", "clip_sample": False, "timestep_spacing": "leading"}
    _write_json(folder / "scheduler_config.json", record | dataclasses.asdict(schedule))


@cache
def _vae_like(config):
    side = config.reduction
    return jax.eval_shape(lambda: autoencoder(config).init(jax.random.key(0), (side, side, config.in_channels)))


@cache
def _dit_like(config):
    return jax.eval_shape(lambda: transformer.denoiser(config).init(jax.random.key(0)))


@cache
def _unet_like(config):
    variables = jax.eval_shape(lambda: unet_2d.denoiser(config, 1).init(jax.random.key(0)))
    return {"params": variables["params"]}


@cache
def _text_encoder_like(config):
    return jax.eval_shape(lambda: clip.text_encoder(config).init(jax.random.key(0)))


_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _rename_vae(name):
    """The present name of a tensor; the first published autoencoders have other names in the attention."""
    parts = name.split(".")
    if parts[1:4] == ["mid_block", "attentions", "0"] and len(parts) == 6:
        parts[4] = _ATTENTION.get(parts[4], parts[4])
    return ".".join(parts)


_VAE_NAMING = Naming(rename=_rename_vae)


def _dit_naming(config):
    """The naming of a DiT. Published files repeat the embeddings of time and class in every block."""
    prefixes = [f"transformer_blocks.{i}.norm1.emb." for i in range(config.num_layers)]

    def copies(name):
        shared = name.startswith(("timestep_embedder.", "class_embedder."))
        return tuple(prefix + name for prefix in prefixes) if shared else (name,)

    return Naming(
        rename=lambda name: re.sub(r"^transformer_blocks\.\d+\.norm1\.emb\.", "", name),
        shapes={"pos_embed.proj.weight": (config.width, config.in_channels, config.patch_size, config.patch_size)},
        copies=copies,
    )


def _save(folder, config, like, variables, naming):
    folder.mkdir(parents=True, exist_ok=True)
    # A folder without config is refused, so a crash cannot leave new weights beside an old config.
    (folder / "config.json").unlink(missing_ok=True)
    write(folder / _WEIGHTS, like, variables, naming)
    _write_json(folder / "config.json", config)


def _write_json(path, record):
    with atomic(path) as place:
        place.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
