"""An SQL file taken apart into its statements. Pure.

Knows what may hide a semicolon: strings, quoted names and comments (MySQL manual, "Comments",
"String Literals"). It does not know DELIMITER: a migration is plain statements. A backslash inside
a string is refused, because what it means depends on the session's sql_mode.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<line>--(?=[\s]|$)[^\n]*|\#[^\n]*)      # to the end of the line; -- wants white space
    | (?P<hint>/\*[!M+])                         # a comment that is executed: part of the statement
    | (?P<block>/\*.*?\*/)
    | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    | (?P<end>;)
    | (?P<open>/\*|['"`])                        # begun and never ended
    """,
    re.VERBOSE | re.DOTALL,
)


def split(text: str) -> list[str]:
    """The statements of a file, without comments around them and without the semicolons.

    Raises ValueError with the line of a string or comment that is never closed, or of a DELIMITER.
    """
    statements: list[str] = []
    piece: list[str] = []
    place = 0
    for token in _TOKEN.finditer(text):
        piece.append(text[place : token.start()])
        place = token.end()
        kind = token.lastgroup
        line = text.count("\n", 0, token.start()) + 1
        if kind == "quoted" and "\\" in token.group():
            raise ValueError(
                f"line {line}: a backslash in a string: write '' for a quote, CHAR(92) for itself"
            )
        if kind == "open":
            raise ValueError(f"line {line}: {token.group()} is never closed")
        if kind == "end":
            statements.append("".join(piece).strip())
            piece = []
        elif kind in {"quoted", "hint"}:
            piece.append(token.group())
        else:
            piece.append(" ")  # a comment separates words
    piece.append(text[place:])
    statements.append("".join(piece).strip())
    for number, line_text in enumerate(text.splitlines(), 1):
        if re.match(r"\s*delimiter\s", line_text, re.IGNORECASE):
            raise ValueError(f"line {number}: DELIMITER is not known here: write plain statements")
    return [statement for statement in statements if statement]
