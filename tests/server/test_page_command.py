# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m synapse_msc3881 page`, and what `check` says of the page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from synapse_msc3881.page.export import ExportError
from synapse_msc3881.page.export import export as write
from synapse_msc3881.page.files import PATH, Page, load_page
from tests.conftest import FreshDeployment
from tests.harness.admin import Answer, command_here
from tests.harness.deployment import Deployment

HOMESERVER = "https://matrix.example.org"


def export(directory: Path, *arguments: str) -> Answer:
    return command_here(
        "page", "--to", directory, "--homeserver", HOMESERVER, "--no-oauth", *arguments
    )


def contents(directory: Path) -> Mapping[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


# --- Writing ------------------------------------------------------------------------------------


def test_all_files_are_written_with_what_their_server_has_to_send(tmp_path: Path) -> None:
    to = tmp_path / "www" / "notifications"
    answer = export(to)
    assert answer.status == 0, answer.output
    written = contents(to)
    index = written["index.html"].decode()
    links = re.findall(r'(?:href|src)="([^"]+)"', index)
    assert len(links) >= 3
    assert set(links) <= set(written)
    assert '<meta name="homeserver" content="https://matrix.example.org/">' in index
    policy = index.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "connect-src 'self' https://matrix.example.org;" in policy
    assert "frame-ancestors" not in policy  # A document cannot say that.
    headers = written["headers.txt"].decode()
    assert policy.replace("; require", "; frame-ancestors 'none'; require") in headers
    assert "X-Content-Type-Options: nosniff" in headers


def test_an_oauth_server_gets_into_the_policy(tmp_path: Path) -> None:
    answer = command_here(
        "page", "--to", tmp_path, "--homeserver", HOMESERVER,
        "--oauth", "https://auth.example.org/oauth2/token",
    )  # fmt: skip
    assert answer.status == 0, answer.output
    index = (tmp_path / "index.html").read_text()
    assert "connect-src 'self' https://auth.example.org https://matrix.example.org;" in index
    assert '<meta name="oauth" content="yes">' in index


def test_the_homeserver_is_asked_unless_told_not_to(deployment: Deployment, tmp_path: Path) -> None:
    homeserver = deployment.homeserver.base_url
    answer = command_here("page", "--to", tmp_path / "a", "--homeserver", homeserver)
    assert answer.status == 0, answer.output
    assert "Users sign in there." in answer.output
    nowhere = command_here("page", "--to", tmp_path / "b", "--homeserver", "http://127.0.0.1:1")
    assert nowhere.status == 1
    assert "--no-oauth" in nowhere.errors
    assert not (tmp_path / "b").exists()


def test_again_changes_nothing_and_a_new_version_replaces_the_old(tmp_path: Path) -> None:
    export(tmp_path)
    before = contents(tmp_path)
    assert export(tmp_path).status == 0
    assert contents(tmp_path) == before

    page = load_page()
    newer = {f"fedcba987654/{path.partition('/')[2]}": file for path, file in page.assets.items()}
    write(Page(page.index, newer), tmp_path, {})
    assert {path.partition("/")[0] for path in contents(tmp_path)} == {
        "fedcba987654", "index.html", "index.html.gz", "headers.txt", "synapse_msc3881.json",
    }  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".new")]


# --- Refusing -----------------------------------------------------------------------------------


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    answer = export(tmp_path)
    assert answer.status == 1
    assert "are not ours" in answer.errors
    assert contents(tmp_path) == {"index.html": b"mine"}


def test_a_changed_file_is_left_alone(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "headers.txt").write_text("mine")
    before = contents(tmp_path)
    answer = export(tmp_path)
    assert answer.status == 1
    assert "headers.txt was changed" in answer.errors
    assert contents(tmp_path) == before


def test_who_was_interrupted_can_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path)
    native = Path.replace
    left = [3]

    def replace(file: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("the disk is full")
        return native(file, target)

    page = load_page("https://other.example.org/")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(OSError, match="disk is full"):
            write(page, tmp_path, {"X-Other": "header"})
    write(page, tmp_path, {"X-Other": "header"})
    assert (tmp_path / "index.html").read_bytes() == page.index.body
    assert "X-Other" in (tmp_path / "headers.txt").read_text()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    to = tmp_path / "www"
    export(to)
    (to / "index.html").unlink()
    (to / "index.html").symlink_to(target)
    assert export(to).status == 1
    assert target.read_text() == "mine"


def test_a_directory_in_it_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    to = tmp_path / "www"
    export(to)
    [version] = [place for place in to.iterdir() if place.is_dir()]
    version.rename(elsewhere)
    version.symlink_to(elsewhere)
    before = contents(elsewhere)
    newer = {
        f"fedcba987654/{path.partition('/')[2]}": one for path, one in load_page().assets.items()
    }
    for page in (load_page(), Page(load_page().index, newer)):
        with pytest.raises(ExportError, match=f"{version.name} is a link"):
            write(page, to, {})
    assert contents(elsewhere) == before


@pytest.mark.parametrize("name", ["index.html.new", "synapse_msc3881.json.new"])
def test_an_unfinished_file_that_is_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    to = tmp_path / "www"
    export(to)
    target = tmp_path / "target"
    target.write_text("mine")
    (to / name).symlink_to(target)
    answer = export(to)
    assert answer.status == 1
    assert "is a link" in answer.errors
    assert target.read_text() == "mine"


@pytest.mark.parametrize("path", ["../outside", "/etc/outside"])
def test_a_list_that_names_what_is_outside_is_refused(tmp_path: Path, path: str) -> None:
    to = tmp_path / "www"
    export(to)
    manifest = to / "synapse_msc3881.json"
    listed = json.loads(manifest.read_text())
    listed["files"][path] = "0"
    manifest.write_text(json.dumps(listed))
    (tmp_path / "outside").write_text("mine")
    answer = export(to)
    assert answer.status == 1
    assert "outside of its directory" in answer.errors
    assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize(
    "homeserver", ["matrix.example.org", "ftp://example.org", "https://example.org/?x", "https://"]
)
def test_what_is_no_url_is_wrong_usage(tmp_path: Path, homeserver: str) -> None:
    answer = command_here("page", "--to", tmp_path, "--homeserver", homeserver)
    assert answer.status == 2
    assert "no URL of a homeserver" in answer.errors


# --- check --------------------------------------------------------------------------------------


@pytest.mark.one_deployment
def test_check_tells_where_the_page_is_served(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment(module_config={"page": {"enabled": True}})
    homeserver = deployment.homeserver
    answer = command_here("check", "--json", "-c", homeserver.config_file)
    (process,) = answer.json["processes"]
    assert process["page"] == [f"port {homeserver.port}"]
    assert process["page_url"] == homeserver.base_url + PATH
    shown = command_here("check", "-c", homeserver.config_file).output
    assert f"  {homeserver.base_url}{PATH}\n" in shown
    assert f"  served by main at port {homeserver.port}" in shown


def test_check_tells_that_it_is_not(deployment: Deployment) -> None:
    shown = command_here("check", "-c", deployment.homeserver.config_file).output
    assert "is not served: `page.enabled` of the module is not true" in shown
