"""The table `[volumes]` of a node's configuration: `[volumes.<name>]` with class, budget and reserve."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handlers.core.errors import Malformed, Usage
from handlers.core.model import DISK, RAM, VolumeInfo
from handlers.core.names import check_word

KNOWN = ("class", "budget_bytes", "reserve_bytes", "namespaces")
_GIB = 1024**3


def parse_volumes(
    table: object, where: str, reserve: Callable[[str], int] = lambda _: 0
) -> dict[str, VolumeInfo]:
    """The volumes by name; without any, `disk` and `ram`. Raises `Malformed` that begins with `where`.

    `reserve` tells bytes that stay free on a volume whose row does not say it; RAM has none then.
    """
    if not isinstance(table, dict):
        raise Malformed(f"{where}: must be tables [volumes.NAME]")
    if not table:
        return {
            "disk": VolumeInfo(cls=DISK, reserve_bytes=max(_GIB, reserve("disk"))),
            "ram": VolumeInfo(cls=RAM),
        }
    volumes = {name: _volume(name, row, f"{where}.{name}", reserve) for name, row in table.items()}
    if not any(volume.cls == DISK for volume in volumes.values()):
        raise Malformed(
            f"{where}: none has class {DISK!r}; every node needs one, RAM is only a cache of what is on it"
        )
    if len(rams := sorted(name for name, volume in volumes.items() if volume.cls == RAM)) > 1:
        raise Malformed(f"{where}: {', '.join(rams)} all have class {RAM!r}; a node has one such volume")
    return volumes


def _volume(name: str, row: object, where: str, usual: Callable[[str], int]) -> VolumeInfo:
    try:
        check_word(name, "volume")
    except Usage as e:
        raise Malformed(f"{where}: {e}") from None
    if not isinstance(row, dict):
        raise Malformed(f"{where}: must be a table with {', '.join(KNOWN)}")
    if unknown := set(row) - set(KNOWN):
        more = (
            "; the data is in <root>/volumes/<name>, mount there what you like" if "path" in unknown else ""
        )
        raise Malformed(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}{more}")
    cls = _class(row.get("class"), where)
    budget = _bytes(row.get("budget_bytes", 0), f"{where}.budget_bytes")
    unsaid = 0 if "reserve_bytes" in row or cls == RAM else usual(name)
    reserve = _bytes(row.get("reserve_bytes", unsaid), f"{where}.reserve_bytes")
    namespaces = _namespaces(row.get("namespaces", {}), budget, f"{where}.namespaces")
    return VolumeInfo(cls=cls, budget_bytes=budget, reserve_bytes=reserve, namespaces=namespaces)


def _class(value: object, where: str) -> str:
    if value in (DISK, RAM):
        return str(value)
    wrong = f"{where}.class: must be {DISK!r}, {RAM!r} or a name of your own in small letters, like 'nvme'"
    if not isinstance(value, str):
        raise Malformed(wrong + (", not " + repr(value) if value is not None else "; it is missing"))
    try:
        return check_word(value, "class")
    except Usage:
        raise Malformed(f"{wrong}, not {value!r}") from None


def _bytes(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise Malformed(f"{where}: must be a whole number of bytes, 0 or more, not {value!r}")
    return value


def _namespaces(table: object, budget: int, where: str) -> Mapping[str, int]:
    if not isinstance(table, dict):
        raise Malformed(f'{where}: must be a table like {{"prod/search" = 1_000_000_000}}')
    result = {}
    for name, value in table.items():
        try:
            env, _, inner = name.partition("/")
            check_word(env, "environment")
            check_word(inner, "namespace")
        except Usage as e:
            raise Malformed(f"{where}: {name!r} must be ENV/NAMESPACE: {e}") from None
        result[name] = _bytes(value, f"{where}.{name}")
        if budget and result[name] > budget:
            raise Malformed(f"{where}.{name}: {result[name]} is more than the {budget} bytes of its volume")
    return result


def as_toml(volumes: Mapping[str, tuple[VolumeInfo, str]]) -> str:
    """Volumes, each with its comment, as text for `/etc/hydra/node.toml`."""
    blocks = []
    for name, (volume, comment) in volumes.items():
        lines = [f"# {line}" for line in comment.splitlines()]
        lines += [f"[volumes.{name}]", f'class = "{volume.cls}"']
        lines += [f"budget_bytes = {volume.budget_bytes:_}", f"reserve_bytes = {volume.reserve_bytes:_}"]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
