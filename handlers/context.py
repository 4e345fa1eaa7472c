"""What `handlers.main` hands to each handler: `def run(ctx: Context) -> str`, the sentence that is logged."""

from __future__ import annotations

from msgspec import Struct

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Agent, Consul
from handlers.core.errors import Temporary
from handlers.settings import Settings

AGENT_NAME = "agent-name"


class Context(Struct, frozen=True, kw_only=True):
    """The surroundings of one run of a handler.

    `node` is the name as it really is, never empty. `index` is what `consul watch` saw when it started this
    run (0 when nobody did): only for logs, since reads are consistent and so never older.
    """

    settings: Settings
    node: str
    kv: Consul
    local: LocalState
    index: int = 0


def node_name(settings: Settings, agent: Agent, local: LocalState) -> str:
    """The node's name: `HYDRA_NODE`, else the agent's node name, asked for once and then remembered.

    Raises `Temporary` when it is not known yet and the agent is away. `discover` renews what is remembered.
    """
    if settings.node:
        return settings.node
    remembered = (local.read(AGENT_NAME) or b"").decode().strip()
    return remembered or agent_name(agent, local)


def agent_name(agent: Agent, local: LocalState) -> str:
    """Ask the agent for its node name and remember it."""
    answer, _ = agent.get_json("agent/self")
    name = str((answer or {}).get("Config", {}).get("NodeName", ""))
    if not name:
        raise Temporary("the Consul agent does not tell its node name; set HYDRA_NODE")
    local.write(AGENT_NAME, name.encode())
    return name
