"""An SQL file taken apart into its statements. Pure.

Knows what may hide a semicolon: strings, quoted names and comments (MySQL manual, "Comments",
"String Literals"). It does not know DELIMITER: a migration is plain statements. A backslash inside
a string is refused, because what it means depends on the session's sql_mode.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
      (?P<line>--(?=\s|\Z)[^\n]*|\#[^\n]*)       # to the end of the line; -- wants white space
    | (?P<hint>/\*(?:M?!|\+).*?\*/)              # a comment that is executed: part of the statement
    | (?P<block>/\*(?!M?!|\+).*?\*/)
    | (?P<quoted>'(?:[^']|'')*+'|"(?:[^"]|"")*+"|`(?:[^`]|``)*+`)
    | (?P<end>;)
    | (?P<open>/\*|['"`])                        # begun and never ended
    """,
    re.VERBOSE | re.DOTALL,
)
_DELIMITER = re.compile(r"(?:\A|;)\s*(?P<word>delimiter)\s", re.IGNORECASE)


_SPLITTER = re.compile(
    r"""'(?:[^'\\]|''|\\.)*+'|"(?:[^"\\]|""|\\.)*+"|`(?:[^`]|``)*+`|[(),]""", re.S
)


def pieces(text: str) -> list[str]:
    """A list separated by commas, of which those inside parentheses, strings and names are none."""
    found: list[str] = []
    depth = begin = 0
    for token in _SPLITTER.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if token[0] == "," and depth == 0:
            found.append(text[begin : token.start()].strip())
            begin = token.end()
    found.append(text[begin:].strip())
    return found


def split(text: str) -> list[str]:
    """The statements of a file, without comments around them and without the semicolons.

    Raises ValueError with the line of a string or comment that is never closed, of a backslash in a
    string, or of a DELIMITER.
    """
    statements: list[str] = []
    piece: list[str] = []
    code: list[str] = []  # the text with all that is no code blanked out, place for place
    place = 0

    def line(at: int) -> int:
        return text.count("\n", 0, at) + 1

    for token in _TOKEN.finditer(text):
        piece.append(text[place : token.start()])
        code.append(piece[-1])
        place = token.end()
        kind = token.lastgroup
        code.append(";" if kind == "end" else " " * len(token.group()))
        if kind == "open":
            raise ValueError(f"line {line(token.start())}: {token.group()} is never closed")
        if kind == "quoted" and "\\" in token.group():
            raise ValueError(
                f"line {line(token.start())}: a backslash in a string:"
                " write '' for a quote, CHAR(92) for itself"
            )
        if kind == "end":
            statements.append("".join(piece).strip())
            piece = []
        elif kind in {"quoted", "hint"}:
            piece.append(token.group())
        else:
            piece.append(" ")  # a comment separates words
    piece.append(text[place:])
    statements.append("".join(piece).strip())
    code.append(text[place:])
    if delimiter := _DELIMITER.search("".join(code)):
        at = line(delimiter.start("word"))
        raise ValueError(f"line {at}: DELIMITER is not known here: write plain statements")
    return [statement for statement in statements if statement]
