"""What a changed configuration changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daemon import config, reload
from daemon.config import Config

BASE: dict[str, Any] = {
    "central": {"database": "wpp", "user": "u"},
    "defaults": {"user": "u", "database": "wpp_{instance}"},
    "instances": {"a": {}, "b": {"poll_interval": "5s"}, "off": {"enabled": False}},
}


def read(tmp_path: Path, **changes: Any) -> Config:
    """A configuration that differs from BASE by whole sections."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}, sort_keys=False))
    return config.load(path, {})


def test_an_equal_file_changes_nothing(tmp_path: Path) -> None:
    found = reload.compare(read(tmp_path), read(tmp_path))
    assert (found.added, found.removed, found.changed, found.kept) == ((), (), (), ("a", "b"))
    told = (found.central, found.foundation, found.control, found.http, found.log)
    assert not any(told)


@pytest.mark.parametrize(
    ("instances", "added", "removed", "changed", "kept"),
    [
        ({"a": {}}, "", "b", "", "a"),
        ({"a": {}, "b": {"poll_interval": "5s"}, "off": {}}, "off", "", "", "ab"),
        ({"b": {"poll_interval": "5s"}, "a": {}, "c": {}}, "c", "", "", "ba"),
        ({"a": {"enabled": False}, "b": {}}, "", "a", "b", ""),
        ({"a": {"password": "x"}, "b": {"poll_interval": "5000ms"}}, "", "", "a", "b"),
        ({"a": {"entities": {"contacts": {"enabled": False}}}}, "", "b", "a", ""),
    ],
)
def test_instances_are_compared_one_by_one(
    tmp_path: Path, instances: dict[str, Any], added: str, removed: str, changed: str, kept: str
) -> None:
    found = reload.compare(read(tmp_path), read(tmp_path, instances=instances))
    assert "".join(found.added) == added
    assert "".join(found.removed) == removed
    assert "".join(found.changed) == changed
    assert "".join(found.kept) == kept


@pytest.mark.parametrize(
    "changes",
    [
        {"central": {"database": "other", "user": "u"}},
        {"central": {"database": "wpp", "user": "u", "password": "rotated"}},
        {"sync": {"batch_rows": 17}},
        {"sync": {"settle": "exact"}},
        {"migrations": {"lock_wait_timeout": "3s"}},
    ],
)
def test_what_all_rest_on_begins_all_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = reload.compare(read(tmp_path), read(tmp_path, **changes))
    assert found.foundation
    assert found.central == ("central" in changes)
    assert (found.changed, found.kept) == (("a", "b"), ())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"sync": {"shutdown_timeout": "3s"}}, ""),
        ({"sync": {"max_rows_per_second": 100}}, ""),
        ({"sync": {"max_threads_running": 100, "max_replica_lag": None}}, ""),
        ({"signals": {"sighup_reset": "none"}}, ""),
        ({"log": {"level": "debug"}}, "log"),
        ({"http": {"listen": None}}, "http"),
        ({"control": {"mode": "0600"}}, "control"),
    ],
)
def test_what_is_the_process_s_own_touches_no_instance(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    found = reload.compare(read(tmp_path), read(tmp_path, **changes))
    assert found.kept == ("a", "b")
    assert [name for name in ("control", "http", "log") if getattr(found, name)] == what.split()


names = st.sets(st.sampled_from("abcdef"))


@given(old=names, new=names, other=names)
def test_every_instance_is_in_exactly_one_list(
    tmp_path_factory: pytest.TempPathFactory, old: set[str], new: set[str], other: set[str]
) -> None:
    path = tmp_path_factory.mktemp("reload")
    zed: dict[str, Any] = {"z": {}}
    before = read(path, instances=zed | {name: {} for name in sorted(old)})
    settings = {name: {"poll_interval": "3s"} if name in other else {} for name in sorted(new)}
    found = reload.compare(before, read(path, instances=zed | settings))
    assert set(found.added) == new - old
    assert set(found.removed) == old - new
    assert set(found.changed) == old & new & other
    assert set(found.kept) == (old & new - other) | {"z"}
