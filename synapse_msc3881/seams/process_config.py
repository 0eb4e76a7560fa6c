# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synapse's config, without a homeserver: for the admin commands.

A starting Synapse never imports this file, so nothing in it can keep one from starting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attr

from synapse_msc3881.seams.declaring import Seam

SEAMS: tuple[Seam, ...] = (
    Seam(
        "synapse.config._base:find_config_files",
        "the files that `-c` names: a file, or the *.yaml in a directory",
        parameters=("search_paths",),
    ),
    Seam(
        "synapse.config._base:read_config_files",
        "reads YAML files and merges them: for a top-level option, the last file counts",
        parameters=("config_files",),
    ),
    Seam(
        "synapse.config._base:format_config_error",
        "a ConfigError for humans, in pieces",
        parameters=("e",),
    ),
    Seam(
        "synapse.config._base:RootConfig.parse_config_dict",
        "parses the sections in `config_classes`; those that we name read only the options",
        parameters=("config_dict", "config_dir_path", "data_dir_path"),
    ),
    Seam(
        "synapse.config.server:ServerConfig",
        "`public_baseurl`; the main process's `listeners`, each with `port` or `path`, and with "
        "http_options.resources",
    ),
    Seam(
        "synapse.config.workers:WorkerConfig",
        "worker_app, instance_name, worker_listeners, writers, pusher_shard_config and "
        "start_pushers",
    ),
    Seam(
        "synapse.config.database:DatabaseConfig",
        "`databases`, each with the names of its data stores and its options",
    ),
    Seam(
        "synapse.util.module_loader:load_module",
        "imports a module and parses its `config`, or raises ConfigError with the option's path",
        parameters=("provider", "config_path"),
    ),
    Seam(
        "synapse.storage.engines:create_engine",
        "the engine for a database's options; connects to nothing",
        parameters=("database_config",),
    ),
)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ProcessConfig:
    """What one process of Synapse is configured to be.

    Attributes:
        name: its instance name; "master" is the main process.
        worker_app: None for the main process.
        public_baseurl: where clients reach the homeserver, with a slash at its end.
        http_listeners: where it listens for HTTP, for example "port 8008".
        resources: what its listeners serve over HTTP, for example "client" and "replication".
        push_rules_writers: the instances that write the push rules stream.
        event_persisters: the instances that persist events.
        pusher_instances: the instances that run pushers; empty if others do that.
        starts_pushers: whether it runs pushers.
        instances: the instances in `instance_map`.
        database: the config of the database that has the module's tables, including secrets.
    """

    name: str
    worker_app: str | None
    public_baseurl: str
    http_listeners: tuple[str, ...]
    resources: tuple[str, ...]
    push_rules_writers: tuple[str, ...]
    event_persisters: tuple[str, ...]
    pusher_instances: tuple[str, ...]
    starts_pushers: bool
    instances: tuple[str, ...]
    database: Mapping[str, Any] | None = attr.ib(repr=False)


def find_config_files(paths: Sequence[str]) -> list[str]:
    """The files that Synapse reads for these ``-c`` arguments. May print what it ignores."""
    from synapse.config._base import find_config_files  # noqa: PLC0415

    return find_config_files(list(paths))


def read_process_config(files: Sequence[str]) -> ProcessConfig:
    """Read the files as a process started with them does. Touches no other file.

    Args:
        files: each exists and is YAML. May print what it ignores.

    Raises:
        ConfigError: Synapse would not start with them.
    """
    from synapse.config._base import RootConfig, read_config_files  # noqa: PLC0415
    from synapse.config.database import DatabaseConfig  # noqa: PLC0415
    from synapse.config.server import ServerConfig  # noqa: PLC0415
    from synapse.config.workers import WorkerConfig  # noqa: PLC0415

    class Sections(RootConfig):
        # Not all of them: others create directories, or read keys that do not exist before the
        # first start.
        config_classes = [ServerConfig, WorkerConfig, DatabaseConfig]  # noqa: RUF012

    config: Any = Sections(list(files))
    config.parse_config_dict(
        read_config_files(files),
        config_dir_path=str(Path(files[-1]).absolute().parent),
        data_dir_path=str(Path.cwd()),
    )
    worker = config.worker
    listeners = worker.worker_listeners if worker.worker_app else config.server.listeners
    databases = [one.config for one in config.database.databases if "main" in one.databases]
    return ProcessConfig(
        name=worker.instance_name,
        worker_app=worker.worker_app,
        public_baseurl=config.server.public_baseurl or "",
        http_listeners=tuple(
            _place(listener) for listener in listeners if listener.http_options is not None
        ),
        resources=tuple(
            name
            for listener in listeners
            if listener.http_options is not None
            for resource in listener.http_options.resources
            for name in resource.names
        ),
        push_rules_writers=tuple(worker.writers.push_rules),
        event_persisters=tuple(worker.writers.events),
        pusher_instances=tuple(worker.pusher_shard_config.instances),
        starts_pushers=worker.start_pushers,
        instances=tuple(worker.instance_map),
        database=databases[0] if databases else None,
    )


def _place(listener: Any) -> str:
    """Where a listener listens; a newer Synapse may listen on a socket of the file system."""
    path = getattr(listener, "path", None)
    return f"socket {path}" if path else f"port {listener.port}"


def load_configured_module(entry: Any, index: int) -> tuple[type, Any]:
    """Import a module of `modules` and parse its options, as Synapse does at startup.

    Returns:
        The module's class, and its parsed options.

    Raises:
        ConfigError: the options are bad; its path begins at ``modules``.
        Exception: whatever importing it raises.
    """
    from synapse.util.module_loader import load_module  # noqa: PLC0415

    return load_module(entry, ("modules", f"<item {index}>"))


def explain_config_error(error: Exception) -> str:
    """A ConfigError as Synapse shows it at startup."""
    from synapse.config._base import format_config_error  # noqa: PLC0415

    return "".join(format_config_error(error))  # type: ignore[arg-type]


def database_engine(database: Mapping[str, Any]) -> Any:
    """Synapse's engine for a database: its driver, SQL and table names. Connects to nothing.

    Raises:
        RuntimeError: the database's driver is not installed.
    """
    from synapse.storage.engines import create_engine  # noqa: PLC0415

    return create_engine(database)
