"""The floor: the least that any HTTP client must do, by bare aiohttp, as a process of its own like the operator is.

Asked by one JSON object on standard input, answers with one on standard output; `runs.raw` is the other end. Everything that
can be done before the clock starts is: bodies are encoded, connections are open with TLS done. Answers are read to their end.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from omnipam.runtime.kube.ciliumnode import CiliumNode
from omnipam.runtime.kube.meta import HasIdentity, Identity, Page
from omnipam.runtime.kube.reflector import PAGE
from omnipam.runtime.kube.rest import JSON, MERGE_PATCH, METADATA_LIST

CONNECTIONS = 32
ASKED = 8
"""Addresses of each pool that a node asks for, as an agent does that has just started."""
NODES = "/api/v1/nodes"
CILIUM_NODES = "/apis/cilium.io/v2/ciliumnodes"
CREATOR, WRITER = "cilium-agent", "omnipam-benchmarks"
"""Field managers: a second one, as the operator is, costs the server more than one that writes again."""

Task = Literal["create", "grant", "clear", "list"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. turn: another one, other podCIDRs. ca: file of the certificate authority.

    pools: nodes ask for addresses of these, and are granted a block of each, in place of podCIDRs.
    """

    task: Task
    url: str
    ca: str
    token: str
    count: int = 0
    turn: int = 0
    pools: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """seconds: from the first request until the last answer was read. cpu_s: user and system time of just that."""

    seconds: float
    cpu_s: float
    requests: int


class Request(msgspec.Struct, frozen=True):
    """One write, ready to be sent."""

    method: str
    url: URL
    body: bytes
    content_type: str


class _Allocated(msgspec.Struct, frozen=True):
    cidrs: list[str] | None = None


class _Pools(msgspec.Struct, frozen=True):
    allocated: list[_Allocated] | None = None


class _Ipam(msgspec.Struct, frozen=True, rename={"pod_cidrs": "podCIDRs"}):
    pod_cidrs: list[str] | None = None
    pools: _Pools = _Pools()


class _Spec(msgspec.Struct, frozen=True):
    ipam: _Ipam = _Ipam()


class Versioned(msgspec.Struct, frozen=True):
    """A CiliumNode as far as a patch needs it."""

    metadata: Identity
    spec: _Spec = _Spec()

    @property
    def has_cidrs(self) -> bool:
        """Whether it has been served."""
        return bool(self.spec.ipam.pod_cidrs or self.spec.ipam.pools.allocated)


async def perform(job: Job) -> Done:
    """Do it. Raises aiohttp.ClientError where any answer is not a success."""
    async with _session(job) as session:
        match job.task:
            case "list":
                return await _lists(session, job)
            case "create":
                return await _send(session, job, [*_machines(job), *_cilium_nodes(job)])
            case "grant" | "clear":
                return await _send(session, job, await _patches(session, job))


async def _send(session: aiohttp.ClientSession, job: Job, requests: Sequence[Request]) -> Done:
    """All of them, CONNECTIONS in flight."""
    await asyncio.gather(*(_get(session, f"{job.url}/version") for _ in range(CONNECTIONS)))
    queue = iter(requests)

    async def work() -> None:
        for each in queue:
            headers = {"Content-Type": each.content_type}
            async with session.request(each.method, each.url, data=each.body, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()

    clock = _Clock()
    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return clock.done(len(requests))


async def _lists(session: aiohttp.ClientSession, job: Job) -> Done:
    """The pages of Nodes, then of CiliumNodes, one after the other, each decoded when it is there; all are kept to the end."""
    machines = msgspec.json.Decoder(Page[HasIdentity])
    nodes = msgspec.json.Decoder(Page[CiliumNode])
    await _get(session, f"{job.url}/version")
    clock = _Clock()
    pages: list[Page[HasIdentity] | Page[CiliumNode]] = []
    for path, decoder, accept in ((NODES, machines, METADATA_LIST), (CILIUM_NODES, nodes, JSON)):
        token = ""
        while True:
            more = f"&continue={quote(token, safe='')}" if token else ""
            page = decoder.decode(await _get(session, f"{job.url}{path}?limit={PAGE}{more}", accept))
            pages.append(page)
            token = page.metadata.continue_
            if not token:
                break
    return clock.done(len(pages))


async def _patches(session: aiohttp.ClientSession, job: Job) -> list[Request]:
    """A merge patch of each CiliumNode, with the preconditions that the operator's have: version and uid."""
    listed = msgspec.json.decode(await _get(session, f"{job.url}{CILIUM_NODES}"), type=Page[Versioned])
    requests = []
    for index, each in enumerate(listed.items or ()):
        meta = each.metadata
        number = index + job.turn * 20_000
        granted = None if job.task == "clear" else number
        body = {
            "metadata": {"resourceVersion": meta.resource_version, "uid": meta.uid},
            "spec": {
                "ipam": {"pools": {"allocated": _blocks(job, granted)}} if job.pools else _cidrs(granted)
            },
        }
        url = URL(f"{job.url}{CILIUM_NODES}/{meta.name}", encoded=True)
        requests.append(Request("PATCH", url, msgspec.json.encode(body), MERGE_PATCH))
    return requests


def _cidrs(number: int | None) -> dict[str, object]:
    return {"podCIDRs": None if number is None else [f"10.{number >> 8 & 255}.{number & 255}.0/24"]}


def _blocks(job: Job, number: int | None) -> list[dict[str, object]] | None:
    """A /28 of each pool."""
    if number is None:
        return None
    tail = f"{number >> 4 & 255}.{(number & 15) << 4}/28"
    return [{"pool": pool, "cidrs": [f"10.{place}.{tail}"]} for place, pool in enumerate(job.pools)]


def _machines(job: Job) -> list[Request]:
    """Nodes as a kubelet registers them, as far as metadata goes: more of them nobody reads here."""
    url = URL(f"{job.url}{NODES}", encoded=True)
    requests = []
    for name, _ in _names(job.count):
        labels = {
            "beta.kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "m5.xlarge",
            "topology.kubernetes.io/zone": "eu-west-1a",
        }
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        requests.append(Request("POST", url, msgspec.json.encode(body), JSON))
    return requests


def _cilium_nodes(job: Job) -> list[Request]:
    """CiliumNodes as Cilium's agent creates them (fixtures/kube_objects/ciliumnode-fresh.json), each with its owner."""
    url = URL(f"{job.url}{CILIUM_NODES}", encoded=True)
    requests = []
    requested = [{"pool": pool, "needed": {"ipv4-addrs": ASKED}} for pool in job.pools]
    for name, index in _names(job.count):
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": f"00000000-0000-4000-8000-{index:012}",
        }
        body = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name},
                "ownerReferences": [owner],
            },
            "spec": {
                "alibaba-cloud": {},
                "azure": {},
                "encryption": {},
                "eni": {},
                "health": {},
                "ingress": {},
                "addresses": [{"type": "InternalIP", "ip": f"192.168.{index >> 8}.{index & 255}"}],
                "ipam": {"pools": {"requested": requested}} if requested else {},
            },
        }
        requests.append(Request("POST", url, msgspec.json.encode(body), JSON))
    return requests


def _names(count: int) -> list[tuple[str, int]]:
    return [(f"worker-{index:05}.example", index) for index in range(count)]


@asynccontextmanager
async def _session(job: Job) -> AsyncIterator[aiohttp.ClientSession]:
    tls = ssl.create_default_context(cafile=job.ca)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=tls)
    headers = {
        "Authorization": f"Bearer {job.token}",
        "User-Agent": CREATOR if job.task == "create" else WRITER,
    }
    # Like the operator: a compressed list would cost the floor more than it does us.
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, skip_auto_headers=("Accept-Encoding",)
    ) as session:
        yield session


async def _get(session: aiohttp.ClientSession, url: str, accept: str = JSON) -> bytes:
    async with session.get(URL(url, encoded=True), headers={"Accept": accept}) as answer:
        answer.raise_for_status()
        return await answer.read()


class _Clock:
    """Runs from construction."""

    def __init__(self) -> None:
        self._cpu = _cpu_s()
        self._wall = time.perf_counter()

    def done(self, requests: int) -> Done:
        seconds = time.perf_counter() - self._wall
        return Done(seconds=seconds, cpu_s=_cpu_s() - self._cpu, requests=requests)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Read a job, do it, say how long it took."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    done = asyncio.run(perform(job))
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main()
