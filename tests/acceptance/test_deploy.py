"""The units, as systemd's own tools judge them; and the installation, into a directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("wpp-sync.service", "wpp-sync@.service")

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True,
        env={**os.environ, **environ}, timeout=110,
    )  # fmt: skip


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    program = tmp_path / "wpp-sync"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "systemd" / unit).read_text()
    copy = tmp_path / unit.replace("@", "@north")
    copy.write_text(text.replace("/opt/wpp-sync/bin/wpp-sync", str(program)))
    done = run("systemd-analyze", "verify", copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@analyze
@pytest.mark.parametrize("unit", UNITS)
def test_the_service_is_shut_in(unit: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", DEPLOY / "systemd" / unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.5


def directives(unit: str) -> list[str]:
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_template_is_the_same_service_for_each_of_several_daemons() -> None:
    """What differs is where things are."""
    one, many = (directives(unit) for unit in UNITS)
    assert len(one) == len(many)
    differing = {
        line.partition("=")[0] for line, other in zip(one, many, strict=True) if line != other
    }
    assert differing == {
        "Description", "ExecStart", "ExecReload", "User", "RuntimeDirectory", "LoadCredential",
    }  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_every_hardening_line_has_a_reason(unit: str) -> None:
    """A comment stands above it, or above the group that it belongs to."""
    text = (DEPLOY / "systemd" / unit).read_text()
    hardening = text.partition("# What it may touch.")[2].partition("[Install]")[0]
    for group in re.split(r"\n(?=#)", hardening)[1:]:
        settings = [line for line in group.splitlines() if "=" in line and not line.startswith("#")]
        assert len(settings) <= 6, group


def test_install_and_uninstall(tmp_path: Path) -> None:
    there = tmp_path / "root"
    environ = {"DESTDIR": str(there), "PREFIX": "/opt/wpp-sync"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):  # the second time is an upgrade
        done = run(DEPLOY / "install", **environ, PATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
        config = there / "etc/wpp-sync/config.yaml"
        assert config.stat().st_mode & 0o777 == 0o640
        config.write_text("# mine\n")
        said = run(there / "opt/wpp-sync/bin/python3", "-m", "daemon.cli", "version")
        assert said.stdout.startswith("wpp-sync ")
    assert config.read_text() == "# mine\n", "an upgrade leaves the configuration alone"
    script = (there / "opt/wpp-sync/bin/wpp-sync").read_text()
    assert script.startswith("#!/opt/wpp-sync/bin/python")
    unit = (there / "usr/lib/systemd/system/wpp-sync.service").read_text()
    assert "ExecStart=/opt/wpp-sync/bin/wpp-sync run" in unit
    docs = there / "usr/share/doc/wpp-sync"
    assert (docs / "alerts.md").exists()
    installed = {path.name for path in (docs / "prometheus").iterdir()}
    assert installed == {"scrape.yml", "rules.yml", "alerts.yml"}
    completions = there / "usr/share/bash-completion/completions/wpp-sync"
    assert "_WPP_SYNC_COMPLETE" in completions.read_text()
    dashboard = there / "usr/share/doc/wpp-sync/wpp-sync.json"
    assert dashboard.read_text() == (DEPLOY / "grafana/wpp-sync.json").read_text()
    done = run(DEPLOY / "install", "--uninstall", **environ)
    assert done.returncode == 0, done.stderr
    left = [path for path in there.rglob("*") if path.is_file() or path.is_symlink()]
    assert left == [config]
    wrong = run(DEPLOY / "install", "--what", **environ)
    assert (wrong.returncode, "usage" in wrong.stderr) == (2, True)
