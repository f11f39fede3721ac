"""The doctor: it says what there is, and finds a device that computes wrongly."""

import jax
import pytest

from jaxdd.ground import extras, health
from jaxdd.programs import doctor


def test_a_sound_machine(program):
    status, out, err = program("doctor")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("extra", "device")))
    assert status == 0 and err == "" and out.splitlines()[-1] == "nothing is wrong"
    assert jax.__version__ in lines["versions"] and "GiB" in lines["memory"] and "GiB free" in lines["disk"]
    assert f"device {jax.devices()[0].id}" in out and "computes rightly" in out
    assert out.count("\nextra ") == len(doctor.EXTRAS)


def test_an_extra_that_is_missing_says_how_to_get_it(program, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "tfds", "no_such_module")
    assert f"missing; {extras.install('tfds')}" in program("doctor")[1]


@pytest.mark.parametrize(
    ("grad", "words"),
    [
        (lambda loss, place: lambda x, w: 1.01 * jax.grad(loss, place)(x, w), "computes wrongly"),
        (lambda loss, place: lambda x, w: 1 / 0, "cannot compute: division by zero"),
    ],
)
def test_a_device_with_a_fault(grad, words, program, monkeypatch):
    class Jax:
        """JAX with another gradient."""

        def __getattr__(self, name):
            return (lambda loss, place: grad(loss, place)) if name == "grad" else getattr(jax, name)

    monkeypatch.setattr(health, "jax", Jax())
    status, out, _ = program("doctor")
    assert status == 1 and words in out and out.splitlines()[-1] == "1 fault"
