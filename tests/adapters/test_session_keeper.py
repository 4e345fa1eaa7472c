"""A session is kept while its block runs, over restarts and outages, and is known to be lost otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.adapters.kv import ConsulKV, SessionKeeper
from handlers.adapters.local import LocalState
from handlers.adapters.ports import CheckSession, Lock, Set
from handlers.core.errors import Temporary
from tests.fakes_kv import FakeKV

LONG_S = 30.0


@pytest.fixture
def local(tmp_path: Path) -> LocalState:
    return LocalState(tmp_path)


def test_session_lives_beyond_its_ttl_and_ends_with_the_block(kv: ConsulKV, local: LocalState) -> None:
    with SessionKeeper(kv, local, "plan", ttl_s=3) as keeper:
        kv.txn([Lock("l", b"1", keeper.session)])
        # Consul ends a session of this TTL after 6 s
        _, index = kv.get("l")
        kv.get("l", after=index, wait_s=7)
        kv.txn([CheckSession("l", keeper.session), Set("a", b"1")])
        assert not keeper.lost.is_set()

    assert not kv.renew_session(keeper.session)
    assert local.read("sessions/plan") is None


def test_restarted_handler_goes_on_with_its_session(kv: ConsulKV, local: LocalState) -> None:
    with SessionKeeper(kv, local, "reload", ttl_s=30, keep=True) as first:
        kv.txn([Lock("l", b"1", first.session)])
    with SessionKeeper(kv, local, "reload", ttl_s=30, keep=True) as second:
        kv.txn([CheckSession("l", second.session)])
        assert second.adopted


def test_forgotten_session_ends_in_spite_of_keep(kv: ConsulKV, local: LocalState) -> None:
    with SessionKeeper(kv, local, "reload", ttl_s=30, keep=True) as keeper:
        keeper.forget()

    assert not kv.renew_session(keeper.session)
    with SessionKeeper(kv, local, "reload", ttl_s=30) as next_one:
        assert not next_one.adopted


@pytest.mark.parametrize("left", [b"", b"no-such-session", b"\xff\n"])
def test_useless_remembered_session_is_replaced(kv: ConsulKV, local: LocalState, left: bytes) -> None:
    local.write("sessions/reload", left)

    with SessionKeeper(kv, local, "reload", ttl_s=30) as keeper:
        assert kv.renew_session(keeper.session)
        assert not keeper.adopted


def test_ended_session_is_noticed(kv: ConsulKV, local: LocalState) -> None:
    with SessionKeeper(kv, local, "reload", ttl_s=1) as keeper:
        kv.destroy_session(keeper.session)

        assert keeper.lost.wait(LONG_S)


def test_short_outage_is_tolerated(local: LocalState) -> None:
    fake = FakeKV()
    with SessionKeeper(fake, local, "reload", ttl_s=9) as keeper:
        fake.away = True
        assert not keeper.lost.wait(3.5)
        fake.away = False
        assert not keeper.lost.wait(3.5)


def test_outage_of_a_whole_ttl_counts_as_lost(local: LocalState) -> None:
    fake = FakeKV()
    began = time.monotonic()
    with SessionKeeper(fake, local, "reload", ttl_s=1) as keeper:
        fake.away = True

        assert keeper.lost.wait(LONG_S)
    assert time.monotonic() - began >= 1


def test_outage_at_the_end_leaves_the_end_to_the_ttl(local: LocalState) -> None:
    fake = FakeKV()
    with SessionKeeper(fake, local, "plan", ttl_s=30) as keeper:
        fake.away = True

    assert local.read("sessions/plan") == keeper.session.encode()


def test_outage_at_the_start_is_reported(local: LocalState) -> None:
    with pytest.raises(Temporary), SessionKeeper(FakeKV(away=True), local, "plan", ttl_s=30):
        pytest.fail("there is no session")


def test_error_of_the_block_wins_over_the_outage_at_its_end(local: LocalState) -> None:
    fake = FakeKV()

    def work() -> None:
        fake.away = True
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        _in_block(fake, local, work)


def _in_block(fake: FakeKV, local: LocalState, work: Callable[[], None]) -> None:
    with SessionKeeper(fake, local, "plan", ttl_s=30):
        work()
