"""Shared by the tests of programs: a finished run."""

import pytest
from bad_inputs import make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run folder with images, a teacher, stored labels and results, as the programs leave it; not to be changed."""
    return make_run(tmp_path_factory.mktemp("finished") / "run")
