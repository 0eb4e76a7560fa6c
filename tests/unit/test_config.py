# SPDX-License-Identifier: AGPL-3.0-or-later
"""The options in homeserver.yaml (specification 7)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synapse.module_api.errors import ConfigError

from synapse_msc3881 import PusherControl
from synapse_msc3881.config import Config, Limits, Page, parse_config

DEFAULT = Config(
    keep_omitted=False, limits=Limits(profile_tags_per_pusher=10, device_scopes_per_user=20)
)


@pytest.mark.parametrize(
    "raw",
    [None, {}, {"limits": None}, {"limits": {}}, {"page": None}, {"page": {"enabled": False}}],
    ids=repr,
)
def test_all_options_are_optional(raw: object) -> None:
    assert parse_config(raw) == DEFAULT


def test_all_options_are_read() -> None:
    limits = {"profile_tags_per_pusher": 1, "device_scopes_per_user": 1000}
    config = parse_config({"keep_omitted": True, "page": {"enabled": True}, "limits": limits})
    assert config == Config(
        keep_omitted=True,
        page=Page(enabled=True),
        limits=Limits(profile_tags_per_pusher=1, device_scopes_per_user=1000),
    )


def test_where_the_page_is_on_what_is_omitted_is_kept_unless_told_otherwise() -> None:
    page = {"enabled": True}
    assert parse_config({"page": page}).keep_omitted is True
    assert parse_config({"page": page, "keep_omitted": False}).keep_omitted is False
    assert parse_config({"page": {"enabled": False}}).keep_omitted is False


@pytest.mark.parametrize("limit", ["profile_tags_per_pusher", "device_scopes_per_user"])
def test_one_limit_leaves_the_other(limit: str) -> None:
    limits = parse_config({"limits": {limit: 3}}).limits
    assert getattr(limits, limit) == 3
    assert limits != DEFAULT.limits


@pytest.mark.parametrize(
    ("raw", "path", "problem"),
    [
        ("yes", (), "mapping"),
        ([], (), "mapping"),
        (False, (), "mapping"),
        ({"keep_omited": True}, ("keep_omited",), "unknown option 'keep_omited'"),
        ({1: 2}, ("1",), "unknown option 1"),
        ({"keep_omitted": "true"}, ("keep_omitted",), "'true'"),
        ({"keep_omitted": 1}, ("keep_omitted",), "true or false"),
        ({"keep_omitted": None}, ("keep_omitted",), "true or false"),
        ({"page": True}, ("page",), "mapping"),
        ({"page": {"enable": True}}, ("page", "enable"), "unknown option 'enable'"),
        ({"page": {"enabled": "yes"}}, ("page", "enabled"), "'yes'"),
        ({"page": {"enabled": None}}, ("page", "enabled"), "true or false"),
        ({"limits": 5}, ("limits",), "mapping"),
        ({"limits": []}, ("limits",), "mapping"),
        ({"limits": {"tags": 1}}, ("limits", "tags"), "unknown option 'tags'"),
        *(
            ({"limits": {name: value}}, ("limits", name), "at least 1")
            for name in ("profile_tags_per_pusher", "device_scopes_per_user")
            for value in (0, -1, 1.5, 10.0, "10", True, None, [1])
        ),
    ],
)
def test_a_bad_option_is_named_by_its_path(raw: Any, path: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_config(raw)
    assert caught.value.path is not None
    assert tuple(caught.value.path) == path


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda values: (
            st.lists(values)
            | st.dictionaries(
                st.sampled_from(
                    ["keep_omitted", "page", "enabled", "limits", "device_scopes_per_user"]
                )
                | st.text(),
                values,
            )
        ),
    )
)
def test_anything_at_all_is_a_config_or_a_config_error(raw: Any) -> None:
    try:
        config = PusherControl.parse_config(raw)
    except ConfigError:
        return
    assert isinstance(config, Config)
    assert config.limits.device_scopes_per_user >= 1
