"""What a changed configuration changes. Pure: it compares, it touches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.config import Config, Instance, Sync

_AT_ONCE = (
    "shutdown_timeout",
    "max_rows_per_second",
    "max_threads_running",
    "max_replica_lag",
)
"""What of `sync` holds from the reload on, and nobody has to begin anew for."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between the configuration that is in force and another one."""

    central: bool
    """Central is another server, or opened in another way."""

    foundation: bool
    """Something that all instances rest on differs: all of them begin anew."""

    control: bool
    http: bool
    log: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """Instances with other settings."""

    kept: tuple[str, ...]
    """Instances that are not touched."""

    def told(self) -> dict[str, object]:
        """For the answer to whoever asked for the reload."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "unchanged": len(self.kept),
        }


def compare(old: Config, new: Config) -> Changes:
    """What differs, instance by instance. One that is switched off is none."""
    foundation = _foundation(old) != _foundation(new)
    before, after = enabled(old), enabled(new)
    both = [name for name in after if name in before]
    kept = [name for name in both if before[name] == after[name] and not foundation]
    return Changes(
        central=old.central != new.central,
        foundation=foundation,
        control=old.control != new.control,
        http=old.http != new.http,
        log=old.log != new.log,
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in both if name not in kept),
        kept=tuple(kept),
    )


def enabled(config: Config) -> dict[str, Instance]:
    """The instances that are not switched off."""
    return {name: each for name, each in config.instances.items() if each.enabled}


def _foundation(config: Config) -> tuple[object, ...]:
    # How long a stop may take is asked when there is one, how fast rows are copied with each page.
    usual = Sync()
    at_once = {name: getattr(usual, name) for name in _AT_ONCE}
    return (config.central, config.sync.model_copy(update=at_once), config.migrations)
