# SPDX-License-Identifier: AGPL-3.0-or-later
"""A build backend that knows one thing: the metadata of a source distribution, read from it.

Nobody imports this here: fetch.py copies it to where pip looks for the backend that Synapse names.
"""

import email
import shutil
from pathlib import Path


def prepare_metadata_for_build_wheel(
    metadata_directory: str,
    config_settings: object = None,  # noqa: ARG001
) -> str:
    """PEP 517's hook, run in the unpacked source distribution."""
    metadata = email.message_from_string(Path("PKG-INFO").read_text(encoding="utf-8"))
    name = metadata["Name"].replace("-", "_")
    directory = Path(metadata_directory, f"{name}-{metadata['Version']}.dist-info")
    directory.mkdir()
    shutil.copy("PKG-INFO", directory / "METADATA")
    wheel = "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: false\nTag: py3-none-any\n"
    (directory / "WHEEL").write_text(wheel)
    return directory.name
