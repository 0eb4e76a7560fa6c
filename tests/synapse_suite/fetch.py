# SPDX-License-Identifier: AGPL-3.0-or-later
"""Bring Synapse's tests onto this machine.

`pip download` finds the source distribution with whatever index, proxy and certificates the user
has set up, and checks it against the index's checksum. It also insists on its metadata, for which
it would ask Synapse's build backend, and that wants a Rust toolchain. So pip finds another backend
under that name, which reads the metadata from the file where it is written.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

_BACKENDS = ["maturin", "poetry.core.masonry.api"]
_BACKEND_SOURCE = Path(__file__).with_name("metadata_backend.py")


class FetchError(Exception):
    """Synapse's tests could not be had; the message is for a human."""


def fetch_tests(version: str, cache: Path) -> Path:
    """A directory that holds Synapse's `tests` of that version, and nothing else."""
    directory = cache / version
    if directory.exists():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    # In the cache, so that it can be moved into its place in one step when it is complete.
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        distribution = _download(version, Path(temporary))
        unpacked = Path(temporary, "unpacked")
        _unpack_tests(distribution, unpacked)
        unpacked.rename(directory)
    return directory


def _download(version: str, directory: Path) -> Path:
    backends = directory / "backends"
    for backend in _BACKENDS:
        _install_backend(backends, backend)
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download"),
        *("--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-binary", "matrix-synapse", "--dest", str(directory)),
        f"matrix-synapse=={version}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(backends)}
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    found = list(directory.glob("*.tar.gz"))
    if done.returncode != 0 or len(found) != 1:
        raise FetchError(f"{done.stdout}\npip could not download Synapse {version}'s source")
    return found[0]


def _install_backend(directory: Path, name: str) -> None:
    """Make our backend importable under that name, with packages above it."""
    *packages, module = name.split(".")
    for package in packages:
        directory /= package
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").touch()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{module}.py").write_text(_BACKEND_SOURCE.read_text())


def _unpack_tests(distribution: Path, directory: Path) -> None:
    """Only `tests`: the sources of Synapse would be imported in place of the installed one."""
    with tarfile.open(distribution) as archive:
        for member in archive:
            # "matrix_synapse-1.163.2/tests/push/test_http.py"
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            content = archive.extractfile(member)
            if content is None or path.parts[:1] != ("tests",) or ".." in path.parts:
                continue
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
