"""What the documents must tell of the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import errors

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def codes() -> Iterator[str]:
    """Every code that an error of the source may have."""
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value: ast.expr | None = None
            match node:
                case ast.Assign(targets=[ast.Name(id="code")]) | ast.keyword(arg="code"):
                    value = node.value
                case ast.Call(func=ast.Name(id="error_answer"), args=[_, code, *_]):
                    value = code
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


@pytest.mark.parametrize("code", sorted(set(codes())))
def test_every_code_has_a_remedy(code: str) -> None:
    table = OPERATIONS.partition("| code | means | do |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert any(f"`{code}`" in cells[0] and all(cells) for cells in rows)


@pytest.mark.parametrize("document", ["README.md", "README.pt-BR.md", "docs/operations.md"])
def test_every_exit_code_is_told(document: str) -> None:
    values = {getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")}
    assert 130 in values
    text = (ROOT / document).read_text()
    told = re.search(r"(?:Exit codes|Códigos de saída): ((?:.+\n)+)", text)
    assert told is not None
    assert {int(number) for number in re.findall(r"\b\d+\b", told[1])} >= values
