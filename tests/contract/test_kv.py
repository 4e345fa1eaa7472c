"""What every `KV` does: one suite, on `FakeKV` and on a real Consul."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from handlers.adapters.ports import (
    MAX_OPS,
    MAX_TXN_BYTES,
    Cas,
    CheckIndex,
    CheckSession,
    Consul,
    Delete,
    DeleteCas,
    Listing,
    Lock,
    Op,
    Set,
    Unlock,
)
from handlers.core.errors import Conflict, Denied, Usage
from tests import servers
from tests.fakes_kv import FakeKV
from tests.servers import wait_until

LONG_S = 30.0


@dataclass
class World:
    """The KV under test, and how a test makes the time of sessions pass and a prefix forbidden."""

    kv: Consul
    pass_session_time: Callable[[float], None]
    without: Callable[[str], Consul]
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))


def fake_world() -> World:
    fake = FakeKV()

    def without(prefix: str) -> Consul:
        fake.denied.add(prefix)
        return fake

    return World(fake, fake.advance, without)


def real_world(request: pytest.FixtureRequest) -> World:
    consul: servers.Consul = request.getfixturevalue("consul")

    def without(prefix: str) -> Consul:
        guarded: servers.Consul = request.getfixturevalue("consul_acl")
        rules = 'key_prefix "" { policy = "write" }\nsession_prefix "" { policy = "write" }\n'
        return guarded.kv(guarded.token_for(rules + f'key_prefix "{prefix}" {{ policy = "deny" }}'))

    return World(consul.kv(), time.sleep, without)


@pytest.fixture(params=["fake", "consul"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = fake_world() if request.param == "fake" else real_world(request)
    with made.pool:
        yield made


@pytest.fixture
def kv(world: World) -> Consul:
    return world.kv


def write(kv: Consul, key: str, value: bytes) -> int:
    return kv.txn([Set(key, value)])[key]


def refused(kv: Consul, ops: list[Op]) -> str:
    with pytest.raises(Conflict) as caught:
        kv.txn(ops)
    return str(caught.value)


# --- reading and writing ---


def test_missing_key_is_none_with_an_index_to_block_on(kv: Consul) -> None:
    entry, index = kv.get("a/b")

    assert entry is None
    assert index > 0


@pytest.mark.parametrize("value", [b"", b"text", b"\0\xff binary", b"x" * 300_000])
def test_value_comes_back_byte_for_byte(kv: Consul, value: bytes) -> None:
    index = write(kv, "a/b", value)

    entry, seen = kv.get("a/b")

    assert entry is not None
    assert (entry.key, entry.value, entry.index, entry.session) == ("a/b", value, index, "")
    assert seen == index


def test_writing_the_same_value_keeps_the_index(kv: Consul) -> None:
    assert write(kv, "a", b"1") == write(kv, "a", b"1")


def test_writing_another_value_raises_the_index(kv: Consul) -> None:
    assert write(kv, "a", b"1") < write(kv, "a", b"2")


def test_list_gives_what_begins_with_the_prefix_and_nothing_else(kv: Consul) -> None:
    for key in ("p/a", "p/b/c", "p", "q/p/a", "p2/a"):
        write(kv, key, key.encode())

    assert {k: e.value for k, e in kv.list("p/").entries.items()} == {"p/a": b"p/a", "p/b/c": b"p/b/c"}


def test_empty_prefix_lists_nothing_with_an_index(kv: Consul) -> None:
    write(kv, "other", b"1")

    listing = kv.list("p/")

    assert dict(listing.entries) == {}
    assert listing.index > 0


# --- transactions ---


def test_transaction_is_all_or_nothing(kv: Consul) -> None:
    write(kv, "a", b"old")

    assert refused(kv, [Set("new", b"1"), Cas("a", b"2", 0), Set("last", b"3")]).startswith("a:")

    assert dict(kv.list("").entries).keys() == {"a"}


def test_create_only_write_loses_against_an_existing_key(kv: Consul) -> None:
    kv.txn([Cas("a", b"1", 0)])

    assert refused(kv, [Cas("a", b"2", 0)]).startswith("a:")


def test_compare_and_set_follows_the_index(kv: Consul) -> None:
    first = write(kv, "a", b"1")
    second = kv.txn([Cas("a", b"2", first)])["a"]

    assert refused(kv, [Cas("a", b"3", first)]).startswith("a:")
    assert kv.txn([Cas("a", b"3", second)])["a"] > second


def test_compare_and_set_of_a_deleted_key_is_refused(kv: Consul) -> None:
    index = write(kv, "a", b"1")
    kv.txn([Delete("a")])

    refused(kv, [Cas("a", b"2", index)])


def test_delete_removes_and_is_fine_on_an_absent_key(kv: Consul) -> None:
    write(kv, "a", b"1")

    kv.txn([Delete("a"), Delete("never/there")])

    assert kv.get("a")[0] is None


def test_guarded_delete_follows_the_index(kv: Consul) -> None:
    first = write(kv, "a", b"1")
    second = write(kv, "a", b"2")

    refused(kv, [DeleteCas("a", first)])
    assert kv.get("a")[0] is not None
    kv.txn([DeleteCas("a", second)])
    assert kv.get("a")[0] is None
    kv.txn([DeleteCas("a", second)])


def test_index_checks_guard_other_writes(kv: Consul) -> None:
    index = write(kv, "a", b"1")

    kv.txn([CheckIndex("a", index), CheckIndex("absent", 0), Set("b", b"1")])
    assert refused(kv, [CheckIndex("a", index + 1), Set("b", b"2")]).startswith("a:")
    assert refused(kv, [CheckIndex("a", 0), Set("b", b"2")]).startswith("a:")

    entry, _ = kv.get("b")
    assert entry is not None
    assert entry.value == b"1"


def test_writes_of_one_transaction_see_each_other(kv: Consul) -> None:
    written = kv.txn([Set("a", b"1"), Set("a", b"2"), Set("b", b"1")])

    entry, _ = kv.get("a")
    assert entry is not None
    assert entry.value == b"2"
    assert written["a"] == written["b"] == entry.index


def test_the_largest_transaction_fits(kv: Consul) -> None:
    keys = [f"k{i:02}" for i in range(MAX_OPS)]
    value = b"\xff" * (MAX_TXN_BYTES // MAX_OPS - 3)

    kv.txn([Set(key, value) for key in keys])

    assert dict(kv.list("k").entries).keys() == set(keys)


def test_too_large_transactions_are_refused_before_they_are_sent(kv: Consul) -> None:
    with pytest.raises(Usage, match="operations"):
        kv.txn([Set(f"k{i}", b"") for i in range(MAX_OPS + 1)])
    with pytest.raises(Usage, match="k-large"):
        kv.txn([Set("k-small", b"1"), Set("k-large", b"x" * MAX_TXN_BYTES)])

    assert dict(kv.list("k").entries) == {}


def test_racing_counters_lose_no_count(world: World) -> None:
    def count(_: int) -> None:
        while True:
            entry, _ = world.kv.get("n")
            value, index = (int(entry.value), entry.index) if entry else (0, 0)
            try:
                world.kv.txn([Cas("n", b"%d" % (value + 1), index)])
            except Conflict:
                continue
            return

    list(world.pool.map(count, range(24)))

    entry, _ = world.kv.get("n")
    assert entry is not None
    assert entry.value == b"24"


# --- blocking reads ---


def test_blocking_get_returns_when_the_key_changes(world: World) -> None:
    index = write(world.kv, "a", b"1")
    waiting = world.pool.submit(world.kv.get, "a", after=index, wait_s=LONG_S)

    changed = write(world.kv, "a", b"2")

    entry, seen = waiting.result(LONG_S / 2)
    assert entry is not None
    assert (entry.value, seen) == (b"2", changed)


def test_blocking_get_returns_when_the_key_appears_and_goes(world: World) -> None:
    _, index = world.kv.get("a")
    waiting = world.pool.submit(world.kv.get, "a", after=index, wait_s=LONG_S)
    write(world.kv, "a", b"1")
    appeared, index = waiting.result(LONG_S / 2)

    waiting = world.pool.submit(world.kv.get, "a", after=index, wait_s=LONG_S)
    world.kv.txn([Delete("a")])
    gone, _ = waiting.result(LONG_S / 2)

    assert appeared is not None
    assert gone is None


def test_blocking_list_returns_when_something_below_changes_or_goes(world: World) -> None:
    write(world.kv, "p/a", b"1")
    index = world.kv.list("p/").index
    waiting = world.pool.submit(world.kv.list, "p/", after=index, wait_s=LONG_S)
    write(world.kv, "p/b", b"1")
    more: Listing = waiting.result(LONG_S / 2)

    waiting = world.pool.submit(world.kv.list, "p/", after=more.index, wait_s=LONG_S)
    world.kv.txn([Delete("p/a")])
    less: Listing = waiting.result(LONG_S / 2)

    assert dict(more.entries).keys() == {"p/a", "p/b"}
    assert dict(less.entries).keys() == {"p/b"}


@pytest.mark.parametrize("below", ["p/a", ""], ids=["something-there", "nothing-there"])
def test_blocking_read_sleeps_through_what_does_not_concern_it(world: World, below: str) -> None:
    if below:
        write(world.kv, below, b"1")
    index = world.kv.list("p/").index
    began = time.monotonic()
    waiting = world.pool.submit(world.kv.list, "p/", after=index, wait_s=1.0)
    for i in range(20):
        write(world.kv, "elsewhere", b"%d" % i)
        if below:
            write(world.kv, below, b"1")
    listing: Listing = waiting.result(LONG_S)

    assert time.monotonic() - began >= 1.0
    assert dict(listing.entries).keys() == ({below} if below else set())


def test_blocking_get_returns_the_unchanged_entry_when_time_is_over(kv: Consul) -> None:
    index = write(kv, "a", b"1")
    began = time.monotonic()

    entry, seen = kv.get("a", after=index, wait_s=0.3)

    assert time.monotonic() - began >= 0.3
    assert entry is not None
    assert (entry.value, seen) == (b"1", index)


def test_blocking_on_an_index_of_another_life_returns_at_once(kv: Consul) -> None:
    """After a restore the KV is behind, and who blocks on the old index must see that now."""
    write(kv, "a", b"1")
    began = time.monotonic()

    entry, _ = kv.get("a", after=10_000_000, wait_s=LONG_S)

    assert time.monotonic() - began < LONG_S / 2
    assert entry is not None


def test_change_between_read_and_block_is_not_missed(kv: Consul) -> None:
    index = write(kv, "a", b"1")
    write(kv, "a", b"2")
    began = time.monotonic()

    entry, _ = kv.get("a", after=index, wait_s=LONG_S)

    assert time.monotonic() - began < LONG_S / 2
    assert entry is not None
    assert entry.value == b"2"


# --- sessions and locks ---


def test_lock_belongs_to_one_session_at_a_time(kv: Consul) -> None:
    one = kv.create_session("one", ttl_s=30, behavior="release")
    two = kv.create_session("two", ttl_s=30, behavior="release")
    first = kv.txn([Lock("l", b"one", one)])["l"]

    assert refused(kv, [Lock("l", b"two", two)]).startswith("l:")
    again = kv.txn([Lock("l", b"one again", one)])["l"]
    entry, _ = kv.get("l")

    assert entry is not None
    assert (entry.value, entry.session) == (b"one again", one)
    assert again > first


def test_lock_needs_a_living_session(kv: Consul) -> None:
    gone = kv.create_session("gone", ttl_s=30, behavior="release")
    kv.destroy_session(gone)

    assert refused(kv, [Lock("l", b"1", gone)]).startswith("l:")


def test_unlock_is_for_the_holder_and_frees_at_once(kv: Consul) -> None:
    one = kv.create_session("one", ttl_s=30, behavior="release")
    two = kv.create_session("two", ttl_s=30, behavior="release")
    kv.txn([Lock("l", b"1", one)])

    refused(kv, [Unlock("l", b"", two)])
    kv.txn([Unlock("l", b"", one)])
    kv.txn([Lock("l", b"2", two)])

    entry, _ = kv.get("l")
    assert entry is not None
    assert entry.session == two


def test_session_check_fences_writes(kv: Consul) -> None:
    session = kv.create_session("one", ttl_s=30, behavior="release")
    kv.txn([Lock("l", b"1", session)])

    kv.txn([CheckSession("l", session), Set("a", b"1")])
    kv.destroy_session(session)
    assert refused(kv, [CheckSession("l", session), Set("a", b"2")]).startswith("l:")

    entry, _ = kv.get("a")
    assert entry is not None
    assert entry.value == b"1"


def test_a_write_over_a_lock_keeps_its_holder(kv: Consul) -> None:
    session = kv.create_session("one", ttl_s=30, behavior="release")
    kv.txn([Lock("l", b"1", session)])
    kv.txn([Set("l", b"2")])

    entry, _ = kv.get("l")
    assert entry is not None
    assert (entry.value, entry.session) == (b"2", session)


def test_ended_session_with_release_frees_the_key_for_the_next_at_once(kv: Consul) -> None:
    one = kv.create_session("one", ttl_s=30, behavior="release")
    locked = kv.txn([Lock("l", b"1", one)])["l"]
    kv.destroy_session(one)
    entry, _ = kv.get("l")

    assert entry is not None
    assert (entry.value, entry.session) == (b"1", "")
    assert entry.index > locked
    kv.txn([Lock("l", b"2", kv.create_session("two", ttl_s=30, behavior="release"))])


def test_ended_session_with_delete_takes_the_key_along_and_wakes_who_waits(world: World) -> None:
    kv = world.kv
    session = kv.create_session("one", ttl_s=30, behavior="delete")
    index = kv.txn([Lock("l", b"1", session)])["l"]
    waiting = world.pool.submit(kv.get, "l", after=index, wait_s=LONG_S)

    kv.destroy_session(session)

    assert waiting.result(LONG_S / 2)[0] is None


def test_session_that_nobody_renews_ends(world: World) -> None:
    kv = world.kv
    session = kv.create_session("one", ttl_s=2, behavior="delete")
    kv.txn([Lock("l", b"1", session)])

    for _ in range(8):
        world.pass_session_time(0.8)
        assert kv.renew_session(session)
    world.pass_session_time(4.1)
    wait_until(lambda: kv.get("l")[0] is None)

    assert not kv.renew_session(session)


def test_ending_a_session_twice_is_fine(kv: Consul) -> None:
    session = kv.create_session("one", ttl_s=30, behavior="release")
    kv.destroy_session(session)
    kv.destroy_session(session)

    assert not kv.renew_session(session)


# --- permissions ---


def test_denied_prefix_is_an_error_and_not_an_empty_answer(world: World) -> None:
    kv = world.without("secret/")

    with pytest.raises(Denied):
        kv.get("secret/a")
    with pytest.raises(Denied):
        kv.list("secret/")
    with pytest.raises(Denied, match="secret/a"):
        kv.txn([Set("open/a", b"1"), Set("secret/a", b"1")])
    assert kv.get("open/a")[0] is None
