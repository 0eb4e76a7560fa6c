# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes a Python as it starts."""

from pathlib import Path


def sabotage(directory: Path, code: str) -> Path:
    """A directory for PYTHONPATH whose code runs as Python starts."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    return directory
