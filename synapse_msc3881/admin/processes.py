# SPDX-License-Identifier: AGPL-3.0-or-later
"""The processes that the config files describe, and whether each has the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
from synapse.module_api.errors import ConfigError

from synapse_msc3881.admin.config_files import (
    ConfigFile,
    UnreadableError,
    printing_nothing,
    read_config_file,
)
from synapse_msc3881.admin.modules_option import ENTRY, MODULE, entries_of, read_modules
from synapse_msc3881.admin.redaction import Secrets
from synapse_msc3881.admin.report import Finding, ProcessReport, note, problem
from synapse_msc3881.admin.running import find_without_module
from synapse_msc3881.page.files import PATH
from synapse_msc3881.seams import process_config

_MAIN = "master"

# What does not work in a process without the module, by the process's duties.
_PUSHERS, _RULES, _PERSISTS, _PUSHES, _CLIENTS, _FEDERATION = (
    "writes pushers and their profile tags",
    "writes push rules",
    "persists events",
    "pushes",
    "serves clients",
    "receives events from other servers",
)
_WITHOUT: Mapping[str, str] = {
    _PUSHERS: "`enabled` and `profile_tags` of pushers are not taken",
    _RULES: "device rules are refused",
    _PUSHES: "its pushers use the `global` rules",
    _CLIENTS: "events that it takes use the `global` rules, and /versions lacks the flags",
    _FEDERATION: "events that it receives use the `global` rules",
}


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Process:
    """One process: its report, its config if Synapse accepts it, and the module's options."""

    report: ProcessReport
    config: process_config.ProcessConfig | None = None
    options: Any = None


class Deployment:
    """Reads the processes of one deployment.

    Attributes:
        processes: what has been read so far.
        findings: what has been found so far.
    """

    def __init__(self, secrets: Secrets) -> None:
        self.processes: list[Process] = []
        self.findings: list[Finding] = []
        self._secrets = secrets
        self._read: dict[str, ConfigFile | None] = {}

    def add(self, paths: Sequence[str]) -> None:
        """Read the process that is started with ``-c`` for each of the paths."""
        self._add(self._find_files(paths))

    def add_workers(self, paths: Sequence[str], shared: Sequence[str]) -> None:
        """Read more processes, each of which has its own file.

        Args:
            paths: files, or directories of them. A file with a `server_name` is its process's whole
                config.
            shared: what each process is started with before its own file.
        """
        shared_files = self._find_files(shared)
        # `-c homeserver.yaml -w .` gives it two names.
        known = {Path(name).resolve() for name in shared_files}
        for path in paths:
            in_directory = Path(path).is_dir()
            for name in self._find_files([path]):
                file = self._read_file(name)
                if file is None:
                    continue
                if "worker_app" in file.options:
                    if "server_name" in file.options:
                        self._add([name])
                    else:
                        self._add([*shared_files, name], own_file=name)
                elif not in_directory:
                    self._say(
                        problem(
                            name,
                            "it is no worker's own file: it has no `worker_app`",
                            "Name files that all processes read with -c.",
                        )
                    )
                elif Path(name).resolve() not in known:
                    self._say(note(name, "passed over: it has no `worker_app`"))

    def finish(self) -> None:
        """Check all processes together."""
        self._find_unread()
        self._find_differences()
        for finding in find_without_module(list(self._read)):
            self._say(finding)

    # One process

    def _add(self, names: Sequence[str], own_file: str | None = None) -> None:
        files = [self._read_file(name) for name in names]
        read = [file for file in files if file is not None]
        if not names or len(read) < len(names):
            # What is wrong has already been said.
            self.processes.append(Process(ProcessReport("?", names, "unknown", (), own_file)))
            return
        config = self._parse(names)
        name = _name(config.name) if config is not None else _raw_name(read)
        duties = _duties(config) if config is not None else ()
        modules = read_modules(read)
        for finding in modules.findings:
            self._say(finding)
        if modules.entries:
            module, options = self._load(modules.entries, read, name)
        elif modules.meant:
            module, options = "bad", None
        else:
            module, options = "no", None
            self._say(_lacks_module(name, read, duties))
        report = ProcessReport(name, names, module, duties, own_file, *_page(config, options))
        self.processes.append(Process(report, config, options))

    def _parse(self, names: Sequence[str]) -> process_config.ProcessConfig | None:
        try:
            with printing_nothing():
                return process_config.read_process_config(names)
        except ConfigError as error:
            text = self._secrets.hide(process_config.explain_config_error(error))
        except Exception as error:  # noqa: BLE001  # what Synapse raises for odd values is open
            text = self._secrets.hide(f"{type(error).__name__}: {error}")
        self._say(
            problem(
                " ".join(names),
                f"Synapse does not take this config.\n{text}",
                "Put it right, or name all files that this process is started with.",
            )
        )
        return None

    def _load(
        self, entries: Sequence[tuple[int, Any]], files: Sequence[ConfigFile], name: str
    ) -> tuple[str, Any]:
        """Load the module's entries; returns "yes" or "bad", and the options that count."""
        where = f"{_with_modules(files)[-1].path} ({name})"
        loaded = []
        for index, entry in entries:
            try:
                loaded.append(process_config.load_configured_module(entry, index)[1])
            except ConfigError as error:
                text = self._secrets.hide(process_config.explain_config_error(error))
                self._say(problem(where, text, "Synapse does not start with this."))
            except Exception as error:  # noqa: BLE001  # importing can raise anything
                text = self._secrets.hide(f"{type(error).__name__}: {error}")
                self._say(
                    problem(
                        where,
                        f"`{entry['module']}` in `modules` cannot be loaded. Synapse does not "
                        f"start with this, and says:\n{text}",
                        f"Write `module: {MODULE}`.",
                    )
                )
        if len(loaded) < len(entries):
            return "bad", None
        self._judge_options(loaded, _with_modules(files)[-1].path, where)
        return "yes", loaded[0]

    def _judge_options(self, loaded: Sequence[Any], file: str, where: str) -> None:
        """Say what is odd about the options of the module's entries, though Synapse takes them."""
        if len(loaded) > 1:
            twice = f"the module stands {len(loaded)} times in `modules`"
            if any(options != loaded[0] for options in loaded):
                what = f"{twice}, with different options; only the first counts"
                self._say(problem(where, what, "Put all options into one entry."))
            else:
                self._say(note(where, f"{twice}; the first one counts", "Remove the others."))
        if loaded[0].page.enabled and not loaded[0].keep_omitted:
            what = (
                "`keep_omitted` is false, though the page is on: an app that sets its pusher when "
                "it starts undoes what its user set on the page"
            )
            self._say(note(file, what, "Take `keep_omitted` out: it is then true."))

    # Files

    def _find_files(self, paths: Sequence[str]) -> list[str]:
        with printing_nothing():
            files = process_config.find_config_files(paths)
        for path in paths:
            if Path(path).is_dir() and not any(Path(file).parent == Path(path) for file in files):
                self._say(problem(path, "there is no *.yaml in this directory"))
        return files

    def _read_file(self, name: str) -> ConfigFile | None:
        """Read a file once; None if that fails, which is then reported."""
        if name not in self._read:
            try:
                self._read[name] = read_config_file(name)
            except UnreadableError as error:
                self._say(problem(name, str(error), error.remedy))
                self._read[name] = None
            else:
                self._look_at_file(name)
        return self._read[name]

    def _look_at_file(self, name: str) -> None:
        file = self._read[name]
        assert file is not None
        self._secrets.see(file.options)
        if len(file.modules_lines) > 1:
            lines = " and ".join(map(str, file.modules_lines))
            self._say(
                problem(
                    name,
                    f"`modules` stands there more than once, in lines {lines}. Only the last "
                    "counts",
                    "Put all modules into one list.",
                )
            )

    # All processes

    def _find_unread(self) -> None:
        """Name the processes that the config mentions but whose own file was not given."""
        read = {process.config.name for process in self.processes if process.config is not None}
        spoken_of: dict[str, str] = {}
        for process in self.processes:
            if process.config is not None:
                for option, names in _named_processes(process.config):
                    for name in names:
                        spoken_of.setdefault(name, option)
        # Whoever asks about a single worker knows that there is a main process.
        missing = {
            name: option for name, option in spoken_of.items() if name not in read and name != _MAIN
        }
        if missing and not any(process.report.name == "?" for process in self.processes):
            listed = ", ".join(f"{name} ({option})" for name, option in sorted(missing.items()))
            self._say(
                note(
                    "not checked",
                    f"{len(missing)} processes that the config names: {listed}",
                    "Give their files, or the directory of these, with --worker.",
                )
            )

    def _find_differences(self) -> None:
        """Compare what must be the same in all processes."""
        self._compare("other options of the module", lambda process: process.options)
        self._compare(
            "another database",
            lambda process: process.config and _identity(process.config.database),
        )

    def _compare(self, what: str, value_of: Callable[[Process], object]) -> None:
        having = [process for process in self.processes if value_of(process) is not None]
        for process in having[1:]:
            if value_of(process) != value_of(having[0]):
                self._say(
                    problem(
                        process.report.name,
                        f"has {what} than {having[0].report.name}",
                        "All processes need the same: put it into a file that all of them read.",
                    )
                )

    def _say(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.append(finding)


# --- Looking at a process -----------------------------------------------------------------------


def _name(instance: str) -> str:
    return "main" if instance == _MAIN else instance


def _raw_name(files: Sequence[ConfigFile]) -> str:
    """The name of a process whose config Synapse does not accept."""
    options: dict[str, Any] = {}
    for file in files:
        options.update(file.options)
    return str(options.get("worker_name") or options.get("worker_app") or "main")


def _duties(config: process_config.ProcessConfig) -> list[str]:
    duties = {
        _PUSHERS: config.worker_app is None,
        _RULES: config.name in config.push_rules_writers,
        _PERSISTS: config.name in config.event_persisters,
        _PUSHES: config.starts_pushers,
        _CLIENTS: "client" in config.resources,
        _FEDERATION: "federation" in config.resources,
    }
    return [duty for duty, does in duties.items() if does]


def _page(
    config: process_config.ProcessConfig | None, options: Any
) -> tuple[Sequence[str], str | None]:
    """Where a process serves the page, and its address for users."""
    if config is None or options is None or not options.page.enabled:
        return (), None
    return config.http_listeners, config.public_baseurl.rstrip("/") + PATH


def _named_processes(config: process_config.ProcessConfig) -> Iterator[tuple[str, Sequence[str]]]:
    yield "stream_writers.push_rules", config.push_rules_writers
    yield "stream_writers.events", config.event_persisters
    yield "pusher_instances", config.pusher_instances
    # The main process goes by two names.
    yield "instance_map", [name for name in config.instances if name != "main"]


def _with_modules(files: Sequence[ConfigFile]) -> list[ConfigFile]:
    return [file for file in files if "modules" in file.options]


def _lacks_module(name: str, files: Sequence[ConfigFile], duties: Sequence[str]) -> Finding:
    lost = [_WITHOUT[duty] for duty in duties if duty in _WITHOUT]
    consequence = f": {'; '.join(lost)}" if lost else ""
    having = _with_modules(files)
    if len(having) > 1 and any(entries_of(file) for file in having[:-1]):
        last, before = having[-1].path, having[-2].path
        return problem(
            name,
            f"does not have the module{consequence}.\n"
            f"`modules` in {last} replaces `modules` in {before}: Synapse does not join them",
            f"Take `modules` out of {last}, or list the module there too.",
        )
    where = having[-1].path if having else files[0].path
    return problem(
        name,
        f"does not have the module{consequence}",
        f"Add it to {where}, or to a file that all processes read, and restart:\n{ENTRY}",
    )


def _identity(database: Mapping[str, Any] | None) -> object:
    """What identifies a database; not, for example, how many connections there are to it."""
    if database is None:
        return None
    options = database.get("args") or {}
    return database.get("name"), *(options.get(name) for name in _WHICH_DATABASE)


_WHICH_DATABASE = ("host", "port", "dbname", "database", "dsn", "service")
