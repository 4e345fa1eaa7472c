"""What handlers are about to take: said before it is taken, and forgotten with whoever said it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handlers.adapters.taking import Taking
from handlers.core.errors import Temporary

SCRIPT = """
import sys; from pathlib import Path; from handlers.adapters.taking import Taking
taking = Taking(Path(sys.argv[1]), "sync")
print(taking.claim({7: 60, 8: 5}, lambda device: 100), flush=True); sys.stdin.read()
"""


def test_what_a_living_handler_takes_is_not_there_for_another(tmp_path: Path) -> None:
    here = Taking(tmp_path, "reload")
    assert here.others() == {}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
    ) as sync:
        assert sync.stdout is not None
        assert sync.stdout.readline() == "True\n"

        assert here.others() == {7: 60, 8: 5}
        assert not here.claim({7: 41}, lambda device: 100)
        assert here.claim({7: 40}, lambda device: 100)
        assert Taking(tmp_path, "sync").others() == {7: 40}
        assert Taking(tmp_path).others() == {7: 100, 8: 5}
        sync.kill()
        sync.wait()
    assert here.others() == {}
    assert here.claim({7: 100}, lambda device: 100)
    here.end()
    assert Taking(tmp_path).others() == {}


def test_what_has_come_is_taken_off(tmp_path: Path) -> None:
    sync, reload = Taking(tmp_path, "sync"), Taking(tmp_path, "reload")
    sync.left({7: 1})  # nothing was claimed
    assert reload.others() == {}

    assert sync.claim({7: 1_000_000}, lambda device: 1_000_000)
    sync.left({7: 9})

    assert reload.others() == {7: 9}
    assert not sync.claim({7: 11}, lambda device: 10)
    assert reload.others() == {7: 9}, "a claim that is refused changes nothing"


def test_a_disk_that_fails_is_no_fault_of_ours(tmp_path: Path) -> None:
    (tmp_path / "state/taking/.lock").mkdir(parents=True)  # cannot be opened for writing

    with pytest.raises(Temporary, match="state/taking"):
        Taking(tmp_path).others()
    with pytest.raises(Temporary, match="state/taking"):
        Taking(tmp_path, "sync").claim({7: 1}, lambda device: 100)


def test_a_second_of_the_same_name_waits_until_the_first_ends(tmp_path: Path) -> None:
    """A run whose last copy still ends while the next one begins; the first must be able to end."""
    first, second, other = (Taking(tmp_path, name) for name in ("reload", "reload", "sync"))
    assert first.claim({7: 60}, lambda device: 100)
    got: list[bool] = []
    late = threading.Thread(target=lambda: got.append(second.claim({7: 80}, lambda device: 100)))
    late.start()

    first.left({7: 10})
    assert other.others() == {7: 10}
    first.end()
    late.join(60)

    assert got == [True]
    assert other.others() == {7: 80}


def test_of_many_at_once_no_two_get_the_same_bytes(tmp_path: Path) -> None:
    takers, got = [Taking(tmp_path, f"taker-{n}") for n in range(8)], list[bool]()
    begin = threading.Barrier(len(takers))

    def take(taker: Taking) -> None:
        begin.wait()
        got.append(taker.claim({7: 30}, lambda device: 100))

    threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got) == [False] * 5 + [True] * 3
