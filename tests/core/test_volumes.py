"""`[volumes]` in a node's configuration: what is right, and what each mistake is called."""

from __future__ import annotations

import tomllib

import pytest

from handlers.core.errors import Malformed
from handlers.core.model import DISK, RAM, VolumeInfo
from handlers.core.volumes import as_toml, parse_volumes

WHERE = "/etc/hydra/node.toml: volumes"


def parse(text: str) -> dict[str, VolumeInfo]:
    return parse_volumes(tomllib.loads(text).get("volumes", {}), WHERE)


def test_without_any_there_is_a_disk_and_memory() -> None:
    assert {name: volume.cls for name, volume in parse("").items()} == {"disk": DISK, "ram": RAM}


def test_volumes_have_a_class_a_budget_a_reserve_and_namespaces() -> None:
    text = """
    [volumes.disk]
    class = "DISK"
    budget_bytes = 1_000
    reserve_bytes = 10
    namespaces = {"prod/search" = 600, "prod/maps" = 700}
    [volumes.fast]
    class = "nvme"
    """

    assert parse(text) == {
        "disk": VolumeInfo(
            cls=DISK, budget_bytes=1000, reserve_bytes=10, namespaces={"prod/search": 600, "prod/maps": 700}
        ),
        "fast": VolumeInfo(cls="nvme"),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("volumes = 3", "must be tables"),
        ("[volumes]\ndisk = 3", "volumes.disk: must be a table with class, budget_bytes"),
        ("[volumes.disk]", "volumes.disk.class: must be 'DISK', 'RAM' .* it is missing"),
        ('[volumes.disk]\nclass = "Disk"', "not 'Disk'"),
        ("[volumes.disk]\nclass = 1", "not 1"),
        ('[volumes.fast]\nclass = "nvme"', "none has class 'DISK'"),
        ('[volumes.disk]\nclass = "DISK"\n[volumes.a]\nclass = "RAM"\n[volumes.b]\nclass = "RAM"',
         "a, b all have class 'RAM'"),
        ('[volumes."../x"]\nclass = "DISK"', "is not a legal name"),
        ('[volumes.disk]\nclass = "DISK"\npath = "/data"', "unknown path; .*mount there what you like"),
        ('[volumes.disk]\nclass = "DISK"\nsize = 1', "unknown size; known are"),
        ('[volumes.disk]\nclass = "DISK"\nbudget_bytes = "1G"', "must be a whole number of bytes"),
        ('[volumes.disk]\nclass = "DISK"\nreserve_bytes = -1', "reserve_bytes: .*not -1"),
        ('[volumes.disk]\nclass = "DISK"\nreserve_bytes = true', "not True"),
        ('[volumes.disk]\nclass = "DISK"\nnamespaces = {search = 1}', "'search' must be ENV/NAMESPACE"),
        ('[volumes.disk]\nclass = "DISK"\nbudget_bytes = 5\nnamespaces = {"prod/a" = 6}',
         "6 is more than the 5 bytes of its volume"),
    ],
)  # fmt: skip
def test_each_mistake_says_what_is_wrong_and_where(text: str, says: str) -> None:
    with pytest.raises(Malformed, match=says) as found:
        parse(text)

    assert str(found.value).startswith(WHERE)


def test_what_is_written_as_toml_is_read_as_the_same() -> None:
    volumes = {
        "disk": VolumeInfo(cls=DISK, budget_bytes=10**12, reserve_bytes=10**10),
        "ram": VolumeInfo(cls=RAM),
    }

    assert parse(as_toml({name: (volume, "two\nlines") for name, volume in volumes.items()})) == volumes
