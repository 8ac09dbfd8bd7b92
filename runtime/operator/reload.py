"""Follows the configuration while the operator runs: its file or ConfigMap, and SIGHUP. A bad one changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from omnipam.core.errors import Invalid, OmnipamError

from ..config import InvalidConfig, Loaded, Watched, apply_live, changed, refusals
from ..config.config import Config
from ..metrics import Metrics

LOOK_S = 1.0

Load = Callable[[Mapping[str, str] | None], Loaded]
"""Reads every source anew; given the ConfigMap's newest keys, where that is a source."""


class Reloader:
    """Adopts what may change live. `adopt` raises Invalid to refuse; `refused` shows why where a person looks.

    fetch: reads the ConfigMap's keys now, where that is a source; None where there is none.
    """

    def __init__(
        self,
        loaded: Loaded,
        load: Load,
        *,
        fetch: Callable[[], Awaitable[Mapping[str, str] | None]],
        adopt: Callable[[Config], None],
        refused: Callable[[str], Awaitable[None]],
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._running = loaded.config
        self._load, self._fetch, self._adopt, self._refused = load, fetch, adopt, refused
        self._metrics, self._log = metrics, log
        self._path, self._ended = loaded.path, loaded.ended
        self._watched = Watched(loaded.path) if loaded.path is not None else None
        self._fetch_due = False
        self._asked = asyncio.Event()
        self._configmap: Mapping[str, str] | None = None
        self._warned: str | None = None
        self._stands_refused = False

    def ask(self) -> None:
        """SIGHUP: read again now."""
        self._fetch_due = True
        self._asked.set()

    def configmap(self, keys: Mapping[str, str]) -> None:
        """The ConfigMap as it is now."""
        if keys != self._configmap:
            self._configmap = keys
            self._asked.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                if self._watched is None or not self._watched.changed():
                    continue
            self._asked.clear()
            if self._fetch_due:
                self._fetch_due = False
                await self._refresh()
            await self._reload()

    async def _refresh(self) -> None:
        """What a person asks to be read is read now, not when it has settled or the watch shows it; and is not read twice."""
        if self._path is not None:
            self._watched = Watched(self._path)
        try:
            newest = await self._fetch()
        except OmnipamError as error:
            self._log.warning("the ConfigMap could not be read; going by what was last seen", why=str(error))
        else:
            self._configmap = newest if newest is not None else self._configmap

    async def _reload(self) -> None:
        try:
            loaded = self._load(self._configmap)
            if self._ended and not loaded.ended:
                text = f"config: {loaded.path}: its last line has no end, as it had before: it looks cut off; end it"
                raise InvalidConfig([text])
            new = loaded.config
            if lines := refusals(self._running, new):
                raise InvalidConfig(lines)
            self._ended = loaded.ended
            change = changed(self._running, new)
            if change.live:
                merged = apply_live(self._running, new)
                self._adopt(merged)
                self._running = merged
                self._metrics.reloads["adopted"] += 1
                self._log.info("configuration reloaded", keys=list(change.live))
            if change.warning is not None and change.warning != self._warned:
                self._log.warning(change.warning)
            self._warned = change.warning
            if self._stands_refused:  # who was told of the refusal is told of its end
                self._stands_refused = False
                self._log.info("configuration accepted again", keys=list(change.live))
        except Invalid as error:
            self._metrics.reloads["refused"] += 1
            self._stands_refused = True
            for line in str(error).splitlines():
                self._log.warning("configuration refused; the running one stays", why=line)
            await self._refused(str(error).replace("\n", "; "))
