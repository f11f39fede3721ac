"""Reading compiled programs: sizes in tiles, products by precision, loops, and what XLA itself counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hlo, tpu_costs
from benchmarks.hlo import Array

TEXT = """HloModule jit_f, entry_computation_layout={()->f32[]}

%fused (a: bf16[100,8,8,128], b: bf16[3,3,128,64]) -> bf16[100,4,4,64] {
  %a = bf16[100,8,8,128]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %b = bf16[3,3,128,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[100,4,4,64]{3,0,2,1:T(8,128)(2,1)} convolution(%a, %b), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

%body (s: (s32[], f32[16,16])) -> (s32[], f32[16,16]) {
  %s = (s32[], f32[16,16]{1,0:T(8,128)}) parameter(0)
  %x = f32[16,16]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %d = f32[16,16]{1,0:T(8,128)} convolution(%x, %x), dim_labels=bf_io->bf, operand_precision={highest,highest}, backend_config={"estimated_cycles":"7"}
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %t = (s32[], f32[16,16]{1,0:T(8,128)}) tuple(%i, %d)
}

%until (s.1: (s32[], f32[16,16])) -> pred[] {
  %s.1 = (s32[], f32[16,16]{1,0:T(8,128)}) parameter(0)
  %n = s32[] constant(5)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (p: bf16[100,8,8,128], q: bf16[3,3,128,64], r: (s32[], f32[16,16])) -> f32[16,16] {
  %p = bf16[100,8,8,128]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %q = bf16[3,3,128,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %r = (s32[], f32[16,16]{1,0:T(8,128)}) parameter(2)
  %f = bf16[100,4,4,64]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%p, %q), kind=kOutput, calls=%fused
  %w = (s32[], f32[16,16]{1,0:T(8,128)}) while(%r), condition=%until, body=%body
  %g = f32[16,16]{1,0:T(8,128)} get-tuple-element(%w), index=1
  %m = f32[16,16]{1,0:T(8,128)} copy(%g)
  ROOT %sum = f32[16,16]{1,0:T(8,128)} all-reduce(%m), to_apply=%until
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("array", "padded"),
    [
        (Array("f32", (10, 3), (1, 0), "T(8,128)"), 16 * 128 * 4),
        (Array("bf16", (100, 32, 32, 3), (0, 3, 2, 1), "T(4,128)(2,1)"), 128 * 4 * 32 * 32 * 2),
        (Array("f32", (100,), (0,), "T(128)S(1)"), 128 * 4),
        (Array("f32", (7, 5), (1, 0), ""), 35 * 4),
    ],
)
def test_the_size_of_an_array_in_tiles(array, padded):
    assert array.padded == padded and array.in_hbm == ("S(1)" not in array.tiles)


def test_the_figures_of_a_program_by_hand():
    found = hlo.figures(hlo.parse(TEXT))
    # Of 4 places with 3 taps at stride 2, only the first reaches into the padding: 11 of 12 pairs on each axis.
    convolution = 2 * 100 * 64 * 128 * 11 * 11
    assert found.flops == {"bfloat16": convolution, "float32 highest": 5 * 2 * 16**3}
    assert found.passes == convolution + 6 * 5 * 2 * 16**3
    assert found.collectives == {"all-reduce": 1} and found.unknown_loops == 0
    assert found.copies == (1, 16 * 128 * 4) and found.cycles == 5 * 7
    # 100 images take 104 rows of tiles, 64 channels 128 lanes, and 16 of 128 columns of the small array are in use. The
    # fusion leaves its result in the memory of the core.
    inputs, small = 104 * 8 * 8 * 128 * 2 + 9 * 128 * 128 * 2, 16 * 128 * 4
    assert found.traffic == inputs + (5 * 3 + 2 + 2) * small
    results = 100 * 16 * 64 * 2 + (5 + 2) * 16 * 16 * 4, 104 * 16 * 128 * 2 + (5 + 2) * small
    assert found.waste == pytest.approx(1 - results[0] / results[1])


def test_a_loop_without_a_known_end_is_named_and_runs_as_often_as_said():
    text = TEXT.replace("compare(%i.1, %n), direction=LT", "compare(%i.1, %n), direction=NE")
    found = hlo.figures(hlo.parse(text), 9)
    assert found.unknown_loops == 1 and found.flops["float32 highest"] == 9 * 2 * 16**3


@pytest.mark.parametrize(
    "shape",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 2), "padding": ((3, 2), (0, 1))},
        {"window_strides": (1, 1), "padding": ((2, 2), (1, 1)), "lhs_dilation": (2, 2)},
        {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
    ],
)
def test_products_are_those_that_xla_counts(shape):
    x, kernel = jnp.ones((2, 9, 8, 3)), jnp.ones((3, 2, 3, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **shape)
    lowered = jax.jit(convolve).lower(x, kernel)
    text = lowered.compiler_ir("hlo").as_hlo_module().to_string()
    counted = sum(count for _, count, _, _ in hlo.products(hlo.parse(text)))
    assert counted == lowered.cost_analysis()["flops"] > 0
    np.testing.assert_array_less(0, counted)


def test_projected_costs_are_units_of_work_over_those_of_a_launch():
    row = {"chips": 1, "chip": "v5e", "expected_seconds": 0.5, "units": 100}
    rows = [row | {"program": name} for name in ("encode resnet18", "recover resnet18, IPC 10", "students resnet18, 1")]
    lines = {line["table"]: line for line in tpu_costs.costs([*rows, {"chip": "v5e", "note": "does not fit"}])}
    wmdd = lines["WMDD, IPC 10"]
    expected = (1_281_167 + 10_000 * 2000 + 10_000 * 300) / 100 * 0.5 / 3600
    assert wmdd["total"] == pytest.approx(expected) and len(wmdd["hours"]) == 3
    # A stage without a row leaves the sum open.
    assert lines["WMDD, IPC 50"]["total"] is None and "encode resnet18" in lines["WMDD, IPC 50"]["hours"]
