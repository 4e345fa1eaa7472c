"""Whether Consul's catalog is what its agents know: after a restore it is not, until they tell it everything.

They do within two minutes (anti-entropy). Nobody can make that come earlier, and Hydra believes the catalog.
"""

from __future__ import annotations

from hydra_cli.dev.cluster import Cluster
from tests.chaos.recorder import passes

AGREES_S = 150.0


def disputed(cluster: Cluster, consul_name: str) -> dict[tuple[str, str], tuple[bool | None, bool | None]]:
    """Node and ID of the instances of which the catalog says something else than the agent of the node.

    Each with what catalog and agent say: in service or not, None where it is not known. Raises `Temporary`.
    """
    asked = {"consistent": "", "near": "_agent"}  # past the streams, see `recorder`
    rows, _ = cluster.kv().get_json(f"health/service/{consul_name}", asked)
    listed = {
        (row["Node"]["Node"], row["Service"]["ID"]): passes([c for c in row["Checks"] if c["ServiceID"]])
        for row in rows
    }
    known = {}
    for node in cluster.nodes:
        agent = cluster.kv(node=node)
        services, _ = agent.get_json("agent/services")
        checks, _ = agent.get_json("agent/checks")
        for instance in (s["ID"] for s in services.values() if s["Service"] == consul_name):
            own = [check for check in checks.values() if check["ServiceID"] == instance]
            known[node, instance] = passes(own)
    return {
        place: (listed.get(place), known.get(place))
        for place in listed.keys() | known.keys()
        if listed.get(place) != known.get(place)
    }
