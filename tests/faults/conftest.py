"""The process that starts programs, and the table of what was killed."""

import pytest
from faults.killer import Programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Starts programs; one for all tests."""
    programs = Programs(tmp_path_factory.mktemp("printed"))
    yield programs
    programs.close()


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    rows = [dict(report.user_properties) for report in reports if report.when == "call"]
    rows = [row for row in rows if "kills" in row]
    if rows:
        terminalreporter.write_line("stage                    kills  refused  unequal")
    for row in sorted(rows, key=lambda row: row["stage"]):
        terminalreporter.write_line(f"{row['stage']:24} {row['kills']:5}  {row['refused']:7}  {row['unequal']:7}")
