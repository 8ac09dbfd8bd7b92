"""One agent from start to end: reads its reservations, replays releases that found no agent, serves, and follows its node's object."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from omnipam.core.attachment import Request, Want
from omnipam.core.cidr import Family
from omnipam.core.errors import Invalid, OmnipamError
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import Node
from omnipam.providers.published import FORMS

from ..cni import queue
from ..config.values import Endpoint
from ..together import Together
from ..web import Web
from .api import Api
from .commits import Commits
from .half import Blocks, Half
from .interfaces import Interfaces, Wanted
from .journal import FILE, Journal
from .kube_pods import KubePods
from .leaks import RECOVERED, Leaks
from .listening import Listening
from .metrics import Metrics
from .placing import NoPods
from .publisher import Publisher
from .service import Service
from .side import NodeSide

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TICK_S = 1.0
LOOK_S = 0.1
NO_STATE = "there was no state yet, and pods may have addresses already"
QUEUE_WAIT_S = 10.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent is told. Times in seconds."""

    node: str
    mode: str
    families: tuple[Family, ...]
    socket: Path
    state: Path
    group: str = ""
    default_pool: str = "default"
    pre_allocate: dict[str, int] = {}
    allocation_wait_s: float = 10.0
    cool_down_s: float = 30.0
    leak_grace_s: float = 900.0
    update_s: float = 15.0
    sticky: bool = False
    metrics: Endpoint | None = None
    only_masquerade_default: str = ""
    """The pool whose addresses alone are masqueraded; empty: all, unless a pool says otherwise."""
    boot_id: Path = BOOT_ID

    cloud_form: Wanted = "auto"

    @property
    def pooled(self) -> bool:
        return self.mode == "multi-pool"

    @property
    def cloud(self) -> bool:
        """Whether addresses belong to the node's interfaces."""
        return self.mode in FORMS


class Agent:
    """side: the node's object. pods: where pods are known, None on the embedded store. journal: that of `settings.state`.

    impaired: why running pods may suffer from what the store says, None if they do not.
    """

    def __init__(
        self,
        settings: Settings,
        agent: NodeAgent,
        side: NodeSide,
        pods: KubePods | None,
        *,
        clock: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
        journal: Journal | None = None,
        impaired: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._settings, self._agent, self._pods = settings, agent, pods
        self._clock, self._log = clock, log
        self._journal = journal or Journal(settings.state)
        self._boot = _read_boot(settings.boot_id)
        self._commits = Commits(self._journal.commit, self._write_whole, full=self._is_full)
        self._commits.told = self._disk
        self._service = Service(agent, self._commits, clock=clock)
        self._half: Half = (
            Interfaces(agent, wanted=settings.cloud_form, clock=clock, knows=lambda: not self._lost, log=log)
            if settings.cloud
            else Blocks(agent, clock=clock, reports=settings.mode != "kubernetes")
        )
        self._publisher = Publisher(
            self._half, side, changed=self._changed, log=log, spacing_s=settings.update_s
        )
        self._service.demanded = self._publisher.demanded
        self._api = Api(
            self._service,
            pods or NoPods(settings.default_pool, sticky=settings.sticky),
            mode=settings.mode,
            wait_s=settings.allocation_wait_s,
            clock=clock,
            ready=self._not_ready,
            impaired=lambda: self._impaired or impaired(),
            only_masqueraded=settings.only_masquerade_default,
        )
        self._metrics = Metrics(
            agent,
            self._service.counts,
            waiting=lambda: self._service.waiting,
            failing=lambda: self._commits.failure is not None,
            clock=clock,
        )
        self._impaired: str | None = None
        self._lost = ""
        """Why reservations may be missing that live pods have; empty if none can be. It is on disk as well."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run`, once what was asked is answered."""
        self._stopping.set()

    async def run(self) -> None:
        """Serves until `stop`. Raises what a person must mend."""
        try:
            await self._run()
        finally:
            self._journal.close()  # whatever went wrong: one that was not closed counts as damaged, see there

    async def _run(self) -> None:
        settings = self._settings
        _prepare_state(settings.state)
        self._open()
        self._commits.start()
        listening = Listening(settings.socket, self._api.serve, group=settings.group)
        self._commits.alone = listening.has_one_client
        web = Web({"/metrics": self._metrics.page})
        try:
            if settings.metrics is not None:
                await web.open(settings.metrics.host, settings.metrics.port, "--metrics-addr")
            async with Together() as together:
                directory = str(settings.state / queue.FOLDER)
                with queue.locked(directory, wait_s=QUEUE_WAIT_S) as held:
                    if held:
                        await self._replay(directory)
                    else:
                        self._log.warning("the queue of releases is held by others: it waits", path=directory)
                    await listening.open()
                self._log.info(
                    "serving", socket=str(settings.socket), reserved=len(list(self._agent.allocations))
                )
                gc.collect()
                gc.freeze()  # what is there now stays: the collector need not look at it again and again
                together.start(self._publisher.follow())
                together.start(self._publisher.write())
                together.start(self._tick())
                if self._pods is not None:
                    together.start(self._pods.run())
                    together.start(self._recover(self._pods))
                    leaks = Leaks(
                        self._service,
                        self._pods,
                        grace_s=settings.leak_grace_s,
                        clock=self._clock,
                        log=self._log,
                    )
                    together.start(leaks.run())
                await together.until(together.start(_wait(self._stopping)))
                self._service.close()
                await listening.close()
        except queue.NoQueue as error:
            raise Invalid(f"{error.filename}: {error.strerror}; move it away and start again") from None
        finally:
            await listening.close(0.0)
            await web.close()
            await self._commits.stop()

    # -- the state

    def _open(self) -> None:
        settings, now = self._settings, self._clock()
        opened = self._journal.open(f"{now:.0f}")
        if opened.node and opened.node != settings.node:
            raise Invalid(
                f"state {settings.state / FILE} is of node {opened.node}, and this is {settings.node}:"
                " pass --node-name as before, or another --state-dir"
            )
        booted = bool(opened.boot) and opened.boot != self._boot
        doubles = self._agent.load(opened.rows, now, booted=booted)
        self._agent.drain()
        if not booted:  # after a boot nobody is left whose reservation could be missing
            self._lost = opened.lost
            if self._pods is not None and not opened.boot:
                self._lost = self._lost or NO_STATE
            if self._pods is None and self._lost:
                self._impaired = (
                    f"{self._lost}, and this store knows no pods: nothing new is given, since it may be"
                    " some running one's; start the machine anew"
                )
        self._write_whole()
        if opened.aside is not None:
            self._log.error(
                "the state was damaged: it is set aside, and what could be read of it is kept",
                aside=str(opened.aside),
                kept=len(opened.rows),
                lost=opened.unreadable,
            )
        for each in doubles:
            self._impaired = (
                f"{', '.join(map(str, each.given))} was reserved twice, the second time for {each.owner}"
            )
            self._log.error("an address was reserved twice", owner=each.owner, key="/".join(each.key))
        if booted:
            self._log.info("the machine has started anew: reservations of its pods are released")

    def _disk(self, failure: OmnipamError | None) -> None:
        if failure is None:
            self._log.info("the disk takes reservations again")
        else:
            self._log.error("the disk refuses reservations: nothing is given or released", why=str(failure))

    def _write_whole(self) -> None:
        self._journal.rewrite(self._agent.stored(), self._boot, self._settings.node, self._lost)

    def _is_full(self) -> bool:
        return self._journal.full(self._agent.recorded)

    async def _replay(self, directory: str) -> None:
        """Releases that found no agent while this one was away; under the queue's lock."""
        for each in queue.pending(directory):
            released = await self._service.release(each.key)
            queue.remove(each)
            if released is not None:
                self._log.info("released, as was asked while no agent ran", key="/".join(each.key))

    async def _recover(self, pods: KubePods) -> None:
        """After the state was lost: what live pods have is theirs."""
        if not self._lost:
            return
        await pods.synced.wait()
        while not self._may_recover(pods):  # noqa: ASYNC110 — once after a loss, and nobody tells of blocks alone
            await asyncio.sleep(LOOK_S)
        recovered = 0
        for name, pod in sorted(pods.live().items()):
            for address in pod.addresses:
                block = next((block for block in self._agent.listed() if block.cidr.contains(address)), None)
                if block is None or self._agent.holder(address.bits, address.first) is not None:
                    continue
                want = Want(address.family, block.pool, address.first)
                request = Request((RECOVERED, pod.metadata.uid, address.family), "/".join(name), (want,))
                try:
                    await self._service.allocate(request, 0.0)
                    recovered += 1
                except OmnipamError as error:
                    self._log.error("an address of a live pod cannot be kept", pod=name, why=str(error))
        self._lost = ""
        self._half.matured()  # before anybody can ask for an address
        self._commits.rewrite()
        self._publisher.demanded(True)
        if recovered:
            self._log.warning("reservations made anew from live pods", count=recovered)

    def _may_recover(self, pods: KubePods) -> bool:
        """Whether the node's blocks are known, or no pod has an address that could be of one.

        Where there never was a state, and the object shows no block, pods have their addresses from elsewhere.
        """
        if self._publisher.node is None:
            return False
        if self._agent.listed() or self._lost == NO_STATE:
            return True
        return not any(pod.addresses for pod in pods.live().values())

    # -- how it stands

    def _not_ready(self) -> str | None:
        if not self._publisher.seen.is_set() or self._publisher.node is None:
            why = f": {self._publisher.error}" if self._publisher.error else ""
            return f"the object of node {self._settings.node} is not there yet{why}"
        if self._lost:
            return self._impaired or "reservations are being made anew from live pods"
        return None

    def _changed(self) -> None:
        node = self._publisher.node
        if node is not None:
            self._of_this_node(node)
        self._service.look()

    def _of_this_node(self, node: Node) -> None:
        self._agent.exclude(node.facts.addresses)
        if self._pods is not None:
            self._pods.default_pool = node.default_pool or self._settings.default_pool

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._service.tick()
            if self._half.matured() or self._service.waiting:
                self._service.look()


def _read_boot(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Invalid(f"boot id {path} cannot be read ({error.strerror})") from None


def _prepare_state(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o002:
            raise Invalid(f"state directory {path}: everybody may write to it: chmod o-w it")
    except OSError as error:
        raise Invalid(f"state directory {path} cannot be used ({error.strerror})") from None


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
