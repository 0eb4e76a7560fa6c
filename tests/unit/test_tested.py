# SPDX-License-Identifier: AGPL-3.0-or-later
"""The versions of Synapse that are said to be tested are those that make, tox and CI test."""

import configparser
import importlib.util
import re
from pathlib import Path
from typing import Any

from synapse_msc3881.tested import TESTED_VERSIONS, does_not_fit

ROOT = Path(__file__).parent.parent.parent
REQUIREMENTS = ROOT / "tests" / "requirements"

# A program, and no package.
_spec = importlib.util.spec_from_file_location("versions", ROOT / "scripts" / "versions.py")
assert _spec is not None
assert _spec.loader is not None
versions: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)

_PIN = re.compile(r"^matrix-synapse\[redis\]==(.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \|", re.MULTILINE)


def files() -> dict[str, str]:
    """The short name of each pinned version, as in `make test SYNAPSE=…`, and what it pins."""
    pins = {
        file.stem.removeprefix("synapse-"): _PIN.findall(file.read_text())
        for file in REQUIREMENTS.glob("synapse-*.txt")
    }
    assert pins.pop("newest") == []
    return {name: pin for name, (pin,) in pins.items()}


def test_they_are_those_with_a_file_of_requirements() -> None:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert sorted(files().values(), key=numbers) == list(TESTED_VERSIONS)


def test_tox_has_an_environment_for_each() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    environments = re.findall(r"\d+\.\d+", tox["tox"]["env_list"])
    dependencies = tox["testenv"]["deps"].split("\n")
    for name in files():
        assert name in environments
        assert f"synapse{name}: -r tests/requirements/synapse-{name}.txt" in dependencies


def test_the_admin_guide_has_a_row_for_each() -> None:
    guide = (ROOT / "docs" / "admin-guide.md").read_text()
    section = guide.partition("\n## Tested versions\n")[2].partition("\n### ")[0]
    assert _ROW.findall(section) == list(TESTED_VERSIONS)


def test_the_admin_guide_has_one_row_for_each_minor_release_in_their_order() -> None:
    guide = (ROOT / "docs" / "admin-guide.md").read_text()
    section = guide.partition(f"\n{versions.HEADING}\n")[2].partition("\n## ")[0]
    rows = _ROW.findall(section)
    minors = [tuple(versions.numbers(row)[:2]) for row in rows]
    assert minors == sorted(set(minors))
    assert minors[0] >= tuple(versions.numbers(TESTED_VERSIONS[0])[:2])


def test_what_is_pinned_beside_a_version_is_pinned_beside_those_up_to_the_next() -> None:
    for name, pin in files().items():
        pinned = (REQUIREMENTS / f"synapse-{name}.txt").read_text().splitlines()
        wanted = versions.requirements(pin).splitlines()
        assert {line for line in pinned if not line.startswith("#")} <= set(wanted)
    for release, prometheus in (("1.126.0", "==0.21.1"), ("1.141.0", "==0.21.1"), ("1.156.0", "")):
        wanted = versions.requirements(release).splitlines()
        assert wanted[0] == f"matrix-synapse[redis]=={release}"
        assert f"prometheus_client{prometheus}" in wanted


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/>
<testcase classname="tests.a" name="left_out"><skipped message="no"/></testcase>
<testcase classname="tests.a" name="bad"><failure message="no"/></testcase>
<testcase classname="tests.a" name="worse"><error message="no"/></testcase>
</testsuite></testsuites>"""


def test_what_failed_is_named_in_the_result(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    counted = versions.counts(report)
    assert counted == {"passed": 1, "skipped": 1, "failed": ["tests.a.bad", "tests.a.worse"]}
    assert versions.cell(counted) == "1, 1 skipped, **2 failed**"
    assert not versions.is_good(counted)


def test_the_message_names_them_in_one_line() -> None:
    *_, last = does_not_fit(["something: missing"]).splitlines()
    assert last == (
        "This release was tested on Synapse 1.120.2, 1.127.1, 1.135.2, 1.140.0, 1.147.1, 1.155.0 "
        "and 1.163.2. Install a release of synapse_msc3881 that supports yours, or take the module "
        "out of homeserver.yaml."
    )
    assert last in (ROOT / "docs" / "admin-guide.md").read_text()
