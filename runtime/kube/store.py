"""The Kubernetes store: grants written as merge patches, nodes followed by the `join`. Fills the `Store` port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from omnipam.core import allocator
from omnipam.core.drive import Publish
from omnipam.core.errors import (
    Conflict,
    Denied,
    NotFound,
    OmnipamError,
    OutcomeUnknown,
    Unavailable,
)
from omnipam.core.values import Finding, Kept, Node, PoolSpec, Problem

from ..election import LostLease
from ..garbage import Orphan
from ..store import Sink
from . import ciliumnode, podippool
from .ciliumnode import CiliumNode, Form, PodCidrs
from .definitions import Served, ensure
from .events import Pool, Recorder
from .join import CILIUM_NODES, NODES, Following
from .keeping import Keeping
from .meta import HasIdentity
from .rest import MERGE_PATCH, METADATA_OBJECT, Api

READS = 5

_IDENTITY = msgspec.json.Decoder(HasIdentity)


class KubernetesStore:
    """One cluster. The caller enters `api` before `open` and leaves it after `close`.

    form: how the mode uses a CiliumNode. reads_pools: it is told of the CiliumPodIPPools, too.
    reads_machines: the mode needs Nodes whole (`Provider.reads_machines`); else only their names are asked for.
    namespace: where what is kept goes, and Cilium's ConfigMap is. create_definitions: not with `skip-crd-creation`.
    clock: monotonic seconds, the loop's; wall: seconds since 1970.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        reads_machines: bool,
        create_definitions: bool = True,
        form: Form | None = None,
        reads_pools: bool = False,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._api, self._clock = api, clock
        self._form: Form = form or PodCidrs()
        self._decoder: msgspec.json.Decoder[CiliumNode] = msgspec.json.Decoder(self._form.struct)
        self._reads_pools = reads_pools
        self._reads_machines, self._create_definitions = reads_machines, create_definitions
        self._keeping = Keeping(api, namespace)
        self._recorder = Recorder(api, namespace=namespace, clock=clock, wall=wall)
        self._served = Served()
        self._findings: list[Finding] = []
        self._following: Following | None = None
        self._owed: frozenset[str] = frozenset()
        self._events_denied = False

    async def open(self) -> None:
        """Install the definitions where they are absent. Raises Unavailable, Denied, Invalid."""
        self._served = await ensure(
            self._api, create=self._create_definitions, pools=self._reads_pools, clock=self._clock
        )
        self._findings.extend(self._served.findings)

    async def close(self) -> None:
        """Nothing of its own is to be closed: `follow` ends when it is cancelled, the client with its caller."""

    async def follow(self, sink: Sink) -> None:
        """List Nodes (and pools), then CiliumNodes, then follow them. Raises Denied, NotFound or Invalid where a first list is refused."""
        for finding in self._findings:
            sink.finding(finding)
        self._findings.clear()
        following = self._following = Following(
            sink,
            owed=self._owed,
            reads_machines=self._reads_machines,
            clock=self._clock,
            form=self._form,
            reads_pools=self._reads_pools,
            ends=self._served.ends,
        )
        try:
            await following.run(self._api)
        finally:
            self._following = None

    def relist(self) -> None:
        """Begin both lists anew. Nothing happens where nothing is followed: the first list is to come."""
        if self._following is not None:
            self._following.relist()

    async def publish(self, publish: Publish) -> allocator.Published:
        """Write what differs: the blocks into `spec`, then the error into the status subresource. Raises LostLease only."""
        node, grant = publish.node, publish.grant
        if not node.version:
            return allocator.Conflict()  # an empty version is no condition at all to the server: read first
        path, version, wrote = f"{CILIUM_NODES}/{node.name}", node.version, False
        try:
            if grant.blocks != node.holds.blocks or node.holds.outdated:
                patch = self._form.spec_patch(node, grant.blocks)
                version = await self._patch(path, patch)
                wrote = True
            if self._served.status_error and grant.error != node.holds.error:
                patch = ciliumnode.status_patch(version, node.uid, grant.error)
                version = await self._patch(f"{path}/status", patch)
        except Conflict:
            return allocator.Conflict()
        except NotFound:
            return allocator.Gone()
        except OutcomeUnknown as exc:
            return allocator.Unknown(str(exc))
        except LostLease:
            raise
        except OmnipamError as exc:
            # After the first half "nothing was written" would be a lie: a read decides.
            return allocator.Unknown(str(exc)) if wrote else allocator.Denied(exc.reason, str(exc))
        return allocator.Version(version)

    async def read(self, name: str) -> Node | None:
        """Return the node as it is now. Raises Retryable, Denied."""
        for _ in range(READS):
            following = self._following
            vanished = following.vanished if following is not None else 0
            try:
                body = await self._api.get(f"{CILIUM_NODES}/{name}")
            except NotFound:
                return following.without_object(name) if following is not None else None
            if following is None or following.vanished == vanished:
                return self._decoded(body, following)
            # The watch showed deletions meanwhile; what we read may be older than that of this very node.
        raise Unavailable(f"CiliumNode {name}: nodes vanish as fast as it is read")

    def _decoded(self, body: bytes, following: Following | None) -> Node:
        try:
            source = self._decoder.decode(body)
        except msgspec.MsgspecError as exc:
            if following is not None:
                return following.read_unreadable(body, str(exc))
            return self._form.salvaged(body, str(exc))
        if following is not None:
            return following.read(source)
        return self._form.node(source, own_addresses=not self._reads_machines)

    async def remove(self, name: str, uid: str) -> None:
        """Delete a CiliumNode, if it is the one with this uid. Raises what the client raises."""
        try:
            await self._api.delete(f"{CILIUM_NODES}/{name}", uid=uid)
        except (NotFound, Conflict):
            return  # gone, or another one by now

    def orphans(self) -> list[Orphan]:
        """CiliumNodes whose Node is gone, and which garbage collection may take."""
        return self._following.orphans() if self._following is not None else []

    async def collect(self, orphan: Orphan) -> bool:
        """Delete an orphan, after a last look whether its Node is there. Raises what the client raises."""
        try:
            await self._api.get(f"{NODES}/{orphan.name}")
        except NotFound:
            await self.remove(orphan.name, orphan.uid)
            return True
        return False

    async def kept(self) -> tuple[Kept, ...]:
        """Read what an earlier leader kept. Raises what the client raises.

        For its owners that have no CiliumNode, the list under way, or the next, says `seen` (the machine is there) before
        `synced`, or `gone` right after it: so read this before that list ends.
        """
        kept, findings = await self._keeping.read()
        self._say(findings)
        self._owed = frozenset(each.owner for each in kept if each.owner)
        if self._following is not None:
            self._following.owed = self._owed
        return kept

    async def keep(self, kept: Sequence[Kept]) -> None:
        """Replace what is kept. Raises what the client raises; Conflict where someone else writes it too."""
        await self._keeping.write(kept)

    async def record(self, mode: str, pools: Sequence[PoolSpec]) -> None:
        """Nothing: on Kubernetes, commands read Cilium's ConfigMap."""

    async def add_pool(self, spec: PoolSpec) -> bool:
        """Create a CiliumPodIPPool. False: there is one of that name, and it stays as it is. Raises what the client raises."""
        try:
            await self._api.create(podippool.POOLS, msgspec.json.encode(podippool.manifest(spec)))
        except Conflict:
            return False
        return True

    async def report(self, node: Node | None, problem: Problem) -> None:
        """Show a failure as an Event; quietly given up where that is not allowed (said once). Raises Retryable, LostLease."""
        await self._report(node, problem)

    async def report_pool(self, name: str, problem: Problem) -> None:
        """The same, of a pool."""
        following = self._following
        uid = following.pool_uid(name) if following is not None else ""
        await self._report(Pool(name, uid), problem)

    async def _report(self, about: Node | Pool | None, problem: Problem) -> None:
        if self._events_denied:
            return
        try:
            await self._recorder.report(about, problem)
        except Denied as exc:
            self._events_denied = True
            text = f"Events cannot be written: {exc}"
            self._say([Finding("EventsDenied", ("Event",), text, "grant create and patch on events there")])

    async def _patch(self, path: str, patch: bytes) -> str:
        # Of the answer only the version is needed: asking for metadata alone spares both sides the rest of the object.
        body = await self._api.request(
            "PATCH", path, body=patch, content_type=MERGE_PATCH, accept=METADATA_OBJECT
        )
        try:
            return _IDENTITY.decode(body).metadata.resource_version
        except msgspec.MsgspecError as exc:
            raise OutcomeUnknown(f"PATCH {path}: the answer cannot be read ({exc})") from exc

    def _say(self, findings: list[Finding]) -> None:
        if self._following is None:
            self._findings.extend(findings)
            return
        for finding in findings:
            self._following.sink.finding(finding)
