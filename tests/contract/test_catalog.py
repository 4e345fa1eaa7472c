"""`Catalog` against real Consul agents, with and without ACLs."""

from __future__ import annotations

import uuid

import pytest

from handlers.adapters.catalog import Catalog
from handlers.adapters.consul_http import Address
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Set
from handlers.core.errors import Denied, Temporary
from tests.servers import Consul, wait_until


def catalog_of(consul: Consul, token: str | None = None) -> Catalog:
    return Catalog(Address(host=consul.address, token=consul.token if token is None else token))


@pytest.fixture
def catalog(consul: Consul) -> Catalog:
    return catalog_of(consul)


@pytest.fixture
def web(consul: Consul) -> str:
    """The id of a new instance of the Consul service `web` with one failing check."""
    service_id = f"web-{uuid.uuid4().hex[:6]}"
    consul.kv().put_json(
        "agent/service/register",
        {
            "ID": service_id,
            "Name": "web",
            "Address": "10.0.0.9",
            "Port": 81,
            "Meta": {"hydra_service": "prod/search/web"},
            "Check": {"CheckID": f"{service_id}:up", "Name": "up", "TTL": "60s"},
        },
    )
    return service_id


def test_agent_tells_who_it_is(catalog: Catalog) -> None:
    agent = catalog.agent()

    assert (agent.node, agent.server) == ("server", True)
    assert agent.version.startswith("1.")
    assert "HTTPMaxConnsPerClient" in agent.settings


def test_service_is_healthy_once_its_checks_pass(catalog: Catalog, consul: Consul, web: str) -> None:
    assert web not in catalog.healthy("web")
    consul.kv().put_json(f"agent/check/pass/{web}:up")

    wait_until(lambda: web in catalog.healthy("web"))


def test_policy_written_twice_has_the_later_rules(consul_acl: Consul) -> None:
    catalog = catalog_of(consul_acl)
    name = f"p-{uuid.uuid4().hex[:6]}"
    first = catalog.write_policy(name, 'key "a" { policy = "read" }')
    second = catalog.write_policy(name, 'key "a" { policy = "write" }')
    kv = consul_acl.kv(catalog.create_token("a test", [name]))

    assert first == second
    wait_until(lambda: _may_write(kv))


def _may_write(kv: ConsulKV) -> bool:
    try:
        kv.txn([Set("a", b"1")])
    except Denied:
        return False
    return True


def test_missing_permission_is_denied_and_not_an_empty_list(consul_acl: Consul) -> None:
    nobody = catalog_of(consul_acl, consul_acl.token_for('key "a" { policy = "read" }'))

    for ask in (nobody.agent, lambda: nobody.write_policy("x", ""), lambda: nobody.create_token("x", [])):
        with pytest.raises(Denied):
            ask()


def test_unknown_token_is_denied(consul_acl: Consul) -> None:
    with pytest.raises(Denied):
        catalog_of(consul_acl, str(uuid.uuid4())).agent()


def test_environment_does_not_override_the_given_token(
    consul_acl: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "something-else")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")

    assert catalog_of(consul_acl).agent().node == "server"


def test_absent_consul_is_temporary() -> None:
    with pytest.raises(Temporary):
        Catalog.from_env({"CONSUL_HTTP_ADDR": "127.0.0.1:1"}).agent()
