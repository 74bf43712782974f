"""deploy/ and its documents under the real systemd: from the installation to the removal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.demo.central import schema
from tests.in_systemd import STEPS

ROOT = Path(__file__).resolve().parents[2]


def missing() -> str | None:
    """Why no systemd can be booted here; scripts/systemd brings it where it may."""
    if os.getuid() != 0:
        return "only root boots a system of its own"
    for program in ("systemd-nspawn", "systemctl", "unshare"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    probe = """mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir up work root
        && mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", probe.replace("\n", " ")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return None if done.returncode == 0 else f"no overlay can be mounted: {done.stderr.strip()}"


def fetch(wheels: Path, sources: Path) -> None:
    """What the installer's pip would fetch: there is no network in there."""
    built_with = re.search(r'requires = \["(.+)"\]', (ROOT / "pyproject.toml").read_text())
    assert built_with is not None
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--wheel-dir", str(wheels), str(sources), built_with[1]],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(400)
def test_as_documented_under_the_real_systemd(tmp_path: Path, long_run: bool) -> None:
    if reason := missing():
        pytest.skip(reason)
    given = tmp_path / "given"
    leave = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "bench")
    shutil.copytree(ROOT, given / "clone", ignore=leave)
    shutil.copytree(ROOT, tmp_path / "sources", ignore=leave)  # pip builds in it
    fetch(given / "wheels", tmp_path / "sources")
    (given / "central.sql").write_text(schema())
    shutil.copy(ROOT / "tests/in_systemd.py", given)
    words = ["/usr/bin/python3", "/given/in_systemd.py", "/given", *(["--long"] * long_run)]
    done = subprocess.run(
        ["unshare", "-m", "sh", str(ROOT / "tests/boot.sh"), str(tmp_path), *words],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("said", "journal"):
        if (given / name).exists():
            print((given / name).read_text()[-12000:])  # noqa: T201 - pytest shows it with a failure
    assert (given / "found.json").exists(), (tmp_path / "console").read_text()[-4000:]
    found = json.loads((given / "found.json").read_text())
    assert "".join(error for error in found.values() if error) == ""
    assert list(found) == [each.__name__ for each in STEPS]
