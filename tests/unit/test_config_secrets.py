"""Whatever is wrong in config.yaml, and wherever a password stands in it: no problem shows it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon import config
from daemon.errors import ConfigError
from tests.secrets import LONG, ODD, PLAIN, leaks

BASE: dict[str, Any] = {
    "central": {"database": "wpp", "user": "reader", "password": "", "tls": {}},
    "defaults": {"user": "writer", "tls": {}},
    "instances": {"nunes": {"database": "nunes", "tls": {}}},
    "entities": {"messages": {}, "notes": {}},
    **{section: {} for section in config._PLAIN_SECTIONS},
}
KEYS = {
    "central": (*config.CENTRAL_KEYS, "pasword"),
    "defaults": config.INSTANCE_KEYS,
    "instances": ("nunes",),
    "entities": ("messages", "notes"),
    **{section: tuple(model.model_fields) for section, model in config._PLAIN_SECTIONS.items()},
}
DEEPER = {
    ("central", "tls"): tuple(config.Tls.model_fields),
    ("defaults", "tls"): tuple(config.Tls.model_fields),
    ("instances", "nunes"): config.INSTANCE_KEYS,
    ("instances", "nunes", "tls"): tuple(config.Tls.model_fields),
    ("entities", "messages"): config.ENTITY_KEYS,
    ("entities", "notes"): config.ENTITY_KEYS,
}


def _mistakes(secret: str) -> Iterator[tuple[str, str]]:
    """Where it stands, and the file."""
    places: list[tuple[str, ...]] = [
        (section, key) for section, keys in KEYS.items() for key in keys
    ]
    places += [(*above, key) for above, keys in DEEPER.items() for key in keys]
    places += [(section,) for section in BASE]
    shapes: list[Any] = [
        secret, [secret], {secret: secret}, [{secret: [secret]}], f"x {secret}",
        f"/nowhere/{secret}", f"{secret}:1", f"password={secret}",
    ]  # fmt: skip
    for place in places:
        for shape in shapes:
            document = copy.deepcopy(BASE)
            document["central"]["password"] = secret
            below = document
            for key in place[:-1]:
                below = below[key]
            below[place[-1]] = shape
            # `password` itself is broken then, and nothing says what the secret is.
            yield ".".join(place), yaml.safe_dump(document, allow_unicode=True)
    places = [("central",), ("instances", "nunes"), ("sync",), ()]
    for place in places:
        document = copy.deepcopy(BASE)
        document["central"]["password"] = secret
        below = document
        for key in place:
            below = below[key]
        below[secret] = "x"
        yield f"a key in {place}", yaml.safe_dump(document, allow_unicode=True)


@pytest.mark.parametrize("secret", [PLAIN, ODD, LONG], ids=["plain", "odd", "long"])
def test_a_secret_in_any_place_is_in_no_problem(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "config.yaml"
    refused = 0
    for where, text in _mistakes(secret):
        path.write_text(text)
        try:
            config.load(path, {})
        except ConfigError as error:
            refused += 1
            shown = f"{error} {error.hint} {error!r} {error.problems}"
            assert not leaks(shown, secret), (where, shown)
    assert refused > 300


@pytest.mark.parametrize(
    "inside",
    [
        "password: [{0}]", "password: {{{0}: 1}}", "password: 84{1}", "password: -84.{1}e3",
        "password: {0}\n  password: {0}", "password: {0}\n  password: other\n  port: {0}",
        "password: {0}\n  {0}: 1\n  {0}: 2", "pasword: {0}", "password:{0}", "password_file: {0}",
        "password_file: [{0}]", "password_file: ./{0}/x", "tls: {{cert: config.yaml, key: {0}}}",
        "tls: {{cert: config.yaml, key: ./{0}}}", "password: !{0} x", "password: &{0} x",
        "password: *{0}", "password: '{0}", "password: \"{0}\\q\"", "password: @{0}",
        "password: ${{{0}", "password: ${{S}}\n  port: ${{S}}\n  host: [\"${{S}}\"]",
        "password: ${{S}}\n  port: {0}", "password: ${{NONE:-{0}}}\n  port: {0}",
        "password: 84{1}\n  port: 84{1}",
    ],
)  # fmt: skip
def test_a_secret_that_is_the_mistake_is_in_no_problem(tmp_path: Path, inside: str) -> None:
    number = "7770123456789"
    path = tmp_path / "config.yaml"
    path.write_text(f"central:\n  database: d\n  user: u\n  {inside.format(PLAIN, number)}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path, {"S": PLAIN})
    assert not leaks(f"{caught.value} {caught.value!r}", PLAIN, number), caught.value


def test_a_secret_from_a_file_is_one_as_well(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"{LONG}\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"central: {{database: d, user: u, password_file: pw}}\nhttp: {{listen: {LONG}}}"
    )
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})
    assert not leaks(str(caught.value), LONG)
