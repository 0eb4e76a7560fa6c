# SPDX-License-Identifier: AGPL-3.0-or-later
"""`check` on what goes wrong most in `modules`, each with what Synapse itself makes of it."""

import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.admin import PACKAGE_PARENT, Answer, command_here
from tests.harness.deployment import MODULE
from tests.harness.waiting import wait_until

_REST = """\
server_name: synapse.test
report_stats: false
signing_key_path: {directory}/signing.key
media_store_path: {directory}/media
database: {{name: sqlite3, args: {{database: {directory}/homeserver.db}}}}
"""


def write(directory: Path, modules: str, name: str = "homeserver.yaml") -> Path:
    """A config with this text for `modules`."""
    file = directory / name
    (directory / "signing.key").write_text(f"ed25519 a_test {'A' * 43}\n")
    rest = _REST.format(directory=directory) if name == "homeserver.yaml" else ""
    file.write_text(rest + textwrap.dedent(modules))
    return file


def check(*files: Path) -> Answer:
    options = [option for file in files for option in ("-c", str(file))]
    return command_here("check", "--json", *options)


def synapses_error(file: Path) -> str:
    """What Synapse says when it reads the file; empty where it takes it."""
    read = (
        "import sys; from synapse.config.homeserver import HomeServerConfig\n"
        "HomeServerConfig.load_config('test', ['-c', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", read, str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=PACKAGE_PARENT,
    )
    return done.stdout + done.stderr if done.returncode else ""


# --- Synapse does not start ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "found", "quoted"),
    [
        (
            f"modules:\n  module: {MODULE}\n  config: {{}}\n",
            "the dash before `module:` is missing",
            "expected a mapping",
        ),
        (
            f"modules:\n  - {MODULE}\n",
            f"item 0 of `modules` is the bare name '{MODULE}', without `module:`",
            "expected a mapping",
        ),
        (f"modules: {MODULE}\n", "`modules` is the bare name", "expected a mapping"),
        (
            "modules:\n  - module: synapse_msc3381.PusherControl\n",
            "`synapse_msc3381.PusherControl` in `modules` cannot be loaded",
            "No module named 'synapse_msc3381'",
        ),
        (
            "modules:\n  - module: synapse-msc3881.PusherControl\n",
            "`synapse-msc3881.PusherControl` in `modules` cannot be loaded",
            "No module named 'synapse-msc3881'",
        ),
        (
            "modules:\n  - module: PusherControl\n",
            "`PusherControl` in `modules` cannot be loaded",
            "not enough values to unpack",
        ),
        (
            f"modules:\n  - Module: {MODULE}\n",
            "item 0 of `modules` has no `module:` with the name of one",
            "expected a string",
        ),
    ],
    ids=["no dash", "bare item", "bare string", "misspelt", "dashes", "no package", "no module"],
)
def test_an_entry_that_synapse_does_not_start_with(
    tmp_path: Path, modules: str, found: str, quoted: str
) -> None:
    file = write(tmp_path, modules)
    answer = check(file)
    assert answer.status == 1
    (problem,) = answer.problems  # and not that the module has to be added as well
    assert found in problem
    assert "Synapse does not start with this, and says:" in problem
    assert quoted in problem
    assert MODULE in problem.rpartition("->")[2]
    assert answer.json["processes"][0]["module"] == "bad"
    assert quoted in synapses_error(file)


# --- Synapse starts, and an option has no effect ------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        (
            f"modules:\n  - module: {MODULE}\n    keep_omitted: true\n",
            "`keep_omitted` in item 0 of `modules` stands beside `module:`",
        ),
        (
            f"modules:\n  - module: {MODULE}\n    config:\n    keep_omitted: true\n",
            "(there is a `config:` with nothing below it): it is without effect",
        ),
        (
            f"modules:\n  - module: {MODULE}\nconfig:\n  keep_omitted: true\n",
            "`config` stands at the first column",
        ),
        (
            f"modules:\n  - module: {MODULE}\nkeep_omitted: true\n",
            "`keep_omitted` stands at the first column",
        ),
        (
            f"modules:\n  - module: {MODULE}\n    conf:\n      keep_omitted: true\n",
            (
                "`conf` in item 0 of `modules` stands beside `module:`, where Synapse passes over "
                "it: it is without effect -> Call it `config`."
            ),
        ),
        (
            (
                f"modules:\n  - module: {MODULE}\n    config:\n      page: {{enabled: true}}\n"
                "    config:\n      keep_omitted: true\n"
            ),
            (
                "`config` in item 0 of `modules` stands there more than once, in lines 8 and 10. "
                "Only the last counts"
            ),
        ),
        (
            (
                f"modules:\n  - module: {MODULE}\n    config:\n      limits:\n"
                "        device_scopes_per_user: 5\n        device_scopes_per_user: 6\n"
            ),
            (
                "`config.limits.device_scopes_per_user` in item 0 of `modules` stands there more "
                "than once, in lines 10 and 11"
            ),
        ),
        (
            (
                f"modules:\n  - module: {MODULE}\n"
                "  - module: synapse_msc3881.module.PusherControl\n"
                "    config:\n      page: {enabled: true}\n"
            ),
            "the module stands 2 times in `modules`, with different options; only the first counts",
        ),
        (
            f"module:\n  - module: {MODULE}\n",
            (
                "`module` holds an entry of the module, but Synapse reads `modules` at the first "
                "column: the module is not loaded"
            ),
        ),
        (
            f"experimental_features:\n  modules:\n    - module: {MODULE}\n",
            "`experimental_features.modules` holds an entry of the module",
        ),
    ],
    ids=[
        "beside",
        "empty config",
        "config at the top",
        "at the top",
        "misspelt config",
        "config twice",
        "option twice",
        "module twice",
        "misspelt modules",
        "modules below another option",
    ],
)
def test_an_option_where_it_has_no_effect(tmp_path: Path, modules: str, found: str) -> None:
    file = write(tmp_path, modules)
    answer = check(file)
    assert answer.status == 1
    (problem,) = answer.problems
    assert found in problem
    assert synapses_error(file) == ""


def test_another_module_that_is_not_installed(tmp_path: Path) -> None:
    """As in an image that was built anew, for this module alone."""
    file = write(tmp_path, f"modules:\n  - module: ldap_of_ours.Ldap\n  - module: {MODULE}\n")
    answer = check(file)
    assert answer.status == 1
    (problem,) = answer.problems
    assert "`ldap_of_ours.Ldap` in `modules` cannot be loaded. Synapse does not start" in problem
    error = "ModuleNotFoundError: No module named 'ldap_of_ours'"
    assert error in problem
    assert error in synapses_error(file)


def test_options_of_other_modules_are_their_own_affair(tmp_path: Path) -> None:
    modules = f"""\
        modules:
          - module: {MODULE}
          - module: tests.harness.positions.Positions
            whatever: true
        """
    answer = check(write(tmp_path, modules))
    assert (answer.status, answer.problems) == (0, [])


@pytest.mark.parametrize(
    "modules",
    [
        f"x-modules: &ours\n  - module: {MODULE}\nmodules: *ours\n",
        f"x-common: &common\n  modules:\n    - module: {MODULE}\n<<: *common\n",
    ],
    ids=["alias", "merged"],
)
def test_modules_that_yaml_takes_from_elsewhere(tmp_path: Path, modules: str) -> None:
    """As where several config files are made from one."""
    file = write(tmp_path, modules)
    answer = check(file)
    assert (answer.status, answer.problems) == (0, [])
    assert answer.json["processes"][0]["module"] == "yes"
    assert synapses_error(file) == ""


def test_the_page_with_apps_that_undo_what_is_set_there(tmp_path: Path) -> None:
    entry = f"modules:\n  - module: {MODULE}\n    config:\n      page: {{enabled: true}}\n"
    answer = check(write(tmp_path, f"{entry}      keep_omitted: false\n"))
    assert (answer.status, answer.problems) == (0, [])
    assert any("`keep_omitted` is false, though the page is on" in note for note in answer.notes)
    answer = check(write(tmp_path, entry))
    assert not any("keep_omitted" in note for note in answer.notes)


# --- Several files ------------------------------------------------------------------------------


def test_a_file_of_ours_that_displaces_other_modules(tmp_path: Path) -> None:
    other = "tests.harness.positions.Positions"
    first = write(tmp_path, f"modules:\n  - module: {other}\n")
    ours = write(tmp_path, f"modules:\n  - module: {MODULE}\n", "msc3881.yaml")
    answer = check(first, ours)
    assert answer.status == 1
    (problem,) = answer.problems
    assert problem.startswith(f"{ours}: its `modules` replaces `modules` in {first}")
    assert f"Not loaded: {other}" in problem

    both = f"modules:\n  - module: {MODULE}\n  - module: {other}\n"
    answer = check(first, write(tmp_path, both, "msc3881.yaml"))
    assert (answer.status, answer.problems) == (0, [])


# --- Another environment ------------------------------------------------------------------------

_SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


@contextmanager
def running(python: Path, config: Path) -> Iterator[int]:
    """Something that looks like a worker, and only waits."""
    package = config.parent / "stand_in" / "synapse" / "app"
    package.mkdir(parents=True, exist_ok=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").touch()
    (package / "generic_worker.py").write_text(_SLEEPER)
    command = [str(python), "-m", "synapse.app.generic_worker", "-c", str(config)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=package.parents[1]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_process_whose_environment_lacks_the_module(tmp_path: Path) -> None:
    config = write(tmp_path, f"modules:\n  - module: {MODULE}\n")
    another = tmp_path / "another.yaml"
    another.write_text(config.read_text())
    environment = tmp_path / "env"
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"

    with running(python, another):
        assert check(config).problems == []  # of another deployment
    with running(python, config) as pid:
        (problem,) = check(config).problems
        assert problem.startswith(f"process {pid}: it runs with this config from {environment}")
        packages = next(environment.glob("lib/python3*/site-packages"))
        (packages / "synapse_msc3881").mkdir()
        assert check(config).problems == []
    with running(Path(sys.executable), config):
        assert check(config).problems == []
    wait_until(lambda: check(config).status == 0, "the process to be gone")
