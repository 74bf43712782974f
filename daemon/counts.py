"""What an instance has done and suffered: counted, logged and remembered when it happens."""

from __future__ import annotations

from collections.abc import Callable

from daemon import events
from daemon.errors import WppSyncError
from daemon.metrics import Metrics
from daemon.recent import Recent
from daemon.sync.commit import Committed
from daemon.throttle import Reason


class Counts:
    """The counts of one instance."""

    def __init__(self, instance: str, metrics: Metrics) -> None:
        self.rows_written = 0
        self.recent = Recent()
        self.listener: Callable[[Committed], None] | None = None
        """Told of each commit."""

        self._name = instance
        self._metrics = metrics
        self._log = events.logger_of(instance)

    def suffered(self, error: WppSyncError, entity: str = "") -> None:
        """An error came now; an entity's own, or the instance's."""
        self._metrics.errors.labels(self._name, error.code).inc()
        self.recent.suffered(error, entity)

    def held(self, reason: Reason, seconds: float) -> None:
        """It was throttled for so long."""
        self._metrics.throttled_seconds.labels(self._name, reason).inc(seconds)

    def committed(self, commit: Committed) -> None:
        """After each local transaction."""
        labels = (self._name, commit.entity)
        self._metrics.rows.labels(*labels, "upsert").inc(commit.rows)
        self._metrics.rows.labels(*labels, "delete").inc(commit.deleted)
        self._metrics.batch_duration.labels(commit.entity).observe(commit.seconds)
        self.rows_written += commit.rows
        if commit.late:
            self._metrics.late_rows.labels(*labels).inc(commit.late)
            self._log.info("late rows copied", entity=commit.entity, rows=commit.late)
        if commit.refused:
            self._log.error(
                "rows quarantined", entity=commit.entity, rows=commit.refused,
                hint=f"wpp-sync quarantine {self._name} list",
            )  # fmt: skip
        self._log.debug(
            "batch", entity=commit.entity, rows=commit.rows, deleted=commit.deleted,
            seconds=round(commit.seconds, 4), last_synced_id=commit.last_synced_id,
            settled_id=commit.settled_id,
        )  # fmt: skip
        if self.listener is not None:
            self.listener(commit)
