"""What a machine knows of itself: asked of metadata services on loopback that are as strict as the clouds' own, and as unready."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.errors import Invalid, OmnipamError, Unavailable
from omnipam.runtime.agent.instance import Instance, alibabacloud, aws, azure, instance_of

MAC = "02:29:96:8f:6a:2d"
EC2 = {
    "instance-id": "i-1234567890abcdef0",
    "instance-type": "m5.xlarge",
    "placement/availability-zone": "eu-west-1a",
    "mac": MAC,
    f"network/interfaces/macs/{MAC}/vpc-id": "vpc-0123456789abcdef0",
    f"network/interfaces/macs/{MAC}/subnet-id": "subnet-0123456789abcdef0",
}
ECS = {
    "instance-id": "i-bp13znx0m0me8cquabcd",
    "instance/instance-type": "ecs.g6e.large",
    "zone-id": "cn-hangzhou-i",
    "vpc-id": "vpc-bp1e0g399hkd7c8qabcd",
    "vpc-cidr-block": "192.168.0.0/16",
}
GROUP = "/subscriptions/8d10da13-8125-4ba9-a717-bf7490507b3d/resourceGroups/MC_rg_Aks"
UNIFORM = (
    f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodepool1-1234-VMSS/virtualMachines/0"
)
FLEXIBLE = f"{GROUP}/providers/Microsoft.Compute/virtualMachines/Nodes_0"
ENI = {
    "vpc-id": "vpc-0123456789abcdef0",
    "instance-type": "m5.xlarge",
    "availability-zone": "eu-west-1a",
    "node-subnet-id": "subnet-0123456789abcdef0",
    "first-interface-index": 0,
    "use-primary-address": False,
    "disable-prefix-delegation": False,
    "delete-on-termination": True,
}
VARIABLES = {"eni": aws.ENDPOINT, "azure": azure.ENDPOINT, "alibabacloud": alibabacloud.ENDPOINT}

Answers = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def warning(self, event: str, **words: object) -> None:
        self.lines.append((event, words))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Time:
    """A clock that goes on while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.pauses = 1000.0, list[float]()
        self.slept: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.pauses.append(seconds)
        self.slept()
        await asyncio.sleep(0)


class Service:
    """A metadata service. answers: by path below /latest/meta-data/. token: what its PUT gives; its own status with no_tokens."""

    def __init__(self, answers: dict[str, str], prefix: str) -> None:
        self.answers, self.prefix = answers, prefix
        self.token: str | None = None
        self.no_tokens = 0  # a status: how it refuses to give any
        self.tokenless = False
        self.instead: Answers | None = None  # answers in its place
        self.seen: list[str] = []
        self.ended = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        if self.instead is silent:
            await self.ended.wait()
        if self.instead is not None:
            return await self.instead(request)
        if request.method == "PUT":
            if self.no_tokens:
                return web.Response(status=self.no_tokens)
            if request.path != "/latest/api/token" or "X-Forwarded-For" in request.headers:
                return web.Response(status=403)
            ttl = request.headers.get(f"X-{self.prefix}-metadata-token-ttl-seconds", "")
            if not (ttl.isdecimal() and 1 <= int(ttl) <= 21600):
                return web.Response(status=400)
            self.token = f"AQAEA{random.Random(len(self.seen)).randbytes(20).hex()}=="
            return web.Response(text=self.token)
        shown = request.headers.get(f"X-{self.prefix}-metadata-token")
        if shown != self.token if shown is not None or not self.tokenless else False:
            return web.Response(status=401)
        text = self.answers.get(request.path.removeprefix("/latest/meta-data/"))
        return web.Response(status=404) if text is None else web.Response(text=text)


class AzureService(Service):
    def __init__(self, resource_id: str) -> None:
        super().__init__({}, "")
        self.resource_id = resource_id

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        if self.instead is silent:
            await self.ended.wait()
        if self.instead is not None:
            return await self.instead(request)
        if request.headers.get("Metadata") != "true" or "X-Forwarded-For" in request.headers:
            return web.json_response(
                {"error": "Bad request. Required metadata header not specified"}, status=400
            )
        if request.path != "/metadata/instance/compute/resourceId":
            return web.json_response({"error": "Not found"}, status=404)
        if dict(request.query) != {"api-version": "2021-02-01", "format": "text"}:
            return web.json_response({"error": "Bad request. api-version is invalid"}, status=400)
        return web.Response(text=self.resource_id)


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(service))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        service.ended.set()
        await runner.cleanup()


async def ask(
    mode: str, base: str, log: Log | None = None, time: Time | None = None, **more: Any
) -> Instance:
    time = time or Time()
    environ = {VARIABLES[mode]: base, **more.pop("environ", {})}
    return await instance_of(
        mode, environ=environ, log=log or Log(), clock=time.clock, sleep=time.sleep, **more
    )


# -- what each cloud says


async def test_aws() -> None:
    service, log = Service(EC2, "aws-ec2"), Log()
    async with served(service) as base:
        found = await ask("eni", base + "/", log, provider_id="aws:///eu-west-1a/i-1234567890abcdef0")
    assert found == Instance("i-1234567890abcdef0", {"instance-id": "i-1234567890abcdef0", "eni": ENI})
    assert log.lines == []
    assert service.seen[0] == "PUT /latest/api/token"
    assert len(service.seen) == 1 + len(EC2)


@pytest.mark.parametrize("resource_id", [UNIFORM, FLEXIBLE])
async def test_azure(resource_id: str) -> None:
    async with served(AzureService(resource_id)) as base:
        log = Log()
        found = await ask("azure", base, log, provider_id=f"azure://{resource_id.swapcase()}")
        wished = await ask("azure", base, wishes={"azure": {"interface-name": "eth1"}})
    assert found == Instance(resource_id.lower(), {"instance-id": resource_id.lower()})
    assert wished.spec["azure"] == {"interface-name": "eth1"}
    assert log.lines == []


async def test_alibabacloud() -> None:
    service = Service(ECS, "aliyun-ecs")
    async with served(service) as base:
        found = await ask("alibabacloud", base, provider_id="cn-hangzhou.i-bp13znx0m0me8cquabcd")
    assert found.instance_id == "i-bp13znx0m0me8cquabcd"
    assert found.spec["alibaba-cloud"] == {
        "instance-type": "ecs.g6e.large",
        "availability-zone": "cn-hangzhou-i",
        "vpc-id": "vpc-bp1e0g399hkd7c8qabcd",
        "cidr-block": "192.168.0.0/16",
    }


@pytest.mark.parametrize(
    ("mode", "answers", "prefix"), [("eni", EC2, "aws-ec2"), ("alibabacloud", ECS, "aliyun-ecs")]
)
@pytest.mark.parametrize("status", [403, 404, 405, 400, 500, 302])
async def test_without_a_token_only_where_there_are_none(
    mode: str, answers: dict[str, str], prefix: str, status: int
) -> None:
    service = Service(answers, prefix)
    service.no_tokens, service.tokenless = status, True
    async with served(service) as base:
        if status in (403, 404, 405):
            assert (await ask(mode, base)).instance_id == answers["instance-id"]
            variable = {"eni": aws.V1_DISABLED, "alibabacloud": alibabacloud.V1_DISABLED}[mode]
            with pytest.raises(Unavailable, match=f"was answered {status}"):
                await ask(mode, base, environ={variable: "TRUE"})
        else:
            with pytest.raises(Unavailable, match=f"was answered {status}"):
                await ask(mode, base)
            assert all(each.startswith("PUT ") for each in service.seen)


# -- a service that is not ready


async def absent(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="<html>not yet</html>")


async def breaking(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def silent(request: web.Request) -> web.StreamResponse:
    return web.Response()  # too late: `Service` keeps it back


async def garbage(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>\n<b>Sign in to the network</b>\x1b[31m")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65536)
    except ConnectionError:
        return response


async def elsewhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound(f"http://{request.host}/latest/meta-data/instance-id")


async def bad_token(request: web.Request) -> web.StreamResponse:
    return web.Response(text="secret\r\nX-Evil: secret" if request.method == "PUT" else "")


TROUBLES = [absent, breaking, silent, garbage, endless, elsewhere, bad_token]


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("mode", ["eni", "azure", "alibabacloud"])
async def test_asked_until_it_answers(mode: str, trouble: Answers) -> None:
    service = {
        "eni": Service(EC2, "aws-ec2"),
        "azure": AzureService(UNIFORM),
        "alibabacloud": Service(ECS, "aliyun-ecs"),
    }[mode]
    service.instead, log, time = trouble, Log(), Time()

    def slept() -> None:
        if len(time.pauses) == 3:
            service.instead = None
            service.no_tokens = 0

    time.slept = slept
    async with served(service) as base:
        found = await ask(mode, base, log, time, timeout_s=0.3)
        service.instead = None
        assert found == await ask(mode, base)
    assert time.pauses == [0.5, 1.0, 2.0]
    assert set(log.events) == {"the instance metadata is asked again"}
    assert len(log.lines) <= 2  # once, not at each try
    for _, words in log.lines:
        assert "\n" not in str(words["why"])
        assert "\x1b" not in str(words["why"])
        assert "secret" not in str(words["why"])


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_patience_ends_in_one_line(trouble: Answers) -> None:
    service, time = Service(EC2, "aws-ec2"), Time()
    service.instead = trouble
    async with served(service) as base:
        with pytest.raises(Unavailable) as caught:
            await ask("eni", base, time=time, timeout_s=0.05, patience_s=20.0)
    assert sum(time.pauses) == 20.0
    assert max(time.pauses) <= 8.0
    line = str(caught.value)
    assert line.startswith("the instance's id is not known: ")
    assert line.endswith("; and the Node's providerID is empty")
    assert line.isprintable()
    assert "secret" not in line


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("instance-id", ""),
        ("instance-id", "i-xyz"),
        ("instance-id", "i-1234567890abcdef0/../../user-data"),
        ("mac", "../../../user-data"),
        ("instance-type", "m5 xlarge"),
        ("placement/availability-zone", "\u202eeu-west-1a"),
        (f"network/interfaces/macs/{MAC}/vpc-id", "subnet-0123456789abcdef0"),
        (f"network/interfaces/macs/{MAC}/subnet-id", "x" * 5000),
    ],
)
async def test_what_is_no_fact_is_not_taken(path: str, text: str) -> None:
    async with served(Service({**EC2, path: text}, "aws-ec2")) as base:
        with pytest.raises(Unavailable, match="which is none") as caught:
            await ask("eni", base, patience_s=0.0)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["10.0.0.0/33", "999.0.0.0/8", "fd00::/8", "10.0.0.0"])
async def test_alibabas_cidr_is_one(text: str) -> None:
    async with served(Service({**ECS, "vpc-cidr-block": text}, "aliyun-ecs")) as base:
        with pytest.raises(Unavailable, match="cidr-block"):
            await ask("alibabacloud", base, patience_s=0.0)


@pytest.mark.parametrize(
    "text", [GROUP, f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/s", ""]
)
async def test_azures_id_is_a_machines(text: str) -> None:
    async with served(AzureService(text)) as base:
        with pytest.raises(Unavailable, match="resource id"):
            await ask("azure", base, patience_s=0.0)


async def test_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with served(Service(EC2, "aws-ec2")) as base:
        assert (await ask("eni", base, patience_s=0.0)).instance_id == EC2["instance-id"]


async def test_redirects_are_not_followed() -> None:
    service, other = AzureService(UNIFORM), AzureService(FLEXIBLE)
    async with served(other) as there, served(service) as base:

        async def away(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(there + request.path_qs)

        service.instead = away
        with pytest.raises(Unavailable, match="answered 307"):
            await ask("azure", base, patience_s=0.0)
    assert other.seen == []


async def test_an_answer_has_an_end() -> None:
    service = AzureService(UNIFORM)
    service.instead = endless
    async with served(service) as base:
        with pytest.raises(Unavailable, match="with more than 16384 bytes"):
            await ask("azure", base, patience_s=0.0, timeout_s=30.0)


async def test_nobody_listens() -> None:
    async with served(Service(EC2, "aws-ec2")) as base:
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        await ask("eni", base, patience_s=0.0)


async def test_it_can_be_stopped_while_it_waits() -> None:
    service = Service(EC2, "aws-ec2")
    asked = asyncio.Event()

    async def waiting(request: web.Request) -> web.StreamResponse:
        asked.set()
        await service.ended.wait()
        return web.Response()

    service.instead = waiting
    async with served(service) as base:
        task = asyncio.create_task(ask("eni", base, timeout_s=60.0))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- the Node instead, and wishes

LABELS = {
    "node.kubernetes.io/instance-type": "m5.xlarge",
    "topology.kubernetes.io/zone": "eu-west-1b",
}


async def test_the_node_tells_where_the_metadata_does_not() -> None:
    log = Log()
    service = Service(EC2, "aws-ec2")
    service.instead = absent
    service.no_tokens = 404
    async with served(service) as base:
        found = await ask(
            "eni", base, log, provider_id="aws:///eu-west-1a/i-1234567890abcdef0", labels=LABELS, patience_s=5.0,
            wishes={"eni": {"vpc-id": "vpc-99999999", "subnet-tags": {"tier": "pods"}}, "ipam": {"min-allocate": 4}},
        )  # fmt: skip
    assert found.instance_id == "i-1234567890abcdef0"
    assert found.missing == ("node-subnet-id",)
    eni = {**ENI, "vpc-id": "vpc-99999999", "subnet-tags": {"tier": "pods"}}
    del eni["node-subnet-id"]
    assert found.spec == {"instance-id": found.instance_id, "eni": eni, "ipam": {"min-allocate": 4}}
    assert log.events[-2:] == [
        "facts of this instance are the Node's: the metadata has none",
        "the operator may lack what it needs of this instance",
    ]
    assert log.lines[-1][1] == {"missing": "node-subnet-id"}


@pytest.mark.parametrize(
    ("mode", "provider_id", "instance"),
    [
        ("eni", "aws:///eu-west-1a/i-1234567890abcdef0", "i-1234567890abcdef0"),
        ("eni", "aws:///i-12345678", "i-12345678"),
        ("eni", "aws:///eu-west-1a/fargate-ip-10-0-0-1.ec2.internal", None),
        ("eni", f"azure://{UNIFORM}", None),
        ("eni", "kind://docker/kind/kind-worker", None),
        ("azure", f"azure://{UNIFORM}", UNIFORM.lower()),
        ("azure", f"azure://{FLEXIBLE.upper()}", FLEXIBLE.lower()),
        ("azure", UNIFORM, None),
        ("alibabacloud", "cn-hangzhou.i-bp13znx0m0me8cquabcd", "i-bp13znx0m0me8cquabcd"),
        ("alibabacloud", "alicloud://cn-hangzhou.i-bp13znx0m0me8cquabcd", "i-bp13znx0m0me8cquabcd"),
        ("alibabacloud", "i-bp13znx0m0me8cquabcd", None),
    ],
)
async def test_provider_ids(mode: str, provider_id: str, instance: str | None) -> None:
    async with served(Service({}, "")) as base:
        pass
    if instance is None:
        with pytest.raises(Unavailable, match="names none"):
            await ask(mode, base, provider_id=provider_id, patience_s=0.0)
    else:
        found = await ask(mode, base, provider_id=provider_id, patience_s=0.0)
        assert found.instance_id == found.spec["instance-id"] == instance


async def test_the_metadata_wins() -> None:
    log = Log()
    wishes = {"eni": {"vpc-id": "vpc-99999999", "instance-type": "m5.xlarge", "first-interface-index": 1}}
    async with served(Service(EC2, "aws-ec2")) as base:
        found = await ask("eni", base, log, wishes=wishes, provider_id="aws:///eu-west-1a/i-99999999")
    assert found.instance_id == EC2["instance-id"]
    assert found.spec["eni"] == {**ENI, "first-interface-index": 1}
    assert log.lines == [
        (
            "the Node's providerID is not what the instance metadata says: the metadata is used",
            {"provider_id": "aws:///eu-west-1a/i-99999999", "instance_id": EC2["instance-id"]},
        ),
        (
            "a wish that the instance decides is ignored",
            {"key": "eni.vpc-id", "wished": "vpc-99999999", "actual": ENI["vpc-id"]},
        ),
    ]


async def test_switched_off() -> None:
    log = Log()
    found = await instance_of(
        "eni", environ={aws.DISABLED: "true"}, log=log, clock=Time().clock, sleep=Time().sleep,
        provider_id="aws:///eu-west-1a/i-1234567890abcdef0",
    )  # fmt: skip
    assert found.missing == ("instance-type", "vpc-id", "node-subnet-id")
    assert log.lines[0][1] == {"why": "the instance metadata is switched off by the environment"}


# -- where it is asked


def test_endpoints() -> None:
    assert aws.endpoint({}) == "http://169.254.169.254"
    assert aws.endpoint({aws.MODE: "IPv6"}) == "http://[fd00:ec2::254]"
    assert aws.endpoint({aws.MODE: "IPv6", aws.ENDPOINT: "http://127.0.0.1:1338/"}) == "http://127.0.0.1:1338"
    assert azure.endpoint({}) == "http://169.254.169.254"
    assert alibabacloud.endpoint({}) == "http://100.100.100.200"


@pytest.mark.parametrize("mode", list(VARIABLES))
@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "file:///etc/passwd", "http://", "http://u:p@host", "http://h:0", "http://h:99999",
     "http://[::1", "http://h/?q", "http://h/\x1b", "http://h\n/x"],
)  # fmt: skip
async def test_what_is_no_endpoint(mode: str, text: str) -> None:
    with pytest.raises(Invalid, match=VARIABLES[mode]) as caught:
        await ask(mode, text)
    assert str(caught.value).isprintable()


async def test_what_is_no_mode() -> None:
    with pytest.raises(Invalid, match="IPv4 or IPv6"):
        aws.endpoint({aws.MODE: "ipv5"})
    with pytest.raises(Invalid, match="multi-pool"):
        await instance_of("multi-pool", environ={}, log=Log(), clock=Time().clock, sleep=Time().sleep)


@given(st.text(max_size=200), st.dictionaries(st.sampled_from(sorted(LABELS)), st.text(max_size=80)))
def test_any_node(provider_id: str, labels: dict[str, str]) -> None:
    """Whatever a Node says, nothing of it is taken that is no fact."""
    for cloud in (aws, azure, alibabacloud):
        facts = cloud.of_node(provider_id, labels)
        assert facts is None or facts.instance_id.isprintable()


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=60))
def test_any_endpoint(text: str) -> None:
    try:
        shown = aws.endpoint({aws.ENDPOINT: f"http://{text}"})
        assert not shown.endswith("/")
    except OmnipamError as error:
        shown = str(error)
    assert shown.isprintable()
