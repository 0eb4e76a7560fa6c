# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes the page into a directory, for another web server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import attr

from synapse_msc3881.page.files import INDEX, Page
from synapse_msc3881.page.headers import ASSET_CACHING, INDEX_CACHING

#: Lists our files: the path of each, and the SHA-256 of what we wrote there.
MANIFEST = "synapse_msc3881.json"
HEADERS = "headers.txt"

_HEADERS_TEXT = """\
Headers that the web server should send with the page. The policy stands in {index} too, but there a
browser does not let it keep other pages from framing this one.

With every answer:

{security}

With {index}:

Cache-Control: {index_caching}

With what is in the directory {version}, whose name changes with its content:

Cache-Control: {asset_caching}

Beside each file that gets smaller by it stands {gz}, for servers that can send that
(nginx: gzip_static on;).
"""


class ExportError(Exception):
    """The directory cannot be written; the message names the file."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Exported:
    """What was done: how many files were written, and how many old ones removed."""

    written: int
    removed: int


def export(page: Page, directory: Path, security: Mapping[str, str]) -> Exported:
    """Write the page, replacing an earlier export in the same place.

    Args:
        page: the page, with the homeserver's URL.
        directory: created if it is missing.
        security: the headers to recommend.

    Raises:
        ExportError: one of our files would replace one that is not ours, or that someone has
            changed; nothing was written.
        OSError: from the file system.
    """
    files = _files(page, security)
    earlier = _read_manifest(directory)
    _refuse_foreign(directory, files, earlier)
    new = {path: {_digest(body)} for path, body in files.items()}
    # Both, until all is done: after an interruption, it can be run again.
    either = {path: new.get(path, set()) | earlier.get(path, set()) for path in {*new, *earlier}}
    _write_manifest(directory, either)
    # The document comes last: what it refers to is there by then.
    for path, body in sorted(files.items(), key=lambda file: file[0] == INDEX):
        _write(directory / path, body)
    old = [path for path in earlier if path not in files]
    for path in old:
        _remove(directory, path)
    _write_manifest(directory, new)
    return Exported(len(files) + 1, len(old))


def _files(page: Page, security: Mapping[str, str]) -> dict[str, bytes]:
    files = {}
    for path, file in {INDEX: page.index, **page.assets}.items():
        files[path] = file.body
        if file.gzipped is not None:
            files[f"{path}.gz"] = file.gzipped
    version = next(iter(page.assets)).partition("/")[0]
    headers = _HEADERS_TEXT.format(
        index=INDEX,
        security="\n".join(f"{name}: {value}" for name, value in security.items()),
        index_caching=INDEX_CACHING,
        asset_caching=ASSET_CACHING,
        version=version,
        gz="the same with .gz",
    )
    files[HEADERS] = headers.encode()
    return files


def _write_manifest(directory: Path, files: Mapping[str, set[str]]) -> None:
    listed = {"files": {path: sorted(digests) for path, digests in sorted(files.items())}}
    _write(directory / MANIFEST, json.dumps(listed, indent=2).encode() + b"\n")


def _read_manifest(directory: Path) -> Mapping[str, set[str]]:
    """The files of an earlier export, each with the digests it may have."""
    file = directory / MANIFEST
    try:
        files = json.loads(file.read_text())["files"]
        paths = {str(path): set(map(str, digests)) for path, digests in files.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{file} is no list of exported files: {error}") from None
    for path in paths:
        # It names what is removed later.
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ExportError(f"{file} names {path!r}, which is outside of its directory")
    return paths


def _refuse_foreign(
    directory: Path, files: Mapping[str, bytes], earlier: Mapping[str, set[str]]
) -> None:
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"{directory} is no directory")
    if not earlier and directory.is_dir() and any(directory.iterdir()):
        raise ExportError(
            f"{directory} has files in it and no {MANIFEST}, so they are not ours. "
            "Name an empty directory, or one that does not exist"
        )
    for path in {MANIFEST, *files, *earlier}:
        _refuse_links(directory, path)
    for path in {*files, *earlier}:
        file = directory / path
        if not file.exists():
            continue
        if path not in earlier or not file.is_file():
            raise ExportError(f"{file} is there, and is not ours")
        if _digest(file.read_bytes()) not in earlier[path]:
            raise ExportError(
                f"{file} was changed since it was written. Move it away to have it replaced"
            )


def _refuse_links(directory: Path, path: str) -> None:
    """The directory itself may be a link; what is in it leads nowhere else."""
    within = [directory]
    for part in Path(path).parts:
        within.append(within[-1] / part)
    for place in (*within[1:], _unfinished(directory / path)):
        if place.is_symlink():
            raise ExportError(f"{place} is a link, which this command does not make")


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.new")


def _write(file: Path, body: bytes) -> None:
    """Write a file atomically: a web server may be reading it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = _unfinished(file)
    new.write_bytes(body)
    new.replace(file)


def _remove(directory: Path, path: str) -> None:
    (directory / path).unlink(missing_ok=True)
    for parent in (directory / path).parents:
        if parent == directory or any(parent.iterdir()):
            return
        parent.rmdir()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
