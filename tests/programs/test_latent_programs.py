"""The latent methods on the command line: small models are trained, kept and found again; bad input is one line."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from conftest import drawn
from golden_helpers import HERE
from pretrained_helpers import golden, pipeline

from jaxdd import pretrained
from jaxdd.data import distilled
from jaxdd.latent import TinyConfig, VAEConfig, dit, tiny

TEACHER = ["--width", "8", "--teacher-train.epochs", "2"]
FEW = ["--latent.vae-train.images", "640", "--latent.dit-train.images", "640", "--latent.dit", "DiT-Ti/4"]
DDOQ = ["--dataset", "digits", *TEACHER, *FEW, "--imager.steps", "4"]


KEPT = ("manifest.json", "request.json")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where one test leaves the models for the next."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
def test_what_is_missing_is_trained_and_found_again(program, place):
    status, out, err = program("distill", "--method", "ddoq", *DDOQ, "--ipc", 2, "--out", place / "a")
    assert status == 0 and "20 images of 10 classes" in out
    assert "training an autoencoder" in err and "training DiT-Ti/4" in err and "the teacher recognises" in err
    made = distilled.load(place / "a")
    assert made.images.shape == (20, 8, 8, 1) and made.provenance["method"] == "ddoq"
    assert 0 <= made.provenance["recognised"] <= 1
    with np.load(place / "a" / "atoms.npz", allow_pickle=False) as atoms:
        assert atoms["points"].shape == (10, 2, 64)
        np.testing.assert_allclose(atoms["weights"].reshape(-1), made.weights)
    (whole,) = (place / "latents").glob("digits-DiT-Ti-4-*")
    assert made.provenance["latents"] == whole.name
    assert {part.name for part in whole.iterdir()} == {"vae", "transformer", "scheduler", "latents.json", *KEPT}
    info = json.loads((whole / "latents.json").read_text())["dit"]
    assert info["settings"]["images"] == 640 and info["loss"][-1] < info["loss"][0]

    status, _, err = program("distill", "--method", "d4m", *DDOQ, "--ipc", 2, "--out", place / "b")
    assert status == 0 and "training" not in err and str(whole) in err
    again = distilled.load(place / "b")
    np.testing.assert_array_equal(again.images, made.images)
    np.testing.assert_allclose(again.weights, 0.5)

    # The folder can be named, too.
    named = ["--latent.place", whole, "--summarizer.weights", "free", "--ipc", 2, "--out", place / "d"]
    status, _, err = program("distill", "--method", "ddoq", *DDOQ, *named)
    assert status == 0 and "training" not in err
    free = distilled.load(place / "d")
    np.testing.assert_array_equal(free.images, made.images)
    roots = np.sqrt(free.weights.reshape(10, 2))
    np.testing.assert_allclose(made.weights.reshape(10, 2), roots / roots.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.slow
def test_runs_of_one_method_are_told_apart(program, place):
    flags = ["--seeds", 1, "--protocols", "hard", "--hard.train.epochs", 2, "--baselines", "random", "--full", 0]
    runs = [place / "a", place / "b", place / "d"]
    status, out, _ = program("evaluate", *runs, *flags)
    assert status == 0
    rows = json.loads((place / "a" / "evaluation.json").read_text())
    assert [row["method"] for row in rows] == ["random", "ddoq (a)", "d4m (b)", "ddoq (d)"]
    # The same images under other weights, which are what a student's loss is multiplied by.
    losses = [distilled.load(run).loss_weights() for run in runs]
    assert len({tuple(weights) for weights in losses}) == 3
    np.testing.assert_allclose(losses[1], 1.0)


@pytest.mark.slow
def test_train_trains_either_model(program, place):
    status, out, _ = program("train", "--what", "vae", "--dataset", "digits", *FEW, "--out", place / "vae")
    assert status == 0 and "dB" in out
    assert sorted(os.listdir(place / "vae")) == sorted(["latents.json", "vae", *KEPT])
    config, variables = pretrained.vae(place / "vae")
    assert isinstance(config, VAEConfig) and config.scaling_factor != 1.0
    small = ["--what", "dit", "--dataset", "digits", *FEW, "--latent.place", place / "vae"]
    status, out, _ = program("train", *small, "--out", place / "dit")
    assert status == 0 and "DiT-Ti/4" in out
    assert sorted(os.listdir(place / "dit")) == sorted(["latents.json", "scheduler", "transformer", "vae", *KEPT])
    assert pretrained.dit(place / "dit").config == dit.named("DiT-Ti/4", 10, 4)
    jax.tree.map(np.testing.assert_array_equal, variables, pretrained.vae(place / "dit").variables)


@pytest.mark.slow
def test_bad_requests(refused, tmp_path, place):
    out = ["--out", tmp_path / "x"]
    assert "'unet'" in refused("train", "--what", "unet", *out)
    assert "patches of 3" in refused("train", "--what", "dit", "--latent.dit", "DiT-Ti/3", *out)
    assert "DiT-Q/2" in refused("train", "--what", "dit", "--latent.dit", "DiT-Q/2", *out)
    assert "9 pixels" in refused("train", "--what", "vae", "--image-size", 9, *out)
    assert "images 0" in refused("train", "--what", "vae", "--latent.vae-train.images", 0, *out)
    ddoq = ["distill", "--method", "ddoq", "--teacher", place / "a" / "teacher"]
    assert "nowhere" in refused(*ddoq, "--latent.place", "nowhere", *out)
    assert "vae" in refused(*ddoq, "--latent.place", place / "a" / "distilled", *out)
    assert "--latent.labels" in refused(*ddoq, "--latent.place", place / "dit", "--latent.labels", 1, 2, *out)
    assert "--latent.size" in refused(*ddoq, "--latent.place", place / "dit", "--latent.size", 9, *out)
    assert "patches of 3" in refused(*ddoq, "--latent.place", place / "vae", "--latent.dit", "DiT-Ti/3", *out)
    assert "--latent.size" in refused(*ddoq, "--latent.place", place / "dit", "--latent.size", 16, *out)
    assert "use --summarizer.space latents" in refused("distill", "--method", "wmdd", "--imager", "vae", *out)
    assert "'euler'" in refused("distill", "--method", "ddoq", "--imager.sampler", "euler", *out)


@pytest.mark.slow
def test_an_autoencoder_of_other_images_is_given_what_it_wants(program, place):
    """One made for 8 pixels sees digits of 12 at 8, its pictures come out at 12, and no denoiser is trained."""
    flags = ["--method", "ddoq", "--imager", "vae", "--image-size", 12, "--latent.place", place / "vae", *TEACHER]
    status, _, err = program("distill", "--dataset", "digits", *flags, "--out", place / "large")
    assert status == 0 and "training an autoencoder" not in err and "training DiT" not in err, err
    assert distilled.load(place / "large").images.shape == (10, 12, 12, 1)
    with np.load(place / "large" / "atoms.npz", allow_pickle=False) as atoms:
        assert atoms["points"].shape == (10, 1, 64)


@pytest.mark.slow
def test_a_tiny_autoencoder_gets_a_denoiser_of_its_own(program, refused, place, tmp_path):
    """Files of the TAESD family see grey digits in colour; a method that adds no noise trains nothing."""
    config, folder = TinyConfig(3, 5, 8, (1, 1, 1), (1, 1, 1), (0, 0, 8), (8, 0, 0)), tmp_path / "tiny"
    variables = drawn(lambda key: tiny.autoencoder(config).init(key, (8, 8, 3)), 0)
    pretrained.save_tiny(folder, config, variables)
    teacher = ["--dataset", "digits", "--teacher", place / "a" / "teacher", "--latent.place", folder]
    flags = [*teacher, "--method", "ddoq", "--ipc", 1, "--imager.steps", 4, "--latent.dit-train.images", 640]
    out = tmp_path / "x"
    decoded = [*teacher, "--method", "ddoq", "--imager", "vae"]
    assert "9 pixels are not divisible by 4" in refused("distill", *decoded, "--latent.size", 9, "--out", out)
    status, _, err = program("distill", *decoded, "--out", place / "plain")
    assert status == 0 and "training" not in err, err
    with np.load(place / "plain" / "atoms.npz", allow_pickle=False) as atoms:
        assert atoms["points"].shape == (10, 1, 2 * 2 * 5)
    assert "patches of 4" in refused("distill", *flags, "--latent.dit", "DiT-Ti/4", "--out", out)
    status, _, err = program("distill", *flags, "--out", place / "coloured")
    assert status == 0 and "training DiT-Ti/2" in err and "autoencoder" not in err, err
    assert distilled.load(place / "coloured").images.shape == (10, 8, 8, 1)
    (whole,) = (place / "latents").glob("digits-DiT-Ti-2-*")
    assert sorted(os.listdir(whole / "vae")) == ["decoder.safetensors", "encoder.safetensors"]
    kept = pretrained.autoencoder(whole)
    assert kept.config == config
    jax.tree.map(np.testing.assert_array_equal, kept.variables, variables)
    # That folder is found again, and can be named.
    status, _, err = program("distill", *flags, "--seed", 0, "--imager.guidance", 1, "--out", place / "again")
    assert status == 0 and "training" not in err and str(whole) in err, err
    named = ["--dataset", "digits", *teacher[2:4], "--method", "d4m", "--imager.steps", 4, "--latent.place", whole]
    status, _, err = program("distill", *named, "--out", place / "named")
    assert status == 0 and "training" not in err, err
    made = [distilled.load(place / name).images for name in ("coloured", "named")]
    np.testing.assert_array_equal(*made)
    # `jaxdd train` does the same by itself.
    small = ["--what", "dit", "--dataset", "digits", "--latent.place", folder, "--latent.dit-train.images", 640]
    status, out, err = program("train", *small, "--out", place / "tiny-dit")
    assert status == 0 and "DiT-Ti/2" in out, err
    assert pretrained.dit(place / "tiny-dit").config == dit.named("DiT-Ti/2", 10, 2, 5)


@pytest.mark.slow
def test_a_text_to_image_folder_decodes_other_sizes_and_colours(program, refused, place, tmp_path):
    """Stable Diffusion's layout in small: grey digits of 8 pixels go in at 32 in colour and come back as they were."""
    model = place / "text"
    for part in ("vae", "unet", "scheduler"):
        shutil.copytree(HERE / "latent" / part, model / part)
    pipeline(model, len(golden()["vocab"]))
    prompts = tmp_path / "prompts"
    prompts.write_text("\n".join(f"the {digit}" for digit in range(10)) + "\n")
    teacher = ["--teacher", place / "a" / "teacher"]
    flags = ["--method", "d4m", *DDOQ, *teacher, "--imager.steps", 3, "--latent.place", model]
    prompted = [*flags, "--latent.prompts", prompts]
    out = tmp_path / "x"
    assert "--latent.size" in refused("distill", *prompted, "--out", out)
    prompts.write_text("the 9\n")
    assert "1 prompts for 10 classes" in refused("distill", *prompted, "--latent.size", 32, "--out", out)
    prompts.unlink()
    assert "prompts" in refused("distill", *prompted, "--latent.size", 32, "--out", out)
    # The names of the classes will do.
    status, _, err = program("distill", *flags, "--latent.size", 32, "--latent.bfloat16", "--out", place / "sd")
    assert status == 0, err
    made = distilled.load(place / "sd")
    assert made.images.shape == (10, 8, 8, 1) and made.pixels().std() > 1
    with np.load(place / "sd" / "atoms.npz", allow_pickle=False) as atoms:
        assert atoms["points"].shape == (10, 1, 8 * 8 * 4)
