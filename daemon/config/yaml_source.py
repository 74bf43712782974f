"""A YAML file as a tree whose every value knows its line and its path.

Whatever the file holds, reading it ends in a tree or in a `ConfigError` of readable one-line
problems: never in another exception, and never in more memory than a small multiple of the file.
No problem's text contains anything that stands below a key named in `secret_keys`, nor a value
that was filled in from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from daemon.config.files import NotRegularError, read_bytes
from daemon.errors import ClosedFilesError, ConfigError, without_secrets

# A thousand instances take about 150 KiB; beyond this it is not a configuration file.
MAX_FILE_BYTES = 1024 * 1024
# Counted with aliases expanded, so that a few lines of aliases to aliases cannot fill the memory.
MAX_VALUES = 200_000
# The deepest useful value is at 6 (instances, name, entities, entity, columns, column).
MAX_DEPTH = 20
WHO_MAY_READ = "are you in the group wpp-sync-ops, or root? The passwords are read by root alone"
# Longer values and keys are cut where a problem shows them.
MAX_SHOWN = 60

_TAG = "tag:yaml.org,2002:"
_KINDS = {"null": "null", "bool": "a boolean", "int": "a number", "float": "a number"}
_BARE_KEY = re.compile(rf"[\w-]{{1,{MAX_SHOWN}}}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_QUOTED = re.compile(r"""\s?('[^']*'|"[^"]*")""")
_OWN_TOKEN = re.compile("'(?:<[a-z ]+>|[],:}?-])'")
_VARIABLE = re.compile(
    r"(?P<literal>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:\{instance\}|[^}])*))?\}"
    r"|(?P<wrong>\$\{)"
    r"|(?P<instance>\{instance\})"
)

Scalar = None | bool | int | float | str
KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """One value of the file. `line` counts from 1 and is 0 for what no file said."""

    # Left out of repr: it may be a password.
    value: Scalar | list[Located] | dict[str, Located] = field(repr=False)
    line: int
    path: KeyPath
    written: str = field(default="", repr=False)
    """The text in the file where `value` differs: a number, or filled in from the environment."""
    broken: bool = False
    """A problem with this value was reported already: do not report what follows from it."""

    @property
    def items(self) -> dict[str, Located]:
        """The entries of a mapping; none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def shown(self) -> str:
        """The value for a problem's text, as it stands in the file; empty for what is no scalar."""
        if isinstance(self.value, dict | list):
            return ""
        if self.value is None:
            return "null"
        if isinstance(self.value, str):
            return _shortened(without_secrets(repr(self.written or self.value)))
        return _shortened(without_secrets(self.written or str(self.value)))

    def at(self, keys: Sequence[str | int]) -> Located:
        """The value below `keys`; for what is not there, a stand-in at its mapping's line."""
        here = self
        for position, key in enumerate(keys):
            below: Located | None = None
            if isinstance(here.value, dict):
                below = here.value.get(str(key))
            elif isinstance(here.value, list) and isinstance(key, int):
                below = here.value[key] if key < len(here.value) else None
            if below is None or below.line == 0:
                rest = tuple(str(each) for each in keys[position:])
                return Located([], here.line, here.path + rest, broken=here.broken)
            here = below
        return here

    def plain(self) -> object:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: each.plain() for key, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        return self.value

    def count(self) -> int:
        """How many values stand here and below."""
        below: Iterator[Located] = iter(())
        if isinstance(self.value, dict):
            below = iter(self.value.values())
        elif isinstance(self.value, list):
            below = iter(self.value)
        return 1 + sum(each.count() for each in below)


class Problems:
    """What is wrong with one file, each problem once, in the order of the lines."""

    def __init__(self, file: Path) -> None:
        text = str(file)
        self._file = text if text.isprintable() else repr(text)
        self._found: dict[str, int] = {}
        self._closed: set[str] = set()

    def add(self, place: Located, text: str, *, closed: bool = False) -> None:
        """Note a problem at a value, unless the value has had its problem already."""
        if not place.broken:
            self.add_at(place.line, place.path, text, closed=closed)

    def add_at(self, line: int, path: KeyPath, text: str, *, closed: bool = False) -> None:
        """Note a problem; line 0 is the file as a whole, an empty path its top level.

        `closed`: it is none of the file, but that we may not read something.
        """
        where = f"{self._file}:{line}" if line else self._file
        inside = f" {dotted(path)}:" if path else ""
        problem = f"{where}:{inside} {text}"
        self._found.setdefault(problem, line)
        if closed:
            self._closed.add(problem)

    def raise_any(self) -> None:
        """Raise `ConfigError` with everything noted so far, if there is anything."""
        if self._found:
            # Without a cause: a library's exception would carry the values it was given.
            found = sorted(self._found, key=lambda text: self._found[text])
            if self._found.keys() == self._closed:
                raise ClosedFilesError(found, hint=WHO_MAY_READ) from None
            raise ConfigError(found) from None


def dotted(path: KeyPath) -> str:
    """A path as one readable word; keys that are not plain words stand in quotes."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else key_shown(key) for key in path)


def key_shown(key: str) -> str:
    """A key in quotes, on one line, cut where it is very long."""
    return _shortened(without_secrets(repr(key)))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def read(
    path: Path, problems: Problems, secret_keys: frozenset[str], *, pipe: bool = True
) -> Located:
    """Read the file, or where that is allowed whatever a `pipe` brings, as a mapping. What makes
    that impossible raises `ConfigError` at once; what does not (a duplicate key, a key that is not
    text) is noted in `problems`.
    """
    root = _compose(_text(path, problems, pipe=pipe), problems)
    if root is None:
        problems.add_at(0, (), "is empty")
    else:
        tree = _Builder(problems, secret_keys).build(root)
        if isinstance(tree.value, dict):
            return tree
        problems.add_at(tree.line, (), "the top level must be a mapping (key: value lines)")
    problems.raise_any()
    raise AssertionError("unreachable: a problem was noted")


def _text(path: Path, problems: Problems, *, pipe: bool) -> str:
    """The file's text; every reason why there is none is a problem."""
    content = b""
    try:
        content = read_bytes(path, MAX_FILE_BYTES, pipe=pipe)
    except NotRegularError as error:
        problems.add_at(0, (), str(error))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        closed = isinstance(error, PermissionError)
        problems.add_at(0, (), f"cannot be read: {reason or 'not a file name'}", closed=closed)
    if len(content) > MAX_FILE_BYTES:
        problems.add_at(0, (), "is larger than 1 MiB: that is not a configuration")
    problems.raise_any()
    text = ""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.add_at(line, (), "is not UTF-8 text")
    problems.raise_any()
    return text


class _TooDeepError(yaml.YAMLError):
    """The nesting goes past any use, and would go past Python's stack."""


class _TooManyError(yaml.YAMLError):
    """More values than a configuration has."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader as far as nodes, with bounds; a date is text here, as it is written."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._depth > 2 * MAX_DEPTH:
            raise _TooDeepError
        if self._nodes > 2 * MAX_VALUES:
            raise _TooManyError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str, problems: Problems) -> yaml.Node | None:
    """The document's nodes, or None if there is no document; a syntax error is one problem."""
    node: yaml.Node | None = None
    try:
        node = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add_at(line, (), "contains a control character: this is not a text file")
    except yaml.MarkedYAMLError as error:
        problems.add_at(*_syntax_error(error))
    except _TooDeepError:
        problems.add_at(0, (), f"is nested more than {MAX_DEPTH} deep")
    except (_TooManyError, RecursionError):
        problems.add_at(0, (), f"holds more than {MAX_VALUES} values")
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
        # PyYAML lets some of Python's own errors through: "\UFFFFFFFF", %YAML with 5,000 digits.
        problems.add_at(0, (), "is not YAML: it holds an escape or a directive that cannot be read")
    problems.raise_any()
    return node


def _syntax_error(error: yaml.MarkedYAMLError) -> tuple[int, KeyPath, str]:
    mark = error.problem_mark or error.context_mark
    # What PyYAML quotes may be a part of a password ("found undefined alias 'x'"): only names of
    # its own tokens and punctuation marks are kept.
    said = _QUOTED.sub(
        lambda quoted: quoted[0] if _OWN_TOKEN.fullmatch(quoted[1]) else "",
        error.problem or "cannot be read",
    )
    if mark is None:
        return 0, (), f"is not YAML: {said}"
    return (
        mark.line + 1,
        (),
        f"is not YAML: {said}, at column {mark.column + 1} (values with special characters "
        "need quotes)",
    )


class _Builder:
    """Turns nodes into `Located`, with aliases expanded and counted."""

    def __init__(self, problems: Problems, secret_keys: frozenset[str]) -> None:
        self._problems = problems
        self._secret_keys = secret_keys
        self._constructor = yaml.constructor.SafeConstructor()
        self._count = 0

    def build(self, root: yaml.Node) -> Located:
        try:
            return self._value(root, (), 0)
        except _TooDeepError:
            text = f"is nested more than {MAX_DEPTH} deep, or an alias contains itself"
        except _TooManyError:
            text = f"holds more than {MAX_VALUES} values when its aliases are expanded"
        self._problems.add_at(0, (), text)
        self._problems.raise_any()
        raise AssertionError("unreachable: a problem was noted")

    def _value(self, node: yaml.Node, path: KeyPath, depth: int) -> Located:
        self._spend(depth)
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line, path)
        if path and path[-1] in self._secret_keys:
            # Braces and brackets without quotes: `password: {abc}`. Its inside is the secret, so
            # it is not looked into.
            return Located([], line, path)
        if node.tag not in (f"{_TAG}seq", f"{_TAG}map"):
            self._problems.add_at(line, path, "has a tag (!…), which is not supported")
        if isinstance(node, yaml.SequenceNode):
            values = [
                self._value(each, (*path, str(index)), depth + 1)
                for index, each in enumerate(node.value)
            ]
            return Located(values, line, path)
        return Located(self._entries(node, path, depth), line, path)

    def _spend(self, depth: int) -> None:
        self._count += 1
        if depth > MAX_DEPTH:
            raise _TooDeepError
        if self._count > MAX_VALUES:
            raise _TooManyError

    def _scalar(self, node: yaml.ScalarNode, line: int, path: KeyPath) -> Located:
        kind = node.tag.removeprefix(_TAG)
        value: Scalar = node.value
        text = written = ""
        if kind in _KINDS:
            try:
                if len(node.value) > MAX_SHOWN:  # 400,000 sexagesimal digits take half a minute
                    raise ValueError
                value = self._constructor.construct_object(node)
                written = node.value if node.value.isprintable() else ""
            except (ValueError, ArithmeticError, LookupError):
                text = f"cannot be read as {_KINDS[kind]}"
        elif kind not in ("str", "value", "merge"):
            text = "has a tag (!…), which is not supported; quote a text that begins with !"
        elif _SURROGATE.search(node.value):
            text = "is not valid Unicode"
        if not text:
            return Located(value, line, path, written)
        self._problems.add_at(line, path, text)
        return Located("", line, path, broken=True)

    def _entries(self, node: yaml.Node, path: KeyPath, depth: int) -> dict[str, Located]:
        own: dict[str, Located] = {}
        merged: dict[str, Located] = {}
        first_seen: dict[tuple[str, bool], int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            is_merge = key_node.tag == f"{_TAG}merge"
            key = "<<" if is_merge else self._key(key_node, line, path)
            if key is None:
                continue
            if (key, is_merge) in first_seen:
                first = first_seen[key, is_merge]
                below = (*path, self._speakable(key))
                self._problems.add_at(line, below, f"stands here twice (first in line {first})")
                continue
            first_seen[key, is_merge] = line
            if is_merge:
                merged = self._merged(value_node, path, depth)
            else:
                own[key] = self._value(value_node, (*path, self._speakable(key)), depth + 1)
        return merged | own

    def _key(self, node: yaml.Node, line: int, path: KeyPath) -> str | None:
        """The key's text; None, with a problem noted, if it is not one."""
        kind = node.tag.removeprefix(_TAG)
        if not isinstance(node, yaml.ScalarNode):
            text = "a key must be a text, not a list or a mapping"
        elif kind in _KINDS:
            key = _shortened(node.value) if node.value.isprintable() else key_shown(node.value)
            read_as = "is empty" if not key else f"{key} is read as {_KINDS[kind]}"
            text = f'the key {read_as}: quote it ("{key}")'
        elif kind not in ("str", "value"):
            text = "a key has a tag (!…), which is not supported"
        elif _SURROGATE.search(node.value):
            text = "a key is not valid Unicode"
        else:
            return str(node.value)
        self._problems.add_at(line, path, text)
        return None

    def _speakable(self, key: str) -> str:
        """The key as problems may name it: `{password:abc}` without a blank is one key in YAML."""
        for secret in self._secret_keys:
            if re.match(rf"{secret}[:=\s]", key):
                return f"{secret}:…"
        return key

    def _merged(self, node: yaml.Node, path: KeyPath, depth: int) -> dict[str, Located]:
        """What `<<:` brings in: one mapping or a list of them, of which the earlier wins."""
        self._spend(depth + 1)
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Located] = {}
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                result = self._entries(source, path, depth + 1) | result
            else:
                line = node.start_mark.line + 1
                self._problems.add_at(line, (*path, "<<"), "only a mapping can be merged")
        return result


def merge(base: Located, over: Located) -> Located:
    """`over` laid on `base`: mappings merge deeply, everything else replaces."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    entries = dict(base.value)
    for key, value in over.value.items():
        entries[key] = merge(entries[key], value) if key in entries else value
    return replace(over, value=entries)


def fill(
    place: Located, environ: Mapping[str, str], problems: Problems, instance: str | None = None
) -> Located:
    """`${VAR}`, `${VAR:-default}` and `$${` filled in, in every text here and below.

    With an instance's name, `{instance}` is replaced too, and the value that held it then belongs
    to that instance's path. The default stands in for a variable that is unset or empty, as in a
    shell. Nothing that was filled in is looked at again.
    """
    if isinstance(place.value, dict):
        entries = {k: fill(each, environ, problems, instance) for k, each in place.value.items()}
        return replace(place, value=entries)
    if isinstance(place.value, list):
        return replace(
            place, value=[fill(each, environ, problems, instance) for each in place.value]
        )
    if isinstance(place.value, str) and "{" in place.value and not place.broken:
        return _filled(place, place.value, environ, problems, instance)
    return place


def _filled(
    place: Located,
    text: str,
    environ: Mapping[str, str],
    problems: Problems,
    instance: str | None,
) -> Located:
    from_environment = False
    complaints: list[str] = []

    def named(plain: str) -> str:
        return plain if instance is None else plain.replace("{instance}", instance)

    def replacement(match: re.Match[str]) -> str:
        nonlocal from_environment
        if match["literal"]:
            return "${"
        if match["instance"]:
            return named(match["instance"])
        if match["wrong"]:
            complaints.append(
                "holds a ${ that is neither ${VAR} nor ${VAR:-default} (write $${ for a literal ${)"
            )
            return ""
        name = match["name"]
        value = environ.get(name, "")
        if match["default"] is not None and not value:
            return named(match["default"])
        from_environment = True
        if name not in environ:
            complaints.append(f"the environment variable {_shortened(name)} is not set")
        elif _SURROGATE.search(value):
            complaints.append(f"the environment variable {_shortened(name)} is not UTF-8 text")
        return value

    value = _VARIABLE.sub(replacement, text)
    for complaint in complaints:
        problems.add(place, complaint)
    path = place.path
    if instance is not None and "{instance}" in text:
        path = ("instances", instance, *path[1:])
    written = text if from_environment else ""
    return replace(place, value=value, path=path, written=written, broken=bool(complaints))
