"""The documents of Hydra's KV, format 1, as frozen values.

Field names are the JSON names (`codec` turns one into the other, strictly). Times are ISO 8601 text in UTC
and only for people: order comes from sequence numbers and generations. Fields that this program does not
know are kept in `extra`, so that an older program does not erase what a newer one wrote.
`title()` becomes the `about` of the document: one sentence for whoever opens it in the Consul UI.
"""

from handlers.core.model.base import (
    DISK,
    FORMAT,
    RAM,
    Doc,
    Note,
    Part,
)
from handlers.core.model.nodes import (
    Actual,
    AliasPlan,
    Cordon,
    Desired,
    Download,
    Hold,
    Instance,
    Instances,
    NodeInfo,
    Progress,
    ReleaseStatus,
    ServicePlan,
    State,
    VolumeInfo,
)
from handlers.core.model.releases import (
    Alarm,
    Alarms,
    Audit,
    ChannelSettings,
    Dataset,
    File,
    Manifest,
    ManifestElsewhere,
    ManifestRef,
    Meta,
    Pin,
    Rejected,
    Release,
)
from handlers.core.model.services import (
    Control,
    Proven,
    SlotEntry,
    Slots,
    Subscription,
    Verdict,
    Verdicts,
)
from handlers.core.model.states import (
    InstanceState,
    Ready,
    States,
    Step,
)

__all__ = [
    "DISK",
    "FORMAT",
    "RAM",
    "Actual",
    "Alarm",
    "Alarms",
    "AliasPlan",
    "Audit",
    "ChannelSettings",
    "Control",
    "Cordon",
    "Dataset",
    "Desired",
    "Doc",
    "Download",
    "File",
    "Hold",
    "Instance",
    "InstanceState",
    "Instances",
    "Manifest",
    "ManifestElsewhere",
    "ManifestRef",
    "Meta",
    "NodeInfo",
    "Note",
    "Part",
    "Pin",
    "Progress",
    "Proven",
    "Ready",
    "Rejected",
    "Release",
    "ReleaseStatus",
    "ServicePlan",
    "SlotEntry",
    "Slots",
    "State",
    "States",
    "Step",
    "Subscription",
    "Verdict",
    "Verdicts",
    "VolumeInfo",
]
