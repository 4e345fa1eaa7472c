"""One cluster for all tests of a run: it takes minutes to make."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.kube.cluster import Cluster
from tests.kube.images import Images, cache
from tests.kube.installed import Installed
from tests.kube.leftovers import FOLDERS, alone, sweep
from tests.kube.stage import Scene

LAST = ("test_uninstall.py", "test_guarded.py")  # one takes Hydra away, one installs it in another way
LIMIT_S = 1500  # of one test; images and cluster are made in the first, after another run has ended


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        item.add_marker(pytest.mark.timeout(LIMIT_S))


def _turn(item: pytest.Item) -> int:
    """First what needs no cluster, so that none runs beside it; last what changes Hydra for good."""
    if item.path.name in LAST:
        return 2 + LAST.index(item.path.name)
    return int("cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    assert os.geteuid() == 0, "tests/kube makes network namespaces and mounts: run it as root"
    with alone():
        sweep()
        made = Cluster(Path(mkdtemp(prefix=FOLDERS)), Images(cache()).all())
        try:
            made.start()
            yield made
        except BaseException:
            print(made.last_words())
            raise
        finally:
            made.stop()


@pytest.fixture(scope="session")
def hydra(cluster: Cluster) -> Installed:
    installed = Installed(cluster)
    try:
        installed.install()
    except BaseException:
        print(installed.last_words())
        raise
    return installed


@pytest.fixture
def scene(hydra: Installed, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Scene]]:
    """Makes the scene of a test by its name; ends all of them afterwards."""
    made: list[Scene] = []

    def make(name: str) -> Scene:
        made.append(Scene(hydra, name))
        return made[-1]

    yield make
    if request.node.stash.get(FAILED, False):
        print(hydra.last_words())
    for one in made:
        one.close()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
