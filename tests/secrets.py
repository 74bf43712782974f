"""Planted secrets, and whether any of it is found again."""

from __future__ import annotations

import base64
from urllib.parse import quote

ODD = "s3cr3t-alpha'\"\\ %41%s pässwörd\n€-omega"
"""Whatever breaks when it is quoted wrongly."""

PLAIN = "pl4nted-Secret_value"
"""One that may stand in many places of the configuration."""

LONG = "".join(f"l0ng{number:03}x" for number in range(15))
"""Longer than what is cut where a problem shows a value."""

_PIECE = 8


def leaks(text: str, *secrets: str) -> list[str]:
    """The pieces of the secrets that are found in a text: plain, escaped, or in base64."""
    found = []
    for secret in secrets or (ODD, PLAIN, LONG):
        for form in _forms(secret):
            pieces = (form[n : n + _PIECE] for n in range(max(1, len(form) - _PIECE + 1)))
            found += [piece for piece in pieces if piece in text]
    return found


def _forms(secret: str) -> list[str]:
    raw = secret.encode()
    # In base64 what lies before it shifts it by none, one or two bytes.
    based = [base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in range(3)]
    return [secret, ascii(secret)[1:-1], quote(secret, safe=""), raw.hex(), *based]
