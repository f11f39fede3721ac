"""Checkpoints as diffusers, transformers and timm write them: read, written back, and refused when they are not whole.

golden/latent holds small ones, written by those libraries; what their models compute is compared elsewhere.
"""

import functools
import json
import shutil
from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden_helpers import MODELS, model, parameter, torch_name
from helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained_helpers import DIFFUSERS, FILES, FOLDER, READ
from safetensors.numpy import load_file, save_file

from jaxdd import nn, pretrained
from jaxdd.latent import STABLE_DIFFUSION, Schedule
from jaxdd.pretrained import tensors
from jaxdd.workspace import TeacherConfig, open_workspace
from jaxdd.workspace.teachers import load_teacher


@functools.cache
def golden(part):
    return READ[part](FOLDER)


@functools.cache
def stored(part):
    return load_file(FOLDER / part / FILES[part])


@pytest.fixture
def put(tmp_path):
    """Writes a component with other tensors, or other entries in its config.json, and returns the folder around it."""

    def write(part, change=None, config=None):
        place = tmp_path / part
        place.mkdir(exist_ok=True)
        held = json.loads((FOLDER / part / "config.json").read_text()) | (config or {})
        (place / "config.json").write_text(json.dumps({k: v for k, v in held.items() if v != "absent"}))
        save_file(stored(part) if change is None else change, place / FILES[part])
        return tmp_path

    return write


def same(ours, truth):
    ours, truth = flatten_dict(ours), flatten_dict(truth)
    assert ours.keys() == truth.keys()
    for path, leaf in truth.items():
        assert isinstance(ours[path], np.ndarray) and ours[path].dtype == np.float32
        np.testing.assert_array_equal(ours[path], leaf)


@pytest.mark.parametrize("part, save", [("vae", pretrained.save_vae), ("transformer", pretrained.save_dit)])
def test_written_as_diffusers_writes_it_and_read_back(part, save, tmp_path):
    config, variables = golden(part)
    save(tmp_path / part, config, variables)
    ours, theirs = load_file(tmp_path / part / DIFFUSERS), stored(part)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
    ours, theirs = (json.loads((place / part / "config.json").read_text()) for place in (tmp_path, FOLDER))
    assert all(ours.get(key, value) == value for key, value in theirs.items() if not key.startswith("_diffusers"))
    again = READ[part](tmp_path)
    assert again.config == config
    same(again.variables, variables)
    assert sorted(p.name for p in (tmp_path / part).iterdir()) == ["config.json", DIFFUSERS]


def test_saving_again_replaces_and_a_crash_leaves_nothing_that_is_read(tmp_path, monkeypatch):
    config, variables = golden("vae")
    pretrained.save_vae(tmp_path, config, variables)
    twice = jax.tree.map(lambda x: 2 * x, variables)
    pretrained.save_vae(tmp_path, replace(config, scaling_factor=0.5), jax.tree.map(jax.numpy.asarray, twice))
    again = pretrained.vae(tmp_path)
    assert again.config.scaling_factor == 0.5
    same(again.variables, twice)

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tensors, "save", full)
    with pytest.raises(OSError, match="disk full"):
        pretrained.save_vae(tmp_path, config, variables)
    assert [p.name for p in tmp_path.iterdir()] == [DIFFUSERS]
    assert "config.json" in message(lambda: pretrained.vae(tmp_path))


def test_only_variables_of_the_config_are_saved(tmp_path):
    config, variables = golden("vae")
    for wrong in (replace(config, latent_channels=8), replace(config, layers_per_block=1)):
        assert "do not fit" in message(lambda wrong=wrong: pretrained.save_vae(tmp_path / "x", wrong, variables))
        assert not list((tmp_path / "x").iterdir())


@pytest.mark.parametrize("schedule", [Schedule(), STABLE_DIFFUSION, replace(Schedule(), num_train_timesteps=7,
                                      prediction_type="v_prediction")])  # fmt: skip
def test_schedule_round_trip(schedule, tmp_path):
    pretrained.save_schedule(tmp_path / "scheduler", schedule)
    assert pretrained.schedule(tmp_path) == pretrained.schedule(tmp_path / "scheduler") == schedule
    file = tmp_path / "scheduler" / "scheduler_config.json"
    record = json.loads(file.read_text())
    assert record["_class_name"] == "DDIMScheduler" and record["clip_sample"] is False
    for key, value in {"beta_schedule": "cosine", "clip_sample": True, "rescale_betas_zero_snr": True,
                       "trained_betas": [0.1], "prediction_type": "sample"}.items():  # fmt: skip
        file.write_text(json.dumps(record | {key: value}))
        text = message(lambda: pretrained.schedule(tmp_path))
        assert str(file) in text and key in text and json.dumps(value).strip("[]") in text


@pytest.mark.slow
@pytest.mark.parametrize("part", READ)
def test_a_component_may_be_given_itself(part):
    assert READ[part](FOLDER / part).config == golden(part).config


def test_attention_of_older_autoencoders(put):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors_ = {}
    for name, tensor in stored("vae").items():
        start, sep, rest = name.partition("mid_block.attentions.0.")
        layer, _, kind = rest.rpartition(".")
        renamed = f"{start}{sep}{old.get(layer, layer)}.{kind}" if sep else name
        tensors_[renamed] = tensor[:, :, None, None] if layer in old and kind == "weight" else tensor
    assert sum("proj_attn" in name for name in tensors_) == 4
    same(pretrained.vae(put("vae", tensors_)).variables, golden("vae").variables)


def test_text_encoder_with_and_without_the_outer_name(put):
    for prefix in ("", "text_model."):
        named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in stored("text_encoder").items()}
        named[f"{prefix}embeddings.position_ids"] = np.arange(7)[None]
        same(pretrained.text_encoder(put("text_encoder", named)).variables, golden("text_encoder").variables)


@pytest.mark.slow
def test_unet_has_parameters_only():
    assert golden("unet").variables.keys() == {"params"}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(dtype, put):
    place = put("transformer", {name: tensor.astype(dtype) for name, tensor in stored("transformer").items()})
    rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), golden("transformer").variables)
    same(pretrained.dit(place).variables, rounded)


def shard(place, held):
    names = sorted(held)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, members in shards.items():
        save_file({name: held[name] for name in members}, place / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (place / f"{DIFFUSERS}.index.json").write_text(json.dumps(index))
    (place / DIFFUSERS).unlink()
    return [place / file for file in shards]


def test_shards(put):
    place = put("transformer") / "transformer"
    files = shard(place, stored("transformer"))
    same(pretrained.dit(place).variables, golden("transformer").variables)
    files[1].unlink()
    assert files[1].name in message(lambda: pretrained.dit(place))
    index = place / f"{DIFFUSERS}.index.json"
    for broken in ("{", "[]", '{"weight_map": 3}'):
        index.write_text(broken)
        assert str(index) in message(lambda: pretrained.dit(place))


def test_blocks_with_embeddings_of_their_own_are_refused(put):
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    held = stored("transformer") | {name: stored("transformer")[name] + 1}
    assert name in message(lambda: pretrained.dit(put("transformer", held)))


@pytest.mark.parametrize("part", READ)
def test_missing_left_over_and_misshapen_tensors_are_named(part, put):
    held = stored(part)
    first, *_, last = sorted(name for name in held if held[name].ndim > 1 and "emb." not in name)
    changed = {name: tensor for name, tensor in held.items() if name != first}
    changed |= {last: held[last][..., :-1].copy(), "lora.weight": np.zeros((3, 5), np.float32)}
    text = message(lambda: READ[part](put(part, changed)))
    shape = lambda x: str(list(x.shape))
    assert str(put(part) / part) in text
    assert f"missing {first.removeprefix('text_model.')} {shape(held[first])}" in text.replace("text_model.", "")
    assert f"{last} {shape(changed[last])} instead of {shape(held[last])}" in text or part == "text_encoder"
    assert "lora.weight [3, 5]" in text


def test_a_long_list_is_cut(put):
    text = message(lambda: pretrained.vae(put("vae", {"one": np.zeros(1, np.float32)})))
    assert text.count("[") == 11 and f"and {len(stored('vae')) - 10} more" in text


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_named(share, tmp_path_factory):
    place = tmp_path_factory.mktemp("cut")
    shutil.copytree(FOLDER / "vae", place / "vae")
    file = place / "vae" / DIFFUSERS
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert str(file) in message(lambda: pretrained.vae(place))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\nsize 3\n", bytes(1000)])
def test_what_is_no_safetensors_file_is_named(content, put):
    file = put("vae") / "vae" / DIFFUSERS
    file.write_bytes(content)
    assert str(file) in message(lambda: pretrained.vae(file.parent))


def test_weights_are_chosen_by_name(put):
    place = put("vae") / "vae"
    (place / DIFFUSERS).rename(place / "mine.safetensors")
    same(pretrained.vae(place).variables, golden("vae").variables)
    (place / "other.safetensors").write_bytes(b"")
    assert "mine.safetensors, other.safetensors" in message(lambda: pretrained.vae(place))
    (place / "mine.safetensors").rename(place / DIFFUSERS)
    same(pretrained.vae(place).variables, golden("vae").variables)


def test_pickles_are_never_read(put):
    place = put("vae") / "vae"
    (place / DIFFUSERS).unlink()
    assert "no *.safetensors" in message(lambda: pretrained.vae(place))
    (place / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04N.")
    text = message(lambda: pretrained.vae(place))
    assert "pickle" in text and "diffusion_pytorch_model.bin" in text and "safetensors" in text


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "act_fn", "relu"),
        ("vae", "use_quant_conv", False),
        ("vae", "shift_factor", 0.1),
        ("vae", "out_channels", 4),
        ("vae", "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"]),
        ("vae", "layers_per_block", "absent"),
        ("vae", "layers_per_block", 1.5),
        ("vae", "block_out_channels", [4, "8", 12]),
        ("vae", "block_out_channels", 4),
        ("vae", "norm_num_groups", 3),
        ("transformer", "norm_type", "layer_norm"),
        ("transformer", "attention_bias", False),
        ("transformer", "norm_eps", 1e-6),
        ("transformer", "activation_fn", "geglu"),
        ("transformer", "patch_size", 3),
        ("unet", "use_linear_projection", True),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "attention_head_dim", [2, 4]),
        ("unet", "down_block_types", ["CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "model_type", "t5"),
    ],
)
def test_configs_that_are_not_covered(part, key, value, put):
    text = message(lambda: READ[part](put(part, config={key: value})))
    if key != "norm_num_groups":  # That message is the autoencoder's own.
        assert key in text and str(put(part) / part / "config.json") in text
    if isinstance(value, bool | str) and value != "absent":
        assert json.dumps(value) in text


def test_sizes_that_only_together_are_too_large(put):
    """Within all bounds: 65,536 tokens of 262,144 channels, whose table of positions would take 128 GiB."""
    sizes = {"sample_size": 256, "patch_size": 1, "num_attention_heads": 256, "attention_head_dim": 1024}
    place = put("transformer", config=sizes)
    text = message(lambda: pretrained.dit(place))
    assert "65536 tokens of width 262144" in text and str(place / "transformer" / "config.json") in text


def test_a_dit_may_leave_out_its_output_channels(put):
    half = {name: tensor[: len(tensor) // 2] if name.startswith("proj_out_2.") else tensor
            for name, tensor in stored("transformer").items()}  # fmt: skip
    for absent in (None, "absent"):
        assert pretrained.dit(put("transformer", half, {"out_channels": absent})).config.out_channels == 4


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_broken_json(content, put):
    file = put("vae") / "vae" / "config.json"
    file.write_text(content)
    assert str(file) in message(lambda: pretrained.vae(file.parent))


def test_shards_may_be_links_as_in_the_cache_of_the_hub(put, tmp_path):
    place = put("vae")
    snapshot = tmp_path / "models--x" / "snapshots" / "0123"
    shutil.copytree(place, snapshot)
    weights, blobs = snapshot / "vae" / FILES["vae"], tmp_path / "models--x" / "blobs"
    names = list(load_file(weights))
    blobs.mkdir()
    weights.rename(blobs / "abc")
    (snapshot / "vae" / "part.safetensors").symlink_to("../../../blobs/abc")
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (snapshot / "vae" / f"{FILES['vae']}.index.json").write_text(json.dumps(index))
    assert pretrained.vae(snapshot).config == pretrained.vae(place).config
    # Elsewhere a link must stay in its folder.
    shutil.copytree(snapshot / "vae", tmp_path / "other" / "vae", symlinks=True)
    (tmp_path / "other" / "vae" / "part.safetensors").unlink()
    (tmp_path / "other" / "vae" / "part.safetensors").symlink_to(blobs / "abc")
    assert "a link out of its folder" in message(lambda: pretrained.vae(tmp_path / "other"))


def test_neither_of_two_places(put):
    place = put("vae")
    (place / "vae" / "config.json").unlink()
    text = message(lambda: pretrained.vae(place))
    assert "config.json" in text and str(place / "vae") in text


def torch_tensors(tag):
    """Of a ResNet, under torchvision's names and in its layouts."""
    name, size, width, stem = MODELS[tag]
    init = nn.get(name, 10, size, width, stem).init
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    held = {}
    for path, leaf in flatten_dict(jax.eval_shape(lambda: init(jax.random.key(0), (size, size, 3)))).items():
        layer, shape = torch_name(path[1:-1]), leaf.shape
        shape = (*shape[:-3:-1], *shape[:-2]) if path[-1] == "kernel" else shape
        full = f"{layer}.{kinds.get(path[-1], path[-1])}"
        held[full] = parameter(f"{tag}/{full}", shape)
        if path[-1] == "mean":
            held[f"{layer}.num_batches_tracked"] = np.array(9)
    return held


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["resnet18_small", "resnet18_imagenet", "resnet50"])
def test_resnets_of_torchvision(tag, tmp_path):
    held, (name, _, width, stem) = torch_tensors(tag), MODELS[tag]
    assert {"layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.weight", "bn1.weight"} < held.keys()
    save_file(held, tmp_path / "model.safetensors")
    network = pretrained.resnet(tmp_path, name)
    assert network[:4] == (name, stem, width, 10)
    assert network.mean == (0.485, 0.456, 0.406) and network.std == (0.229, 0.224, 0.225)
    same(network.variables, model(tag)[1])
    record = {"num_classes": 10, "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 1], "num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    network = pretrained.resnet(tmp_path, name)
    assert network.mean == (0.5, 0.4, 0.3) and network.std == (0.25, 0.5, 1.0)


@pytest.mark.slow
def test_resnets_that_are_refused(tmp_path):
    held = torch_tensors("resnet18_small")
    file, read = tmp_path / "model.safetensors", lambda name="resnet18": pretrained.resnet(tmp_path, name)
    save_file(held, file)
    assert "convnet3" in message(lambda: read("convnet3"))
    assert "resnet1" in message(lambda: read("resnet1"))
    assert "layer1.2." in message(lambda: read("resnet34"))
    for record in ({"mean": [0.5]}, {"std": [0.1, 0.2, 0]}, {"pretrained_cfg": {"mean": "x"}}):
        (tmp_path / "config.json").write_text(json.dumps(record))
        assert str(tmp_path / "config.json") in message(read)
    (tmp_path / "config.json").unlink()
    save_file(held | {"conv1.weight": np.zeros((8, 3, 5, 5), np.float32)}, file)
    assert "5 pixels" in message(read)
    save_file({name: tensor for name, tensor in held.items() if not name.startswith("fc.")}, file)
    assert "fc.weight" in message(read)


@pytest.mark.slow
def test_published_resnets_become_teachers(program, refused, folder, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(torch_tensors("resnet18_small"), weights / "model.safetensors")
    request = ["train", "--model", "resnet18", "--pretrained", weights]
    status, out, err = program(*request, "--dataset", "digits", "--out", tmp_path / "teacher")
    assert status == 0 and "resnet18 on digits: test accuracy" in out and "training" not in err
    teacher = load_teacher(tmp_path / "teacher")
    same(jax.tree.map(np.asarray, teacher.variables), model("resnet18_small")[1])
    np.testing.assert_allclose(teacher.norm.mean, [0.485, 0.456, 0.406])
    assert teacher.info["image_shape"] == [8, 8, 3] and 0 <= teacher.info["accuracy"] < 0.5
    assert "10 classes" in refused(*request, "--dataset", folder, "--out", tmp_path / "x")
    assert "nowhere" in refused("train", "--model", "resnet18", "--pretrained", "nowhere", "--out", tmp_path / "x")


@pytest.mark.slow
def test_a_teacher_of_imagenet_answers_for_the_classes_of_the_data_alone(program, refused, folder, tmp_path):
    """Classes of the data are found among those of the teacher by their names, in whatever order."""
    names = pretrained.imagenet_classes()
    assert len(set(names)) == 1000 and (names.index("n02102040"), names.index("n03888257")) == (217, 701)
    held = torch_tensors("resnet18_small")
    rng, width = np.random.default_rng(0), held["fc.weight"].shape[1]
    held |= {"fc.weight": rng.normal(size=(1000, width)).astype(np.float32), "fc.bias": np.zeros(1000, np.float32)}
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(held, weights / "model.safetensors")
    request = ["train", "--model", "resnet18", "--pretrained", weights, "--dataset", folder]
    assert "such as n01440764" in refused(*request, "--out", tmp_path / "teacher")
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "n03888257")
        (folder / split / "dog").rename(folder / split / "n02102040")
    status, out, _ = program(*request, "--out", tmp_path / "teacher")
    assert status == 0 and "chance is 50 %" in out
    whole = load_teacher(tmp_path / "teacher")
    assert len(whole.info["class_names"]) == 1000
    workspace = open_workspace(TeacherConfig(dataset=str(folder)), tmp_path, tmp_path / "teacher")
    some, images = workspace.teacher, np.zeros((1, 8, 8, 3), np.float32)
    assert some.info["class_names"] == ["n02102040", "n03888257"] == list(workspace.real.class_names)
    logits = np.asarray(whole.apply(whole.variables, images).logits)
    np.testing.assert_allclose(some.apply(some.variables, images).logits, logits[:, [217, 701]], atol=1e-4)
    # Classes that it does not know are refused as before.
    (folder / "train" / "n02102040").rename(folder / "train" / "poodle")
    (folder / "val" / "n02102040").rename(folder / "val" / "poodle")
    config = TeacherConfig(dataset=str(folder))
    assert "was trained on classes" in message(lambda: open_workspace(config, tmp_path, tmp_path / "teacher"))
