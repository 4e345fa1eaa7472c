"""What the benchmarks read of the machine, of processes and of Consul's answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.bench import machine, memory, proc, watchers
from tests.bench.proc import Mapped, Process

SMAPS = """\
00400000-00500000 r-xp 00001000 fe:01 1234                       /usr/bin/a program
Size:               1024 kB
Rss:                 600 kB
Pss:                 300 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00500000-00600000 rw-p 00100000 fe:01 1234                       /usr/bin/a program
Rss:                 100 kB
Anonymous:            40 kB
7ffd0000-7ffe0000 rw-p 00000000 00:00 0                          [stack]
Rss:                  20 kB
Anonymous:            20 kB
7fff0000-7fff1000 rw-p 00000000 00:00 0
Rss:                   8 kB
Anonymous:             8 kB
"""


def test_fields_of_proc_files_are_read_by_name() -> None:
    found = machine.fields("processor\t: 0\nmodel name\t: A CPU: fast\n\nprocessor\t: 1\n")
    assert found == {"processor": "0", "model name": "A CPU: fast"}


def test_size_in_another_unit_is_refused() -> None:
    assert machine.kib("16384 kB") == 16384
    with pytest.raises(ValueError, match="kB"):
        machine.kib("16 MB")


def test_share_busy_counts_all_but_idle_and_waiting() -> None:
    before = machine.cpu_times("cpu  100 0 100 1000 100 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    after = machine.cpu_times("cpu  130 0 110 1050 110 0 0 0 0 0\n")
    assert machine.share_busy(before, after) == pytest.approx(0.4)
    assert machine.share_busy(before, before) == 0.0


def test_this_machine_is_described() -> None:
    described = dict(machine.description())
    assert described["Consul"].startswith("1.")
    assert described["cores"].split()[0] == str(len(os.sched_getaffinity(0)))


def test_parent_is_found_behind_a_name_with_parentheses() -> None:
    assert proc.parent_of("42 (a (odd) name) S 7 42 42 0 -1 4194560") == 7


def test_tree_holds_all_below_a_process_and_nothing_beside_it() -> None:
    rows = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]
    all_of_them = {pid: Process(pid, parent, ()) for pid, parent in rows}
    assert [p.pid for p in proc.tree(10, all_of_them)] == [10, 11, 12]
    assert proc.tree(99, all_of_them) == []


def test_own_process_is_found_with_its_memory() -> None:
    own = proc.processes()[os.getpid()]
    assert own.parent == os.getppid()
    assert "python" in own.words[0]
    pieces = proc.mapped(Path(f"/proc/{os.getpid()}/smaps").read_text())
    assert 0 < proc.pss(os.getpid()) <= proc.alone([pieces]) * 1.2


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("/venv/bin/python -I -m supervisor.supervisord -c /root/state/supervisord.conf", "supervisord"),
        ("/usr/bin/consul watch -shell=false -type=key -key=hydra/v1/desired/n1 python", "consul watch"),
        ("/cache/bin/consul-template -config=/root/base.hcl", "consul-template"),
        ("/venv/bin/python -I -m handlers.main discover", "discover"),
        ("/bin/sleep 1", "/bin/sleep 1"),
    ],
)
def test_processes_of_a_node_are_told_by_their_command_lines(words: str, label: str) -> None:
    assert memory.label(words.split()) == label


def test_mappings_tell_file_pages_from_own_ones() -> None:
    kib, program = 1024, "/usr/bin/a program"
    assert proc.mapped(SMAPS) == [
        Mapped(program, 0x1000, own=0, shared=600 * kib),
        Mapped(program, 0x100000, own=40 * kib, shared=60 * kib),
        Mapped("", 0, own=20 * kib, shared=0),
        Mapped("", 0, own=8 * kib, shared=0),
    ]


def test_pages_of_a_file_count_once_for_all_who_map_it() -> None:
    one = [Mapped("/a", 0, own=5, shared=100), Mapped("", 0, own=7, shared=0)]
    two = [Mapped("/a", 0, own=1, shared=120), Mapped("/a", 4096, own=0, shared=9)]
    assert proc.alone([one, two]) == 5 + 7 + 1 + 120 + 9


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    async def read() -> tuple[int, dict[str, str], bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        status, headers, body = await watchers.answer(reader)
        return status, dict(headers), body

    return asyncio.run(read())


def test_answer_with_a_length_is_read() -> None:
    status, headers, body = parsed(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 3\r\n\r\n[1]")
    assert (status, headers["x-consul-index"], body) == (200, "7", b"[1]")


def test_answer_in_chunks_is_read() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n"
    )
    assert parsed(raw)[2] == b"ab\n0123456789"


def test_answer_without_a_body_is_read() -> None:
    assert parsed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")[0] == 404


def test_entry_of_an_answer_is_decoded() -> None:
    read = watchers.read_of(b'[{"Key": "a", "ModifyIndex": 9, "Session": "s", "Value": "aGkK"}]')
    assert (read.index, read.session, read.value) == (9, "s", b"hi\n")


def test_key_that_does_not_exist_is_read_as_nothing() -> None:
    read = watchers.read_of(b"")
    assert (read.index, read.session, read.value) == (0, "", b"")


def test_query_blocks_only_once_an_index_is_known() -> None:
    first = watchers.request("hydra/v1/desired/n 1", 0, "127.0.0.1:8500", "secret").decode()
    assert first.startswith("GET /v1/kv/hydra/v1/desired/n%201 HTTP/1.1\r\nHost: 127.0.0.1:8500\r\n")
    assert "index=12&wait=300s" in watchers.request("k", 12, "h:1", "t").decode()
