"""The GRANT statements of the documents, as they stand there, are enough, and no more than that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.demo.central import schema
from daemon.demo.server import HOST, PrivateServer
from daemon.errors import WppSyncError
from tests import mirror
from tests.daemon_process import run_cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("docs/operations.md", "README.md", "README.pt-BR.md")
PASSWORD = "…"


def statements(document: str) -> tuple[list[str], list[str]]:
    """For central, and for a local database: from the first one on that names it."""
    blocks = re.findall(r"^```sql\n(.*?)^```", (ROOT / document).read_text(), re.S | re.M)
    text = "\n".join(block for block in blocks if "GRANT" in block)
    found = [each.strip() for each in re.sub(r"--.*", "", text).split(";") if each.strip()]
    (first, *_) = (number for number, each in enumerate(found) if "nunes" in each)
    return found[:first], found[first:]


def prepare(server: PrivateServer, documented: list[str]) -> None:
    """Run them; what a document takes for granted, before them."""
    if not any(each.startswith("CREATE USER") for each in documented):
        server.execute(f"CREATE USER wpp_sync@'%' IDENTIFIED BY '{PASSWORD}'")
    for each in documented:
        # The tests' servers are on this machine, and have no certificate.
        server.execute(each.replace("10.0.0.%", HOST).replace(" REQUIRE SSL", ""))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documented_grants_are_enough(
    document: str,
    central: PrivateServer,
    local: PrivateServer,
    write_config: Callable[..., Path],
) -> None:
    source = central.create_database("wpp")
    central.execute(schema(), "wpp")
    mirror.insert_messages(source, range(1, 51))
    # Not empty: MySQL plans to walk over an empty table without an index, and `check` says so.
    mirror.run(
        source,
        """
        INSERT INTO contacts (id, name, instance, is_deleted, is_blocked, is_only_admin, created_at)
            SELECT id, 'Ana', 'nunes', 0, 0, 0, NOW(3) FROM messages;
        INSERT INTO contacts_sectors SELECT id, 1 FROM messages""",
    )
    of_central, of_local = statements(document)
    prepare(central, of_central)
    if not any(each.startswith("CREATE DATABASE") for each in of_local):
        local.create_database("wpp_nunes")
    prepare(local, of_local)
    target = local.config("wpp_nunes")
    account = {"user": "wpp_sync", "password": PASSWORD}
    config = write_config({**source, **account}, {"nunes": {**target, **account}}, entities={})
    for verb in (["check"], ["migrate", "--dry-run"], ["sync", "nunes"], ["check"],
                 ["reconcile", "nunes"], ["resync", "nunes"], ["pause", "nunes"]):  # fmt: skip
        done = run_cli(*verb, "-c", config)
        assert done.returncode == 0, f"{verb}: {done.stdout}{done.stderr}"
        if verb == ["check"]:
            assert "exact" in done.stdout, "PROCESS is of use"
            assert "do more than SELECT" not in done.stdout
    assert mirror.differences(source, target) == ""
    # The database of a customer whose name differs where this one's has a "_".
    other = local.create_database("wppxnunes")
    with pytest.raises(WppSyncError, match="denied"):
        mirror.run({**other, **account}, "CREATE TABLE t (id INT)")
