"""One look for all instances: whether central has anything new for them.

Each incremental table's end is looked at every poll interval, and what is new is counted by
instance (`daemon.ledger`). Only those who have something there are woken; the others' positions and
settled ids move without a question. So what a thousand idle instances ask of central, and what they
cost here, does not depend on how many they are.

Each table, and each group of sums, is looked at in a task of its own (`Watch.run`): one that is
locked or slow keeps nobody waiting but those who follow it.

What it tells is a hint to look, or a proof that there is nothing to look for: rows are copied by
the instances alone. Whoever has not joined, or whose settled id lies below what the scans know,
looks for himself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

from daemon import events
from daemon.aio import Clock
from daemon.central import NOTHING, Central, Sum
from daemon.errors import DatabaseError, WppSyncError, internal
from daemon.ledger import Ledger, Stretch, Told
from daemon.sql import Key, Sums

_COMPARE_SECONDS = 0.5
"""Others begin to rest meanwhile, and want to be asked for earlier."""

_MISHAPS = 3
"""So many looks in a row may fail before anybody is told: all would come at once."""


class Herd:
    """Those who rest and are to be woken by what concerns many at once. Each of them opens a
    connection and costs some 20 ms of this process: they are woken one after the other, in a time
    that grows with their number and has a bound. New rows do not wait in it."""

    WAKES_PER_SECOND = 25.0

    LONGEST_SECONDS = 30.0
    """The last of them is woken so late: before the rows that he may be woken for would settle."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate = self.WAKES_PER_SECOND
        self._next_at = float("-inf")
        self._waiting: dict[asyncio.Event, dict[Member | Standing, bool]] = {}
        """By whom they wake, in order: what tells them, and whether that stays true."""

        self._some = asyncio.Event()

    def wake(self, one: Member | Standing, *, sure: bool = False) -> None:
        """Wake him when it is his turn. `sure`: also where `spare` says that he need not be."""
        if not self._waiting and self._clock() >= self._next_at:
            self._wake([one])
            return
        whys = self._waiting.setdefault(one.news, {})
        whys[one] = sure or whys.get(one, False)
        self._rate = max(self._rate, len(self._waiting) / self.LONGEST_SECONDS)
        self._some.set()

    def spare(self, one: Member | Standing) -> None:
        """What he was to be told is not so any more."""
        whys = self._waiting.get(one.news, {})
        if not whys.get(one, True):
            self.forget(one)

    def forget(self, one: Member | Standing) -> None:
        """He has left."""
        whys = self._waiting.get(one.news, {})
        whys.pop(one, None)
        if not whys:
            self._waiting.pop(one.news, None)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            if not self._waiting:
                self._rate = self.WAKES_PER_SECOND
                self._some.clear()
                await self._some.wait()
            await asyncio.sleep(self._next_at - self._clock())
            if self._waiting:
                self._wake(self._waiting.pop(next(iter(self._waiting))))

    def _wake(self, whys: Iterable[Member | Standing]) -> None:
        self._next_at = self._clock() + 1 / self._rate
        for one in whys:
            one.wake()


class Member:
    """One instance's place in the watch over one table."""

    __slots__ = (
        "_heeded", "_herd", "_instance", "_quiet_at", "_suspect", "_table",
        "interval", "news", "owner", "rests",
    )  # fmt: skip

    def __init__(
        self,
        table: _Table,
        instance: str,
        news: asyncio.Event,
        interval: float,
        herd: Herd,
    ) -> None:
        self.owner = _owner(table.sums, instance)
        self.interval = interval
        self.news = news
        self.rests = False
        """Its instance has closed its connection, and is not to be woken together with many."""

        self._herd = herd
        self._table = table
        self._instance = instance
        # What was scanned before is not known to concern it, nor that it does not.
        self._suspect = None if table.ledger is None else table.ledger.base
        self._heeded = False

        self._quiet_at = float("-inf")

    def tell(self, suspect: int | None) -> None:
        """There is something above this id; None: nobody knows any more."""
        if self._heeded:
            self._heeded, self._quiet_at = False, self._table.looked_at
        if suspect is not None:
            self._suspect = suspect if self._suspect is None else min(self._suspect, suspect)
        self.news.set()

    def wake(self) -> None:
        """Nobody knows any more whether there is something."""
        self.tell(None)

    @property
    def heeded(self) -> bool:
        """Nothing was told since the last `take`, and somebody looks."""
        table = self._table
        return self._heeded and table.ledger is not None and not table.trouble

    @property
    def again_from(self) -> int | None:
        """Ids from here on are handed out once more: the table was truncated or restored; None:
        none are. So until it `noted` it, also where others take its place before that: by then the
        table may have grown past these ids, and nothing else would show it."""
        return self._table.past.rewinds.get(self._instance)

    def noted(self) -> None:
        """That is written down, or does not concern the instance: it has read nothing there."""
        self._table.past.rewinds[self._instance] = None

    def take(self) -> Told | None:
        """What is known now; None where nobody looks. What it told of is told once: whoever takes
        it and fails must join anew."""
        ledger = self._table.ledger
        if ledger is None or self._table.trouble:
            return None
        suspect, self._suspect, self._heeded = self._suspect, None, True
        return Told(ledger.base, ledger.upto, ledger.vouched, suspect)

    def leave(self) -> None:
        """From now on nothing is looked for."""
        self._herd.forget(self)
        self._table.leave(self)

    @property
    def sums(self) -> Sums:
        """How its new rows are counted."""
        return self._table.sums

    @property
    def quiet_at(self) -> float:
        """When there was nothing to tell, as last looked, that was not taken."""
        return self._table.looked_at if self._heeded else self._quiet_at


class _Past:
    """What stays known of a table while nobody follows it, too."""

    def __init__(self) -> None:
        self.reached = float("-inf")
        """The highest id that it ended at."""

        self.rewinds: dict[str, int | None] = {}
        """The instances that follow it, or have, as one whose entity failed or was paused: from
        where on ids were handed out again that it may have read, and has not noted it yet; None:
        it need note nothing."""

    def rewind(self, again_from: int, head: int) -> None:
        """Ids from here on are handed out once more."""
        self.reached = head
        for instance, before in self.rewinds.items():
            self.rewinds[instance] = again_from if before is None else min(before, again_from)


class _Table:
    """The watch over one table."""

    def __init__(self, sums: Sums, past: _Past) -> None:
        self.sums = sums
        self.past = past
        self.members: dict[str, list[Member]] = {}
        self._interval: float | None = None
        self.ledger: Ledger | None = None
        """None: nobody has looked yet."""

        self.looked_at = float("-inf")
        """When the last look began that was done to its end."""

        self.scanned_again_at = float("-inf")
        self.fell_to: int | None = None
        """A head below one of before that meant nothing when it was asked last."""

        self.fell_asked_at = float("-inf")

        self.failures = 0
        """So many looks have failed since the last one that did not."""

    @property
    def trouble(self) -> bool:
        """It has failed too often for a mishap: everybody looks for himself."""
        return self.failures >= _MISHAPS

    @property
    def interval(self) -> float:
        """Seconds between two looks: what the most impatient wants."""
        if self._interval is None:
            self._interval = min((each.interval for each in self.each_member()), default=0.0)
        return self._interval

    def join(self, member: Member) -> None:
        """From now on he follows it."""
        self.members.setdefault(member.owner, []).append(member)
        self._interval = None

    def leave(self, member: Member) -> None:
        """He does no more."""
        self.members[member.owner].remove(member)
        if not self.members[member.owner]:
            del self.members[member.owner]
        self._interval = None

    def each_member(self) -> Iterator[Member]:
        """All who follow it."""
        return chain.from_iterable(self.members.values())


class Standing:
    """What an instance that rests takes central to have: this sum, over these keys or over all of
    its rows. It is told when that is not so any more."""

    __slots__ = (
        "_group", "_herd", "differs", "due_at", "expected", "held_at", "interval", "keys", "news",
        "owner",
    )  # fmt: skip

    def __init__(
        self,
        group: _Group,
        owner: str,
        keys: Collection[Key] | None,
        expected: Sum,
        news: asyncio.Event,
        interval: float,
        herd: Herd,
    ) -> None:
        self.owner = owner
        self.keys = keys
        self.expected = expected
        self.news = news
        self.interval = interval
        self.due_at = float("-inf")
        self.held_at: float | None = None
        """When it was last so, in seconds of the clock; None: not asked yet."""

        self.differs = False

        self._group = group
        self._herd = herd

    def wake(self) -> None:
        """Something else is there, or nobody knows any more."""
        self.news.set()

    def leave(self) -> None:
        """From now on it is not asked."""
        self._herd.forget(self)
        self._group.standings.discard(self)


class _Group:
    """Those who rest upon sums that one question can ask for."""

    def __init__(self, sums: Sums, *, whole: bool) -> None:
        self.sums = sums
        self.whole = whole
        """Over all rows of an owner, not over some keys."""

        self.standings: set[Standing] = set()
        self.due_at = float("-inf")
        """When the first of them is to be asked for: who looks twice a second is not to go through
        thousands of them."""

        self.misses = 0
        """So often in a row central has not said."""


class Watch:
    """The watch over all tables that somebody follows."""

    AGAIN_SECONDS = 5.0
    """So often what is unsettled is scanned again for rows that came late."""

    AGAIN_IDS = 20_000
    """At most so many of the newest ids; older ones when they settle."""

    SCAN_ROWS = 50_000
    """So many rows are counted by one statement."""

    ERROR_SECONDS = 1.0
    """After trouble the next look follows so late at the earliest; the instances have been told."""

    SCANS_AT_ONCE = 8
    """At most so many statements for new ids of one table, before the others have their turn."""

    def __init__(self, central: Central, clock: Clock) -> None:
        self._central = central
        self._clock = clock
        self._tables: dict[Sums, _Table] = {}
        self._pasts: dict[Sums, _Past] = defaultdict(_Past)
        self._groups: dict[tuple[Sums, bool], _Group] = {}
        self._begun = asyncio.Queue[_Table | _Group]()
        """What nobody has followed before, for `run` to begin with."""

        self._herd = Herd(clock)
        # The instances need the other connections. Sums have a bound of their own.
        self._places = asyncio.Semaphore(max(2, central.connections // 2))
        self._log = events.get_logger()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Until it is cancelled: look at each table and each group of sums, in a task of the group
        that ends when nobody follows it any more."""
        group.create_task(self._herd.run(), name="wake")
        while True:
            begun = await self._begun.get()
            follow = self._follow(begun) if isinstance(begun, _Table) else self._ask(begun)
            group.create_task(follow, name=f"watch {begun.sums.table}")

    def join(self, sums: Sums, instance: str, news: asyncio.Event, interval: float) -> Member:
        """From now on `news` is set when the table has something for the instance; looked for
        every `interval` seconds, or more often. `sums`: a plan's `new_ids`."""
        if (table := self._tables.get(sums)) is None:
            table = self._tables[sums] = _Table(sums, self._pasts[sums])
            self._begun.put_nowait(table)
        member = Member(table, instance, news, interval, self._herd)
        table.past.rewinds.setdefault(instance, None)
        table.join(member)
        return member

    def forget_rewinds(self, instance: str) -> None:
        """Another process has copied the instance: what its state rows say is that one's word."""
        for past in self._pasts.values():
            past.rewinds.pop(instance, None)

    async def _follow(self, table: _Table) -> None:
        while table.members:
            async with self._places:
                pause = await self.look(table)
            await asyncio.sleep(pause)
        del self._tables[table.sums]

    async def look(self, table: _Table) -> float:
        """Look at a table once; the seconds to wait before the next look.

        Trouble with it is told to those who follow it: they meet it themselves.
        """
        try:
            await self._look(table)
        except DatabaseError as error:
            self._failed(table, error.code)
        except Exception as error:  # noqa: BLE001 - a bug here must not keep rows from anybody
            table.ledger, table.failures = None, max(table.failures, _MISHAPS - 1)
            self._wake_all(table, sure=True)  # what comes until the next ledger begins, none knows
            self._failed(table, self._broke(table.sums, error).code)
        else:
            return table.interval
        return max(table.interval, self.ERROR_SECONDS)

    def expect(
        self,
        sums: Sums,
        instance: str,
        keys: Collection[Key] | None,
        expected: Sum,
        news: asyncio.Event,
        interval: float,
    ) -> Standing:
        """From now on `news` is set when central's rows of the instance do not add up to this any
        more; asked every `interval` seconds, or less often while central is busy, for all that wait
        for the same table at once."""
        key = (sums, keys is None)
        if (group := self._groups.get(key)) is None:
            group = self._groups[key] = _Group(sums, whole=keys is None)
            self._begun.put_nowait(group)
        owner = _owner(sums, instance)
        standing = Standing(group, owner, keys, expected, news, interval, self._herd)
        group.standings.add(standing)
        group.due_at = standing.due_at
        return standing

    @property
    def spread(self) -> float:
        """In so many seconds all would be woken, one after the other, if all rested."""
        many = max((len(table.members) for table in self._tables.values()), default=0)
        return many / Herd.WAKES_PER_SECOND

    async def _ask(self, group: _Group) -> None:
        while group.standings:
            await self.compare(group)
            await asyncio.sleep(_COMPARE_SECONDS)
        del self._groups[group.sums, group.whole]

    async def compare(self, group: _Group) -> None:
        """Ask for what those who rest expect, where it is time."""
        now = self._clock()
        if group.due_at > now:
            return
        due = [each for each in group.standings if each.due_at <= now]
        if not due:
            group.due_at = min((each.due_at for each in group.standings), default=now)
            return
        found = await self._sums(group, due)
        for each in due:
            # At the same moments for all, so that one walk serves them.
            interval = each.interval * self._central.slowness
            each.due_at = (now // interval + 1) * interval
        if found is None and group.misses < _MISHAPS:
            return
        for each in group.standings.intersection(due):  # the others have left meanwhile
            each.differs = found is None or found.get(each.owner, NOTHING) != each.expected
            if each.differs:
                self._herd.wake(each)
            else:
                self._herd.spare(each)
                each.held_at = now

    async def _sums(self, group: _Group, due: Sequence[Standing]) -> dict[str, Sum] | None:
        """What central has, by owner; None when it does not say. After some mishaps those who rest
        are told, and see for themselves."""
        try:
            if group.whole:
                found = await self._central.totals(group.sums)
            else:
                keys = [key for each in due for key in each.keys or ()]
                found = await self._central.sums_of_keys(group.sums, keys)
        except DatabaseError:
            group.misses += 1
            return None
        except Exception as error:  # noqa: BLE001 - as in `look`
            self._broke(group.sums, error)
            group.misses += _MISHAPS
            return None
        group.misses = 0
        return found

    def _broke(self, sums: Sums, error: Exception) -> WppSyncError:
        told = internal(error)
        self._log.error(
            "watch broke", table=sums.table, code=told.code, error=told.message, hint=told.hint
        )
        return told

    def _failed(self, table: _Table, code: str) -> None:
        """What was seen before stays true; when it goes on like this, everybody looks for himself
        until a look succeeds."""
        before = table.trouble
        table.failures += 1
        if table.trouble and not before:
            self._log.debug("watch interrupted", table=table.sums.table, code=code)
            self._wake_all(table, sure=False)

    def _wake_all(self, table: _Table, *, sure: bool) -> None:
        """Everybody has to look for himself; those who rest not all at once, and not at all where
        the trouble is over before (`sure`: what was to be seen meanwhile is not seen any more)."""
        for member in table.each_member():
            if member.rests:
                self._herd.wake(member, sure=sure)
            else:
                member.wake()

    async def _look(self, table: _Table) -> None:
        began, sums = self._clock(), table.sums
        head = (await self._central.head(sums.table, sums.key[0])).id
        if head >= table.past.reached:
            table.past.reached, table.fell_to = head, None
        elif (again_from := await self._rewound(table, head)) is not None:
            table.past.rewind(again_from, head)
            table.ledger = table.fell_to = None
            self._wake_all(table, sure=True)
        ledger = table.ledger
        if ledger is None:
            ledger = table.ledger = Ledger(head)
        for _ in range(self.SCANS_AT_ONCE):
            if ledger.upto >= head:
                break
            after = ledger.upto
            seen, end = await self._central.first_new_ids(
                sums, after=after, upto=head, limit=self.SCAN_ROWS
            )
            self._tell(table, ledger.first(end, seen), after)
        if ledger.stretches:
            await self._settle(table, ledger)
            await self._scan_again(table, ledger)
        if ledger.upto >= head:
            table.looked_at = began
        if table.trouble:
            for member in table.each_member():
                self._herd.spare(member)
        table.failures = 0

    async def _rewound(self, table: _Table, head: int) -> int | None:
        """From where on the table hands out ids again that it had; None: it does not. Rows that
        were deleted at its end lower the head, too, and their ids do not come again. A TRUNCATE
        may come after them, and leave the head where it is: asked again now and then."""
        fresh = self._clock() - table.fell_asked_at < self.AGAIN_SECONDS
        if table.fell_to == head and fresh:
            return None
        following = await self._central.next_id(table.sums.table)
        if following is None:
            return head + 1
        if following <= table.past.reached:
            return following
        table.fell_to, table.fell_asked_at = head, self._clock()
        return None

    async def _settle(self, table: _Table, ledger: Ledger) -> None:
        """First the evidence, then the scan, then the claim."""
        sums = table.sums
        sure = await self._central.settled(sums.table, sums.key[0], ledger.vouched)
        for stretch in ledger.settled(sure):
            await self._scan(table, ledger, stretch)
            ledger.vouch(stretch)

    async def _scan_again(self, table: _Table, ledger: Ledger) -> None:
        if self._clock() - table.scanned_again_at < self.AGAIN_SECONDS:
            return
        for stretch in list(ledger.stretches):
            if stretch.upto > ledger.upto - self.AGAIN_IDS:
                await self._scan(table, ledger, stretch)
        table.scanned_again_at = self._clock()

    async def _scan(self, table: _Table, ledger: Ledger, stretch: Stretch) -> None:
        seen = await self._central.new_ids(table.sums, after=stretch.after, upto=stretch.upto)
        self._tell(table, ledger.again(stretch, seen), stretch.after)

    @staticmethod
    def _tell(table: _Table, names: Iterable[str], suspect: int | None) -> None:
        for name in names:
            for member in table.members.get(name, ()):
                member.tell(suspect)


def _owner(sums: Sums, instance: str) -> str:
    """Under which name the instance's rows are counted: none where rows are everybody's."""
    return instance if sums.owner is not None else ""
