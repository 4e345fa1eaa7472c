"""A node in the field with a server that misbehaves, and a whole cluster as it is shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import asdict

from handlers.settings import Limits
from hydra_cli.dev.cluster import Cluster
from tests import servers
from tests.e2e.conftest import pytest_runtest_makereport, short  # noqa: F401 - the hook is found by its name
from tests.e2e.scene import Scene
from tests.e2e.standing import three_nodes
from tests.faults.field import Field
from tests.faults.server import FaultyS3


@pytest.fixture
def server() -> Iterator[FaultyS3]:
    """An S3 server that behaves until it gets rules."""
    with FaultyS3() as made:
        yield made


@pytest.fixture
def field(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Field:
    """A node that holds nothing yet."""
    return Field.at(tmp_path / "node" / "root", consul, server)


@pytest.fixture(scope="session")
def shipped_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """The S3 server of the cluster below."""
    with servers.s3_server(tmp_path_factory.mktemp("shipped-s3")) as server:
        yield server


@pytest.fixture(scope="session")
def shipped_cluster(tmp_path_factory: pytest.TempPathFactory, shipped_s3: servers.S3) -> Iterator[Cluster]:
    """Three nodes with the limits that Hydra is shipped with. Whoever harms it mends it."""
    with three_nodes(tmp_path_factory.mktemp("shipped"), shipped_s3, asdict(Limits())) as cluster:
        yield cluster


@pytest.fixture
def scene(shipped_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A channel and a service of the test's own on that cluster."""
    made = Scene(shipped_cluster, short(request.node.name))
    yield made
    made.close()
