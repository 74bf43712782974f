"""The status page: what is true of the instances, as HTML for people. Pure: it is given what it
shows, and asks nobody.

Trouble comes first: whoever opens the page at night reads its first lines. Every value is escaped
by the templates' engine; nothing is inline that a strict Content-Security-Policy would forbid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from daemon.recent import Recent, Suffered
from daemon.seen import InstanceSeen

if TYPE_CHECKING:
    from jinja2 import Environment

# Nothing but what this server itself sends, and nothing inline.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_LATE_SECONDS, _WHOLE_LATE_SECONDS = 60.0, 600.0
"""A mirror that is so old is trouble; of what is compared whole, at its interval, one so old."""

# The first word is the worst.
_TROUBLES = ("failed", "rewound", "stalled", "backoff", "quarantine", "late")
_STATES = ("migrating", "starting", "paused", "standby", "syncing", "idle")

_WELL = frozenset({"idle", "syncing"})
"""They are copied here: of the others this daemon cannot say that they are well."""

_SPARK_WIDTH, _SPARK_HEIGHT = 60, 16


@dataclass(frozen=True, slots=True)
class Line:
    """One instance on the first page."""

    name: str
    state: str
    trouble: str
    """One of `_TROUBLES`, or empty."""

    lag_seconds: float | None
    """The worst of the entities that follow a growing table."""

    lag_rows: int | None
    """None where nobody knows."""

    rows_per_second: float
    spark: str
    """The points of a line, as SVG wants them; empty where nothing was written lately."""

    last_success: float | None
    """Seconds since 1970."""

    pending: int | None
    """Migrations that are not in effect yet."""

    quarantined: int
    message: str
    """What an operator should read; empty where all is well."""

    hint: str

    @property
    def rank(self) -> tuple[int, float, str]:
        """Where it stands: the worst first."""
        if self.trouble:
            place = _TROUBLES.index(self.trouble)
        else:
            place = len(_TROUBLES) + _STATES.index(self.state)
        return place, -(self.lag_seconds or 0.0), self.name

    @property
    def href(self) -> str:
        """Its page. Whoever follows a link takes `.` and `..` out of its path first, also written
        as %2E: such a name is asked for."""
        name = quote(self.name, safe="")
        return f"/instances?name={name}" if name in {".", ".."} else f"/instances/{name}"


def line(
    seen: InstanceSeen, recent: Recent, errors: Sequence[tuple[str, str]], *, stalled: bool
) -> Line:
    """`errors`: message and hint of what is wrong now, the instance's own first."""
    entities = seen.entities.values()
    # Of what is compared whole the age is no lag that anybody waits for.
    follows = [e for e in entities if e.rewound is not None]
    lags = [e.lag_seconds for e in follows if e.lag_seconds is not None]
    counted = [e.lag_rows for e in follows if e.lag_rows is not None]
    known = len(counted) == len(follows) > 0
    quarantined = sum(e.quarantined_rows or 0 for e in entities)
    lag = max(lags, default=None)
    found = {
        "failed": seen.state == "failed",
        "rewound": any(e.rewound for e in entities),
        "stalled": stalled,
        "backoff": seen.state == "backoff",
        "quarantine": quarantined > 0,
        "late": any(
            (e.lag_seconds or 0.0) > (_LATE_SECONDS if e in follows else _WHOLE_LATE_SECONDS)
            for e in entities
            if not e.entity_paused
        ),
    }
    message, hint = errors[0] if errors else ("", "")
    rates = recent.rates
    return Line(
        name=seen.name,
        state=seen.state,
        trouble=next((word for word, true in found.items() if true), ""),
        lag_seconds=lag,
        lag_rows=sum(counted) or (0 if known else None),
        rows_per_second=rates[-1] if rates else 0.0,
        spark=spark(rates),
        last_success=seen.last_success_timestamp_seconds,
        pending=seen.migrations_pending,
        quarantined=quarantined,
        message=message,
        hint=hint,
    )


def spark(rates: Sequence[float]) -> str:
    """A line over the last minutes, in a box of 60 by 16; empty where it would be flat at 0, or a
    single point."""
    most = max(rates, default=0.0)
    if most <= 0 or len(rates) < 4:
        return ""
    # A point for every two pixels: the newest rates, by twos.
    newest = rates[len(rates) % 2 :]
    pairs = [max(two) for two in zip(newest[::2], newest[1::2], strict=True)]
    scale = (_SPARK_HEIGHT - 2) / most
    first = _SPARK_WIDTH - 2 * len(pairs)
    return " ".join(
        [
            f"{first + 2 * i},{_SPARK_HEIGHT - 1 - round(rate * scale)}"
            for i, rate in enumerate(pairs)
        ]
    )


def overview(lines: Sequence[Line], search: str, *, version: str, now: datetime) -> str:
    """The first page: every instance whose name, state or trouble has what is searched for."""
    wanted = search.strip().casefold()
    chosen = [
        each
        for each in lines
        if wanted in each.name.casefold() or wanted in {each.state, each.trouble}
    ]
    return _rendered(
        "overview.html",
        lines=sorted(chosen, key=lambda each: each.rank),
        total=len(lines),
        troubled=sum(1 for each in lines if each.trouble),
        well=sum(1 for each in lines if not each.trouble and each.state in _WELL),
        counts=sorted(Counter(each.state for each in lines).items()),
        search=search,
        version=version,
        now=now,
    )


def instance(
    status: Mapping[str, Any],
    line: Line,
    errors: Sequence[Suffered],
    *,
    version: str,
    now: datetime,
) -> str:
    """The page of one instance. `status`: as `operations.get_sync_status` tells it."""
    return _rendered(
        "instance.html", status=status, line=line, errors=errors, version=version, now=now
    )


def missing(message: str, *, version: str, now: datetime) -> str:
    """The page for what is not there."""
    return _rendered("missing.html", message=message, version=version, now=now)


@cache
def static(name: str) -> str:
    """`style.css`, `refresh.js` or `icon.svg`. Raises FileNotFoundError."""
    return resources.files(__name__).joinpath("static", name).read_text()


# --- words for the templates ----------------------------------------------------------------------


def ago(moment: float | None, now: datetime) -> str:
    """`moment`: seconds since 1970."""
    return "never" if moment is None else f"{span(now.timestamp() - moment)} ago"


def span(seconds: float | None) -> str:
    """A duration as a person says it."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 1:
        return "0 s" if seconds < 0.05 else f"{seconds:.1f} s"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.0%}"


def moment(at: datetime | str | None) -> str:
    """A time, without the letters that machines want."""
    if at is None:
        return "–"
    text = at.astimezone(UTC).isoformat(timespec="seconds") if isinstance(at, datetime) else at
    return text.replace("T", " ").replace("+00:00", "").removesuffix("Z")


@cache
def _environment() -> Environment:
    # Here, because nobody may ever look: 3 MB.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("daemon.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"span": span, "number": number, "percent": percent, "moment": moment}
    made.globals |= {"ago": ago}
    return made


def _rendered(name: str, **shown: object) -> str:
    return _environment().get_template(name).render(shown)
