"""An agent within the test: the real socket, API, journal and state machine; its blocks, pods and clock are the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

from omnipam.core.cidr import Family, parse
from omnipam.core.errors import Unavailable
from omnipam.core.node_agent import NodeAgent
from omnipam.core.reservations import Change
from omnipam.core.uplink import Uplink
from omnipam.core.values import Block
from omnipam.runtime.agent.api import Api
from omnipam.runtime.agent.commits import Commits
from omnipam.runtime.agent.journal import Journal
from omnipam.runtime.agent.listening import Listening
from omnipam.runtime.agent.placing import NoPods, Pods
from omnipam.runtime.agent.service import Service

SILENT: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    structlog.ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)
"""Says nothing, whatever other tests have made of the process's logger."""


class House:
    """Use as `async with House(tmp_path) as house`. blocks: CIDRs by pool. uplinks: it is a cloud's node, with these interfaces."""

    def __init__(
        self,
        folder: Path,
        blocks: Mapping[str, Sequence[str]] | None = None,
        *,
        families: tuple[Family, ...] = ("ipv4",),
        pooled: bool = False,
        cool_down_s: float = 30.0,
        wait_s: float = 10.0,
        pods: Pods | None = None,
        uplinks: Sequence[Uplink] | None = None,
    ) -> None:
        self.folder = folder
        self.now = 1000.0
        self.demanded: list[bool] = []
        self.full = False
        """Whether the disk refuses."""
        self.agent = NodeAgent(
            families=families,
            pooled=pooled,
            cool_down_s=cool_down_s,
            gateway=uplinks is None,
            rounded=uplinks is None,
        )
        self.agent.uplinks_seen(uplinks or ())
        self.journal = Journal(folder)
        self.pods = pods or NoPods("default")
        self.grant(blocks if blocks is not None else {"default": ["10.0.0.0/28"]})
        self._wait_s = wait_s
        self.why: str | None = None

    def grant(self, blocks: Mapping[str, Sequence[str]]) -> None:
        """All that the node has from now on."""
        given = [Block(pool, parse(text)) for pool, texts in blocks.items() for text in texts]
        if self.agent.blocks_seen(given) and hasattr(self, "service"):
            self.service.look()

    async def __aenter__(self) -> Self:
        found = self.journal.open("1")
        self.agent.load(found.rows, self.now)
        self.commits = Commits(self._commit, self._rewrite)
        self.commits.start()
        self.service = Service(
            self.agent, self.commits, clock=lambda: self.now, demanded=self.demanded.append
        )
        self.api = Api(
            self.service,
            self.pods,
            mode="multi-pool" if self.agent.pooled else "cluster-pool",
            wait_s=self._wait_s,
            clock=lambda: self.now,
            ready=lambda: self.why,
        )
        self.listening = Listening(self.folder / "agent.sock", self.api.serve)
        self.commits.alone = self.listening.has_one_client
        await self.listening.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.service.close()
        await self.listening.close()
        await self.commits.stop()
        self.journal.close()

    def _commit(self, changes: Sequence[Change]) -> None:
        if self.full:
            raise Unavailable("the disk is full")
        self.journal.commit(changes)

    def _rewrite(self) -> None:
        if self.full:
            raise Unavailable("the disk is full")
        self.journal.rewrite(self.agent.stored(), "boot", "node")

    async def ask(self, method: str, target: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and decoded body, on a connection of its own."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Connection: close", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        answer = await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(rest) if rest else None

    async def raw(self, content: bytes) -> bytes:
        """Sends it, and answers all that comes until the agent hangs up."""
        reader, writer = await asyncio.open_unix_connection(str(self.listening.path))
        try:
            writer.write(content)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def put(self, container: str, **body: object) -> tuple[int, Any]:
        return await self.ask("PUT", f"/v1/allocations/net/{container}/eth0", {"owner": "shop/web"} | body)

    async def add(self, container: str, **body: object) -> dict[str, str]:
        """Its addresses by family."""
        status, answer = await self.put(container, **body)
        assert status in (200, 201), answer
        return {each["family"]: each["address"] for each in answer["addresses"]}

    async def delete(self, container: str, query: str = "") -> int:
        return (await self.ask("DELETE", f"/v1/allocations/net/{container}/eth0{query}"))[0]

    async def until(self, condition: Any) -> None:
        """Lets the loop turn until it is so; only other tasks of this loop make it so."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 — there is no event for what a test waits for
                await asyncio.sleep(0)
