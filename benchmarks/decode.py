"""Stage 3b beside diffusers: how many latents are noised, denoised and decoded a second?

    python -m benchmarks.decode [--latents FOLDER] [--json FILE] [--trace FOLDER] [--model DiT-XL/2 --image-size N ...]
    python -m benchmarks.decode --quick

C x M latents, noised to half of the schedule and taken back in 25 steps of DDIM with guidance, then decoded:
`jaxdd.latent.decoding.decode` with its defaults, which takes up to 64 at a time on an accelerator, and diffusers'
AutoencoderKL, DiTTransformer2DModel and DDIMScheduler on the same files. --latents names a folder of these (vae,
transformer, scheduler); without it random weights are written to a temporary one: on CPU a DiT-Ti/2 and a small
autoencoder for 32 pixels, else DiT-XL/2 and Stable Diffusion's autoencoder for 256. Before, the guided predictions,
the decoded images and the whole way from the same noise are compared in float32, and more than 0.1 % apart end the run.
A step is C x M latents, all of their denoising included. --quick leaves torch.compile out, which takes half a minute.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Mode, Side, Work
from jaxdd import pretrained
from jaxdd.ground.errors import InputError
from jaxdd.ground.memory import Resources
from jaxdd.latent import Sampling, Schedule, VAEConfig, autoencoder, diffusion, dit, vae
from jaxdd.latent.decoding import LatentModel, Pixels, decode, latent_shape
from jaxdd.latent.vae import RANGE

CPU = [Case("DiT-Ti/2", 32, 10, 2)]
GPU = [Case("DiT-XL/2", 256, 10, 4)]
QUICK = [Case("DiT-Ti/2", 16, 10, 1)]
COUNTED = "convolutions and matrix products of denoiser and decoder, both halves of the guidance"


def random_weights(case: Case, place: Path) -> None:
    """Write a random latent model of the case's sizes."""
    shape = case.image_shape
    config = vae.small(shape) if case.image_size < 128 else dataclasses.replace(VAEConfig(), sample_size=shape[0])
    if case.image_size % config.reduction:
        raise InputError(f"--image-size {case.image_size} does not divide by the autoencoder's {config.reduction}")
    sizes = dit.named(case.model, case.classes, case.image_size // config.reduction, config.latent_channels)
    pretrained.save_vae(place / "vae", config, harness.drawn(lambda key: autoencoder(config).init(key, shape)))
    pretrained.save_dit(place / "transformer", sizes, harness.drawn(dit.denoiser(sizes).init))
    pretrained.save_schedule(place / "scheduler", Schedule())


def load(place: Path, compute: str) -> LatentModel:
    """The model in a folder, as ours."""
    dtype = jnp.bfloat16 if compute == "bfloat16" else None
    config, vae_variables = pretrained.vae(place)
    sizes, variables = pretrained.dit(place)
    shape = (config.sample_size, config.sample_size, config.in_channels)
    vae_variables, variables = jax.tree.map(jnp.asarray, (vae_variables, variables))
    net = dit.denoiser(sizes, dtype)
    return LatentModel(autoencoder(config, dtype), vae_variables, shape, net, variables, pretrained.schedule(place))


def atoms(case: Case, model: LatentModel) -> np.ndarray:
    """Latents [C, m, h w c]."""
    shape = (case.classes, case.ipc, int(np.prod(latent_shape(model))))
    return np.random.default_rng(4).standard_normal(shape, np.float32)


def whole(model: LatentModel, settings: Sampling, variables: tuple, keys, x, labels):
    """Sampling and decoding of a batch; ``variables`` of the autoencoder and of the denoiser."""
    z = diffusion.sample(model.denoiser, variables[1], model.schedule, settings, keys, x, labels)
    return model.autoencoder.decode(variables[0], z)


def ours(case: Case, compute: str, place: Path, settings: Sampling) -> Side:
    model = load(place, compute)
    latents, key = atoms(case, model), jax.random.key(0)
    pixels, resources = Pixels(RANGE, model.image_shape), Resources(2**60)

    def advance(steps):
        for _ in range(steps):
            # A NumPy array comes back, so all work is done.
            decode(key, model, settings, latents, pixels, resources=resources)

    return Side("ours", harness.turns(advance))


def theirs(rivals, case: Case, compute: str, place: Path, settings: Sampling, name: str, compile: bool) -> Side:
    rival = rivals.Decoder(place, settings, Mode(compute, compile))
    model = load(place, "float32")
    side = latent_shape(model)
    latents = atoms(case, model).reshape(-1, *side)
    labels = np.repeat(np.arange(case.classes), case.ipc)

    def advance(steps):
        for _ in range(steps):
            rival.decode(latents, labels)

    return Side(name, harness.turns(advance))


def check(rivals, case: Case, place: Path, settings: Sampling) -> None:
    """Both sides compute the same: one guided prediction, one decoding, and the whole way."""
    model, labels = load(place, "float32"), np.arange(min(2, case.classes))
    x = atoms(case, model)[: len(labels), 0].reshape(-1, *latent_shape(model))
    predict = diffusion.guided(model.denoiser.apply, model.denoiser.null, settings.guidance)
    keys = jax.vmap(jax.random.key)(labels)
    # The noise that `diffusion.sample` draws first.
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), x.shape[1:]))(keys)
    with rivals.full_precision():
        rival = rivals.Decoder(place, settings, Mode("float32"))
        t = int(rival.times[0])
        out = jax.jit(predict)(model.variables, x, np.full(len(x), t), labels)
        pictures = jax.jit(model.autoencoder.decode)(model.vae_variables, x)
        variables = model.vae_variables, model.variables
        end = jax.jit(functools.partial(whole, model, settings))(variables, keys, x, labels)
        other_out, other_pictures = rival.check(x, t, labels)
        other_end = rival.decode(x, labels, np.asarray(noise))
    harness.check_close("the prediction", out[..., : x.shape[-1]], other_out)
    harness.check_close("the decoded image", pictures, other_pictures)
    harness.check_close("the denoised and decoded image", end, other_end)


def measure_case(flags, case: Case, compute: str, rivals, place: Path) -> tuple[list, int]:
    settings = Sampling()
    rival = functools.partial(theirs, rivals, case, compute, place, settings)
    others = harness.variants(rivals, rival)[: 1 if flags.quick else None]
    mine, same = (
        functools.partial(ours, case, compute, place, settings),
        functools.partial(check, rivals, case, place, settings),
    )
    timings = harness.measure(mine, others, flags, same, rivals and rivals.memory)
    model = load(place, compute)
    shapes = jax.eval_shape(lambda *parts: parts, model.vae_variables, model.variables)
    keys = jax.vmap(jax.random.key)(np.arange(case.batch))
    x = jax.ShapeDtypeStruct((case.batch, *latent_shape(model)), jnp.float32)
    labels = jax.ShapeDtypeStruct((case.batch,), jnp.int32)
    batch = functools.partial(whole, model, settings)
    planned = harness.plan(jax.jit(batch), shapes, keys, x, labels)
    timings[0] = timings[0]._replace(side=timings[0].side._replace(plan=planned))
    return timings, harness.flops(batch, shapes, keys, x, labels)


def cases_of(flags, place: Path, chosen: list[Case]) -> list[Case]:
    """The cases with the sizes of the models in a folder."""
    config, sizes = pretrained.vae(place).config, pretrained.dit(place).config
    if flags.model or flags.image_size:
        raise InputError(f"--latents {place} decides on the model and --image-size; leave these out")
    classes = min(flags.classes or 10, sizes.num_embeds_ada_norm)
    name = f"DiT {sizes.width}x{sizes.num_layers}/{sizes.patch_size}"
    return [case._replace(model=name, image_size=config.sample_size, classes=classes) for case in chosen]


def main() -> None:
    flags = harness.parser(__doc__)
    flags.add_argument("--latents", type=Path, help="a folder with vae, transformer and scheduler")
    flags = flags.parse_args()
    chosen = harness.cases(flags, CPU, GPU, QUICK)
    compute, rivals = harness.dtype(flags), harness.rivals(flags, "diffusers_rival")
    if flags.latents:
        chosen = cases_of(flags, flags.latents, chosen)
    rows = []
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            place = flags.latents or Path(folder)
            if not flags.latents:
                random_weights(case, place)
            timings, counted = measure_case(flags, case, compute, rivals, place)
        peak = harness.matmul_peak(flags.quick)
        rows += harness.rows(Work("decode", case, compute, counted, case.batch), timings, peak)
        harness.write(flags.json, rows)
    harness.show(rows, COUNTED)


if __name__ == "__main__":
    harness.entry(main)
