"""What the history keeps rebuilds what stands in the other tables, but for the pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.config.domain import domain_machine, history_codec
from services.config.domain.model import Cause, Certificate, Domain
from services.config.store import domains
from shared import catalogue
from shared.contracts.certificates import RollbackCertificate
from shared.contracts.commands import ChangeSettings, HstsChange
from shared.contracts.domains import Outcome
from shared.ids import new_id
from shared.storage.pool import Pool, open_pool
from tests.integration.config.harness import ConfigHarness, domain_name
from tests.integration.config.test_library import deploy, hosts, results, stored, wildcard
from tests.support.factories import ACCOUNT


@pytest.fixture
async def pool(harness: ConfigHarness) -> AsyncIterator[Pool]:
    """As config opens it."""
    opened = await open_pool(harness.cluster.dsns["config"], size=2)
    yield opened
    await opened.close()


async def rebuilt(pool: Pool, domain: str) -> Domain | None:
    """From the history alone."""
    state: Domain | None = None
    for row in await pool.fetch("select * from history where domain = $1 order by id", domain):
        cause = Cause(
            row["command_id"], row["command"], row["source"], row["account"], row["received_at"]
        )
        if row["change"] is not None:
            state = domain_machine.evolve(state, history_codec.decode_event(row["change"], cause))
    return state


async def kept(pool: Pool, domain: str) -> Domain:
    """As it stands in its row, without pairs."""
    async with pool.acquire() as connection:
        state = (await domains.load_domains(connection, [domain]))[domain]
    return replace(state, live=_bare(state.live), previous=_bare(state.previous), pending=None)


def _bare(certificate: Certificate | None) -> Certificate | None:
    return None if certificate is None else replace(certificate, pairs=())


async def changed(harness: ConfigHarness, domain: str, **wanted: object) -> None:
    body = ChangeSettings.model_validate({"domain": domain, "account": ACCOUNT, **wanted})
    assert (
        await harness.settled(await harness.send(catalogue.CMD_SETTINGS_CHANGE, body))
    ).outcome is Outcome.APPLIED


async def test_a_row_is_rebuilt_from_its_history(harness: ConfigHarness, pool: Pool) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    await stored(harness, title, wildcard(harness, family))
    assert await rebuilt(pool, domain) == await kept(pool, domain)
    await harness.enable(domain)
    await changed(
        harness,
        domain,
        http2=True,
        hsts=HstsChange(max_age=60),
        origin={"scheme": "https", "host": "other.example.com", "port": 8443},
    )
    await results(harness, await deploy(harness, title, [domain]))
    back = RollbackCertificate(domain=domain, account=ACCOUNT)
    await harness.settled(await harness.send(catalogue.CMD_CERTIFICATE_ROLLBACK, back))
    state = await rebuilt(pool, domain)
    assert state == await kept(pool, domain)
    assert state is not None and state.previous is not None and state.previous.name == title
    await harness.settled(await harness.disable(domain))
    assert await rebuilt(pool, domain) == await kept(pool, domain)
    assert not await harness.database.fetchval(
        "select count(*) from history where domain = $1 and change ? 'certificate'", domain
    )
    await harness.enable(domain)
    assert await rebuilt(pool, domain) == await kept(pool, domain)
    await harness.settled(await harness.remove(domain))
    await harness.register(domain, "another")
    assert await rebuilt(pool, domain) == await kept(pool, domain)
