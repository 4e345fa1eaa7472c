"""Fixtures that all tests share: real servers, started once per test process and only where asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from handlers.adapters.kv import ConsulKV
from hydra_cli.programs import program
from tests import servers

# how long an example takes says more about what else runs on the machine than about the code
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# what decides over a change looks at the same examples each time; by hand each run looks at new ones
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("busy"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "busy")

ON_CLUSTERS = "clusters"
_WHOLE_CLUSTERS = {"tests/faults/test_rollouts.py", "tests/faults/test_stability.py"}
_FOREIGN = ("CONSUL_", "AWS_", "HYDRA_")
_KEPT = ("HYDRA_CACHE",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts nodes first: with several workers (`make test`) it is the longest part."""
    items.sort(key=lambda item: _group(item.nodeid) != ON_CLUSTERS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """One worker has all tests on clusters, which would be in each other's way; others go by file."""
    return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return ON_CLUSTERS if file.startswith("tests/e2e/") or file in _WHOLE_CLUSTERS else file


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    """Tests see nothing of the Consul, the S3 and the Hydra of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_FOREIGN) and name not in _KEPT:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def programs() -> Callable[[str], Path]:
    """`programs("consul")` is the binary; a test that needs a missing one fails."""
    return program


@pytest.fixture(scope="session")
def consul_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Consul]:
    """A Consul server without ACLs, shared by the tests of this process: its KV is not empty."""
    with servers.consul_server(tmp_path_factory.mktemp("consul")) as consul:
        yield consul


@pytest.fixture
def consul(consul_server: servers.Consul) -> servers.Consul:
    """A Consul server without ACLs whose KV is empty and which has no sessions."""
    consul_server.wipe()
    return consul_server


@pytest.fixture(scope="session")
def consul_acl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Consul]:
    """A Consul server with ACLs, default deny; `token` may do everything."""
    with servers.consul_server(tmp_path_factory.mktemp("consul-acl"), acl=True) as consul:
        yield consul


@pytest.fixture
def consul_acl(consul_acl_server: servers.Consul) -> servers.Consul:
    """A Consul server with ACLs whose KV is empty and which has no sessions."""
    consul_acl_server.wipe()
    return consul_acl_server


@pytest.fixture
def kv(consul: servers.Consul) -> ConsulKV:
    """The empty KV of a real Consul."""
    return consul.kv()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """An S3 server; ask it for buckets of your own."""
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """An S3 server whose buckets may keep versions."""
    with servers.s3_server(tmp_path_factory.mktemp("s3-versions"), versions=True) as server:
        yield server
