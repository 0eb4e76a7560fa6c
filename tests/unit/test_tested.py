# SPDX-License-Identifier: AGPL-3.0-or-later
"""The versions of Synapse that are said to be tested are those that make, tox and CI test."""

import configparser
import re
from pathlib import Path

from synapse_msc3881.tested import TESTED_VERSIONS, does_not_fit

ROOT = Path(__file__).parent.parent.parent
REQUIREMENTS = ROOT / "tests" / "requirements"

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
    section = guide.partition("\n## Tested versions\n")[2].partition("\n## ")[0]
    assert _ROW.findall(section) == list(TESTED_VERSIONS)


def test_the_message_names_them_in_one_line() -> None:
    *_, last = does_not_fit(["something: missing"]).splitlines()
    assert last == (
        "This release was tested on Synapse 1.120.2, 1.127.1, 1.135.2, 1.140.0, 1.147.1, 1.155.0 "
        "and 1.163.2. Install a release of synapse_msc3881 that supports yours, or take the module "
        "out of homeserver.yaml."
    )
    assert last in (ROOT / "docs" / "admin-guide.md").read_text()
