"""Consul as in production: outside the cluster, denying what no token allows. Runs last: see `conftest`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handlers.adapters.kv import ConsulKV
from handlers.core import keys
from handlers.core.errors import Denied
from tests.kube.conftest import FAILED
from tests.kube.guarded import ADDRESS, Guarded
from tests.kube.installed import Installed
from tests.kube.stage import V1, V2, Scene


@pytest.fixture
def guarded(hydra: Installed, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    made = Guarded(hydra)
    made.helm("uninstall", "hydra", "-n", hydra.namespace, "--ignore-not-found", "--wait")
    try:
        made.install()
        yield made
    finally:
        if request.node.stash.get(FAILED, False):
            print(made.last_words())


def test_consul_that_denies_is_served_with_tokens_from_secrets(guarded: Guarded) -> None:
    with pytest.raises(Denied):
        ConsulKV.from_env({"CONSUL_HTTP_ADDR": f"http://{ADDRESS}"}).get(keys.META)
    stage = Scene(guarded, "guarded")
    stage.serve(replicas=2)

    with stage.audience() as audience, stage.lookout() as lookout:
        stage.publish(V2)
        stage.await_running(V2, 2)
        guarded.hydra("rollback", stage.channel, "--reason", "an operator's token may do that")
        stage.await_running(V1, 2)

    assert audience.failed == []
    assert audience.mixed == []
    assert (lookout.most_out, lookout.deleted) == (1, set())
