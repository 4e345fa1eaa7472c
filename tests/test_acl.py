"""The policies of all roles on a real Consul with default deny: own keys yes, keys of others no."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import CheckIndex, Delete, Lock, Set
from handlers.core import keys
from handlers.core.errors import Denied, Usage
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import Version
from hydra_cli import acl
from tests.servers import Consul

CHANNEL, SIBLING = Channel("prod/search/ranker"), Channel("prod/search/ranker2")
SERVICE = Service("prod/search/api")
VERSION = Version("2026-01-31T23-59-59")
INSTANCE = InstanceKey.of(SERVICE, "1")


def documents(node: str) -> list[str]:
    """What the node `node` alone writes."""
    return [
        keys.info(node),
        keys.instances(node),
        keys.alive(node),
        keys.actual(node),
        keys.progress(node),
        keys.states(node),
    ]


def releases(channel: Channel) -> list[str]:
    """What a publisher of `channel` alone writes."""
    return [
        keys.head(channel),
        keys.staged(channel),
        keys.settings(channel),
        keys.release(channel, VERSION),
        keys.manifest(channel, VERSION),
        keys.audit(f"channel/{channel}", VERSION, "1"),
    ]


PLANNED = [
    keys.desired("n1"),
    keys.desired("n2"),
    keys.proven(SERVICE),
    keys.rollout(SERVICE),
    keys.gate(SERVICE),
    keys.ALARMS,
    keys.lock("plan"),
]
RECORDED = [keys.served(SERVICE), keys.recorded("told"), keys.lock("record")]
ORDERS = [
    keys.channel_pin(CHANNEL),
    keys.rejected(CHANNEL, VERSION),
    keys.unfetchable(CHANNEL),
    keys.subscription(SERVICE),
    keys.service_pin(SERVICE, "places"),
    keys.control(SERVICE),
    keys.registrations("n1"),
    keys.cordon("n1"),
    keys.forgotten("n1"),
]
SHARED = [keys.slots(SERVICE), keys.slot("n1", INSTANCE), keys.verdicts(SERVICE)]
FOREIGN = ["other/application", "hydra/v2/meta", "hydra/v1x/meta"]
EVERYTHING = [
    keys.META,
    *documents("n1"),
    *documents("n10"),
    *documents("n11"),
    *releases(CHANNEL),
    *releases(SIBLING),
    *PLANNED,
    *RECORDED,
    *ORDERS,
    *SHARED,
    *FOREIGN,
]
REMOVED_BY_RETAIN = [
    *documents("n1"),
    *documents("n10"),
    *documents("n11"),
    *releases(CHANNEL),
    *releases(SIBLING),
    *ORDERS,
    *SHARED,
]
# pins cannot be opened for all channels without opening heads: see consul/policies/operator.hcl.j2
OPENED_BESIDE = [
    keys.head(CHANNEL),
    keys.staged(CHANNEL),
    keys.settings(CHANNEL),
    keys.head(SIBLING),
    keys.staged(SIBLING),
    keys.settings(SIBLING),
    keys.audit(f"channel/{CHANNEL}", VERSION, "1"),
    keys.audit(f"channel/{SIBLING}", VERSION, "1"),
    *(key for n in ("n1", "n10", "n11") for key in (keys.info(n), keys.instances(n), keys.alive(n))),
]
OWN = {
    "node": [*documents("n1"), *SHARED],
    "planner": [*PLANNED, *RECORDED, *REMOVED_BY_RETAIN],
    "publisher": releases(CHANNEL),
    "publisher-of-all": [*releases(CHANNEL), *releases(SIBLING), *ORDERS[:3]],
    "operator": [keys.META, keys.verdicts(SERVICE), *ORDERS, *OPENED_BESIDE],
    "reader": [],
    "agent": [],
}
POLICIES: dict[str, Callable[[], str]] = {
    "node": lambda: acl.render("node", node="n1"),
    "planner": lambda: acl.render("planner", node="server"),
    "publisher": lambda: acl.render("publisher", channel=CHANNEL),
    "publisher-of-all": lambda: acl.render("publisher", channel="prod/"),
    "operator": lambda: acl.render("operator"),
    "reader": lambda: acl.render("reader"),
    "agent": lambda: acl.render("agent", node="n1"),
}


@pytest.fixture(scope="module")
def tokens(consul_acl_server: Consul) -> Iterator[dict[str, str]]:
    """A token per role."""
    consul_acl_server.wipe()
    yield {name: consul_acl_server.token_for(policy()) for name, policy in POLICIES.items()}
    consul_acl_server.wipe()


def may_write(kv: ConsulKV, key: str) -> bool:
    """Whether the token of `kv` may write and delete `key`."""
    allowed = set()
    for op in (Set(key, b"1"), Delete(key)):
        try:
            kv.txn([op])
            allowed.add(True)
        except Denied:
            allowed.add(False)
    assert len(allowed) == 1, f"{key}: writing and deleting must go together"
    return allowed == {True}


@pytest.mark.parametrize("role", POLICIES)
def test_role_writes_its_own_keys_and_no_others(
    role: str, consul_acl_server: Consul, tokens: dict[str, str]
) -> None:
    kv = consul_acl_server.kv(tokens[role])

    written = {key for key in EVERYTHING if may_write(kv, key)}

    assert written == set(OWN[role])


@pytest.mark.parametrize("role", [name for name in POLICIES if name != "agent"])
def test_role_reads_and_lists_all_of_hydra_and_nothing_else(
    role: str, consul_acl_server: Consul, tokens: dict[str, str]
) -> None:
    consul_acl_server.kv().txn([Set(keys.META, b"1"), Set("other/application", b"1")])
    kv = consul_acl_server.kv(tokens[role])

    meta = kv.list(keys.ROOT).entries[keys.META]
    kv.txn([CheckIndex(keys.META, meta.index)])
    for refused in (lambda: kv.get("other/application"), lambda: kv.list("other/"), lambda: kv.list("")):
        with pytest.raises(Denied):
            refused()


def test_agent_sees_nothing_of_hydra(consul_acl_server: Consul, tokens: dict[str, str]) -> None:
    kv = consul_acl_server.kv(tokens["agent"])

    for refused in (lambda: kv.get(keys.META), lambda: kv.list(keys.ROOT)):
        with pytest.raises(Denied):
            refused()


def test_sessions_are_for_the_own_node_alone(consul_acl_server: Consul, tokens: dict[str, str]) -> None:
    session = consul_acl_server.kv(tokens["planner"]).create_session("plan", ttl_s=10, behavior="delete")

    assert session
    for role in ("node", "publisher", "operator", "reader"):
        kv = consul_acl_server.kv(tokens[role])
        with pytest.raises(Denied):
            kv.create_session("slot", ttl_s=10, behavior="release", node="server")


def test_maintenance_is_for_the_named_services_alone(consul_acl_server: Consul) -> None:
    own = consul_acl_server.token_for(acl.render("node", node="server", services=("places", "web*")))
    kv = consul_acl_server.kv()
    for name in ("places", "places2", "website"):
        kv.put_json("agent/service/register", {"Name": name})
    try:
        for name in ("places", "website"):
            consul_acl_server.kv(own).put_json(f"agent/service/maintenance/{name}", params={"enable": "true"})
        with pytest.raises(Denied):
            consul_acl_server.kv(own).put_json("agent/service/maintenance/places2", params={"enable": "true"})
    finally:
        for name in ("places", "places2", "website"):
            kv.put_json(f"agent/service/deregister/{name}")


def test_sessions_are_those_of_the_consul_agent_where_it_has_another_name(consul_acl_server: Consul) -> None:
    token = consul_acl_server.token_for(acl.render("node", node="rack-7", consul_node="server"))
    kv = consul_acl_server.kv(token)

    session = kv.create_session("alive", ttl_s=10, behavior="delete")
    kv.txn([Lock(keys.alive("rack-7"), b"here", session)])

    assert kv.get_json("agent/self")[0]["Config"]["NodeName"] == "server"
    with pytest.raises(Denied):
        kv.txn([Set(keys.alive("server"), b"1")])
    kv.destroy_session(session)


def test_foreign_node_name_is_quoted() -> None:
    rules = acl.render("node", node='n1" { policy = "write" } key_prefix "')

    assert 'session "n1\\" { policy' in rules
    assert '\nkey_prefix "" ' not in rules


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("node", {}),
        ("agent", {}),
        ("publisher", {}),
        ("publisher", {"channel": "a/b"}),
        ("publisher", {"channel": "a/b/c/"}),
        ("publisher", {"channel": "A/"}),
        ("publisher", {"channel": '" { policy = "write" }'}),
        ("king", {}),
    ],
)
def test_missing_or_unfit_name_is_refused(role: str, names: dict[str, str]) -> None:
    with pytest.raises(Usage):
        acl.render(role, **names)
