"""The side-by-side benchmarks: what they count, how they pair, and our sides of them."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import encode, harness, recover
from benchmarks.harness import Case, Side, Timing, Work


def conv(stride):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), None, None, numbers
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_counts_the_same_in_all_three_directions(stride):
    """2 N H' W' k^2 c c' forward, to the images and to the kernel, whatever dilation the transposes are written in."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    expected = 2 * 2 * (8 // stride) ** 2 * 9 * 3 * 5
    assert harness.flops(conv(stride), x, kernel) == expected
    for argument in (0, 1):
        both = jax.value_and_grad(lambda x, kernel: conv(stride)(x, kernel).sum(), argument)
        assert harness.flops(both, x, kernel) == 2 * expected


def test_products_count_through_jit_scan_cond_and_grouped_convolutions():
    a, b = jnp.ones((4, 6)), jnp.ones((6, 6))
    product = lambda a: a @ b
    assert harness.flops(product, a) == 2 * 4 * 6 * 6
    assert harness.flops(jax.jit(product), a) == 2 * 4 * 6 * 6
    assert harness.flops(lambda a: jax.lax.scan(lambda a, _: (a @ b, None), a, length=7), a) == 7 * 2 * 4 * 6 * 6
    assert harness.flops(lambda a: jax.lax.cond(a.sum() > 0, product, lambda a: a, a), a) == 2 * 4 * 6 * 6
    kernels = jnp.ones((10, 3, 3, 3, 5))
    images = jnp.ones((10, 2, 8, 8, 3))
    alone = harness.flops(conv(1), images[0], kernels[0])
    assert harness.flops(jax.vmap(conv(1)), images, kernels) == 10 * alone
    with pytest.raises(ValueError, match="unknown length"):
        harness.flops(lambda a: jax.lax.while_loop(lambda a: a.sum() > 0, product, a), a)


def test_a_classifier_counts_what_its_layers_do():
    """ConvNet-3: three convolutions of 128 channels at 16, 8 and 4 pixels, and a linear layer on 2 x 2 x 128."""
    case = Case("convnet3", 16, 10, 2)
    model = harness.classifier(case)
    variables = harness.drawn(lambda key: model.init(key, case.image_shape))
    layers = [256 * 9 * 3 * 128, 64 * 9 * 128 * 128, 16 * 9 * 128 * 128, 512 * 10]
    image = jnp.ones((20, *case.image_shape))
    assert harness.flops(model.apply, variables, image) == 2 * 20 * sum(layers)
    # To the features, not the logits, backward; and no gradient of a kernel.
    assert recover.work(case, variables) == 2 * 20 * (2 * sum(layers[:3]) + layers[3])
    assert all(np.isfinite(leaf).all() and leaf.std() > 0 for leaf in jax.tree.leaves(variables))


def test_sides_take_turns_and_the_ratio_is_that_of_the_pairs():
    """A machine that gets ten times slower half-way changes no ratio."""
    order, slow = [], [1.0, 1.0, 10.0, 10.0, 10.0]

    def side(name, cost):
        def run(steps):
            order.append(name)
            return cost * steps * slow[order.count(name) - 1]

        return Timing(Side(name, run), [], None, 0.0)

    timings = [side("ours", 1.0), side("eager", 3.0), side("compiled", 2.0)]
    harness.alternate(timings, 5, 4)
    assert order[:6] == ["ours", "eager", "compiled", "compiled", "eager", "ours"]
    assert timings[0].seconds == slow
    failed = Timing(Side("broken", None, note="failed"), [], None, None)
    peak = {"n": 8, "dtype": "float32", "flops": 1e3}
    work = Work("recover", Case("convnet3", 8, 2, 3), "float32", 500, 6)
    rows = harness.rows(work, [*timings, failed], peak)
    assert [row["ours_times_as_fast"] for row in rows] == [1.0, 3.0, 2.0, None]
    assert rows[1]["ours_times_as_fast_range"] == [3.0, 3.0]
    assert rows[0]["seconds_per_step"] == 10.0 and rows[0]["images_steps_per_second"] == 0.6
    assert rows[0]["flops_per_second"] == 50.0 and rows[0]["share_of_matmul"] == 0.05


def test_sides_that_differ_end_the_run():
    a = np.ones(100)
    harness.check_close("features", a, a * 1.0009)
    for b in (a * 1.002, np.full(100, np.nan), np.ones(99)):
        with pytest.raises(SystemExit, match="features"):
            harness.check_close("features", a, b)


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(harness.__file__).parent.glob("*.py")))
def test_every_benchmark_is_importable(name):
    if name in ("torch_rivals", "diffusers_rival"):
        pytest.importorskip("torch")
    if name == "diffusers_rival":
        pytest.importorskip("diffusers")
    importlib.import_module(f"benchmarks.{name}")


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    harness.entry(module.main)


@pytest.mark.slow
def test_recover_runs_ours_and_writes_rows(monkeypatch, tmp_path, capsys):
    path = tmp_path / "rows.json"
    run(monkeypatch, recover, "--quick", "--ours", "--image-size", 8, "--repeats", 2, "--steps", 1, "--json", path)
    (row,) = json.loads(path.read_text())
    assert (row["side"], row["model"], row["image_size"], row["batch"]) == ("ours", "convnet3", 8, 20)
    assert len(row["seconds"]) == 2 and row["planned_bytes"] > 20 * 8 * 8 * 128 * 4 and row["share_of_matmul"] > 0
    assert row["images_steps_per_second"] == pytest.approx(20 / row["seconds_per_step"])
    assert "convnet3" in capsys.readouterr().out


def test_without_torch_only_ours_is_run(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(harness, "import_module", missing)
    flags = harness.parser("").parse_args([])
    assert harness.rivals(flags) is None
    assert capsys.readouterr().out.startswith("torch is not installed")
    assert harness.variants(None, None) == []


def test_flags_take_the_place_of_the_cases_own():
    known = [Case("resnet18", 32, 10, 5), Case("convnet3", 32, 10, 10)]
    parse = lambda *arguments: harness.cases(harness.parser("").parse_args(arguments), known, [], known[1:])
    assert parse() == known
    assert parse("--quick") == known[1:]
    assert parse("--ipc", "2") == [case._replace(ipc=2) for case in known]
    assert parse("--model", "convnet3") == known[1:]
    assert parse("--model", "resnet50", "--image-size", "64") == [Case("resnet50", 64, 10, 5)]


def test_bad_flags_end_in_one_line(monkeypatch, capsys):
    for arguments in (
        ("--ipc", 0),
        ("--repeats", 0),
        ("--model", "convnet33", "--ours"),
        ("--image-size", 2, "--ours"),
    ):
        with pytest.raises(SystemExit) as caught:
            run(monkeypatch, recover, "--quick", *arguments)
        out = capsys.readouterr().out
        assert caught.value.code == 2 and out.startswith("error: ") and out.count("\n") == 1


@pytest.mark.slow
def test_a_folder_is_streamed(monkeypatch, folder, capsys):
    monkeypatch.setattr(encode, "pass_size", lambda: 4)
    common = ("--dataset", folder, "--model", "convnet3", "--image-size", 8, "--child", "--images")
    for count, expected in ((6, 6), ("all", 12)):
        run(monkeypatch, encode, *common, count)
        row = json.loads(capsys.readouterr().out)
        assert row["images"] == expected and row["features_bytes"] == expected * 128 * 4
        assert row["images_per_second"] > 0 and row["peak_rss_bytes"] > 2**26
