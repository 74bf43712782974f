"""How an account may be authenticated: what a server makes by default works, with and without TLS.

MySQL's accounts are caching_sha2_password unless somebody asks for something else; where nothing
is cached yet and nothing encrypts the connection, the password takes another way.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from daemon import db
from daemon.config import Server
from daemon.errors import AccessError
from tests import mirror

if TYPE_CHECKING:
    from tests.conftest import Databases, ServerConfig, Servers

PASSWORD = "pässwörd 'with' \\ everything "

_accounts = count(1)


def account(servers: Servers, database: ServerConfig, *, password: str = PASSWORD) -> ServerConfig:
    """A new account, of which the server has nothing cached."""
    name = f"account{next(_accounts)}"
    quoted = password.replace("'", "''")
    servers.central.execute(
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES';"
        f"CREATE USER {name}@'%' IDENTIFIED BY '{quoted}';"
        f"GRANT SELECT ON {database['database']}.* TO {name}@'%'"
    )
    return {**database, "user": name, "password": password}


async def connects(config: ServerConfig) -> None:
    server = Server.model_validate(config)
    connection = await db.connect(server, "central", "central")
    try:
        assert connection.usable
    finally:
        await connection.close()


@pytest.mark.parametrize("password", [PASSWORD, "", "x" * 200])
async def test_the_servers_default_kind_of_account_without_tls(
    databases: Databases, servers: Servers, password: str
) -> None:
    config = account(servers, databases.central, password=password)
    await connects(config)
    await connects(config)
    servers.central.execute("FLUSH PRIVILEGES")  # MySQL forgets what it has cached
    await connects(config)
    mirror.run(config, "SELECT 1")


async def test_over_a_unix_socket(databases: Databases, servers: Servers) -> None:
    config = account(servers, databases.central)
    await connects({**config, "socket": str(servers.central.socket)})


async def test_a_wrong_password_says_so(databases: Databases, servers: Servers) -> None:
    config = account(servers, databases.central)
    for wrong in ("wrong", ""):
        with pytest.raises(AccessError) as refused:
            await connects({**config, "password": wrong})
        assert refused.value.errno == 1045


async def test_with_tls(databases: Databases, servers: Servers) -> None:
    authority = servers.central.datadir / "ca.pem"
    if not authority.exists():
        pytest.skip("only MySQL makes itself a certificate")
    config = account(servers, databases.central)
    servers.central.execute(f"ALTER USER {config['user']}@'%' REQUIRE SSL")
    await connects({**config, "tls": {"verify": False}})
    with pytest.raises(AccessError) as refused:
        await connects(config)
    assert refused.value.errno == 1045
    # The certificate is for no host at all.
    with pytest.raises(AccessError, match="certificate verify failed") as refused:
        await connects({**config, "tls": {"ca": str(authority)}})
    assert refused.value.errno == 2026
    assert "tls.ca" in refused.value.hint
