"""What one would write in an afternoon: read a batch, write it, commit, again. A rival, run as
`python -m bench.afternoon JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

import asyncmy

from bench.rivals import BATCH_ROWS, ON_DUPLICATE, upsert
from bench.seed import COLUMNS


def _connect(server: Mapping[str, Any]) -> Any:
    return asyncmy.connect(
        host=server["host"],
        port=server["port"],
        user=server["user"],
        password=server["password"],
        db=server["database"],
        charset="utf8mb4",
        autocommit=True,
    )


async def copy(
    central: Mapping[str, Any], local: Mapping[str, Any], instance: str, above: int, last: int
) -> None:
    marks = ", ".join(["%s"] * len(COLUMNS.split(",")))
    write = f"{upsert('messages')} VALUES ({marks}) {ON_DUPLICATE}"
    read = (
        f"SELECT {COLUMNS} FROM messages WHERE instance = %s AND id > %s AND id <= %s"
        f" ORDER BY id LIMIT {BATCH_ROWS}"
    )
    async with _connect(central) as there, _connect(local) as here:
        while True:
            async with there.cursor() as cursor:
                await cursor.execute(read, (instance, above, last))
                rows = await cursor.fetchall()
            if not rows:
                return
            async with here.cursor() as cursor:
                await cursor.executemany(write, rows)
            above = rows[-1][0]


if __name__ == "__main__":
    asyncio.run(copy(*json.loads(sys.argv[1])))
