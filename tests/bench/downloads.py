"""Figure 6: the same data from the same S3 server to the same target, by Hydra and by what people use today.

`hydra-handler sync` is a whole process that signs, checks blake3 of each chunk, pins each range to its ETag,
fsyncs each file, and renames; the others check nothing and sync nothing. One big object and many small
ones, into memory and onto a disk, plain and over TLS (the server's authority is told to all). In turns; a
ratio is the median of those of all rounds. On the disk, s5cmd is also counted with a sync of its target
behind it, which is when its data is as safe as Hydra's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handlers.core import codec, keys
from handlers.core.model import Actual, State
from tests import servers
from tests.bench import store, usage
from tests.bench.report import Findings, Row, amount, median
from tests.bench.store import BUCKET, MIB, Payload
from tests.bench.usage import Usage

ROUNDS, WARM = 5, 1
BIG_BYTES, SMALL_BYTES, SMALL_COUNT = 2 * 1024 * MIB, 256 * 1024, 2000
AIMS = {("big", "plain"): 0.9, ("big", "TLS"): 1.0, ("small", "plain"): 0.7, ("small", "TLS"): 0.8}
PEAK_AIM_MIB = 100
BUSY = 0.85  # of all processors: more is not to be had, with their starting and ending
MEMORY = Path("/dev/shm")
HYDRA, S5CMD, RCLONE, BOTO, CP = "hydra", "s5cmd", "rclone", "boto3", "cp"
BIN = Path(sys.executable).parent
BOTO_COPY = Path(__file__).with_name("boto_copy.py")


@dataclass(frozen=True)
class Line:
    """How the server is reached, `plain` or `TLS`, and the process that it is."""

    name: str
    environment: Mapping[str, str]
    pid: int = 0


@dataclass
class Case:
    """One dataset, target and line; by client the usages of all rounds, seconds of a sync behind, and
    processor seconds of the server meanwhile.
    """

    data: Payload
    target: str
    folder: Path
    line: Line
    used: dict[str, list[Usage]] = field(default_factory=dict)
    synced_s: dict[str, list[float]] = field(default_factory=dict)
    server_s: dict[str, list[float]] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """For the table."""
        size = amount(self.data.bytes / MIB, "MiB")
        return f"{self.data.name}, {size}, to {self.target}, {self.line.name}"

    @property
    def clients(self) -> tuple[str, ...]:
        """Who takes part; cp needs no server, so it is there once."""
        return (HYDRA, S5CMD, RCLONE, BOTO, *((CP,) if self.line.name == "plain" else ()))


def measure(rounds: int = ROUNDS, scale: float = 1.0) -> Findings:
    """All cases in turns; `scale` shrinks the data for a quick look."""
    with ExitStack() as stack:
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hydra-bench-", dir=MEMORY)))
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hydra-bench-")))
        consul = stack.enter_context(servers.consul_server(disk / "consul"))
        s3 = stack.enter_context(servers.s3_server(memory / "s3"))
        secure, tls_runs = stack.enter_context(store.tls_server(s3.server, disk / "tls"))
        lines = (
            Line("plain", s3.environment(), s3.running.process.pid),
            Line("TLS", {**secure.environment(), "AWS_CA_BUNDLE": str(secure.bundle)}, tls_runs.process.pid),
        )
        client = s3.client()
        client.create_bucket(Bucket=BUCKET)
        data = (
            store.payload(memory / "data", "big", 1, int(BIG_BYTES * scale)),
            store.payload(memory / "data", "small", max(1, int(SMALL_COUNT * scale)), SMALL_BYTES),
        )
        for each in data:
            store.release(consul.kv(), client, each, store.upload(client, each))
        cases = [
            Case(each, name, folder, line)
            for each in data
            for name, folder in (("RAM", memory), ("disk", disk))
            for line in lines
        ]
        for number in range(-WARM, rounds):
            for case in cases:
                name = f"round {number + 1} of {rounds}" if number >= 0 else "a round that does not count"
                print(f"figure 6: {name}: {case.what}", file=sys.stderr, flush=True)
                _round(case, consul, number)
    return _findings(cases, judged=scale == 1.0)


def _round(case: Case, consul: servers.Consul, number: int) -> None:
    """Each client once; who begins moves on by one from round to round. Warm rounds are not counted."""
    first = number % len(case.clients)
    for client in (*case.clients[first:], *case.clients[:first]):
        with _empty(case.folder) as target:
            before_s = usage.cpu_s_of(case.line.pid)
            used = usage.measured(*_command(client, case, consul, target))
            server_s = usage.cpu_s_of(case.line.pid) - before_s
            if used.code:
                raise RuntimeError(f"{client}, {case.what}, ended with {used.code}:\n{used.said}")
            began = time.perf_counter()
            if case.target == "disk":
                subprocess.run(["sync", "-f", str(target)], check=True)
            synced_s = time.perf_counter() - began
            _check(client, case, consul, target)
        if number >= 0:
            case.used.setdefault(client, []).append(used)
            case.synced_s.setdefault(client, []).append(synced_s)
            case.server_s.setdefault(client, []).append(server_s)


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """A target that does not exist yet, and does not any more afterwards."""
    target = folder / "target"
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)
        os.sync()


def _command(
    client: str, case: Case, consul: servers.Consul, target: Path
) -> tuple[Sequence[str], Mapping[str, str]]:
    """Command line and environment of one client."""
    source, endpoint = f"s3://{BUCKET}/{case.data.prefix}", case.line.environment["AWS_ENDPOINT_URL"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(case.folder), **case.line.environment}
    bundle = case.line.environment.get("AWS_CA_BUNDLE")
    if client == HYDRA:
        more = {"HYDRA_ROOT": str(target), "HYDRA_NODE": f"{store.NODE}-{case.data.name}"}
        return [str(BIN / "hydra-handler"), "sync"], {**environment, **consul.environment(), **more}
    if client == S5CMD:
        words = [str(BIN / "s5cmd"), "--log", "error", "--endpoint-url", endpoint]
        return [*words, "cp", f"{source}*", f"{target}/"], environment
    if client == RCLONE:
        words = [str(BIN / "rclone"), "copy", "--s3-provider", "Other", "--s3-env-auth"]
        words += ["--s3-endpoint", endpoint, "--s3-no-check-bucket", "--transfers", "16"]
        words += ["--multi-thread-streams", "8", "--multi-thread-chunk-size", "16M"]
        words += ["--ca-cert", bundle] if bundle else []
        return [*words, f":s3:{BUCKET}/{case.data.prefix}", str(target)], environment
    if client == BOTO:
        return [sys.executable, str(BOTO_COPY), BUCKET, case.data.prefix, str(target)], environment
    return ["cp", "-r", str(case.data.folder), str(target)], environment


def _check(client: str, case: Case, consul: servers.Consul, target: Path) -> None:
    """All files came in full; of Hydra's also that it says so. Raises RuntimeError."""
    files = {path.name: path.stat().st_size for path in target.rglob("part-*") if path.is_file()}
    if files != case.data.sizes:
        raise RuntimeError(f"{client}, {case.what}: {len(files)} files, not {len(case.data.sizes)} in full")
    if client == HYDRA:
        entry, _ = consul.kv().get(keys.actual(f"{store.NODE}-{case.data.name}"))
        states = codec.decode(Actual, entry.value, entry.key).releases.values() if entry else ()
        if [status.state for status in states] != [State.SUCCESS]:
            raise RuntimeError(f"hydra, {case.what}: {entry}")


def _findings(cases: Sequence[Case], *, judged: bool) -> Findings:
    """Ratios with their aims first, then seconds, and what each client took of processor and memory.

    Aims are for the whole data: of less, most of the time is that of starting.
    """
    found = Findings()
    for case in cases:
        found.rows += _ratios(case, AIMS[case.data.name, case.line.name] if judged else None)
    peaks = [used.peak_bytes / MIB for case in cases for used in case.used[HYDRA]]
    found.rows.append(Row(6, "peak memory of hydra, all cases", peaks, "MiB", aim=PEAK_AIM_MIB))
    for case in cases:
        for client in case.clients:
            found.rows.append(
                Row(6, f"{case.what}: {client}", [used.wall_s for used in case.used[client]], "s")
            )
    found.notes += [_cost(case) for case in cases]
    for row, case in [(row, case) for case in cases for row in found.rows if row.missed]:
        if row.what.startswith(f"{case.what}: "):
            found.notes.append(bound(row, case))
    return found


def _ratios(case: Case, aim: float | None) -> list[Row]:
    ours, theirs = case.used[HYDRA], case.used[S5CMD]
    bare = [a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True)]
    if case.target == "RAM":
        return [Row(6, f"{case.what}: hydra / s5cmd", bare, "x", aim=aim, counts="median")]
    safe = [
        (a.wall_s + x) / (b.wall_s + y)
        for a, x, b, y in zip(ours, case.synced_s[HYDRA], theirs, case.synced_s[S5CMD], strict=True)
    ]
    return [
        Row(6, f"{case.what}: hydra / s5cmd, both synced", safe, "x", aim=aim, counts="median"),
        Row(6, f"{case.what}: hydra / s5cmd, which syncs nothing", bare, "x"),
    ]


def bound(row: Row, case: Case) -> str:
    """What bounds Hydra where it missed its aim, as a sentence: processors, which client and server share, or
    what it waits for.
    """
    cores = os.cpu_count() or 1

    def share(client: str, took_s: list[float]) -> float:
        return median([s / used.wall_s for s, used in zip(took_s, case.used[client], strict=True)])

    own, server = share(HYDRA, [used.cpu_s for used in case.used[HYDRA]]), share(HYDRA, case.server_s[HYDRA])
    beside = share(S5CMD, case.server_s[S5CMD])
    waits = "the server" if case.target == "RAM" else "the server and the disk"
    why = "the processors bound" if own + server > BUSY * cores else f"waiting for {waits} bounds"
    return (
        f"(6) {case.what}: {row.result / (row.aim or 1) - 1:.0%} above the aim; {why} it: of {cores} "
        f"hydra has {own:.1f} and the server {server:.1f} (beside s5cmd {beside:.1f})."
    )


def _cost(case: Case) -> str:
    """Processor seconds per GiB and peak memory of each client, as a sentence."""
    gib = case.data.bytes / (1024 * MIB)
    parts = [
        f"{client} {median([u.cpu_s for u in case.used[client]]) / gib:.2f} s/GiB "
        f"{max(u.peak_bytes for u in case.used[client]) / MIB:.0f} MiB"
        for client in case.clients
    ]
    return f"(6) {case.what}: processor and peak memory: {', '.join(parts)}."
