"""What `reload` wants done to pods of this node, done at the API server: a deletion, a signal, a restart.

    state/errands/<uid>  ->  the pod is deleted, or its container's process 1 gets a signal  ->  the answer

Runs in `discover`, which alone has loaded the client of Kubernetes, in a thread of its own: a shell in a
container that hangs keeps no other pod from being told of its data. A container that began after the errand
was given has loaded what the errand is about, and is left alone.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct, field

from handlers.adapters.errands import Errand, Errands, Kind
from handlers.adapters.mirror import Picture
from handlers.adapters.pods import Json
from handlers.core.errors import Denied, HydraError, Temporary
from handlers.core.pods import container_of, pod_of


class Server(Protocol):
    """`adapters.pods.Api`, as far as it is used here."""

    def delete(self, namespace: str, pod: str, uid: str) -> None: ...

    def signal(self, namespace: str, pod: str, container: str, name: str) -> None: ...


class Source(Protocol):
    """`adapters.mirror.Mirror`."""

    def picture(self) -> Picture: ...


class _Begun(Struct):
    """The container that an errand found, by its id, and whether it was told."""

    container: str = ""
    told: bool = False


class PodDesk(Struct):
    """`pods` is a picture of this node's pods."""

    server: Server
    pods: Source
    errands: Errands
    _begun: dict[str, _Begun] = field(default_factory=dict)

    def look(self) -> None:
        """See to all errands once. Raises `Temporary` when one of them has to be tried again."""
        picture = self.pods.picture()
        if not picture.known:
            return
        errands, trouble = self.errands.given(), None
        self._begun = {errand.id: self._begun.get(errand.id, _Begun()) for errand in errands}
        for errand in errands:
            value = picture.objects.get(errand.uid)
            if value is None:
                self.errands.forget(errand.uid)  # the pod is gone
                continue
            try:
                if self._is_done(errand, value):
                    self.errands.answer(errand)
            except Temporary as e:
                trouble = e  # the others do not wait for it
            except HydraError as e:
                self.errands.answer(errand, str(e), denied=isinstance(e, Denied))
        if trouble:
            raise trouble

    def _is_done(self, errand: Errand, value: Json) -> bool:
        """Do what is still to do; a deletion is over when the pod is no more, and never done here."""
        pod, begun = pod_of(value), self._begun[errand.id]
        if errand.kind is Kind.DELETE:
            if not begun.told:
                self.server.delete(pod.namespace, pod.name, pod.uid)
                begun.told = True
            return False
        container = container_of(value, errand.container)
        if container is None:
            return False  # it does not run (yet)
        begun.container = begun.container or container.id
        if container.id != begun.container or container.started > errand.given:
            return True
        if not begun.told:
            self.server.signal(pod.namespace, pod.name, errand.container, errand.signal)
            begun.told = True
        return errand.kind is Kind.SIGNAL
