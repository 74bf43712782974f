"""dlt's way: the table as an incremental resource, merged into a database. A rival, run by the
Python of an environment that has dlt, and by that alone."""

from __future__ import annotations

import json
import sys
from typing import Any

import dlt
from dlt.sources.sql_database import sql_table


def copy(told: dict[str, Any]) -> None:
    def of_the_instance(query: Any, table: Any) -> Any:
        return query.where(table.c.instance == told["instance"], table.c.id <= told["last"])

    messages = sql_table(
        credentials=told["central"],
        table="messages",
        incremental=dlt.sources.incremental("id", initial_value=told["above"], range_start="open"),
        query_adapter_callback=of_the_instance,
        chunk_size=10_000,
    )
    messages.apply_hints(write_disposition="append")
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=told["pipelines"],
        destination=dlt.destinations.sqlalchemy(told["local"]),
        dataset_name=told["dataset"],
    )
    pipeline.run(messages)


if __name__ == "__main__":
    copy(json.loads(sys.argv[1]))
