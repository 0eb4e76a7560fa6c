# SPDX-License-Identifier: AGPL-3.0-or-later
"""The benchmark runs, at a size at which its figures mean nothing."""

from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import report, results, sizes
from tests.bench.report_tables import NOT_MEASURED
from tests.harness.browser import find_chromium

# The counts have tests of their own.
NAMES = [
    name
    for name in bench.MEASUREMENTS
    if name != "sql" and (name != "page" or find_chromium() is not None)
]


def test_all_is_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    bench.run(NAMES, sizes.TINY, file)

    found = results.read(file)
    assert sorted(found) == sorted(NAMES)
    for measurement in found.values():
        assert measurement.about["size"] == "tiny"
        assert [*measurement.comparisons, *measurement.amounts, *measurement.profiles]
        for comparison in measurement.comparisons:
            assert comparison.rounds
            assert all(one > 0 and other > 0 for one, other in comparison.rounds)
    written = report.write(found, tmp_path, None)
    assert {path.suffix for path in written} == {".svg", ".md"}
    assert (tmp_path / "results.md").read_text().count(NOT_MEASURED) == 2 + (
        "page" not in NAMES
    )  # both of "sql"
    assert f"profile ({len(NAMES)} of {len(NAMES)})" in capsys.readouterr().out
