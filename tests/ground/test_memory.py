"""Estimates of memory from shapes alone, beside what the compiler reserves; memory that a process keeps."""

import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import drawn

from jaxdd.ground import memory
from jaxdd.ground.tracing import flops_in
from jaxdd.latent import VAEConfig, autoencoder
from jaxdd.nn import get

ROOT = Path(__file__).parents[2]


def test_values_are_those_that_are_made():
    def function(x):
        y = jnp.sin(x)  # 400 bytes
        return jax.jit(lambda z: jnp.outer(z, z).sum())(y)  # 40,000 bytes, then 4

    sizes = list(memory.values(function, jnp.zeros(100)))
    assert ("sin", 400) in sizes and ("reduce_sum", 4) in sizes
    assert max(size for _, size in sizes) == 40_000
    assert memory.forward_bytes(function, jnp.zeros(100)) == 160_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "resnet18"])
def test_forward_bytes_are_near_what_the_compiler_reserves(name):
    if name == "vae":
        model = autoencoder(VAEConfig(3, 4, (8, 16, 16), 1, 8, 1.0, 32))
        variables = drawn(lambda key: model.init(key, (32, 32, 3)), 0)
        function, x = model.decode, jax.ShapeDtypeStruct((16, 8, 8, 4), jnp.float32)
    else:
        model = get(name, 10, 32, 8)
        variables = drawn(lambda key: model.init(key, (32, 32, 3)), 0)
        function = lambda v, x: model.apply(v, x).features
        x = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    compiled = jax.jit(function).lower(variables, x).compile()
    reserved = compiled.memory_analysis().temp_size_in_bytes
    estimate = memory.forward_bytes(function, variables, x)
    assert reserved / 2 < estimate < 8 * reserved


KEPT = """
import sys
import numpy as np
from jaxdd.ground.memory import keep_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "keep":
    assert keep_freed()
before = resident()
for _ in range(3):
    held = np.ones(2**26, np.uint8)
    assert resident() - before > 2**25
    del held
print(resident() - before > 2**25)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(("how", "kept"), [("keep", "True"), ("leave", "False")])
def test_a_process_keeps_what_it_freed_if_it_is_told_to(how, kept):
    done = subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == kept


def test_what_depends_on_the_platform_is_counted_in_its_general_form():
    a = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    longer = lambda a: jax.lax.platform_dependent(a, cpu=lambda a: a @ a @ a, default=lambda a: a @ a)
    assert flops_in(jax.make_jaxpr(longer)(a).jaxpr) == 2 * 8**3
    assert [size for kind, size in memory.values(longer, a) if kind == "dot_general"] == [4 * 8**2]
    # Of a condition that is not known, the longest branch.
    either = lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a)
    assert flops_in(jax.make_jaxpr(either)(a).jaxpr) == 4 * 8**3
