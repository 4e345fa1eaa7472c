"""Fixtures of the tests on real clusters, and what is printed when one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import pytest

from hydra_cli.dev.cluster import Cluster
from tests import servers
from tests.e2e import evidence
from tests.e2e.scene import Scene
from tests.e2e.standing import three_nodes

# Graces and pauses that tests wait for; what guards against a slow machine stays as `hydra dev` has it.
QUICK = {"unused_grace_s": 1, "idle_grace_s": 1, "plan_pause_s": 0.5, "drop_after_s": 2, "retry_s": 1}
# Where a test waits until somebody is believed dead.
SOON_DEAD = {**QUICK, "alive_ttl_s": 3, "slot_ttl_s": 3, "plan_ttl_s": 3, "dead_after_s": 1, "resync_s": 5}


@pytest.fixture(scope="session")
def shared_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """The S3 server of the shared cluster."""
    with servers.s3_server(tmp_path_factory.mktemp("shared-s3")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, shared_s3: servers.S3) -> Iterator[Cluster]:
    """Three nodes for all tests that leave the cluster as it was."""
    with three_nodes(tmp_path_factory.mktemp("shared"), shared_s3, QUICK) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that a test may do harm to; whoever is lost is soon believed dead."""
    with Cluster(tmp_path_factory.mktemp("own"), nodes=3, limits=SOON_DEAD) as cluster:
        yield cluster


@pytest.fixture
def scene(shared_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A channel and a service of the test's own on the shared cluster."""
    made = Scene(shared_cluster, short(request.node.name))
    yield made
    made.close()


@pytest.fixture
def harm(own_cluster: Cluster, request: pytest.FixtureRequest) -> Scene:
    """A channel and a service on a cluster of the test's own."""
    return Scene(own_cluster, short(request.node.name))


def short(name: str) -> str:
    """The beginning of a test's name, as it may stand in the names of channels and services."""
    words = name.removeprefix("test_").partition("[")[0].split("_")
    return "-".join(words[:3])[:30].strip("-")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the documents and logs of the cluster of a test that failed."""
    report = yield
    found: Callable[[str], object] = getattr(item, "funcargs", {}).get
    scene = found("scene") or found("harm")
    if report.failed and call.when == "call" and isinstance(scene, Scene):
        report.sections.extend(evidence.of(scene.cluster, scene.space))
    return report
