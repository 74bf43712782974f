"""config.yaml as frozen models: everything the daemon does differently from house to house.

`load` gives a complete `Config`, in which nothing is left to look up or to merge, or it raises one
`ConfigError` with every problem of the file, each on one line with file, line and path. A password
is in no problem and in no `repr`.

In the models durations are seconds, sizes are bytes and paths are absolute.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from daemon.config.files import NotRegularError, read_bytes
from daemon.config.models import (
    Central,
    Config,
    ConfiguredEntity,
    Control,
    Http,
    Instance,
    Log,
    Migrations,
    Section,
    Server,
    Signals,
    Sync,
    Tls,
)
from daemon.config.values import (
    MAX_IDENTIFIER,
    ClosedFile,
    explain,
    identifier_problem,
    text_problem,
)
from daemon.config.yaml_source import WHO_MAY_READ, Located, Problems, dotted, fill, merge, read
from daemon.entities import CATALOGUE, Entity
from daemon.errors import ClosedFilesError, ConfigError, keep_secret

__all__ = [
    "Central",
    "Config",
    "Control",
    "Http",
    "Instance",
    "Log",
    "Migrations",
    "Server",
    "Signals",
    "Sync",
    "Tls",
    "find",
    "load",
]

ENVIRONMENT_VARIABLE = "WPP_SYNC_CONFIG"
PLACES = (Path("config.yaml"), Path("/etc/wpp-sync/config.yaml"))

# instance VARCHAR(191) in central; entity VARCHAR(50) in wpp_sync_state; an identifier in MySQL.
MAX_INSTANCE_NAME = 191
ENTITY_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
MAX_PASSWORD_BYTES = 64 * 1024
# `reset INSTANCE all` and `sighup_reset: none` could not tell an entity of that name.
RESERVED_ENTITIES = frozenset({"all", "none"})
# Instances times what each takes from `defaults` and `entities`: far above a thousand real ones.
MAX_MERGED_VALUES = 1_000_000

_SECRETS = frozenset({"password"})

# Who misunderstands these writes the secret itself instead of its file's path.
_PATHS_TO_SECRETS = (("password_file",), ("tls", "key"))

Model = TypeVar("Model", bound=BaseModel)

_PLAIN_SECTIONS: Mapping[str, type[Section]] = {
    "sync": Sync,
    "migrations": Migrations,
    "control": Control,
    "http": Http,
    "signals": Signals,
    "log": Log,
}
SECTIONS = ("central", "defaults", "instances", "entities", *_PLAIN_SECTIONS)
SERVER_KEYS = (*Server.model_fields, "password_file")
CENTRAL_KEYS = (*Central.model_fields, "password_file")
INSTANCE_KEYS = (*(key for key in Instance.model_fields if key != "name"), "password_file")
ENTITY_KEYS = tuple(key for key in Entity.model_fields if key not in {"name", "derived"})
_NEW_ENTITY_KEYS = ("central", "local", "motion", "key")


def find(path: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: `path` (-c), else $WPP_SYNC_CONFIG, else the first of `PLACES`.

    A file that was named is taken at its word, so that a typing error never starts the daemon with
    another file; `load` says if it is not there. Raises `ConfigError` if nothing was named and
    nothing is found.
    """
    if path is not None:
        return Path(path)
    if named := environ.get(ENVIRONMENT_VARIABLE):
        return Path(named)
    closed = []
    for place in PLACES:
        try:
            place.stat()
        except PermissionError:
            closed.append(place)
        except OSError:
            continue
        else:
            return place
    problem = f"no configuration file: -c is not given, ${ENVIRONMENT_VARIABLE} is not set"
    if absent := [place for place in PLACES if place not in closed]:
        problem += f", not found: {_listed(absent)}"
    if closed:
        problem += f", no permission to look for {_listed(closed)}"
        raise ClosedFilesError([problem], hint=WHO_MAY_READ)
    raise ConfigError([problem], hint="name it: -c FILE")


def _listed(places: Iterable[Path]) -> str:
    return ", ".join(f"{place}" if place.is_absolute() else f"./{place}" for place in places)


def load(path: Path, environ: Mapping[str, str] = os.environ, *, again: bool = False) -> Config:
    """Read the file; raises `ConfigError` with all of its problems at once, and nothing else.

    `again`: a daemon does that is running, and must not wait for whoever fills a pipe.
    """
    problems = Problems(path)
    root = read(path, problems, _SECRETS, pipe=not again)
    _keep_secrets(root, environ)
    config = _Reader(Path(os.path.abspath(path)), environ, problems).config(root)
    problems.raise_any()
    return Config.model_validate(config)


def control_socket(path: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the daemon of this file takes commands; None where that is switched off.

    Nothing else is looked at: whoever commands the daemon need not be able to read the passwords.
    Raises `ConfigError`.
    """
    problems = Problems(path)
    root = read(path, problems, _SECRETS)
    _keep_secrets(root, environ)
    control = _Reader(Path(os.path.abspath(path)), environ, problems).control(root)
    problems.raise_any()
    return None if control is None else control.socket


class _Reader:
    """Turns the tree of one file into models and notes every problem on the way."""

    def __init__(self, path: Path, environ: Mapping[str, str], problems: Problems) -> None:
        self._path = path
        self._environ = environ
        self._problems = problems
        # What motions an entity has, by name, in any instance: for signals.sighup_reset.
        self._motions: dict[str, set[str]] = {}

    def config(self, root: Located) -> dict[str, object]:
        """The sections of `Config`; complete if no problem was noted."""
        root = self._known(root, SECTIONS)
        # `defaults` is filled in once for each instance, because of `{instance}`.
        defaults = self._section(root, "defaults")
        root = replace(
            root,
            value={
                key: value if key == "defaults" else self._fill(value)
                for key, value in root.items.items()
            },
        )
        central = self._server(Central, self._section(root, "central"), CENTRAL_KEYS)
        places = self._section(root, "instances")
        instances = self._instances(places, defaults, self._section(root, "entities"))
        self._check_targets(central, instances, places)
        sections: dict[str, object] = {
            key: self._validated(model, self._known(self._section(root, key), model.model_fields))
            for key, model in _PLAIN_SECTIONS.items()
        }
        self._check_sighup(self._section(root, "signals").at(["sighup_reset"]))
        return {"central": central, "instances": instances, "path": self._path, **sections}

    def control(self, root: Located) -> Control | None:
        """The section `control` alone."""
        place = self._fill(self._section(self._mapping(root), "control"))
        return self._validated(Control, self._known(place, Control.model_fields))

    def _fill(self, place: Located, instance: str | None = None) -> Located:
        return fill(place, self._environ, self._problems, instance)

    # What is where

    def _section(self, place: Located, key: str) -> Located:
        """A mapping below `place`; empty if it is absent or all its lines are commented out."""
        found = place.items.get(key, Located(None, place.line, (*place.path, key)))
        return replace(found, value={}) if found.value is None else self._mapping(found)

    def _mapping(self, place: Located, hint: str = "") -> Located:
        if isinstance(place.value, dict):
            return place
        self._problems.add(place, f"must be a mapping (key: value lines){hint}")
        return replace(place, value={}, broken=True)

    def _known(self, place: Located, keys: Collection[str]) -> Located:
        """`place` without the keys that do not exist, each of which is a problem."""
        for key, value in place.items.items():
            if key not in keys:
                hint = _did_you_mean(key, keys)
                self._problems.add_at(value.line, value.path, f"unknown key{hint}")
        return replace(place, value={k: v for k, v in place.items.items() if k in keys})

    def _validated(self, model: type[Model], place: Located, **more: object) -> Model | None:
        """The model made of `place` and `more`, or None and its problems noted."""
        context = {"directory": self._path.parent}
        try:
            data = {key: value.plain() for key, value in place.items.items()}
            return model.model_validate(data | more, context=context)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False):
                figures = item.get("ctx", {})
                closed = isinstance(figures.get("error"), ClosedFile)
                text = explain(item["type"], figures)
                self._explain(place.at(item["loc"]), text, closed=closed)
            return None

    def _explain(self, place: Located, text: str, *, closed: bool = False) -> None:
        hidden = text.startswith("must") or _may_be_secret(place)
        shown = "" if hidden else place.shown()
        self._problems.add(place, f"{shown} {text}".strip(), closed=closed)

    # Servers

    def _server(
        self, model: type[Model], place: Located, keys: Collection[str], **more: object
    ) -> Model | None:
        place = self._with_password(self._known(place, keys))
        tls = place.items.get("tls")
        if tls is not None and isinstance(tls.value, dict):
            place = replace(place, value=place.items | {"tls": self._known(tls, Tls.model_fields)})
        return self._validated(model, place, **more)

    def _with_password(self, place: Located) -> Located:
        """`place` with `password` read from `password_file`, and certainly a text."""
        entries = dict(place.items)
        file = entries.pop("password_file", None)
        password = entries.get("password")
        if password is not None and not isinstance(password.value, str):
            null = password.value is None
            text = (
                'must not be null: write "" for none' if null else "must be text: put it in quotes"
            )
            self._problems.add(password, text)
            entries["password"] = replace(password, value="", broken=True)
        elif password is not None and isinstance(password.value, str):
            keep_secret(password.value)  # with {instance} filled in
        if file is not None and file.value is not None:
            if password is None:
                entries["password"] = self._password_from(file)
            else:
                self._problems.add(file, "give password or password_file, not both")
        return replace(place, value=entries)

    def _password_from(self, file: Located) -> Located:
        text, problem, closed = "", "", False
        if not isinstance(file.value, str) or text_problem(file.value):
            problem = "is not the path of a file"
        else:
            path = self._path.parent / file.value
            try:
                content = read_bytes(path, MAX_PASSWORD_BYTES)
                text = content.decode()
            except OSError as error:
                relative = not (file.written or file.value.startswith("/"))
                where = f" (looked in {self._path.parent})" if relative else ""
                problem = f"cannot be read: {error.strerror}{where}"
                closed = isinstance(error, PermissionError)
            except NotRegularError as error:
                problem = str(error)
            except ValueError:
                problem = "is not the path of a file with UTF-8 text"
            else:
                problem = "is too long for a password" if len(content) > MAX_PASSWORD_BYTES else ""
        if problem:
            self._explain(file, problem, closed=closed)
            return replace(file, value="", broken=True)
        keep_secret(_without_newline(text))
        # At the password's own path, so that whatever is said about it is said without its value.
        own_path = (*file.path[:-1], "password")
        return replace(file, value=_without_newline(text), written="", path=own_path)

    # Instances

    def _instances(
        self, instances: Located, defaults: Located, entities: Located
    ) -> dict[str, Instance]:
        if not instances.items:
            self._problems.add(instances, "at least one instance is needed")
        if len(instances.items) * (defaults.count() + entities.count()) > MAX_MERGED_VALUES:
            self._problems.add(instances, "too many instances for so large defaults and entities")
            return {}
        # On their own too: what every instance overrides must be right all the same.
        self._instance("", _without_names(self._fill(defaults)), entities, alone=True)
        result: dict[str, Instance] = {}
        for name, written in instances.items.items():
            if problem := _instance_name_problem(name):
                self._problems.add_at(written.line, written.path, problem)
            own = self._section(instances, name)
            base = self._fill(_set_aside(defaults, own), name)
            instance = self._instance(name, _layered(base, own), entities)
            if instance is not None:
                result[name] = instance
        return result

    def _instance(
        self, name: str, place: Located, entities: Located, *, alone: bool = False
    ) -> Instance | None:
        changes = place.items.get("entities")
        if changes is None or changes.value is None:
            changes = Located({}, entities.line, entities.path)
        complete = self._entities(self._mapping(merge(entities, changes)))
        entries = {key: value for key, value in place.items.items() if key != "entities"}
        if alone:
            for key in ("database", "user"):
                entries.setdefault(key, Located("unset", 0, (), broken=True))
        return self._server(
            Instance, replace(place, value=entries), INSTANCE_KEYS, name=name, entities=complete
        )

    def _check_targets(
        self, central: Central | None, instances: Mapping[str, Instance], places: Located
    ) -> None:
        """Two copiers of one database would write the same tables; central is not ours to write."""
        owners: dict[tuple[object, ...], str] = {}
        for name, instance in instances.items():
            place = places.items[name]
            target = _target(instance)
            if central is not None and target == _target(central):
                self._problems.add(place, "is the central database, which is only read")
            elif target in owners:
                self._problems.add(
                    place,
                    f"has the same local database as instances.{dotted((owners[target],))}: both "
                    "would write the same tables",
                )
            owners.setdefault(target, name)

    # Entities

    def _entities(self, overrides: Located) -> dict[str, Entity]:
        """The catalogue with the overrides laid on it, and what they add."""
        result: dict[str, Entity] = {}
        for name in (*CATALOGUE, *(each for each in overrides.items if each not in CATALOGUE)):
            entity = self._entity(name, overrides.items.get(name))
            if entity is not None:
                result[name] = entity
            if ENTITY_NAME.fullmatch(name):
                # What is wrong itself need not be told, too, that it cannot be reset.
                motion = "incremental" if entity is None else entity.motion
                self._motions.setdefault(name, set()).add(motion)
        self._check_locals(result, overrides)
        return result

    def _entity(self, name: str, own: Located | None) -> Entity | None:
        if own is None:
            return CATALOGUE[name]
        own = self._known(self._mapping(own, "; to switch it off: {enabled: false}"), ENTITY_KEYS)
        builtin = CATALOGUE.get(name)
        if builtin is None and not self._is_new_entity(name, own):
            return None
        if "instance_column" in own.items and own.items["instance_column"].value is None:
            through = own.items.get("through")
            if through is None or through.value is None:
                self._problems.add(
                    own.items["instance_column"], "must not be null: rows need an owner"
                )
        base = {} if builtin is None else builtin.model_dump(exclude={"name"})
        place = merge(_unwritten(base), own) if builtin else own
        if "through" in own.items and "instance_column" not in own.items:
            # What follows another row has no owner of its own.
            place = replace(place, value={**place.items, "instance_column": Located(None, 0, ())})
        key = place.items.get("key")
        if key is not None and isinstance(key.value, str):
            place = replace(place, value=place.items | {"key": replace(key, value=[key])})
        written = self._validated(ConfiguredEntity, place, name=name)
        entity = None if written is None else written.plain()
        if entity is not None and self._is_usable(entity, place):
            return entity
        return None

    def _is_new_entity(self, name: str, own: Located) -> bool:
        if not ENTITY_NAME.fullmatch(name) or name in RESERVED_ENTITIES:
            text = (
                "an entity's name is a small letter, then small letters, digits and _, 50 at most"
            )
            if name in RESERVED_ENTITIES:
                text = "this word means something else in commands: choose another name"
            self._problems.add(own, text)
            return False
        if not any(key in own.items for key in _NEW_ENTITY_KEYS):
            hint = _did_you_mean(name, CATALOGUE)
            self._problems.add(
                own,
                f"no such entity{hint}; a new one needs central, local, motion and key",
            )
            return False
        return True

    def _is_usable(self, entity: Entity, place: Located) -> bool:
        """What the types do not say: names that can be names, as many keys as the motion takes."""
        names: list[tuple[tuple[str | int, ...], str]] = [
            (("central",), entity.central),
            (("local",), entity.local),
            *((("key", index), column) for index, column in enumerate(entity.key)),
            *((("columns", local), central) for local, central in entity.columns.items()),
            *((("columns", local), local) for local in entity.columns),
        ]
        if entity.instance_column is not None:
            names.append((("instance_column",), entity.instance_column))
        if entity.through is not None:
            names += [
                (("through", key), value) for key, value in entity.through.model_dump().items()
            ]
        names += [(("leave_out", i), column) for i, column in enumerate(entity.leave_out)]
        names += [(("encode", column), column) for column in entity.encode]
        wrong = [(keys, problem) for keys, name in names if (problem := identifier_problem(name))]
        if entity.where is not None and not entity.where.strip():
            wrong.append((("where",), "must not be empty: leave it out to copy every row"))
        if not entity.key or len(entity.key) > (1 if entity.motion == "incremental" else 2):
            needed = "one column" if entity.motion == "incremental" else "one column or two"
            wrong.append((("key",), f"must be {needed} ({entity.motion})"))
        if entity.hot is not None and entity.motion == "whole":
            wrong.append((("hot",), "is for incremental entities: a whole one has its interval"))
        if entity.through is not None and entity.instance_column is not None:
            wrong.append((("through",), "and instance_column: one of them says who owns a row"))
        for keys, problem in wrong:
            self._explain(place.at(keys), problem)
        return not wrong

    def _check_locals(self, entities: Mapping[str, Entity], overrides: Located) -> None:
        owners: dict[str, str] = {}
        for name, entity in entities.items():
            if not entity.enabled:
                continue
            if entity.local in owners:
                other = owners[entity.local]
                place = overrides.at([name if name in overrides.items else other, "local"])
                self._explain(place, f"is the local table of {other} and {name}: one of them only")
            owners.setdefault(entity.local, name)

    def _check_sighup(self, place: Located) -> None:
        if not isinstance(place.value, list):
            return
        for each in place.value:
            if not isinstance(each.value, str):
                continue
            if each.value not in self._motions:
                hint = _did_you_mean(each.value, self._motions)
                self._explain(each, f"is not an entity{hint}")


def _keep_secrets(place: Located, environ: Mapping[str, str]) -> None:
    """Before anything is said of the file: its passwords may also stand in a wrong place of it."""
    for key, below in place.items.items():
        if key in _SECRETS and not isinstance(below.value, dict | list):
            filled = fill(below, environ, Problems(Path()))
            keep_secret(str(filled.value or "") if not below.written else below.written)
        _keep_secrets(below, environ)


def _may_be_secret(place: Located) -> bool:
    """A password, or something that stands where the path of one should and does not look it."""
    if _SECRETS.intersection(place.path):
        return True
    wanted = any(place.path[-len(each) :] == each for each in _PATHS_TO_SECRETS)
    is_path = str(place.value).startswith("/") or "${" in place.written
    return wanted and not is_path


def _did_you_mean(word: str, known: Collection[str]) -> str:
    # A near miss is about as long as what was meant; comparing a huge key would only take time.
    near = difflib.get_close_matches(word, known, 1, 0.7) if len(word) <= MAX_IDENTIFIER else []
    return f" (did you mean {near[0]}?)" if near else ""


def _instance_name_problem(name: str) -> str:
    if problem := text_problem(name):
        return f"an instance's name {problem}"
    if len(name) > MAX_INSTANCE_NAME:
        return f"an instance's name is at most {MAX_INSTANCE_NAME} characters long"
    return "an instance's name must not contain /" if "/" in name else ""


def _without_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _set_aside(defaults: Located, own: Located) -> Located:
    """`defaults` without what the instance says in the other of two ways: its own host would
    otherwise lose to a socket of the defaults, and two kinds of password would contradict."""
    others = {"password": "password_file", "password_file": "password", "host": "socket"}
    given = {key for key, value in own.items.items() if value.value is not None}
    unwanted = {others[key] for key in given & others.keys()} - own.items.keys()
    return replace(defaults, value={k: v for k, v in defaults.items.items() if k not in unwanted})


def _layered(base: Located, own: Located) -> Located:
    """The instance on its defaults; an empty `entities:` changes nothing."""
    entries = {k: v for k, v in own.items.items() if k != "entities" or v.value is not None}
    return merge(base, replace(own, value=entries))


def _without_names(place: Located) -> Located:
    """Defaults as seen by no instance: what depends on the name is not judged."""
    if isinstance(place.value, dict):
        return replace(place, value={k: _without_names(v) for k, v in place.value.items()})
    if isinstance(place.value, str) and "{instance}" in place.value:
        return replace(place, broken=True)
    return place


def _unwritten(data: Mapping[str, object]) -> Located:
    """Values that stand in no file."""

    def located(value: object) -> Located:
        if isinstance(value, Mapping):
            return Located({key: located(each) for key, each in value.items()}, 0, ())
        if isinstance(value, tuple):
            return Located([located(each) for each in value], 0, ())
        if value is None or isinstance(value, bool | str):
            return Located(value, 0, ())
        raise TypeError(type(value))

    return located(data)


def _target(server: Server) -> tuple[object, ...]:
    if server.socket is not None:
        return (server.socket, server.database)
    host = server.host.lower().rstrip(".")
    return ("127.0.0.1" if host == "localhost" else host, server.port, server.database)
