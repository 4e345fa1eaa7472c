"""`Catalog` against real Consul agents, with and without ACLs."""

from __future__ import annotations

import uuid

import pytest

from handlers.adapters.catalog import Catalog
from handlers.adapters.consul_http import Address
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Set
from handlers.core.errors import Denied, HydraError, Temporary
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

    assert (agent.node, agent.datacenter, agent.server) == ("server", "dc1", True)
    assert agent.version.startswith("1.")
    assert "HTTPMaxConnsPerClient" in agent.settings


def test_members_nodes_and_leader_are_seen(catalog: Catalog, consul: Consul) -> None:
    assert [(m.node, m.status, m.server) for m in catalog.members()] == [("server", "alive", True)]
    assert catalog.nodes() == ("server",)
    assert catalog.serf_passing("server")
    assert not catalog.serf_passing("no-such-node")
    assert catalog.leader()


def test_services_have_meta_checks_and_an_incarnation(catalog: Catalog, consul: Consul, web: str) -> None:
    def found() -> bool:
        return any(s.id == web and s.checks for s in catalog.services_of("server"))

    wait_until(found)
    (service,) = [s for s in catalog.services_of("server") if s.id == web]

    assert (service.node, service.name, service.address, service.port) == ("server", "web", "10.0.0.9", 81)
    assert service.meta["hydra_service"] == "prod/search/web"
    assert int(service.incarnation) > 0
    assert not service.passing
    assert [c.name for c in service.checks] == ["up"]
    assert catalog.services_of("no-such-node") == ()


def test_service_comes_into_service_and_into_maintenance(catalog: Catalog, consul: Consul, web: str) -> None:
    def passing() -> list[bool]:
        return [s.passing for s in catalog.service("web") if s.id == web]

    consul.kv().put_json(f"agent/check/pass/{web}:up")
    wait_until(lambda: passing() == [True])
    catalog.set_maintenance(web, True, "a reload")
    wait_until(lambda: passing() == [False])
    checks = [c for s in catalog.service("web") if s.id == web for c in s.checks]
    catalog.set_maintenance(web, False)
    wait_until(lambda: passing() == [True])

    assert "a reload" in [c.notes for c in checks]


def test_maintenance_of_an_unknown_service_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(HydraError, match="nobody"):
        catalog.set_maintenance("nobody", True)


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


def test_token_with_given_secret_and_node_identity_may_be_an_agent(consul_acl: Consul) -> None:
    secret = str(uuid.uuid4())

    made = catalog_of(consul_acl).create_token("agent n7", [], agent_of="n7", secret=secret)

    mine = catalog_of(consul_acl, secret).who_am_i()
    assert made == secret
    assert [i["NodeName"] for i in mine["NodeIdentities"]] == ["n7"]


def test_missing_permission_is_denied_and_not_an_empty_list(consul_acl: Consul) -> None:
    nobody = catalog_of(consul_acl, consul_acl.token_for('key "a" { policy = "read" }'))

    for ask in (
        nobody.agent,
        nobody.nodes,
        lambda: nobody.node_checks("server"),
        lambda: nobody.write_policy("x", ""),
    ):
        with pytest.raises(Denied):
            ask()


def test_unknown_token_is_denied(consul_acl: Consul) -> None:
    with pytest.raises(Denied):
        catalog_of(consul_acl, str(uuid.uuid4())).who_am_i()


def test_environment_does_not_override_the_given_token(
    consul_acl: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "something-else")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")

    assert catalog_of(consul_acl).agent().node == "server"


def test_absent_consul_is_temporary() -> None:
    with pytest.raises(Temporary):
        Catalog.from_env({"CONSUL_HTTP_ADDR": "127.0.0.1:1"}).leader()
