"""The process that starts programs."""

import pytest
from faults.killer import Programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Starts programs; one for all tests."""
    programs = Programs(tmp_path_factory.mktemp("printed"))
    yield programs
    programs.close()
