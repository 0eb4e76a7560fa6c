# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is made of measured figures; and that the documentation is made of those it holds."""

import random
from pathlib import Path

import pytest

from tests.bench import charts, report, results
from tests.bench.report import DOCS
from tests.bench.report_tables import NOT_MEASURED, TABLES
from tests.bench.results import Amount, Comparison, Count, Measurement


def comparison(rounds: list[tuple[float, float]]) -> Comparison:
    return Comparison("here", 10, "vanilla", "other", "time", rounds)


def test_the_ratio_is_that_of_each_round() -> None:
    # The machine becomes slower, which the medians would show as a difference.
    found = comparison([(1.0, 1.1), (2.0, 2.2), (30.0, 33.0), (40.0, 44.0), (50.0, 55.0)])

    assert found.ratio == pytest.approx(1.1)
    assert found.interval() == pytest.approx((1.1, 1.1))
    assert (found.baseline_median, found.variant_median) == (30.0, 33.0)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    chance = random.Random(1)
    hits = 0
    for _ in range(100):
        rounds = [(chance.gauss(10, 1), 1.2 * chance.gauss(10, 1)) for _ in range(21)]
        low, high = comparison(rounds).interval()
        assert low <= comparison(rounds).ratio <= high
        hits += low <= 1.2 <= high

    assert 85 <= hits <= 100


def test_the_interval_is_the_same_each_time() -> None:
    rounds = [(1.0, 1.0 + n / 10) for n in range(9)]

    assert comparison(rounds).interval() == comparison(rounds).interval()
    low, high = comparison(rounds).interval()
    assert 1.0 < low < 1.4 < high < 1.8


def test_quantiles() -> None:
    found = comparison([(n, 2 * n) for n in range(1, 101)])

    assert found.quantiles(0.5) == (51, 102)
    assert found.quantiles(0.99) == (100, 200)
    low, high = found.quantile_interval(0.5)
    assert low < 2 < high


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = {
        "one": Measurement({"size": "full"}, comparisons=[comparison([(1.5, 2.5)])]),
        "two": Measurement(
            {"size": "tiny"},
            counts=[Count("here", 1, "idle", "statements", 3)],
            amounts=[Amount("here", 1, "idle", "bytes", [4.0])],
            profiles={"idle": [("file.py:function", 0.5)]},
        ),
    }
    file = tmp_path / "new" / "results.json"
    results.write(file, found)

    assert results.read(file) == found
    assert results.read(tmp_path / "none.json") == {}


def test_figures_keep_four_digits(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results.write(file, {"one": Measurement({}, comparisons=[comparison([(1.23456789, 98765.4)])])})

    assert results.read(file)["one"].comparisons[0].rounds == ((1.235, 98770.0),)


def test_what_was_not_measured_is_said() -> None:
    document = "<!-- bench: cpu -->\nold\n<!-- /bench -->\nrest\n"

    assert report.fill(document, {}) == (
        f"<!-- bench: cpu -->\n\n{NOT_MEASURED}\n\n<!-- /bench -->\nrest\n"
    )


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        report.fill("<!-- bench: nothing -->\n<!-- /bench -->\n", {})


# The documentation


def test_the_tables_of_the_documentation_are_made_of_its_results() -> None:
    page = DOCS.page.read_text()

    assert report.fill(page, results.read(DOCS.results)) == page
    for name in TABLES:
        assert f"<!-- bench: {name} -->" in page


def test_the_charts_of_the_documentation_are_made_of_its_results() -> None:
    drawn = charts.draw(results.read(DOCS.results))

    assert drawn == {file.name: file.read_text() for file in DOCS.directory.glob("*.svg")}
    assert drawn
    page = DOCS.page.read_text()
    for name in drawn:
        assert f"(performance/{name})" in page
