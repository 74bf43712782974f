"""config.yaml: what it gives, and how everything that can be wrong with it is said.

Each problem is compared as the operator reads it: file, line, path, text.
"""

# ruff: noqa: E501 - a problem is one line, however long, and is compared as one

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from daemon import config
from daemon.config import (
    Central,
    Config,
    Control,
    Http,
    Instance,
    Log,
    Migrations,
    Server,
    Signals,
    Sync,
    Tls,
)
from daemon.entities import CATALOGUE, Derived, Entity
from daemon.errors import EXIT_USAGE, ConfigError

CENTRAL = "central: {database: wpp, user: reader}\n"
NUNES = "instances:\n  nunes: {database: wpp_nunes, user: writer}\n"
SHIPPED = Path(__file__).parents[2] / "config.yaml"
PASSWORDS = {
    "WPP_CENTRAL_PASSWORD": "secret-1",
    "WPP_NUNES_PASSWORD": "secret-2",
    "WPP_KARSTEN_PASSWORD": "secret-3",
}

Load = Callable[..., Config]
ProblemsOf = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a text; keyword arguments are the environment."""

    def loaded(text: str, **environ: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path, environ)

    return loaded


@pytest.fixture
def problems_of(load: Load, tmp_path: Path) -> ProblemsOf:
    """The problems of a text, with the file's directory left off."""

    def problems(text: str, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        assert caught.value.__cause__ is None
        return [line.removeprefix(f"{tmp_path}/") for line in caught.value.problems]

    return problems


# What a good file gives


def test_the_smallest_file_takes_every_default(load: Load, tmp_path: Path) -> None:
    loaded = load(CENTRAL + NUNES)
    assert loaded.central == Central(database="wpp", user="reader")
    assert loaded.instances["nunes"] == Instance(
        name="nunes", database="wpp_nunes", user="writer", entities=CATALOGUE
    )
    assert loaded.path == tmp_path / "config.yaml"
    assert (loaded.sync, loaded.migrations, loaded.control) == (Sync(), Migrations(), Control())
    assert (loaded.http, loaded.signals, loaded.log) == (Http(), Signals(), Log())


def test_the_models_are_frozen(load: Load) -> None:
    loaded = load(CENTRAL + NUNES)
    with pytest.raises(ValueError, match="frozen"):
        loaded.central.port = 1


def test_models_built_in_python_take_seconds_and_bytes() -> None:
    built = Sync(settle=5.0, batch_bytes=65536, backoff_max=0.1)
    assert (built.settle, built.batch_bytes, built.backoff_max) == (5.0, 65536, 0.1)
    assert Control(mode=0o600).mode == 0o600
    assert Server(database="d", user="u", password=SecretStr("x"), socket=Path("/s")).socket


def test_instances_stay_in_the_order_of_the_file(load: Load) -> None:
    names = ["zeta", "alpha", "Nunes", "nunes", "Núnes", "with blank", "123"]
    lines = "".join(f"  {name!r}: {{database: d{n}}}\n" for n, name in enumerate(names))
    loaded = load(f"{CENTRAL}defaults: {{user: u}}\ninstances:\n{lines}")
    assert list(loaded.instances) == names
    assert [instance.name for instance in loaded.instances.values()] == names


def test_names_that_look_alike_in_two_encodings_of_unicode_are_two(load: Load) -> None:
    composed, decomposed = "N\u00fanes", "Nu\u0301nes"
    loaded = load(
        f"{CENTRAL}defaults: {{user: u}}\n"
        f"instances: {{{composed}: {{database: a}}, {decomposed}: {{database: b}}}}"
    )
    assert set(loaded.instances) == {composed, decomposed}


def test_defaults_are_merged_deeply_under_an_instance(load: Load, tmp_path: Path) -> None:
    for name in ("ca.pem", "other.pem"):
        (tmp_path / name).touch()
    loaded = load(
        CENTRAL + "defaults:\n"
        "  user: u\n"
        "  port: 3307\n"
        "  poll_interval: 500ms\n"
        "  tls: {ca: ca.pem, verify: false}\n"
        "instances:\n"
        "  a: {database: a, tls: {ca: other.pem}}\n"
        "  b: {database: b, tls: null, port: 3308}\n"
    )
    a, b = loaded.instances.values()
    assert a.tls == Tls(ca=tmp_path / "other.pem", verify=False)
    assert (a.port, a.poll_interval) == (3307, 0.5)
    assert (b.tls, b.port) == (None, 3308)


def test_an_instance_may_be_null_and_its_name_fills_the_defaults(load: Load) -> None:
    loaded = load(
        CENTRAL + "defaults:\n"
        "  {user: 'w_{instance}', database: 'wpp_{instance}', password: '${P:-{instance}-pw}'}\n"
        "instances: {nunes: , karsten: {user: 'x{instance}'}}"
    )
    nunes, karsten = loaded.instances.values()
    assert (nunes.database, nunes.user) == ("wpp_nunes", "w_nunes")
    assert nunes.password.get_secret_value() == "nunes-pw"
    assert karsten.user == "x{instance}", "only in defaults"


def test_sections_with_all_their_lines_commented_out_are_defaults(load: Load) -> None:
    loaded = load(f"{CENTRAL}{NUNES}sync:\ncontrol:\nentities:\ndefaults:\nlog: {{}}\n")
    assert loaded.sync == Sync()


def test_what_an_instance_says_in_another_way_sets_the_default_aside(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text("from file")
    loaded = load(
        CENTRAL + "defaults: {user: u, database: 'd_{instance}', password_file: pw, socket: /s}\n"
        "instances: {a: {host: db2, password: own}, b: }"
    )
    a, b = loaded.instances.values()
    assert (a.host, a.socket, a.password.get_secret_value()) == ("db2", None, "own")
    assert (b.socket, b.password.get_secret_value()) == (Path("/s"), "from file")


def test_anchors_and_merge_keys_work(load: Load) -> None:
    loaded = load(
        "central: &server {database: wpp, user: u, port: 3307}\n"
        "instances:\n  a: &a\n    <<: *server\n    database: a\n"
        "  b: {<<: [{database: b}, *a], port: 1}\n"
    )
    a, b = loaded.instances.values()
    assert (a.port, a.database, b.port, b.database, b.user) == (3307, "a", 1, "b", "u")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1), ("1.5s", 1.5), ("5m", 300), ("1h", 3600), ("8760h", 31536000)],
)
def test_durations(load: Load, text: str, seconds: float) -> None:
    assert load(f"{CENTRAL}{NUNES}sync: {{backoff_max: {text}}}").sync.backoff_max == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("65536B", 65536), ("64KiB", 65536), ("4MiB", 4194304), ("1GiB", 1 << 30)]
)
def test_sizes(load: Load, text: str, size: int) -> None:
    assert load(f"{CENTRAL}{NUNES}sync: {{batch_bytes: {text}}}").sync.batch_bytes == size


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:9188", "127.0.0.1", 9188),
        ("'[::1]:0'", "::1", 0),
        ("'[::]:65535'", "::", 65535),
        ("metrics-1.example.net:80", "metrics-1.example.net", 80),
    ],
)
def test_listen(load: Load, listen: str, host: str, port: int) -> None:
    http = load(f"{CENTRAL}{NUNES}http: {{listen: {listen}}}").http
    assert (http.host, http.port) == (host, port)


def test_control_and_http_can_be_switched_off(load: Load) -> None:
    loaded = load(f"{CENTRAL}{NUNES}http: {{listen: null}}\ncontrol: {{socket: null}}")
    assert (loaded.http.listen, loaded.control.socket) == (None, None)
    with pytest.raises(ValueError, match="empty"):
        assert loaded.http.port


def test_relative_paths_start_at_the_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("ca", "cert", "key"):
        (tmp_path / "sub" / name).touch()
    (tmp_path / "sub" / "pw").write_text("p\n\n")
    loaded = load(
        "central: {database: d, user: u, password_file: sub/pw, socket: my.sock,\n"
        "  tls: {ca: sub/ca, cert: sub/cert, key: sub/key}}\n"
        f"migrations: {{directory: sub}}\n{NUNES}"
    )
    assert loaded.central.password.get_secret_value() == "p\n", "one newline only"
    assert loaded.central.socket == tmp_path / "my.sock"
    assert loaded.central.tls is not None
    assert loaded.central.tls.key == tmp_path / "sub" / "key"
    assert loaded.migrations.directory == tmp_path / "sub"


def test_mode_and_signals(load: Load) -> None:
    loaded = load(
        f"{CENTRAL}{NUNES}control: {{mode: '0600', group: ops}}\n"
        "signals: {sighup_reset: [messages, chats]}"
    )
    assert (loaded.control.mode, loaded.control.group) == (0o600, "ops")
    assert loaded.signals.sighup_reset == ("messages", "chats")


# Variables


def test_variables_are_filled_in(load: Load) -> None:
    loaded = load(
        "central: {database: '${DB}', user: 'a${U}b$${U}', port: '${PORT}', host: '${H:-h}'}\n"
        "instances: {nunes: {database: $x, user: '${E:-}-${Q:-a:-b}', enabled: '${ON}'}}",
        DB="wpp",
        U="${DB}",
        PORT="3307",
        ON="no",
        E="",
    )
    assert (loaded.central.database, loaded.central.user) == ("wpp", "a${DB}b${U}")
    assert (loaded.central.port, loaded.central.host) == (3307, "h")
    nunes = loaded.instances["nunes"]
    assert (nunes.database, nunes.user, nunes.enabled) == ("$x", "-a:-b", False)


@given(value=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_variable_never_injects_yaml(load: Load, value: str) -> None:
    text = "central: {database: d, user: u, password: '${P}'}\n" + NUNES
    assert load(text, P=value).central.password.get_secret_value() == value


def test_a_missing_variable_is_named_with_its_path(problems_of: ProblemsOf) -> None:
    assert problems_of(CENTRAL + "instances:\n  a:\n    user: u\n    database: x${NOPE}") == [
        "config.yaml:5: instances.a.database: the environment variable NOPE is not set"
    ]


def test_a_malformed_variable_is_a_problem_that_shows_no_value(problems_of: ProblemsOf) -> None:
    text = "central: {database: d, user: u, password: 'hunter${2'}\n"
    assert problems_of(text + NUNES) == [
        "config.yaml:1: central.password: holds a ${ that is neither ${VAR} nor ${VAR:-default} "
        "(write $${ for a literal ${)"
    ]


@pytest.mark.parametrize("value", ["\udcff", "long enough to be a secret \udcff"])
def test_a_variable_that_is_not_utf8_is_a_problem(problems_of: ProblemsOf, value: str) -> None:
    text = "central: {database: d, user: u, password: '${P}'}\n"
    assert problems_of(text + NUNES, P=value) == [
        "config.yaml:1: central.password: the environment variable P is not UTF-8 text"
    ]


def test_what_came_from_the_environment_is_shown_as_it_was_written(
    problems_of: ProblemsOf,
) -> None:
    text = "central: {database: d, user: u, port: '${PORT}'}\n"
    assert problems_of(text + NUNES, PORT="hunter2") == [
        "config.yaml:1: central.port: '${PORT}' is not a whole number"
    ]


# Problems: one line each, all at once

ONE_PROBLEM = [
    # unknown keys
    ("centrl: 1", "centrl: unknown key (did you mean central?)"),
    ("frobnicate: {a: 1}", "frobnicate: unknown key"),
    ("sync: {batch_row: 5}", "sync.batch_row: unknown key (did you mean batch_rows?)"),
    ("defaults: {pasword_file: x}", "defaults.pasword_file: unknown key (did you mean password_file?)"),
    ("defaults: {name: x}", "defaults.name: unknown key"),
    ("defaults: {tls: {verfy: no}}", "defaults.tls.verfy: unknown key (did you mean verify?)"),
    ("entities: {messages: {wher: x}}", "entities.messages.wher: unknown key (did you mean where?)"),
    # keys that are not text
    ("123: 1", 'the key 123 is read as a number: quote it ("123")'),
    ("on: 1", 'the key on is read as a boolean: quote it ("on")'),
    ("~: 1", 'the key ~ is read as null: quote it ("~")'),
    ("? [a]\n: 1", "a key must be a text, not a list or a mapping"),
    # shapes
    ("sync: [1]", "sync: must be a mapping (key: value lines)"),
    ("sync: 5", "sync: must be a mapping (key: value lines)"),
    ("defaults: {tls: on}", "defaults.tls: must be a mapping (key: value lines)"),
    ("log: !x {}", "log: has a tag (!…), which is not supported"),
    ("log: {level: !x info}", "log.level: has a tag (!…), which is not supported; quote a text that begins with !"),
    ("log: {level: !!int x}", "log.level: cannot be read as a number"),
    ('log: {level: "\\ud800"}', "log.level: is not valid Unicode"),
    # numbers, texts, choices
    ("defaults: {port: 0}", "defaults.port: 0 is less than 1"),
    ("defaults: {port: 65536}", "defaults.port: 65536 is more than 65535"),
    ("defaults: {port: true}", "defaults.port: true is not a whole number"),
    ("defaults: {port: many}", "defaults.port: 'many' is not a whole number"),
    ("defaults: {host: ''}", "defaults.host: must not be empty"),
    ("defaults: {host: null}", "defaults.host: null is not text (put it in quotes)"),
    ('defaults: {user: "a\\0"}', "defaults.user: must not contain control characters"),
    ("defaults: {database: 5}", "defaults.database: 5 is not text (put it in quotes)"),
    (f"defaults: {{database: {'d' * 65}}}", f"defaults.database: '{'d' * 58}… is longer than 64 characters"),
    ("defaults: {enabled: maybe}", "defaults.enabled: 'maybe' is not true or false"),
    ("sync: {batch_rows: 0}", "sync.batch_rows: 0 is less than 1"),
    ("sync: {batch_rows: 100001}", "sync.batch_rows: 100001 is more than 100000"),
    ("log: {level: loud}", "log.level: 'loud' is not 'debug', 'info', 'warning' or 'error'"),
    # durations and sizes
    ("defaults: {poll_interval: soon}", "defaults.poll_interval: 'soon' is not a duration (write 500ms, 1s, 5m or 1h)"),
    ("defaults: {poll_interval: 1}", "defaults.poll_interval: 1 is not a duration: write 1s, not 1"),
    ("defaults: {poll_interval: -1}", "defaults.poll_interval: -1 is not a duration: write 1s, not 1"),
    ("defaults: {poll_interval: -1s}", "defaults.poll_interval: '-1s' is not a duration (write 500ms, 1s, 5m or 1h)"),
    ("defaults: {poll_interval: 49ms}", "defaults.poll_interval: '49ms' is less than 50ms"),
    ("sync: {backoff_max: 0s}", "sync.backoff_max: '0s' is not a duration: it must be more than zero"),
    ("sync: {backoff_max: 8761h}", "sync.backoff_max: '8761h' is more than 8760h (one year)"),
    ("sync: {settle: 500ms}", "sync.settle: '500ms' is less than 1s"),
    ("sync: {settle: always}", "sync.settle: 'always' is not a duration (write 500ms, 1s, 5m or 1h), and neither auto nor exact"),
    ("sync: {batch_bytes: 4MB}", "sync.batch_bytes: '4MB' is not a size (write 65536B, 64KiB, 4MiB or 1GiB)"),
    ("sync: {batch_bytes: 4096}", "sync.batch_bytes: 4096 is not a size: write 4096B, or use KiB, MiB, GiB"),
    ("sync: {batch_bytes: 0B}", "sync.batch_bytes: '0B' is less than 64KiB"),
    ("sync: {batch_bytes: 2GiB}", "sync.batch_bytes: '2GiB' is more than 1GiB"),
    # control, http, signals
    ("control: {socket: run/c.sock}", "control.socket: 'run/c.sock' is not an absolute path"),
    (f"control: {{socket: /{'x' * 107}}}", f"control.socket: '/{'x' * 57}… is longer than the 107 bytes that a socket's path may have"),
    ("control: {mode: 0660}", 'control.mode: 0660 is not a mode: write an octal number in quotes, such as "0660"'),
    ("control: {mode: '0888'}", "control.mode: '0888' is not a mode: write an octal number in quotes, such as \"0660\""),
    ("control: {mode: '0666'}", "control.mode: '0666' is writable for everyone: whoever reaches the socket can reset instances"),
    ("http: {listen: 9188}", "http.listen: 9188 is not text (put it in quotes)"),
    ("http: {listen: localhost}", "http.listen: 'localhost' is not an address and a port (write 127.0.0.1:9188 or [::1]:9188)"),
    ("http: {listen: 'h:65536'}", "http.listen: 'h:65536' is not an address and a port (write 127.0.0.1:9188 or [::1]:9188)"),
    ("http: {listen: ':80'}", "http.listen: ':80' is not complete: for every address write 0.0.0.0:port or [::]:port"),
    ("http: {listen: '::1:80'}", "http.listen: '::1:80' is not an address and a port (an IPv6 address needs brackets)"),
    ("http: {listen: '[h]:80'}", "http.listen: '[h]:80' is not an address: no IPv6 address stands in the brackets"),
    ("http: {listen: 'a b:80'}", "http.listen: 'a b:80' is not an address and a port: the host is no name and no address"),
    ("signals: {sighup_reset: messages}", "signals.sighup_reset: 'messages' is not all, none, or a list of entities such as [messages, chats]"),
    ("signals: {sighup_reset: [mesages]}", "signals.sighup_reset.0: 'mesages' is not an entity (did you mean messages?)"),
    # comparisons
    ("sync: {reconcile_interval: 1}", "sync.reconcile_interval: 1 is not a duration: write 1s, not 1"),
    ("sync: {hot_interval: 500ms}", "sync.hot_interval: '500ms' is less than 1s"),
    ("sync: {reconcile_rows_per_second: 10}", "sync.reconcile_rows_per_second: 10 is less than 1000"),
    ("entities: {contacts: {interval: 60}}", "entities.contacts.interval: 60 is not a duration: write 60s, not 60"),
    ("entities: {contacts: {hot: is_deleted = 0}}", "entities.contacts.hot: 'is_deleted = 0' is for incremental entities: a whole one has its interval"),
    ("entities: {contacts: {encode: {name: base64}}}", "entities.contacts.encode.name: 'base64' is not 'uri_component'"),
    ("entities: {contacts: {key: [a, b, c]}}", "entities.contacts.key: must be one column or two (whole)"),
    ("entities: {contact_sectors: {instance_column: instance}}", "entities.contact_sectors.through: and instance_column: one of them says who owns a row"),
    ("entities: {messages: {hot: 'a) OR (b'}}", "entities.messages.hot: 'a) OR (b' has parentheses that do not match"),
    # files
    ("migrations: {directory: nope}", "migrations.directory: 'nope' cannot be read: No such file or directory (looked in TMP)"),
    ("migrations: {directory: /dev/null}", "migrations.directory: '/dev/null' cannot be read: Not a directory"),
    ("defaults: {tls: {ca: /nope}}", "defaults.tls.ca: '/nope' cannot be read: No such file or directory"),
    ("defaults: {tls: {ca: /}}", "defaults.tls.ca: '/' is not a file"),
    ("defaults: {tls: {cert: config.yaml}}", "defaults.tls: cert and key only go together"),
    ("defaults: {password_file: nope}", "defaults.password_file: cannot be read: No such file or directory (looked in TMP)"),
    ("defaults: {password_file: /}", "defaults.password_file: '/' cannot be read: Is a directory"),
    ("defaults: {password_file: 5}", "defaults.password_file: is not the path of a file"),
    ("defaults: {password_file: /dev/zero}", "defaults.password_file: '/dev/zero' cannot be read: it is no regular file"),
    ("defaults: {password: x, password_file: config.yaml}", "defaults.password_file: give password or password_file, not both"),
    # entities
    ("entities: {chats: null}", "entities.chats: must be a mapping (key: value lines); to switch it off: {enabled: false}"),
    ("entities: {chats: {motion: up}}", "entities.chats.motion: 'up' is not 'incremental' or 'whole'"),
    ("entities: {chats: {key: [a, b]}}", "entities.chats.key: must be one column (incremental)"),
    ("entities: {contacts: {key: []}}", "entities.contacts.key: must be one column or two (whole)"),
    ("entities: {contacts: {key: 5}}", "entities.contacts.key: 5 is not a list"),
    ("entities: {contacts: {key: ['']}}", "entities.contacts.key.0: must not be empty"),
    ("entities: {contact_sectors: {motion: incremental}}", "entities.contact_sectors.key: must be one column (incremental)"),
    ("entities: {contacts: {instance_column: null}}", "entities.contacts.instance_column: must not be null: rows need an owner"),
    ("entities: {contacts: {columns: [a]}}", "entities.contacts.columns: must be a mapping (key: value lines)"),
    ("entities: {contacts: {columns: {a: ''}}}", "entities.contacts.columns.a: must not be empty"),
    ("entities: {contacts: {where: ' '}}", "entities.contacts.where: must not be empty: leave it out to copy every row"),
    ("entities: {contacts: {local: wpp_chats}}", "entities.contacts.local: 'wpp_chats' is the local table of chats and contacts: one of them only"),
    ("entities: {mesages: {enabled: false}}", "entities.mesages: no such entity (did you mean messages?); a new one needs central, local, motion and key"),
    ("entities: {notes: {central: a, local: b, key: id}}", "entities.notes.motion: is missing"),
    ("entities: {Notes: {central: a}}", "entities.Notes: an entity's name is a small letter, then small letters, digits and _, 50 at most"),
    ("entities: {all: {central: a}}", "entities.all: this word means something else in commands: choose another name"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem"), ONE_PROBLEM, ids=[line for line, _ in ONE_PROBLEM])
def test_each_mistake_is_one_problem_with_file_line_and_path(
    problems_of: ProblemsOf, tmp_path: Path, line: str, problem: str
) -> None:
    expected = f"config.yaml:4: {problem.replace('TMP', str(tmp_path))}"
    assert problems_of(f"{CENTRAL}{NUNES}{line}\n") == [expected]


@pytest.mark.parametrize(
    ("instance", "problem"),
    [
        ("'': {}", "instances.'': an instance's name must not be empty"),
        ("a/b: {}", "instances.'a/b': an instance's name must not contain /"),
        ('"a\\tb": {database: t}', "instances.'a\\tb': an instance's name must not contain control characters"),
        ("x: 5", "instances.x: must be a mapping (key: value lines)"),
        ("x: {on: 1}", 'instances.x: the key on is read as a boolean: quote it ("on")'),
        ("x: {port: 0}", "instances.x.port: 0 is less than 1"),
        ("nunes: {}", "instances.nunes: stands here twice (first in line 4)"),
        ("x: {database: wpp_nunes}", "instances.x: has the same local database as instances.nunes: both would write the same tables"),
        ("x: {database: wpp_nunes, host: LOCALHOST}", "instances.x: has the same local database as instances.nunes: both would write the same tables"),
        ("x: {database: wpp}", "instances.x: is the central database, which is only read"),
        ("x: {max_connections: 5}", "instances.x.max_connections: unknown key"),
        ("x: {password: 12345}", "instances.x.password: must be text: put it in quotes"),
        ("x: {password: null}", 'instances.x.password: must not be null: write "" for none'),
        ("x: {entities: {frob: {enabled: no}}}", "instances.x.entities.frob: no such entity; a new one needs central, local, motion and key"),
    ],
)  # fmt: skip
def test_problems_of_instances(problems_of: ProblemsOf, instance: str, problem: str) -> None:
    text = (
        f"{CENTRAL}defaults: {{user: u, database: 'wpp_{{instance}}'}}\ninstances:\n"
        f"  nunes:\n  {instance}\n"
    )
    assert problems_of(text) == [f"config.yaml:5: {problem}"]


def test_a_name_has_191_characters_at_most(load: Load, problems_of: ProblemsOf) -> None:
    text = CENTRAL + "instances: {NAME: {database: d, user: u}}"
    assert load(text.replace("NAME", "ü" * 191)).instances
    (problem,) = problems_of(text.replace("NAME", "ü" * 192))
    assert problem.endswith("…: an instance's name is at most 191 characters long")


def test_databases_on_other_servers_may_have_the_same_name(load: Load) -> None:
    loaded = load(
        CENTRAL + "defaults: {user: u, database: d}\n"
        "instances: {a: , b: {port: 1}, c: {host: h}, d: {socket: /s}, e: {socket: /t}}"
    )
    assert len(loaded.instances) == 5


def test_a_missing_key_is_at_the_line_of_its_mapping(problems_of: ProblemsOf) -> None:
    assert problems_of(
        "\ncentral:\n  port: 1\ninstances:\n  nunes:\n    user: u\n  karsten:\n"
    ) == [
        "config.yaml:3: central.database: is missing",
        "config.yaml:3: central.user: is missing",
        "config.yaml:6: instances.nunes.database: is missing",
        "config.yaml:7: instances.karsten.database: is missing",
        "config.yaml:7: instances.karsten.user: is missing",
    ]


@pytest.mark.parametrize("instances", ["", "instances:", "instances: {}"])
def test_at_least_one_instance(problems_of: ProblemsOf, instances: str) -> None:
    (problem,) = problems_of(CENTRAL + instances)
    assert problem.endswith(": instances: at least one instance is needed")


def test_what_comes_from_defaults_is_one_problem_at_its_line_there(
    problems_of: ProblemsOf,
) -> None:
    assert problems_of(
        CENTRAL + "defaults:\n  user: u\n  database: 'wpp_{instance}'\n  poll_interval: soon\n"
        "  password_file: /nope/{instance}\ninstances: {a: , b: , c: {poll_interval: 1s}}"
    ) == [
        "config.yaml:5: defaults.poll_interval: 'soon' is not a duration "
        "(write 500ms, 1s, 5m or 1h)",
        *(
            f"config.yaml:6: instances.{name}.password_file: '/nope/{name}' cannot be read: "
            "No such file or directory"
            for name in "abc"
        ),
    ]


def test_all_problems_come_at_once_in_the_order_of_the_lines(problems_of: ProblemsOf) -> None:
    problems = problems_of(
        "central: {host: 5, user: u}\n"
        "defaults: {user: '${NOPE}'}\n"
        "instances:\n  a: {port: x}\n  a/b: {password: 1}\n"
        "sync: {batch_rows: 0, settle: 1}\nlog: {level: x}\nfrob: 1\nfrob: 2\n"
    )
    assert [int(each.split(":")[1]) for each in problems] == [1, 1, 2, 4, 4, 5, 5, 5, 6, 6, 7, 8, 9]


def test_the_error_is_one_of_usage_and_its_text_is_its_problems(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("central: {}")
    assert caught.value.exit_code == EXIT_USAGE
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_no_sequel_to_a_reported_problem(problems_of: ProblemsOf) -> None:
    # The broken entity is not also "not an entity", the wrong section not also incomplete.
    assert problems_of(
        f"central: 5\n{NUNES}entities: {{notes: {{central: a, local: b, key: id, motion: x}}}}\n"
        "signals: {sighup_reset: [notes]}"
    ) == [
        "config.yaml:1: central: must be a mapping (key: value lines)",
        "config.yaml:4: entities.notes.motion: 'x' is not 'incremental' or 'whole'",
    ]


# Entities


def test_overrides_of_entities_are_laid_on_one_another(load: Load) -> None:
    loaded = load(
        CENTRAL + "entities: {messages: {where: a = 1}, contacts: {enabled: false}}\n"
        "defaults: {user: u, entities: {messages: {columns: {text: body}}}}\n"
        "instances:\n  a: {database: a, entities: {contacts: {enabled: true}}}\n"
        "  b: {database: b, entities: {chats: {columns: {x: y}}}}\n  c: {database: c, entities: }\n"
    )
    a, b, c = (instance.entities for instance in loaded.instances.values())
    messages = CATALOGUE["messages"].model_copy(
        update={"where": "a = 1", "columns": {"text": "body"}}
    )
    assert a["messages"] == b["messages"] == c["messages"] == messages
    assert (a["contacts"].enabled, b["contacts"].enabled, c["contacts"].enabled) == (
        True,
        False,
        False,
    )
    assert b["chats"].columns == {"original_id": "id", "x": "y"}
    assert list(a) == list(CATALOGUE)


def test_derived_tables_are_no_settings_and_survive_them(
    load: Load, problems_of: ProblemsOf
) -> None:
    """An entity's other keys are laid on what it has."""
    loaded = load(f"{CENTRAL}{NUNES}entities: {{messages: {{where: a = 1}}}}\n")

    messages = loaded.instances["nunes"].entities["messages"]
    assert messages.derived == CATALOGUE["messages"].derived != ()
    (problem,) = problems_of(f"{CENTRAL}{NUNES}entities: {{messages: {{derived: []}}}}\n")
    assert "derived" in problem


def test_new_entities(load: Load) -> None:
    loaded = load(
        f"{CENTRAL}{NUNES}entities:\n"
        "  notes: {central: n, local: wpp_n, motion: incremental, key: id}\n"
        "  pairs: {central: p, local: wpp_p, motion: whole, key: [a, b], instance_column: owner}\n"
        "signals: {sighup_reset: [notes]}\n"
    )
    entities = loaded.instances["nunes"].entities
    assert list(entities) == [*CATALOGUE, "notes", "pairs"]
    assert entities["notes"] == Entity(
        name="notes", central="n", local="wpp_n", motion="incremental", key=("id",)
    )
    assert (entities["pairs"].key, entities["pairs"].instance_column) == (("a", "b"), "owner")


def test_an_entity_may_take_the_table_of_one_that_is_switched_off(load: Load) -> None:
    assert load(
        f"{CENTRAL}{NUNES}entities:\n  messages: {{enabled: false}}\n"
        "  talk: {central: messages, local: wpp_messages, motion: incremental, key: id}\n"
    )


# Secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    "value",
    [
        "*hunter2", "&hunter2", "&hunter2 x\n  user: &hunter2 y", "!hunter2", "!hunter2!x y",
        "%hunter2", "@hunter2", "`hunter2", "'hunter2", '"hunter2', '"hunter2\\q"', "[hunter2]",
        "[hunter2", "{hunter2: , hunter2: }", "{hunter2}", "{1: hunter2}", "{hunter2: &a [*a]}",
        "a: hunter2", "hunter2: b", "- hunter2", "|hunter2", ">hunter2", "!!int hunter2",
        "!!python/object:os.hunter2 {}", "'${hunter2'", "'${VAR:hunter2}'", "<<: hunter2",
        "${SECRET}\n  port: ${SECRET}\n  connect_timeout: ${SECRET}\n  host: ''",
        "${SECRET}\n  password_file: ${SECRET}", "x\n  password_file: ${SECRET}/none",
        "x\n  password:hunter2: 1", "x\n  password=hunter2: 1",
    ],
)  # fmt: skip
def test_no_problem_shows_a_password(load: Load, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"central:\n  password: {value}\n{NUNES}", SECRET=SECRET)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("inside", ["password:hunter2", "password:hunter2, password:hunter2"])
def test_a_forgotten_blank_does_not_show_the_password(load: Load, inside: str) -> None:
    with pytest.raises(ConfigError, match="password:…") as caught:
        load(f"central: {{{inside}}}")
    assert SECRET not in str(caught.value)


def test_repr_hides_passwords(load: Load, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(SECRET)
    loaded = load(
        f"central: {{database: d, user: u, password: {SECRET}}}\n"
        "instances: {a: {database: a, user: u, password_file: pw}}"
    )
    assert loaded.instances["a"].password.get_secret_value() == SECRET
    for text in (repr(loaded), str(loaded), f"{loaded.central}", loaded.model_dump_json()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("content", "password"), [(b"p\n", "p"), (b"p\r\n", "p"), (b" p ", " p "), (b"", "")]
)
def test_password_files(load: Load, tmp_path: Path, content: bytes, password: str) -> None:
    (tmp_path / "pw").write_bytes(content)
    loaded = load("central: {database: d, user: u, password_file: pw}\n" + NUNES)
    assert loaded.central.password.get_secret_value() == password


def test_a_password_file_that_is_not_text(problems_of: ProblemsOf, tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"\xff\xfe")
    assert problems_of("central: {database: d, user: u, password_file: pw}\n" + NUNES) == [
        "config.yaml:1: central.password_file: is not the path of a file with UTF-8 text"
    ]


# The file itself


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "config.yaml: is empty"),
        (b"# nothing\n", "config.yaml: is empty"),
        (b"- a", "config.yaml:1: the top level must be a mapping (key: value lines)"),
        (b"\ntext", "config.yaml:2: the top level must be a mapping (key: value lines)"),
        (b"a: 1\nb: \xff", "config.yaml:2: is not UTF-8 text"),
        (b"a: 1\n\0\x01", "config.yaml:2: contains a control character: this is not a text file"),
        (b"a: 1\nb: [1", "config.yaml:2: is not YAML: expected ',' or ']', but got '<stream end>', at column 6 (values with special characters need quotes)"),
        (b"a: 1\n---\nb: 2", "config.yaml:2: is not YAML: but found another document, at column 1 "
         "(values with special characters need quotes)"),
        (b'a: "\\UFFFFFFFF"', "config.yaml: is not YAML: it holds an escape or a directive that "
         "cannot be read"),
        (b"%YAML " + b"1" * 5000 + b".1\n---\na: 1", "config.yaml: is not YAML: it holds an escape "
         "or a directive that cannot be read"),
        (b"a: &a [*a]", "config.yaml: is nested more than 20 deep, or an alias contains itself"),
        (b"a: &a\n  <<: *a", "config.yaml: is nested more than 20 deep, or an alias contains itself"),
        (b"[" * 100_000, "config.yaml: is nested more than 20 deep"),
        (b"#" * (1024 * 1024 + 1), "config.yaml: is larger than 1 MiB: that is not a configuration"),
    ],
)  # fmt: skip
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})
    assert caught.value.problems == (f"{tmp_path}/{problem}",)


def test_only_a_mapping_can_be_merged(problems_of: ProblemsOf) -> None:
    assert problems_of(f"{CENTRAL}{NUNES}sync:\n  <<: 5\n") == [
        "config.yaml:5: sync.'<<': only a mapping can be merged"
    ]


def test_a_byte_order_mark_and_windows_newlines_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (CENTRAL + NUNES).replace("\n", "\r\n").encode())
    assert config.load(path, {}).instances


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("a\0b", "not a file name"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_paths_that_cannot_be_read(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be read: {reason}") as caught:
        config.load(tmp_path / path, {})
    assert len(caught.value.problems) == 1


def test_nobody_waits_for_whoever_fills_a_pipe(tmp_path: Path) -> None:
    """But who names one for a verb: `-c <(…)`."""
    path, pipe = tmp_path / "config.yaml", tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="pipe: cannot be read: it is no regular file"):
        config.load(pipe, {}, again=True)
    path.write_text(CENTRAL + NUNES + f"defaults: {{password_file: {pipe}}}\n")
    with pytest.raises(
        ConfigError, match=r"password_file: .* cannot be read: it is no regular file"
    ):
        config.load(path, {})
    filling = Thread(target=lambda: pipe.write_text(CENTRAL + NUNES))
    filling.start()
    assert list(config.load(pipe, {}).instances) == ["nunes"]
    filling.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CENTRAL + NUNES)
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        config.load(path, {})


def _laughs(first: str, more: str) -> str:
    """Twelve anchors, each holding the one before it ten times."""
    lines = [f"x0: &x0 {first}"]
    lines += [f"x{n}: &x{n} {more.format(', '.join([f'*x{n - 1}'] * 10))}" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _laughs("[a, b]", "[{}]"),
        _laughs("{a: 1}", "{{<<: [{}]}}"),
        "central: {port: 1" + ":1" * 400_000 + "}",
        "central: '" + "${" * 500_000 + "'",
        "defaults: {entities: {"
        + ", ".join(f"e{n}: {{}}" for n in range(20_000))
        + "}}\ninstances: {"
        + ", ".join(f"i{n}: " for n in range(20_000))
        + "}",
    ],
    ids=["aliases", "merges", "sexagesimal", "variables", "defaults times instances"],
)
def test_a_bomb_takes_neither_time_nor_memory(problems_of: ProblemsOf, text: str) -> None:
    started = time.process_time()
    assert problems_of(text)
    assert time.process_time() - started < 15


# Whatever it holds

_KEYS = st.sampled_from(
    (
        *(*config.SECTIONS, *config.CENTRAL_KEYS, *config.INSTANCE_KEYS, *config.ENTITY_KEYS),
        *(*Tls.model_fields, *Sync.model_fields, *Control.model_fields, *CATALOGUE, "nunes", "<<"),
    )
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["1s", "4MiB", "${X}", "${Y:-1}", "${", "{instance}", "/", ".", "all", "0660"]),
)
_TREES = st.recursive(
    _SCALARS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(_KEYS | st.text(max_size=5) | st.integers(), below, max_size=6)
    ),
    max_leaves=30,
)
_SECTION_TREES = st.fixed_dictionaries(
    {},
    optional={
        key: _TREES | st.dictionaries(st.sampled_from(["nunes", "messages", "b"]), _TREES)
        for key in config.SECTIONS
    },
)


def _config_or_problems(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    problems: tuple[str, ...] = ()
    try:
        config.load(path, {"X": "\udcff 1"})
    except ConfigError as error:
        problems = error.problems or ("an error without a problem",)
    for problem in problems:
        assert problem.isprintable(), problem
        assert re.match(rf"{re.escape(str(path))}(:\d+)?: .", problem), problem
        assert len(problem) < 1000


@given(tree=_TREES | _SECTION_TREES)
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_structure_is_a_config_or_its_problems(tmp_path: Path, tree: Any) -> None:
    _config_or_problems(tmp_path / "c.yaml", yaml.safe_dump(tree, allow_unicode=True).encode())


_VALID = SHIPPED.read_bytes().replace(b"${WPP_", b"${X:-")
_PIECES = st.binary(max_size=6) | st.sampled_from(
    [b"*", b"&a ", b"!x ", b"{", b"[", b"\n", b": ", b"- ", b"'", b'"', b"<<: ", b"${", b"|", b"\t"]
)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(_VALID)), st.integers(0, 40), _PIECES), min_size=1, max_size=5
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_damage_to_a_file_is_a_config_or_its_problems(
    tmp_path: Path, edits: list[tuple[int, int, bytes]]
) -> None:
    content = _VALID
    for start, length, piece in edits:
        content = content[:start] + piece + content[start + length :]
    _config_or_problems(tmp_path / "c.yaml", content)


# Where it is found


def test_the_file_that_was_named_is_taken_at_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").touch()
    environ = {"WPP_SYNC_CONFIG": "/from/environment.yaml"}
    assert config.find("absent.yaml", environ) == Path("absent.yaml")
    assert config.find("", environ) == Path(), "an unset shell variable names no other file"
    assert config.find(None, environ) == Path("/from/environment.yaml")
    assert config.find(None, {"WPP_SYNC_CONFIG": ""}) == Path("config.yaml")


def test_the_system_wide_file_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    system_wide = tmp_path / "etc.yaml"
    system_wide.touch()
    monkeypatch.setattr(config, "PLACES", (Path("config.yaml"), system_wide))
    assert config.find(None, {}) == system_wide


def test_nothing_found_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "PLACES", (Path("config.yaml"), Path("/nowhere/config.yaml")))
    with pytest.raises(ConfigError) as caught:
        config.find(None, {})
    assert caught.value.problems == (
        "no configuration file: -c is not given, $WPP_SYNC_CONFIG is not set, not found: "
        "./config.yaml, /nowhere/config.yaml",
    )
    assert caught.value.hint == "name it: -c FILE"


# The file that is shipped


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model in its fields."""
    found = {model}
    for field in model.model_fields.values():
        pending: list[Any] = [field.annotation]
        while pending:
            each = pending.pop()
            if isinstance(each, type) and issubclass(each, BaseModel):
                found |= _models(each)
            else:
                pending.extend(get_args(each))
    return found


def test_the_shipped_file_documents_the_models_defaults() -> None:
    shipped = config.load(SHIPPED, PASSWORDS)
    nunes = shipped.instances["nunes"]
    compared = [shipped.central, nunes, shipped.sync, shipped.migrations, shipped.control]
    for section in [*compared, shipped.http, shipped.signals, shipped.log]:
        for name, field in type(section).model_fields.items():
            if name != "password" and not field.is_required():
                assert getattr(section, name) == field.default, (type(section), name)
    assert nunes.entities == CATALOGUE
    assert shipped.central.password.get_secret_value() == "secret-1"
    assert shipped.instances["karsten"].password.get_secret_value() == "secret-3"


def test_the_shipped_file_names_every_key_with_a_comment() -> None:
    text = SHIPPED.read_text()
    # Derived tables are no settings.
    models = _models(Config) - {Derived}
    keys = {name for model in models for name in model.model_fields} - {"derived"}
    keys |= {*config.SECTIONS, "password_file"}
    for key in keys - {"name", "path"}:
        assert re.search(rf"^ *#?{key}:", text, re.MULTILINE), key
    lines = text.splitlines()
    for key in keys - {"name", "path", "local"}:  # local is explained together with central
        first = next(n for n, line in enumerate(lines) if re.match(rf" *#?{key}:", line))
        above = lines[first - 2 if key == "key" else first - 1]  # cert and key share a comment
        assert re.match(r" *# ", above), key


def test_the_examples_that_are_switched_off_work_as_well(tmp_path: Path) -> None:
    for name in ("ca.pem", "client.pem", "client.key", "central", "nunes", "karsten"):
        (tmp_path / name).touch()
    (tmp_path / "migrations").mkdir()
    text = re.sub(r"^( *)#(?=[a-z_]+:)", r"\1", SHIPPED.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^ *password: .*\n", "", text, flags=re.MULTILINE)
    text = text.replace("\nentities: {}\n", "\n")
    path = tmp_path / "config.yaml"
    path.write_text(text)
    loaded = config.load(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert loaded.central.tls == Tls(
        ca=tmp_path / "ca.pem", cert=tmp_path / "client.pem", key=tmp_path / "client.key"
    )
    nunes = loaded.instances["nunes"]
    assert nunes.socket == Path("/run/mysqld/mysqld.sock")
    assert nunes.entities["notes"].columns == {"note_text": "text"}
    assert loaded.instances["karsten"].socket is None, (
        "its own host sets the default's socket aside"
    )
