# SPDX-License-Identifier: AGPL-3.0-or-later
"""The types in the comments of the page's code are right."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.browser import JS
from tests.harness.node import node
from tests.harness.source import STATIC

TSC = JS / "node_modules" / "typescript" / "bin" / "tsc"
HERE = Path(__file__).parent


def test_the_types_are_right(tmp_path: Path) -> None:
    program = node()
    if program is None or not TSC.exists():
        pytest.skip("`make test-page` installs typescript")
    shutil.copytree(STATIC / "js", tmp_path / "js")
    # Declarations in the place of the vendored libraries, which have no types.
    shutil.copytree(HERE / "types" / "vendor", tmp_path / "vendor")
    shutil.copy(HERE / "tsconfig.json", tmp_path)
    done = subprocess.run(
        [program, str(TSC), "-p", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
