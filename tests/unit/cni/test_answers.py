"""What the plugin answers, verb by verb, when the agent does its part."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cni.conftest import Runtime
from tests.unit.cni.standin import Answer, StandIn, answer, drop, error, send

VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
ALLOCATION = "/v1/allocations/podnet/c1/eth0"


@pytest.mark.parametrize("version", VERSIONS)
def test_add_answers_in_the_configuration_s_version(agent: StandIn, runtime: Runtime, version: str) -> None:
    family = {"version": "4"} if version < "1.0.0" else {}
    expected = {"cniVersion": version, "ips": [family | {"address": "10.0.7.2/24", "gateway": "10.0.7.1"}]}
    assert runtime("ADD", runtime.conf(version)) == expected
    assert runtime("ADD", runtime.conf(version)) == expected, "the same again for the same key"
    assert agent.addresses == ["10.0.7.2"]
    assert runtime("DEL", runtime.conf(version)) is None
    assert runtime("DEL", runtime.conf(version)) is None, "also where nothing is held"
    assert agent.addresses == []


def test_what_the_agent_is_asked(agent: StandIn, runtime: Runtime) -> None:
    runtime("ADD")
    runtime("ADD", CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;X=")
    plain, pod = agent.requests
    assert (plain.method, plain.target) == ("PUT", ALLOCATION)
    assert plain.body == {"owner": "c1", "wait_s": 25.0}
    assert pod.body == {"owner": "shop/web-0", "pod_uid": "u-1", "wait_s": 25.0}


@pytest.mark.parametrize(
    ("ifname", "quoted"), [("eth0.5", "eth0.5"), ("a%2F?#&", "a%252F%3F%23%26"), ("ütz", "%C3%BCtz")]
)
def test_an_interface_s_name_cannot_lead_elsewhere(
    agent: StandIn, runtime: Runtime, ifname: str, quoted: str
) -> None:
    runtime("ADD", CNI_IFNAME=ifname)
    assert agent.requests[-1].target == f"/v1/allocations/podnet/c1/{quoted}"
    assert list(agent.held) == [("podnet", "c1", ifname)]


def test_pools_by_name_and_by_family(agent: StandIn, runtime: Runtime) -> None:
    agent.pools |= {"blue": ("10.1.0.0/28", "fd00::/120"), "red": ("fd01::40/122",)}
    assert runtime("ADD", runtime.conf(pool="blue"))["ips"] == [
        {"address": "10.1.0.2/28", "gateway": "10.1.0.1"}
    ]
    both = runtime.conf(pool={"ipv6": "red", "ipv4": "blue"})
    assert runtime("ADD", both, CNI_CONTAINERID="c2")["ips"] == [
        {"address": "fd01::42/122", "gateway": "fd01::41"},
        {"address": "10.1.0.3/28", "gateway": "10.1.0.1"},
    ]
    assert agent.requests[-1].body["families"] == ["ipv4", "ipv6"]


def test_routes_dns_and_gateway_only_as_configured(agent: StandIn, runtime: Runtime, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(
        "# a\n; b\nnameserver 10.0.0.53\nnameserver fd00::53\ndomain old\nsearch first\n"
        "search shop.svc svc\noptions ndots:5\noptions edns0\n\nnonsense x\n"
    )
    route = {"dst": "0.0.0.0/0", "gw": "10.0.7.9", "mtu": 1400, "table": 7}
    conf = {"routes": [route, {"dst": "10.0.0.0/8"}], "resolvConf": str(resolv), "gateway": "10.0.7.254"}
    result = runtime("ADD", runtime.conf(**conf))
    assert result == {
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.0.7.2/24", "gateway": "10.0.7.254"}],
        "routes": [route, {"dst": "10.0.0.0/8"}],
        "dns": {
            "domain": "old",
            "search": ["shop.svc", "svc"],
            "nameservers": ["10.0.0.53", "fd00::53"],
            "options": ["ndots:5", "edns0"],
        },
    }
    older = runtime("ADD", runtime.conf("1.0.0", **conf))
    assert older["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.7.9"}, {"dst": "10.0.0.0/8"}]


def test_a_route_is_for_pods_that_have_its_family(agent: StandIn, runtime: Runtime) -> None:
    """The main plugins would make a route without a next hop of it."""
    agent.pools["blue"] = ("10.1.0.0/28", "fd00::/120")
    both = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    for pool, routes in (
        ({"ipv4": "blue"}, both[:1]),
        ({"ipv6": "blue"}, both[1:]),
        ({"ipv4": "blue", "ipv6": "blue"}, both),
    ):
        result = runtime("ADD", runtime.conf(pool=pool, routes=both), CNI_CONTAINERID="-".join(("c", *pool)))
        assert result["routes"] == routes
    own = [{"dst": "fd01::/64", "gw": "fd00::9"}]
    assert runtime("ADD", runtime.conf(pool={"ipv4": "blue"}, routes=own))["routes"] == own


def test_a_configured_gateway_is_no_pod_s(agent: StandIn, runtime: Runtime) -> None:
    assert runtime("ADD", runtime.conf(gateway="10.0.7.5"))
    assert agent.requests[-1].body["avoid"] == ["10.0.7.5"], "the agent passes over it"
    own = runtime.conf(gateway="10.0.7.3")
    assert runtime.fail("ADD", own, CNI_CONTAINERID="c2") == (
        7,
        "ipam.gateway is the pod's own address",
        "10.0.7.3",
    )
    assert list(agent.held) == [("podnet", "c1", "eth0")], "what it got is given back"
    before = len(agent.requests)
    assert runtime.fail("ADD", own, CNI_ARGS="IP=10.0.7.3", CNI_CONTAINERID="c2")[:2] == (
        7,
        "the requested address is ipam.gateway",
    )
    assert len(agent.requests) == before


def test_a_configured_gateway_lies_in_the_block(agent: StandIn, runtime: Runtime) -> None:
    elsewhere = runtime.conf(gateway="10.0.8.1")
    assert runtime.fail("ADD", elsewhere) == (
        7,
        "ipam.gateway lies outside of the pod's block",
        "10.0.8.1 for 10.0.7.2/24",
    )
    assert not agent.held
    runtime("ADD")
    assert runtime.fail("ADD", elsewhere)[0] == 7
    assert agent.held, "what an earlier ADD got stays: a pod may live there"
    agent.pools["six"] = ("fd00::/120",)
    link_local = runtime.conf(pool={"ipv6": "six"}, gateway="fe80::1")
    assert runtime("ADD", link_local, CNI_CONTAINERID="c2")["ips"][0]["gateway"] == "fe80::1"
    cloud = {"family": "ipv4", "address": "10.9.1.7", "prefix_length": 32, "gateway": "10.9.0.1"}
    agent.faults.append(answer(201, {"addresses": [cloud]}))
    assert runtime("ADD", elsewhere)["ips"] == [{"address": "10.9.1.7/32", "gateway": "10.0.8.1"}]


def test_what_a_refused_gateway_leaves_is_queued_if_need_be(agent: StandIn, runtime: Runtime) -> None:
    def last(agent: StandIn, connection: socket.socket, carry_out: Callable[[], Answer]) -> None:
        found = carry_out()
        agent.faults.append(drop)
        send(connection, *found)

    agent.faults.append(last)
    assert runtime.fail("ADD", runtime.conf(gateway="10.0.8.1"))[0] == 7
    assert len(runtime.queued) == 1


@pytest.mark.parametrize(
    ("family", "address", "length", "gateway", "answered"),
    [
        ("ipv4", "10.7.0.20", 32, "10.7.0.1", 27),
        ("ipv4", "10.7.0.31", 32, "10.7.0.1", 26),  # of a /27 it would be the broadcast address
        ("ipv4", "10.7.0.32", 32, "10.7.0.33", 26),  # and here the network
        ("ipv4", "10.7.0.20", 24, "10.7.0.1", 24),
        ("ipv4", "192.168.0.9", 32, "10.7.0.1", 32),  # they share nothing
        ("ipv6", "fd07::20", 128, "fd07::1", 122),
        ("ipv6", "fd07::20", 128, "fe80:ec2::1", 128),
        ("ipv6", "fd07::20", 128, "", 128),
    ],
)
def test_a_prefix_that_holds_the_gateway(
    agent: StandIn, runtime: Runtime, family: str, address: str, length: int, gateway: str, answered: int
) -> None:
    given = {"family": family, "address": address, "prefix_length": length, "gateway": gateway or None}
    agent.faults += [answer(201, {"addresses": [given]})] * 2
    told = {"gateway": gateway} if gateway else {}
    assert runtime("ADD")["ips"] == [{"address": f"{address}/{length}"} | told]
    result = runtime("ADD", runtime.conf(onLink=True))
    assert result["ips"] == [{"address": f"{address}/{answered}"} | told]
    agent.faults.append(answer(200, {"addresses": [given]}))
    assert runtime("CHECK", runtime.conf(onLink=True) | {"prevResult": result}) is None


def test_a_gateway_is_for_its_own_family(agent: StandIn, runtime: Runtime) -> None:
    agent.pools["blue"] = ("10.1.0.0/28", "fd00::/120")
    for gateway, expected in (
        ("fd00::ff", ["10.1.0.1", "fd00::ff"]),
        (["10.1.0.9"], ["10.1.0.9", "fd00::1"]),
    ):
        conf = runtime.conf(pool={"ipv4": "blue", "ipv6": "blue"}, gateway=gateway)
        assert [ip["gateway"] for ip in runtime("ADD", conf)["ips"]] == expected


def test_a_cloud_s_address_comes_with_its_own_length(agent: StandIn, runtime: Runtime) -> None:
    cloud = {"family": "ipv4", "address": "10.9.1.7", "prefix_length": 32, "gateway": "10.9.0.1"}
    agent.faults.append(answer(201, {"addresses": [cloud]}))
    assert runtime("ADD")["ips"] == [{"address": "10.9.1.7/32", "gateway": "10.9.0.1"}]
    agent.faults.append(answer(201, {"addresses": [cloud | {"gateway": None}]}))
    assert runtime("ADD")["ips"] == [{"address": "10.9.1.7/32"}]


@pytest.mark.parametrize("way", ["CNI_ARGS", "args", "runtimeConfig", "all"])
def test_a_static_address_by_each_convention(agent: StandIn, runtime: Runtime, way: str) -> None:
    conf, args = runtime.conf(), ""
    if way in ("CNI_ARGS", "all"):
        args = "IgnoreUnknown=1;IP=10.0.7.77"
    if way in ("args", "all"):
        conf["args"] = {"cni": {"ips": ["10.0.7.77"]}}
    if way in ("runtimeConfig", "all"):
        conf["runtimeConfig"] = {"ips": ["10.0.7.77/24"]}
    assert runtime("ADD", conf, CNI_ARGS=args)["ips"][0]["address"] == "10.0.7.77/24"
    assert agent.requests[-1].body["address"] == {"ipv4": "10.0.7.77"}


def test_static_addresses_of_both_families(agent: StandIn, runtime: Runtime) -> None:
    agent.pools["blue"] = ("10.1.0.0/28", "fd00::/120")
    conf = runtime.conf(pool={"ipv4": "blue", "ipv6": "blue"}) | {
        "runtimeConfig": {"ips": ["FD00:0::7/64", "10.1.0.5"]}
    }
    assert [ip["address"] for ip in runtime("ADD", conf)["ips"]] == ["10.1.0.5/28", "fd00::7/120"]


def test_check_compares_addresses_and_not_their_spelling(agent: StandIn, runtime: Runtime) -> None:
    agent.pools["blue"] = ("fd00::/120",)
    conf = runtime.conf(pool={"ipv6": "blue"})
    runtime("ADD", conf)
    other = {"address": "192.168.0.9/24"}
    for text in ("fd00::2/120", "FD00:0:0::0002/120"):
        assert (
            runtime("CHECK", conf | {"prevResult": {"ips": [other, {"address": text, "interface": 2}]}})
            is None
        )
    code, _, details = runtime.fail(
        "CHECK", conf | {"prevResult": {"ips": [other, {"address": "fd00::3/120"}]}}
    )
    assert (code, details) == (101, "it lacks fd00::2")
    for previous in ({"ips": None}, {"ips": ["x"]}, {}):
        assert runtime.fail("CHECK", conf | {"prevResult": previous})[0] == 101


def test_check_fails_where_nothing_is_held(agent: StandIn, runtime: Runtime) -> None:
    conf = runtime.conf() | {"prevResult": {"ips": [{"address": "10.0.7.2/24"}]}}
    assert runtime.fail("CHECK", conf) == (
        100,
        "the agent holds no address for this attachment",
        "podnet/c1/eth0",
    )
    assert runtime.fail("CHECK", runtime.conf()) == (7, "CHECK needs the prevResult of the ADD", "")


@pytest.mark.parametrize("name", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_frees_all_of_the_network_but_what_is_listed(agent: StandIn, runtime: Runtime, name: str) -> None:
    for container in ("c1", "c2", "c3"):
        runtime("ADD", CNI_CONTAINERID=container)
    runtime("ADD", runtime.conf() | {"name": "other"})
    conf = runtime.conf() | {name: [{"containerID": "c2", "ifname": "eth0"}]}
    bare = {"CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None}
    assert runtime("GC", conf, **bare) is None
    assert set(agent.held) == {("podnet", "c2", "eth0"), ("other", "c1", "eth0")}
    assert runtime("GC", runtime.conf() | {name: None}, **bare) is None
    assert set(agent.held) == {("other", "c1", "eth0")}


def test_what_either_list_names_stays(agent: StandIn, runtime: Runtime) -> None:
    runtime("ADD")
    keep = [{"containerID": "c1", "ifname": "eth0"}]
    runtime("ADD", CNI_CONTAINERID="c2")
    runtime("ADD", CNI_CONTAINERID="c3")
    other = [{"containerID": "c2", "ifname": "eth0"}]
    specified, second = "cni.dev/valid-attachments", "cni.dev/attachments"
    runtime("GC", runtime.conf() | {specified: keep, second: other})
    assert {container for _, container, _ in agent.held} == {"c1", "c2"}
    runtime("GC", runtime.conf() | {specified: None, second: keep})
    assert {container for _, container, _ in agent.held} == {"c1"}
    runtime("GC", runtime.conf() | {specified: keep, second: []})
    assert {container for _, container, _ in agent.held} == {"c1"}
    assert runtime.fail("GC", runtime.conf() | {specified: keep, second: 7})[0] == 7
    runtime("GC", runtime.conf() | {specified: None, second: None})
    assert not agent.held


@pytest.mark.parametrize(
    "listed",
    [{}, "x", [1], [{}], [{"containerID": "c1"}], [{"containerID": "../x", "ifname": "eth0"}], 0, ""],
)
def test_gc_frees_nothing_by_a_list_that_it_cannot_read(
    agent: StandIn, runtime: Runtime, listed: object
) -> None:
    runtime("ADD")
    assert runtime.fail("GC", runtime.conf() | {"cni.dev/valid-attachments": listed})[0] == 7
    assert runtime.fail("GC")[:2] == (7, "GC needs cni.dev/valid-attachments")
    assert len(agent.held) == 1


def test_status(agent: StandIn, runtime: Runtime) -> None:
    bare = {"CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None, "CNI_PATH": None}
    assert runtime("STATUS", **bare) is None
    agent.ready = error(503, "Exhausted", "pool blue is full", pool="blue", used=13, total=13)
    assert runtime.fail("STATUS", **bare) == (
        50,
        "no address available yet",
        "pool blue is full",
    )
    agent.ready = error(503, "NotReady", "no pools yet")
    assert runtime.fail("STATUS", **bare)[0] == 50
    agent.ready = error(503, "Impaired", "10.0.0.7 is given twice")
    assert runtime.fail("STATUS", **bare) == (51, "the agent refused: Impaired", "10.0.0.7 is given twice")
    agent.close()
    assert runtime.fail("STATUS", **bare)[:2] == (50, "node agent unreachable")


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "9.9.9"}', "9.9.9"),
        (b"", "1.1.0"),
        (b"\xff", "1.1.0"),
        (b"[]", "1.1.0"),
        (b'{"cniVersion": 7}', "1.1.0"),
    ],
)
def test_version_needs_nothing(runtime: Runtime, stdin: bytes, version: str) -> None:
    nothing = dict.fromkeys(("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH"))
    code, out = runtime.raw("VERSION", stdin, **nothing)
    assert code == 0
    assert out == (
        b'{"cniVersion": "%s", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}\n'
        % version.encode()
    )
