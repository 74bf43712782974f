"""The log: how it is written, and that docs/logs.md names every event that there is."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from daemon import log
from daemon.errors import WppSyncError, keep_secret, without_secrets
from daemon.repeats import Repeats

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error")
COMMON = {"event", "level", "timestamp", "repeated"}


class Logged(NamedTuple):
    """A place in the source where something is logged."""

    event: str
    level: str
    keys: frozenset[str]
    more: bool
    """There are keys that the source does not name (**…)."""

    where: str


def _is_logger(node: ast.expr) -> bool:
    return ast.unparse(node) in {"self._log", "events.get_logger()", "structlog.get_logger()"}


def _binds_instance(tree: ast.AST, call: ast.Call) -> bool:
    """The class around the call makes its logger with an instance."""
    return any(
        isinstance(each, ast.ClassDef)
        and each.lineno <= call.lineno <= (each.end_lineno or 0)
        and re.search(r"self\._log = events\.logger_of\(", ast.unparse(each))
        for each in ast.walk(tree)
    )


def _logged() -> Iterator[Logged]:
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        if path.is_relative_to(ROOT / "daemon" / "demo"):
            continue  # what it has is a file
        tree = ast.parse(path.read_text())
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if not _is_logger(call.func.value) or call.func.attr == "bind":
                continue
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            assert call.func.attr in LEVELS, f"{where}: {call.func.attr}"
            assert len(call.args) == 1, where
            assert isinstance(call.args[0], ast.Constant), f"{where}: an event is a fixed word"
            keys = {keyword.arg for keyword in call.keywords if keyword.arg}
            if _binds_instance(tree, call) and path.name != "log.py":
                keys.add("instance")
            more = any(keyword.arg is None for keyword in call.keywords)
            event = str(call.args[0].value)
            yield Logged(event, call.func.attr, frozenset(keys), more, where)


def _documented() -> dict[str, tuple[str, set[str]]]:
    """Level and keys by event, as the tables of docs/logs.md have them."""
    found: dict[str, tuple[str, set[str]]] = {}
    for line in (ROOT / "docs" / "logs.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            event = cells[0].strip("`")
            assert event not in found, f"{event} stands there twice"
            assert cells[3], f"{event} has no meaning"
            found[event] = (cells[1], set(re.findall("`([a-z_]+)`", cells[2])))
    return found


def test_the_page_names_every_event_with_its_level_and_keys() -> None:
    documented = _documented()
    logged = list(_logged())
    assert {each.event for each in logged} == documented.keys()
    for each in logged:
        level, keys = documented[each.event]
        assert each.level == level, each
        assert each.keys <= keys if each.more else each.keys == keys, (each, keys)


def test_an_event_is_a_short_word_and_what_is_said_of_it_is_of_one_form() -> None:
    for each in _logged():
        assert re.fullmatch("[a-z ]{1,24}", each.event), each
        assert not each.keys & COMMON, each
        if each.level == "error" and "error" in each.keys:
            assert {"code", "error", "hint"} <= each.keys, each
        assert not {key for key in each.keys if re.search("(_ms|_millis|minutes)$", key)}, each


def test_nothing_else_is_printed() -> None:
    """Where it runs as a daemon; ruff (T20) forbids print, the demo and the command line apart."""
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        if path.relative_to(ROOT / "daemon").parts[0] in {"cli", "demo", "show.py", "progress.py"}:
            continue
        assert not re.search(r"std(out|err)\.write|click\.echo", path.read_text()), path


def test_what_ends_and_what_answers_are_events() -> None:
    levels = {each.event: each.level for each in _logged()}
    for end, begun in log.ENDS.items():
        assert levels[end] == "info"
        assert levels[begun] in {"warning", "error"}
    for answer in log.ANSWERS:
        assert levels[answer] in {"warning", "error"}


def test_the_page_says_what_the_priorities_and_windows_are() -> None:
    text = (ROOT / "docs" / "logs.md").read_text()
    for word in ("`<3>`", "`<4>`", "`<6>`", "`<7>`", "60 s", "15 minutes"):
        assert word in text, word


# --- how it is written ----------------------------------------------------------------------------


class Log:
    """A logger set up anew, and what it wrote."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    @cached_property
    def logger(self) -> Any:
        """Made within the test: pytest's own standard error is another one in a fixture."""
        return structlog.get_logger().bind(instance="nunes")

    def text(self) -> str:
        sys.stderr.flush()
        return self._capfd.readouterr().err

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def fresh(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Log, list[float]]]:
    """A log whose clock is the number in the list; all is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    now = [0.0]
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(log._Now, "repeats", Repeats(lambda: now[0], log.ENDS))
    monkeypatch.setattr(log._Now, "style", log._Now.style)
    log.set_up("info", "json")
    yield Log(capfd), now
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers, root.level = before


def test_repeats_are_held_back_and_counted(fresh: tuple[Log, list[float]]) -> None:
    out, now = fresh
    for failures in range(1, 6):
        out.logger.error("pass failed", code="unreachable", error="gone", failures=failures)
        now[0] += 1
    out.logger.info("recovered", after_errors=5)
    first, end = out.events()
    assert (first["event"], first["failures"], first["level"]) == ("pass failed", 1, "error")
    assert (end["event"], end["after_errors"], end["repeated"]) == ("recovered", 5, 4)


def test_facts_and_answers_are_never_held_back(fresh: tuple[Log, list[float]]) -> None:
    out, _ = fresh
    for _ in range(3):
        out.logger.info("opened", server="10.11")
        out.logger.error("reload refused", code="config", error="no", hint="")
    assert len(out.events()) == 6


def test_what_was_asked_for_is_written_whatever_the_level_is(
    fresh: tuple[Log, list[float]],
) -> None:
    assert {each.event for each in _logged() if each.level == "info"} >= log.ASKED_FOR
    out, _ = fresh
    log.set_up("error", "json")
    out.logger.info("reloaded")
    out.logger.info("asked", path="/v1/reload", uid=1000)
    out.logger.info("status", state="idle")
    assert [event["event"] for event in out.events()] == ["asked", "status"]


def test_what_was_held_back_outlives_a_reload_of_the_log(fresh: tuple[Log, list[float]]) -> None:
    out, now = fresh
    logger = out.logger.bind()
    for _ in range(3):
        logger.warning("odd migrations", problem="one is gone")
    log.set_up("debug", "console")
    logger.warning("odd migrations", problem="one is gone")
    assert len(out.text().splitlines()) == 1
    log.set_up("info", "json")
    now[0] += 60
    log.tell_overdue()
    (told,) = out.events()
    assert told["repeated"] == 2, "besides the one that is told"
    assert told["timestamp"]
    logger.warning("odd migrations", problem="one is gone")
    now[0] += 900
    log.set_up("error", "json")
    log.tell_overdue()
    assert out.text() == "", "no warnings are wanted any more"


def test_libraries_repeat_themselves_too(fresh: tuple[Log, list[float]]) -> None:
    out, _ = fresh
    for _ in range(3):
        logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("asyncio").info("not ours")
    (told,) = out.events()
    assert (told["event"], told["level"], told["logger"]) == ("library", "warning", "asyncio")


def test_one_event_is_one_line_for_whoever_reads_lines(fresh: tuple[Log, list[float]]) -> None:
    out, _ = fresh
    hostile = "a\x85b\u2028c\u2029d\x7f\x1ce\nf"
    out.logger.info("opened", server=hostile)
    assert [event["server"] for event in out.events()] == [hostile]


def test_auto_is_json_where_no_terminal_is(fresh: tuple[Log, list[float]]) -> None:
    out, _ = fresh
    log.set_up("info", "auto")
    out.logger.info("opened", server="é\n\u2028")
    line, rest = out.text().split("\n")
    assert not rest
    assert json.loads(line)["server"] == "é\n\u2028"
    log.set_up("info", "console")
    out.logger.info("opened")
    assert "opened" in out.text()


def test_standard_error_is_the_journal_when_its_device_and_inode_are(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other, (tmp_path / "log").open("w") as file:
        for descriptor in (one.fileno(), file.fileno()):
            there = os.fstat(descriptor)
            told = {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
            assert log.is_journal(told, descriptor)
            assert not log.is_journal(told, other.fileno()), "redirected"
            assert not log.is_journal({}, descriptor)
        for odd in ("", ":", "1", "a:b", "8:1:1"):
            assert not log.is_journal({"JOURNAL_STREAM": odd}, file.fileno())
        closed = file.fileno()
    assert not log.is_journal({"JOURNAL_STREAM": "0:0"}, closed)


def test_each_line_for_the_journal_begins_with_its_priority(
    fresh: tuple[Log, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = fresh
    there = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
    log.set_up("debug", "auto")
    for level in LEVELS:
        getattr(out.logger, level)(f"a {level}", server="\u2028")
    lines = out.text().split("\n")[:-1]
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    assert [json.loads(line[3:])["level"] for line in lines] == list(LEVELS)
    log.set_up("debug", "console")
    out.logger.info("two\nlines")
    assert all(line.startswith("<6>") for line in out.text().splitlines())


# --- secrets --------------------------------------------------------------------------------------


def test_an_error_never_says_a_password_that_is_kept() -> None:
    secret = "n3ver 'say' \"this\" \\ %41 é\n"
    error = f"{secret} {secret!r} {json.dumps(secret)} {KeyError(secret)}"
    assert "n3ver" in str(WppSyncError(error)), "nobody has said that it is one"
    keep_secret(secret)
    told = WppSyncError(error, hint=secret)
    for text in (str(told), told.message, told.hint, repr(told), without_secrets(error)):
        assert "n3ver" not in text
        assert "this" not in text


def test_a_short_password_does_not_make_errors_unreadable() -> None:
    keep_secret("local")
    keep_secret("")
    assert str(WppSyncError("local nunes: gone")) == "local nunes: gone"
