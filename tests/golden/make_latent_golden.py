"""Tiny published-format checkpoints and their outputs for tests/test_latent_golden.py: `python make_latent_golden.py`.

Needs torch 2.13, diffusers 0.42 and transformers 5. Writes a pipeline's folder as those libraries write it, with
parameters drawn from their names, and the outputs of the models, computed in float64, as latent/golden.npz. No inputs
are stored: both sides draw each array from its own name.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from make_golden import HERE, parameter, uniform
from transformers import CLIPTextConfig, CLIPTextModel

FOLDER = HERE / "latent"
# What adds to a residual stream is drawn small, so that the epsilon of the norms that read the stream tells. Not in the
# DiT, where the positions are of order one.
SMALL = ("conv_in.", "conv2.", "proj_in.", "to_out.", "net.2.", "out_proj.", "fc2.", "embedding.weight")
SMALL_BIAS = ("conv_shortcut.bias", "conv.bias")


def fill(model, tag):
    """Draw every parameter, the zero-initialised too. A DiT has one time and class embedding, copied to each block."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            parts = name.split(".")
            if parts[0] == "transformer_blocks" and "emb" in parts:
                parts[1] = "0"
            drawn = parameter(f"{tag}/{'.'.join(parts)}", tuple(value.shape))
            small = tag != "transformer" and (any(part in name for part in SMALL) or name.endswith(SMALL_BIAS))
            value.copy_(torch.from_numpy(drawn * np.float32(0.03 if small else 1)))
    return model


def normal(name, shape):
    """Box and Muller's, of two uniform draws."""
    u, v = (uniform(f"{name}/{part}", shape).astype(np.float64) for part in "uv")
    return (np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)).astype(np.float32)


def nchw(name, shape):
    return torch.from_numpy(normal(name, shape)).double().permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1).numpy()


def vae():
    model = fill(
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[4, 8, 12],
            layers_per_block=2,
            norm_num_groups=2,
            sample_size=16,
        ),
        "vae",
    )
    model.save_pretrained(FOLDER / "vae")
    model.double().eval()
    posterior = model.encode(nchw("vae/images", (2, 16, 24, 3))).latent_dist
    return {
        "vae/mean": nhwc(posterior.mean),
        "vae/logvar": nhwc(posterior.logvar),
        "vae/decoded": nhwc(model.decode(nchw("vae/latents", (2, 4, 6, 4))).sample),
    }


def dit():
    model = fill(
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            sample_size=8,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=5,
        ),
        "transformer",
    )
    model.save_pretrained(FOLDER / "transformer")
    model.double().eval()
    out = model(nchw("dit/x", (3, 8, 8, 4)), torch.tensor([0, 500, 999]), torch.tensor([0, 3, 5])).sample
    return {"dit/out": nhwc(out)}


def unet():
    model = fill(
        UNet2DConditionModel(
            sample_size=8,
            down_block_types=["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
            block_out_channels=[4, 8, 8],
            layers_per_block=2,
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=2,
        ),
        "unet",
    )
    model.save_pretrained(FOLDER / "unet")
    model.double().eval()
    context = torch.from_numpy(normal("unet/context", (3, 6, 8))).double()
    out = model(nchw("unet/x", (3, 8, 8, 4)), torch.tensor([0, 500, 999]), context[[2, 0, 1]]).sample
    return {"unet/out": nhwc(out)}


def clip():
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 7,
        "bos_token_id": 48,
        "eos_token_id": 49,
    }
    tokens = torch.from_numpy((uniform("clip/tokens", (3, 7)) * 50).astype(np.int64))
    stored = {}
    for act in ("gelu", "quick_gelu"):
        model = fill(CLIPTextModel(CLIPTextConfig(hidden_act=act, **sizes)), "text_encoder")
        model.save_pretrained(FOLDER / "text_encoder")
        model.double().eval()
        stored[f"clip/{act}"] = model(tokens).last_hidden_state.numpy()
    return stored


def formula(x, t):
    """In place of a network: any smooth function of x and t."""
    return torch.tanh(x) * 0.5 + t / 1000


def noised(scheduler, tag):
    """The last seven of ten times, and a latent noised to the first of them, as image-to-image pipelines start."""
    scheduler.set_timesteps(10)
    times = scheduler.timesteps[3:]
    return times, scheduler.add_noise(nchw(f"{tag}/clean", (2, 4, 4, 4)), nchw(f"{tag}/noise", (2, 4, 4, 4)), times[:1])


def ddim(tag, **settings):
    scheduler = DDIMScheduler(clip_sample=False, **settings)
    scheduler.save_pretrained(FOLDER / "scheduler")
    times, x = noised(scheduler, tag)
    path = [x]
    for t in times:
        path.append(scheduler.step(formula(path[-1], t), t, path[-1]).prev_sample)
    return {f"{tag}/times": times, f"{tag}/path": np.stack([nhwc(x) for x in path])}


def ddpm(tag):
    """Ancestral sampling with a learned variance, and the noise that it drew."""
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, variance_type="learned_range")
    times, x = noised(scheduler, tag)
    path, drawn = [x], []
    for i, t in enumerate(times):
        drawn.append(torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=x.dtype))
        output = torch.cat([formula(path[-1], t), torch.sin(path[-1])], 1)
        path.append(scheduler.step(output, t, path[-1], generator=torch.Generator().manual_seed(i)).prev_sample)
    return {
        f"{tag}/times": times,
        f"{tag}/path": np.stack([nhwc(x) for x in path]),
        f"{tag}/drawn": np.stack([nhwc(x) for x in drawn]),
    }


def main():
    torch.set_grad_enabled(False)
    stored = vae() | dit() | unet() | clip() | ddpm("ddpm")
    stored |= ddim("linear", beta_start=1e-4, beta_end=0.02)
    stored |= ddim(
        "scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
    )
    np.savez_compressed(FOLDER / "golden.npz", **{k: np.asarray(v, np.float32) for k, v in stored.items()})


if __name__ == "__main__":
    main()
