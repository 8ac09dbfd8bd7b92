"""One replica from start to end: opens the store, stands for election, restores, serves, and gives the lease back."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from omnipam.core.allocator import Provider
from omnipam.core.drive import Drive
from omnipam.core.errors import OmnipamError, Retryable
from omnipam.core.values import Capacity, Finding, Node, Problem

from ..clock import SteadyClock, since_boot, wall
from ..config.config import Config
from ..connect import Connected
from ..election import Election, Elector, LostLease, Timing
from ..garbage import Garbage, Yard
from ..metrics import Metrics
from ..pools import pool_specs, settings
from ..together import Together
from ..web import Answer, Web, text
from .feed import Feed, Phase
from .turns import Turns
from .unwritten import NOT_WRITTEN

T = TypeVar("T")

DRAIN_S = 3.0
FINDINGS_S = 2.0
FINDINGS_SAID = 20
GARBAGE_S = 60.0
RETRY_S = (0.5, 15.0)


class End(enum.Enum):
    """Why an operator ended, as the command's exit code tells."""

    STOPPED = 0
    LOST = 1


class Stop(Exception):
    """We were asked to end."""


class Operator:
    """A replica over one store. `run` returns when it ended; what must be said is in the log."""

    def __init__(
        self,
        config: Config,
        provider: Provider,
        connected: Connected,
        *,
        identity: str,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.config = config
        self._provider, self._connected, self._log = provider, connected, log
        self._store = connected.store
        self._clock = SteadyClock().now
        self._stop = asyncio.Event()
        self._drive: Drive | None = None
        self._turns: Turns | None = None
        self._said: set[Finding] = set()
        self._untold: set[Finding] = set()
        self._look = asyncio.Event()
        self._reloaded = asyncio.Event()
        self.metrics = Metrics(self._capacity, self._findings, provider.mode)
        self._feed = Feed(
            clock=self._clock, metrics=self.metrics, log=log, changed=self._changed, gone=self._gone
        )
        self._web: list[Web] = []
        timing = Timing(
            config.leader_election_lease_duration,
            config.leader_election_renew_deadline,
            config.leader_election_retry_period,
        )
        self._elector = Elector(
            Election(identity, timing),
            connected.lock,
            clock=since_boot,
            wall=wall,
            jitter=random.random,
            trouble=lambda error: log.warning("leader election: trying on", why=str(error)),
        )
        self._check(config)

    def stop(self) -> None:
        """Ends `run` soon: no request starts any more, the lease is given back."""
        self._stop.set()

    async def run(self) -> End:
        """Serves until stopped or the lease is lost. Raises Invalid, Denied and NotFound where a person must act."""
        end = End.STOPPED
        try:
            await self._listen()
            await self._until_stopped(self._serve())
        except Stop:
            self._log.info("stopping")
        except LostLease as error:
            self._log.error(str(error))
            end = End.LOST
        finally:
            await self._leave(lost=end is End.LOST)
        return end

    def reload(self, config: Config) -> None:
        """Takes over a configuration whose live keys changed. Raises Invalid; then nothing has changed."""
        if self._provider.reads_pools:
            pass  # they are the store's
        elif self._drive is not None and self._feed.phase is Phase.LIVE:
            self._drive.allocator.pools(pool_specs(config), self._clock())
        else:
            self._check(config)  # it is taken over with the restore
        self.config = config
        self._reloaded.set()
        self._changed()

    def _check(self, config: Config) -> None:
        """Raises Invalid where no allocator could serve these pools."""
        self._provider.build(settings(config)).pools(pool_specs(config), self._clock())

    # -- the course of it

    async def _listen(self) -> None:
        pages = {"/healthz": self._healthz, "/readyz": self._readyz}
        endpoint = self.config.operator_api_serve_addr
        api = Web(pages)
        self._web.append(api)
        await api.open(endpoint.host, endpoint.port, "operator-api-serve-addr")
        if self.config.enable_metrics:
            endpoint = self.config.operator_prometheus_serve_addr
            metrics = Web({"/metrics": self.metrics.page})
            self._web.append(metrics)
            await metrics.open(endpoint.host, endpoint.port, "operator-prometheus-serve-addr")

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`; raises Stop as soon as we are asked to end."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                raise Stop
            await task
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _serve(self) -> None:
        await self._open()
        self._connected.guard(self._elector.gate)  # from here on nothing is written but by a leader
        async with Together() as together:
            acquiring = together.start(self._elector.acquire())
            # A first look decides whether one list does, or whether we stand by with a list of our own.
            await asyncio.wait((acquiring,), timeout=self._elector.election.timing.retry_s)
            if not acquiring.done():
                self._log.info("standing by", holder=self._elector.election.holder)
                together.start(self._store.follow(self._feed))
                await together.until(acquiring)
                await together.until(together.start(self._lead(together)))
                self._store.relist()
            else:
                acquiring.result()
                await together.until(together.start(self._lead(together)))
                together.start(self._store.follow(self._feed))
            await together.first_error()

    async def _open(self) -> None:
        """Opens the store, waiting for it while it is away."""
        await self._patiently(self._connected.open)

    async def _lead(self, together: Together) -> None:
        """Everything that only a leader does begins here."""
        self._log.info("leading", identity=self._elector.election.identity, mode=self._provider.mode)
        self.metrics.leading = True
        together.start(self._elector.renew())
        allocator = self._provider.build(settings(self.config))
        drive = self._drive = Drive(allocator)
        turns = self._turns = Turns(
            drive,
            self._store,
            clock=self._clock,
            metrics=self.metrics,
            log=self._log,
            limit=self._connected.limit,
            found=self._look.set,
        )
        specs = pool_specs(self.config)
        if self._provider.reads_pools:
            await self._make_pools()
        kept = await self._patiently(self._store.kept)
        await self._patiently(lambda: self._store.record(self._provider.mode, specs))

        def restored(nodes: list[Node]) -> None:
            specs = self._feed.specs if self._provider.reads_pools else pool_specs(self.config)
            allocator.restore(nodes, specs, kept, self._clock())
            turns.restored(kept)
            self._log.info("restored", nodes=len(nodes))

        self._feed.lead(drive, restored)
        together.start(turns.run())
        together.start(self._look_for_findings())
        together.start(self._record_reloads())
        if self._connected.yard is not None and self.config.nodes_gc_interval > 0:
            together.start(self._collect(self._connected.yard))

    async def _make_pools(self) -> None:
        """The pools of `auto-create-cilium-pod-ip-pools` that are not there; one that is stays as it is."""
        for spec in self.config.auto_create_cilium_pod_ip_pools:
            try:
                made = await self._patiently(partial(self._store.add_pool, spec))
            except LostLease:
                raise
            except OmnipamError as error:
                self._log.warning("pool not made; going on without it", pool=spec.name, why=str(error))
                continue
            if made:
                self._log.info("Created CiliumPodIPPool resource", pool=spec.name)
            else:
                self._log.info("Found existing CiliumPodIPPool resource. Skipping creation", pool=spec.name)

    async def _collect(self, yard: Yard) -> None:
        """Deletes node objects whose machine is gone and stays gone."""
        interval = self.config.nodes_gc_interval
        garbage = Garbage(interval)
        while True:
            await asyncio.sleep(min(interval, GARBAGE_S))
            for orphan in garbage.tick(yard.orphans(), self._clock()):
                try:
                    if await yard.collect(orphan):
                        self.metrics.collected += 1
                        self._log.info("object deleted: its machine is gone", node=orphan.name)
                except LostLease:
                    raise
                except OmnipamError as error:
                    self._log.warning("object not deleted; trying on", node=orphan.name, why=str(error))

    async def _record_reloads(self) -> None:
        """Tells the store of pools that changed while we lead."""
        while True:
            await self._reloaded.wait()
            self._reloaded.clear()
            specs = pool_specs(self.config)
            await self._patiently(partial(self._store.record, self._provider.mode, specs))

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Asks until the store answers. Trouble is said once, not at every try."""
        said = False
        delay, longest = RETRY_S
        while True:
            try:
                answer = await ask()
            except Retryable as error:
                said = True
                self._feed.away(str(error))
                await asyncio.sleep(delay)
                delay = min(longest, delay * 2)
            else:
                if said:
                    self._feed.back()
                return answer

    async def _leave(self, *, lost: bool) -> None:
        """Lets what is on the wire end, gives the lease back, closes. Within ten seconds.

        lost: the lease is not ours any more: no request may start, and what is under way is not waited for.
        """
        self._elector.election.resign()
        if self._turns is not None:
            await self._turns.drain(0.0 if lost else DRAIN_S)
        if not lost:
            try:
                async with asyncio.timeout(DRAIN_S):
                    await self._elector.release()
            except (TimeoutError, OmnipamError) as error:
                self._log.warning("the lease was not given back; it runs out by itself", why=str(error))
        self.metrics.leading = False
        for web in self._web:
            await web.close()
        await self._store.close()

    # -- what others ask

    def _changed(self) -> None:
        self._look.set()
        if self._turns is not None:
            self._turns.changed()

    def _gone(self, name: str) -> None:
        self._look.set()
        if self._turns is not None:
            self._turns.gone(name)

    def _healthz(self) -> Answer:
        return text(200, "ok")

    def _readyz(self) -> Answer:
        return text(200, "ok") if self._feed.ready else text(503, "not ready: the first list is not complete")

    def _capacity(self) -> Capacity | None:
        if self._drive is None or self._turns is None:
            return None
        capacity = self._drive.allocator.capacity()
        return msgspec.structs.replace(
            capacity, unserved=capacity.unserved + self._turns.unwritten.unserved()
        )

    def _findings(self) -> tuple[Finding, ...]:
        """All that stand: the allocator's, the turns' and the store's."""
        found = self._drive.allocator.findings() if self._drive is not None else ()
        unwritten = self._turns.unwritten.findings() if self._turns is not None else ()
        return (*found, *unwritten, *sorted(self._feed.findings))

    async def _look_for_findings(self) -> None:
        """Says what is new, a while after something changed: they are of the whole, and cost some time to find."""
        while True:
            await self._look.wait()
            await asyncio.sleep(FINDINGS_S)
            self._look.clear()
            new = self._say_findings()
            self._untold = (self._untold & self._said) | {each for each in new if _pool_of(each)}
            await self._report_pools()
            if self._untold:
                self._look.set()

    async def _report_pools(self) -> None:
        """What is wrong with a pool is said of the pool, too; what the store cannot take now, later."""
        for finding in sorted(self._untold):
            name = _pool_of(finding)
            try:
                await self._store.report_pool(name, Problem(finding.reason, finding.text, finding.hint))
            except LostLease:
                raise
            except OmnipamError as error:
                self._log.debug("not reported", pool=name, why=str(error))
                if isinstance(error, Retryable):
                    return
            self._untold.discard(finding)

    def _say_findings(self) -> list[Finding]:
        standing = set(self._findings()) - self._feed.findings  # the feed has said its own
        new = sorted(standing - self._said)
        refused_before, refused = (
            any(each.reason == NOT_WRITTEN for each in those) for those in (self._said, standing)
        )
        if refused_before:
            new = [each for each in new if each.reason != NOT_WRITTEN]  # only who they are has changed
            if not refused:
                self._log.info("grants are written again")
        for finding in new[:FINDINGS_SAID]:
            self._log.warning(str(finding), reason=finding.reason, objects=list(finding.objects))
        if len(new) > FINDINGS_SAID:
            self._log.warning(
                "there are more findings: omnipam check lists them", more=len(new) - FINDINGS_SAID
            )
        self._said = standing
        return new


def _pool_of(finding: Finding) -> str:
    """The pool that it is about first; empty if it is about something else."""
    kind, _, name = finding.objects[0].partition("/") if finding.objects else ("", "", "")
    return name if kind == "CiliumPodIPPool" else ""
