# SPDX-License-Identifier: AGPL-3.0-or-later
"""The packages, built and installed into an environment as admins have it: `make test-install`."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from demo.process import Child, free_port
from tests.harness.admin import command
from tests.harness.deployment import CHECKOUT, MODULE
from tests.install.environment import Environment, run

PACKAGE = "synapse_msc3881"
START_SECONDS = 300.0


# --- Building -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, and the wheel that is made from it."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", directory, CHECKOUT)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (sdist,) = built.glob("*.tar.gz")
    return sdist


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def sources() -> dict[str, bytes]:
    """What git knows, or would add, of the package."""
    listed = run(
        *("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", PACKAGE),
        cwd=CHECKOUT,
    )
    names = [name for name in listed.splitlines() if (CHECKOUT / name).exists()]
    return {name: (CHECKOUT / name).read_bytes() for name in names}


def test_the_packages_are_fit_for_an_index(wheel: Path, sdist: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    assert said.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_needs_nothing(wheel: Path) -> None:
    packed = contents(wheel)
    code = {name: data for name, data in packed.items() if ".dist-info/" not in name}
    assert code == sources()
    (metadata,) = (name for name in packed if name.endswith(".dist-info/METADATA"))
    needs = [
        line
        for line in packed[metadata].decode().splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert needs == []
    assert any(name.endswith("/LICENSE") for name in packed)


def test_the_checkout_and_the_source_package_make_the_same_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, CHECKOUT)
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)


# --- Installing ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment of a Debian package of matrix.org, and not under /opt only."""
    directory = tmp_path_factory.mktemp("debian")
    building = directory / "build" / "opt" / "venvs" / "matrix-synapse"
    return Environment.make(building, directory / "opt" / "venvs" / "matrix-synapse")


@pytest.fixture
def installed(environment: Environment, wheel: Path) -> Iterator[Environment]:
    """The environment with the module, for one test."""
    environment.pip("install", wheel)
    yield environment
    environment.pip("uninstall", "--yes", PACKAGE)


@pytest.mark.parametrize("source", ["wheel", "source package", "checkout"])
def test_installing_and_removing_changes_nothing_else(
    environment: Environment, wheel: Path, sdist: Path, source: str
) -> None:
    packages, files = environment.freeze(), environment.files()
    broken = _check_requirements(environment)
    target = {"wheel": wheel, "source package": sdist, "checkout": CHECKOUT}[source]

    environment.pip("install", target)

    (added,) = environment.freeze() - packages
    assert added.startswith("synapse-msc3881 @ ")
    assert packages <= environment.freeze()
    after = environment.files()
    assert {name: after.get(name) for name in files} == files
    assert all(PACKAGE in name for name in after.keys() - files.keys())
    assert _check_requirements(environment) == broken

    environment.pip("uninstall", "--yes", PACKAGE)
    assert (environment.freeze(), environment.files()) == (packages, files)


def _check_requirements(environment: Environment) -> list[str]:
    done = subprocess.run(
        [environment.python, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    return sorted(done.stdout.splitlines())


def test_the_demo_runs_on_it(installed: Environment, tmp_path: Path) -> None:
    # Away from the checkout, whose package it would take.
    shutil.copytree(CHECKOUT / "demo", tmp_path / "demo")
    assert "Good night!" in run(installed.python, "-m", "demo", cwd=tmp_path)


def test_synapse_starts_from_it_as_debian_starts_it(installed: Environment, tmp_path: Path) -> None:
    """With `-c homeserver.yaml -c conf.d`, where the server's name and our section stand."""
    port = free_port()
    etc, conf = _debian_config(tmp_path, port)
    paths = ["-c", str(etc), "-c", str(conf)]
    python = str(installed.python)

    before = command("check", "--json", *paths, python=python, path=[], cwd=tmp_path)
    assert (before.status, before.problems) == (0, [])

    run(python, "-m", "synapse.app.homeserver", *paths, "--generate-keys", cwd=tmp_path)
    server = Child(
        name="Synapse",
        command=[python, "-m", "synapse.app.homeserver", *paths],
        output=tmp_path / "output.txt",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    server.spawn()
    try:
        server.wait_until(lambda: "org.matrix.msc3837" in _features(port), START_SECONDS)
        running = command("check", "--json", *paths, python=python, path=[], cwd=tmp_path)
    finally:
        server.stop()
    assert (running.status, running.problems) == (0, [])
    assert running.json["database"]["answers"] is True
    assert running.json["synapse_version"] == "1.157.1"


def _debian_config(directory: Path, port: int) -> tuple[Path, Path]:
    etc = directory / "homeserver.yaml"
    client = {"names": ["client"], "compress": False}
    listener = {"port": port, "type": "http", "bind_addresses": ["127.0.0.1"]}
    options = {
        "listeners": [{**listener, "resources": [client]}],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "signing_key_path": str(directory / "homeserver.signing.key"),
        "media_store_path": str(directory / "media"),
        "trusted_key_servers": [],
    }
    etc.write_text(yaml.safe_dump(options))
    conf = directory / "conf.d"
    conf.mkdir()
    (conf / "server_name.yaml").write_text("server_name: synapse.test\n")
    (conf / "report_stats.yaml").write_text("report_stats: false\n")
    modules = [{"module": MODULE, "config": {}}]
    (conf / "synapse_msc3881.yaml").write_text(yaml.safe_dump({"modules": modules}))
    return etc, conf


def _features(port: int) -> dict[str, bool]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(connection):
        try:
            connection.request("GET", "/_matrix/client/versions")
            features: dict[str, bool] = json.loads(connection.getresponse().read())[
                "unstable_features"
            ]
        except (OSError, http.client.HTTPException):
            return {}
    return features


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg")
def test_an_upgrade_of_the_debian_package_leaves_the_module_there(
    environment: Environment, wheel: Path, tmp_path: Path
) -> None:
    """dpkg leaves files alone that are not a package's; the directory stays the same one."""
    root = tmp_path / "root"
    prefix = root / "opt" / "venvs" / "matrix-synapse"
    # Not all of it: what dpkg does with a file does not depend on how many there are.
    (found,) = (environment.directory / "lib").glob("python3.*/site-packages")
    site = found.relative_to(environment.directory)
    for version in ("1.157.1", "1.157.2"):
        tree = tmp_path / version
        shipped = tree / "opt" / "venvs" / "matrix-synapse" / site
        shutil.copytree(found / "matrix_common", shipped / "matrix_common")
        (shipped / "matrix_common" / "version.txt").write_text(version)
        _dpkg_install(root, _debian_package(tree, version))
        if version == "1.157.1":
            environment.pip("install", "--no-deps", "--target", prefix / site, wheel)
    assert (prefix / site / "matrix_common" / "version.txt").read_text() == "1.157.2"
    assert (prefix / site / PACKAGE / "module.py").exists()


def _debian_package(tree: Path, version: str) -> Path:
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        f"Package: matrix-synapse-py3\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: a test <test@example.org>\nDescription: a test\n"
    )
    package = tree.with_suffix(".deb")
    run("dpkg-deb", "--root-owner-group", "--build", tree, package)
    return package


def _dpkg_install(root: Path, package: Path) -> None:
    admin = root / "var" / "lib" / "dpkg"
    for name in ("updates", "info", "triggers"):
        (admin / name).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (admin / name).touch()
    run(
        "dpkg",
        f"--root={root}",
        "--force-not-root",
        "--force-bad-path",
        f"--log={root / 'dpkg.log'}",
        "--install",
        package,
    )
