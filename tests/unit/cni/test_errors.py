"""Bad input and bad answers: each an error object of its own code, and nothing else on stdout."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cni.conftest import Runtime
from tests.unit.cni.standin import StandIn, answer, drop, error, half, lose_reply, raw, silent

from omnipam.runtime.cni import exchange, netconf, plugin

# -- what comes in


@pytest.mark.parametrize(
    ("verb", "missing", "named"),
    [
        ("ADD", ("CNI_CONTAINERID",), "CNI_CONTAINERID"),
        ("ADD", ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", ("CNI_NETNS",), "CNI_NETNS"),
        ("DEL", ("CNI_IFNAME",), "CNI_IFNAME"),
    ],
)
def test_missing_variables_are_named(
    runtime: Runtime, verb: str, missing: tuple[str, ...], named: str
) -> None:
    for nothing in (None, ""):
        environ = dict.fromkeys(missing, nothing)
        assert runtime.fail(verb, **environ) == (4, f"required env variables [{named}] missing", "")


def test_del_needs_no_namespace(agent: StandIn, runtime: Runtime) -> None:
    runtime("ADD")
    runtime("DEL", CNI_NETNS=None)
    assert not agent.held


@pytest.mark.parametrize("verb", ["add", "FLY", "ADD ", "UPDATE"])
def test_unknown_verbs(runtime: Runtime, verb: str) -> None:
    assert runtime.fail(verb) == (4, f"unknown CNI_COMMAND: {verb}".strip(), "")


@pytest.mark.parametrize("container", ["-x", "a/b", ".", "a b", "a\n", "ü", "a\x00b", "../../etc"])
def test_bad_container_ids(runtime: Runtime, container: str) -> None:
    assert runtime.fail("ADD", CNI_CONTAINERID=container)[:2] == (4, "invalid characters in containerID")


@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:1", "a b", "eth0\n", "x" * 16, "é" * 8, "\u2003"])
def test_bad_interface_names(runtime: Runtime, ifname: str) -> None:
    code, msg, _ = runtime.fail("DEL", CNI_IFNAME=ifname)
    assert code == 4
    assert msg.startswith("interface name is ")


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 5000,
        b"{} x",
    ],
)
@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_stdin_that_is_no_object(runtime: Runtime, verb: str, stdin: bytes) -> None:
    code, msg, _ = runtime.problem(*runtime.raw(verb, stdin))
    assert code == 6
    assert msg.startswith("the network configuration on stdin is no JSON")


def test_stdin_that_cannot_be_read() -> None:
    def broken() -> bytes:
        raise OSError(5, "Input/output error")

    environ = {"CNI_COMMAND": "STATUS"}
    problem = Runtime.problem(*plugin.call(environ, broken))
    assert problem == (5, "stdin cannot be read", "Input/output error")
    assert plugin.call({"CNI_COMMAND": "VERSION"}, broken)[0] == 0


def test_network_names(runtime: Runtime) -> None:
    for name in (None, "", 0):
        assert runtime.fail("ADD", runtime.conf() | {"name": name}) == (7, "missing network name", "")
    for name in ("a/b", "..", ["x"], 7, "ü", "\ud800", "a\n"):
        code, msg, _ = runtime.fail("ADD", runtime.conf() | {"name": name})
        assert (code, msg) == (7, "invalid characters found in network name")


@pytest.mark.parametrize(
    "version", ["0.2.0", "0.3.0", "1.2.0", "9", "x", "1.1", "01.1.0", "1.1.0 ", "", None]
)
def test_versions_that_we_do_not_speak(runtime: Runtime, version: str | None) -> None:
    for verb in ("ADD", "DEL"):
        code, msg, details = runtime.fail(verb, runtime.conf(version))
        assert (code, msg) == (1, "incompatible CNI versions")
        assert details == (
            f'config is "{version or "0.1.0"}", plugin supports ["0.3.1" "0.4.0" "1.0.0" "1.1.0"]'
        )


def test_a_version_of_the_wrong_type(runtime: Runtime) -> None:
    for version in (1.1, ["1.1.0"], {"a": 1}, True):
        assert runtime.fail("ADD", runtime.conf(version))[:2] == (6, "cniVersion is no text")
    assert runtime.fail("GC", runtime.conf("1.x"))[:2] == (6, "cniVersion is no version")


@pytest.mark.parametrize(
    ("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0"), ("GC", None)]
)
def test_verbs_younger_than_the_configuration(runtime: Runtime, verb: str, version: str | None) -> None:
    code, msg, _ = runtime.fail(verb, runtime.conf(version))
    assert (code, msg) == (1, f"config version does not allow {verb}")


def test_verbs_of_a_configuration_younger_than_we(runtime: Runtime) -> None:
    assert runtime.fail("GC", runtime.conf("1.2.0"))[:2] == (1, "plugin version does not allow GC")


def test_an_error_is_told_in_the_caller_s_version(runtime: Runtime) -> None:
    _, out = runtime.raw("ADD", b'{"cniVersion": "0.4.0"}')
    assert json.loads(out)["cniVersion"] == "0.4.0"
    _, out = runtime.raw("ADD", b"{")
    assert json.loads(out)["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("verb", ["ADD", "DEL", "STATUS"])
def test_the_ipam_part(runtime: Runtime, verb: str) -> None:
    assert runtime.fail(verb, runtime.conf() | {"ipam": None})[:2] == (7, "IPAM config missing 'ipam' key")
    assert runtime.fail(verb, runtime.conf() | {"ipam": "x"})[:2] == (7, "'ipam' is no object")
    for path in ("agent.sock", 7, "/a\nb", "/a\0b", ["/x"]):
        assert runtime.fail(verb, runtime.conf(socket=path))[:2] == (7, "ipam.socket is no absolute path")
    assert runtime.fail(verb, runtime.conf(socket="/" + "x" * 107))[:2] == (7, "ipam.socket is too long")
    assert runtime.fail(verb, runtime.conf(stateDir="state"))[:2] == (7, "ipam.stateDir is no absolute path")


@pytest.mark.parametrize(
    "ipam",
    [
        {"pool": 7},
        {"pool": []},
        {"pool": {}},
        {"pool": {"v4": "x"}},
        {"pool": {"ipv4": ""}},
        {"pool": {"ipv4": None}},
        {"gateway": "x"},
        {"gateway": "10.0.0.1/24"},
        {"gateway": ["10.0.0.1", "10.0.0.2"]},
        {"gateway": 7},
        {"gateway": {"a": 1}},
        {"routes": {}},
        {"routes": "x"},
        {"routes": ["0.0.0.0/0"]},
        {"routes": [{"dst": "10.0.0.0"}]},
        {"routes": [{"dst": "10.0.0.0/33"}]},
        {"routes": [{"dst": "10.0.0.0/-1"}]},
        {"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]},
        {"routes": [{"dst": "10.0.0.0/8", "gw": 7}]},
        {"routes": [{"dst": "10.0.0.0/8", "mtu": "1400"}]},
        {"routes": [{"dst": "10.0.0.0/8", "mtu": True}]},
        {"routes": [{"dst": "10.0.0.0/8", "mtu": 1 << 32}]},
        {"routes": [{"dst": "10.0.0.0/8", "table": 1 << 70}]},
        {"routes": [{"dst": "10.0.0.0/8", "priority": -1}]},
        {"routes": [{"dst": "10.0.0.0/8", "scope": 1e3}]},
        {"routes": [{"dst": "10.1.2.3/8"}]},
        {"routes": [{"dst": "fd00::1/64"}]},
        {"routes": [{"dst": "128.0.0.0/0"}]},
        {"resolvConf": 7},
    ],
    ids=json.dumps,
)
def test_a_bad_ipam_part_reserves_nothing(agent: StandIn, runtime: Runtime, ipam: dict[str, object]) -> None:
    code, msg, _ = runtime.fail("ADD", runtime.conf(**ipam))
    assert code == 7
    assert f"ipam.{next(iter(ipam))}" in msg
    assert agent.requests == []
    assert runtime("DEL", runtime.conf(**ipam)) is None, "what does not matter to DEL does not stop it"


def test_a_resolv_conf_that_is_not_there(agent: StandIn, runtime: Runtime, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        code, msg, details = runtime.fail("ADD", runtime.conf(resolvConf=str(path)))
        assert (code, msg) == (5, "ipam.resolvConf cannot be read")
        assert str(path) in details
    for path in ("/a\0b", "resolv.conf", "/a\nb"):
        assert runtime.fail("ADD", runtime.conf(resolvConf=path))[:2] == (
            7,
            "ipam.resolvConf is no absolute path",
        )
    assert agent.requests == []


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (b"nameserver 10.0.0.53\0\n", 5, "null bytes"),
        (b"nameserver 10.0.0.53\n" + b"#" * 65536, 5, "more than 65536 bytes"),
        (b"nameserver dns.example\n", 7, "nameserver dns.example"),
        (b"nameserver 999.1.1.1\n", 7, "nameserver 999.1.1.1"),
        (b"nameserver 10.0.0.0/8\n", 7, "nameserver 10.0.0.0/8"),
    ],
    ids=["null", "long", "name", "number", "cidr"],
)
def test_a_resolv_conf_that_is_none(
    agent: StandIn, runtime: Runtime, tmp_path: Path, content: bytes, code: int, why: str
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(content)
    found, msg, details = runtime.fail("ADD", runtime.conf(resolvConf=str(path)))
    assert found == code
    assert msg.startswith("ipam.resolvConf ")
    assert why in details
    assert agent.requests == []


def test_a_resolv_conf_that_would_never_end(agent: StandIn, runtime: Runtime, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        code, _, details = runtime.fail("ADD", runtime.conf(resolvConf=str(path)))
        assert (code, details) == (5, f"{path}: it is no regular file")
    assert agent.requests == []


@pytest.mark.parametrize("verb", ["ADD", "DEL", "STATUS"])
def test_paths_that_no_system_takes(runtime: Runtime, verb: str) -> None:
    for path in ("/" + "x" * 256, "/x" * 2000, "/" + "é" * 128):
        assert runtime.fail(verb, runtime.conf(stateDir=path))[:2] == (7, "ipam.stateDir is too long")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_stdin_is_utf_8_and_nothing_else(runtime: Runtime, encoding: str) -> None:
    conf = json.dumps(runtime.conf() | {"x": "é"}, ensure_ascii=False)
    assert runtime.problem(*runtime.raw("ADD", conf.encode(encoding)))[0] == 6


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_only_python_calls_json(runtime: Runtime, word: bytes) -> None:
    conf = json.dumps(runtime.conf()).encode()[:-1] + b', "x": ' + word + b"}"
    code, _, details = runtime.problem(*runtime.raw("ADD", conf))
    assert (code, details) == (6, f"{word.decode()} is no JSON")


@pytest.mark.parametrize("key", ["pool", "gateway", "routes", "resolvConf", "socket", "onLink"])
def test_what_is_just_shallow_enough_to_be_read(runtime: Runtime, key: str) -> None:
    for depth in range(700, 1100, 5):
        conf = json.dumps(runtime.conf()).replace('"ptp"', '"ptp", "cut": 1')
        nested = conf.replace('"ipam": {', f'"ipam": {{"{key}": {"[" * depth}{"]" * depth}, ')
        if key == "socket":
            nested = re.sub(r', "socket": "[^"]*"', "", nested)
        assert runtime.problem(*runtime.raw("ADD", nested.encode()))[0] in (6, 7)


@pytest.mark.parametrize("ifname", ["e\udcff", "e\x01", "e\u200b"])
def test_an_attachment_that_no_agent_can_hold(agent: StandIn, runtime: Runtime, ifname: str) -> None:
    for conf in (runtime.conf(), runtime.conf() | {"prevResult": {}}):
        verb = "CHECK" if "prevResult" in conf else "ADD"
        assert runtime.fail(verb, conf, CNI_IFNAME=ifname)[:2] == (
            4,
            "interface name is not UTF-8, or not printable",
        )
    assert runtime.fail("ADD", CNI_CONTAINERID="c" * 513)[0] == 4
    agent.close()
    assert runtime("DEL", CNI_IFNAME=ifname) is None
    assert runtime("DEL", CNI_CONTAINERID="c" * 513) is None
    assert runtime.queued == []
    assert agent.requests == []


def test_gc_of_a_name_that_is_no_text(agent: StandIn, runtime: Runtime) -> None:
    for ifname, code in (("e\ud800", 0), ("e\ud800" * 8, 1)):
        keep = [{"containerID": "c1", "ifname": ifname}]
        conf = json.dumps(runtime.conf() | {"cni.dev/valid-attachments": keep}).encode()
        found, out = runtime.raw("GC", conf)
        assert found == code, out
        assert not code or json.loads(out)["code"] == 7


@pytest.mark.parametrize("document", [None, {}, [], {"released": 7}, {"released": None}], ids=json.dumps)
def test_gc_and_status_believe_an_agent_alone(agent: StandIn, runtime: Runtime, document: object) -> None:
    conf = runtime.conf() | {"cni.dev/valid-attachments": []}
    agent.faults += [answer(200, document)] * 2
    assert runtime.fail("GC", conf)[0] == 104
    assert runtime.fail("STATUS", conf)[:2] == (50, "the agent does not say that it is ready")
    agent.faults += [answer(404, "<html>")] * 2
    assert runtime.fail("CHECK", conf | {"prevResult": {}})[0] == 105, "not: nothing is held"
    assert runtime.fail("STATUS", conf)[0] == 50
    agent.ready = 200, {"ready": False}
    assert runtime.fail("STATUS", conf)[0] == 50


@pytest.mark.parametrize(
    "args",
    [
        "IP=10.0.7.5;IP=10.0.7.6",
        "IP=x",
        "IP=10.0.0.0/33",
        "novalue",
        "=x",
        "IP=10.0.0.1,10.0.0.2",
        "IP=::1%lo",
    ],
)
def test_bad_arguments(agent: StandIn, runtime: Runtime, args: str) -> None:
    assert runtime.fail("ADD", CNI_ARGS=args)[0] == 4
    assert runtime("DEL", CNI_ARGS=args) is None
    assert [request.method for request in agent.requests] == ["DELETE"]


def test_bad_static_requests(agent: StandIn, runtime: Runtime) -> None:
    for ips in ("10.0.7.5", [7], ["x"], ["10.0.7.5", "10.0.7.6"], {}):
        assert runtime.fail("ADD", runtime.conf() | {"runtimeConfig": {"ips": ips}})[0] == 7
    conf = runtime.conf() | {"args": {"cni": {"ips": ["10.0.7.5"]}}}
    assert runtime.fail("ADD", conf | {"runtimeConfig": {"ips": ["10.0.7.6"]}})[0] == 7
    assert agent.requests == []
    for odd in ({"runtimeConfig": 7}, {"args": []}, {"args": {"cni": 7}}, {"runtimeConfig": {"ips": None}}):
        runtime("ADD", runtime.conf() | odd)


# -- what the agent refuses


def test_a_pool_without_the_family(agent: StandIn, runtime: Runtime) -> None:
    assert runtime.fail("ADD", runtime.conf(pool={"ipv6": "default"})) == (
        7,
        "the pool does not exist, or lacks an asked family",
        "pool default has no ipv6",
    )
    assert runtime.fail("ADD", runtime.conf(pool="none"))[0] == 7


def test_a_static_address_outside_the_pool_or_in_use(agent: StandIn, runtime: Runtime) -> None:
    assert runtime.fail("ADD", CNI_ARGS="IP=10.9.9.9") == (
        7,
        "the requested address is outside what this node has of the pod's pool",
        "10.9.9.9 is outside pool default",
    )
    runtime("ADD", CNI_ARGS="IP=10.0.7.9")
    assert runtime.fail("ADD", CNI_ARGS="IP=10.0.7.9", CNI_CONTAINERID="c2")[0] == 102


def test_an_exhausted_pool_says_which_and_what_was_asked(agent: StandIn, runtime: Runtime) -> None:
    agent.pools["tiny"] = ("10.1.0.0/30",)
    conf = runtime.conf(pool="tiny")
    runtime("ADD", conf)
    code, msg, details = runtime.fail("ADD", conf, CNI_CONTAINERID="c2")
    assert (code, msg) == (11, "no address available yet")
    assert details == "pool tiny has no free ipv4 address: 1 of 1 in use; the operator was asked for 16"


@pytest.mark.parametrize(
    ("status", "document", "code"),
    [
        (*error(400, "Invalid", "bad key"), 7),
        (*error(422, "BlockTooSmall", "10.0.0.0/31"), 7),
        (*error(409, "Conflict", "other request"), 103),
        (*error(503, "NotReady", "no pools yet"), 11),
        (*error(503, "NoInterface", "the interface of 10.7.0.20 is not known"), 11),
        (*error(503, "New", "a reason of tomorrow"), 11),
        (*error(418, "Teapot", "short and stout"), 105),
        (503, "plain text", 11),
        (500, "plain text", 105),
        (500, None, 105),
        (302, None, 105),
        (404, ["x"], 105),
    ],
)
def test_refusals(agent: StandIn, runtime: Runtime, status: int, document: object, code: int) -> None:
    agent.faults.append(answer(status, document))
    assert runtime.fail("ADD")[0] == code


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"addresses": []},
        {"addresses": "x"},
        {"addresses": ["x"]},
        {"addresses": [{"address": "10.0.0.1"}]},
        {"addresses": [{"address": "10.0.0.1", "prefix_length": 33}]},
        {"addresses": [{"address": "10.0.0.1/8", "prefix_length": 24}]},
        {"addresses": [{"address": "10.0.0.1", "prefix_length": 24, "gateway": "x"}]},
        {"addresses": [{"address": "10.0.0.1", "prefix_length": 24, "gateway": 7}]},
    ],
    ids=json.dumps,
)
def test_answers_without_an_address(agent: StandIn, runtime: Runtime, document: object) -> None:
    agent.faults.append(answer(200, document))
    assert runtime.fail("ADD")[0] == 104


# -- an agent that is away, silent, or mad


def test_no_socket(runtime: Runtime) -> None:
    code, msg, details = runtime.fail("ADD")
    assert (code, msg) == (11, "node agent unreachable")
    assert details == f"{runtime.folder}/agent.sock: No such file or directory"


def test_a_socket_that_nobody_serves(agent: StandIn, runtime: Runtime) -> None:
    agent.close()
    (runtime.folder / "agent.sock").touch()
    for verb in ("ADD", "GC"):
        code, msg, details = runtime.fail(verb, runtime.conf() | {"cni.dev/valid-attachments": []})
        assert (code, msg) == (11, "node agent unreachable")
        assert details.endswith("agent.sock: Connection refused")


@pytest.mark.usefixtures("impatient")
def test_a_full_backlog_is_waited_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """connect(2) says EAGAIN at once, whatever the timeout."""
    path = str(runtime.folder / "agent.sock")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        listener.settimeout(10)
        while True:  # fill it
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(path)
            except BlockingIOError:
                break
        code, msg, details = runtime.fail("ADD")
        assert (code, msg) == (11, "node agent unreachable")
        assert details.endswith("nobody took the request within 0.5 s")
        monkeypatch.setattr(plugin, "OTHER_S", 20.0)
        refused = threading.Event()

        def sleep(_: float) -> None:
            refused.set()
            drained.wait(10)

        drained = threading.Event()
        with patch.object(exchange.time, "sleep", sleep):
            told: list[tuple[int, str, str]] = []
            caller = threading.Thread(target=lambda: told.append(runtime.fail("STATUS")))
            caller.start()
            assert refused.wait(10)
            listener.accept()[0].close()
            drained.set()
            while True:
                connection, _peer = listener.accept()
                with connection:
                    if connection.recv(65536):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                        break
            caller.join(10)
        assert told == [(50, "the agent does not say that it is ready", "{}")]


@pytest.mark.usefixtures("impatient")
def test_a_silent_agent(agent: StandIn, runtime: Runtime) -> None:
    agent.faults += [silent] * 4
    check = runtime.conf() | {"prevResult": {}, "cni.dev/valid-attachments": []}
    for verb, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        found, msg, details = runtime.fail(verb, check)
        assert (found, msg) == (code, "node agent unreachable")
        assert details.endswith("agent.sock: no answer within 0.5 s")


@pytest.mark.parametrize(
    "fault",
    [
        drop,
        half,
        raw(b"SSH-2.0-OpenSSH\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        raw(b"HTTP/1.1 20x OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{"),
        raw(b"x" * 200_000),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000),
    ],
)
def test_what_is_no_answer(agent: StandIn, runtime: Runtime, fault: object) -> None:
    agent.faults.append(fault)
    code, msg, details = runtime.fail("ADD")
    assert (code, msg) == (11, "node agent unreachable")
    assert details.startswith(f"{runtime.folder}/agent.sock: ")
    assert "Traceback" not in details


def test_a_lost_reply_is_repaired_by_the_next_call(agent: StandIn, runtime: Runtime) -> None:
    agent.faults.append(lose_reply)
    assert runtime.fail("ADD")[:2] == (11, "node agent unreachable")
    assert agent.addresses == ["10.0.7.2"]
    assert runtime("ADD")["ips"][0]["address"] == "10.0.7.2/24"
    agent.faults.append(lose_reply)
    assert runtime.fail("ADD", CNI_CONTAINERID="c2")[0] == 11
    runtime("DEL", CNI_CONTAINERID="c2")
    assert agent.addresses == ["10.0.7.2"]


def test_no_error_is_more_than_a_line(agent: StandIn, runtime: Runtime) -> None:
    agent.faults.append(answer(*error(503, "NotReady", "one\ntwo\x1b[31m" + "x" * 5000)))
    _, _, details = runtime.fail("ADD")
    assert details.startswith("one two")
    assert len(details) < 1100


def test_an_error_of_our_own_is_999(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("a bug")

    monkeypatch.setitem(plugin._VERBS, "STATUS", broken)
    assert runtime.fail("STATUS") == (999, "internal error", "RuntimeError: a bug")


# -- anything at all

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_texts = st.sampled_from(["", "10.0.7.9", "10.0.7.9/24", "fd00::1/64", "eth0", "podnet", "default", "/x"])
_known = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": st.sampled_from(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]) | _json,
        "name": st.just("podnet") | _json,
        "ipam": _json
        | st.fixed_dictionaries(
            {"socket": st.just("/nonexistent/agent.sock"), "stateDir": st.just("/proc/nonexistent")},
            optional={
                name: _texts | _json | st.lists(_texts, max_size=2)
                for name in ("pool", "gateway", "routes", "resolvConf")
            },
        ),
        "prevResult": _json,
        "runtimeConfig": _json | st.fixed_dictionaries({"ips": _json | st.lists(_texts)}),
        "args": _json | st.fixed_dictionaries({"cni": _json}),
        "cni.dev/valid-attachments": _json,
    },
)
_environ = st.dictionaries(
    st.sampled_from(["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"]),
    _texts | st.text(st.characters(exclude_characters="\0"), max_size=20),
)
_verbs = st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])


@settings(deadline=None)
@given(
    verb=_verbs | st.text(min_size=1),
    environ=_environ,
    stdin=st.binary() | _known.map(lambda d: json.dumps(d).encode()),
)
def test_whatever_comes_in_one_object_or_nothing_goes_out(
    verb: str, environ: dict[str, str], stdin: bytes
) -> None:
    base = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/x"}
    with (  # nothing here finds an agent of this machine, or leaves something for it
        patch.object(netconf, "SOCKET", "/nonexistent/agent.sock"),
        patch.object(netconf, "STATE", "/proc/nonexistent"),
    ):
        code, out = plugin.call(base | environ | {"CNI_COMMAND": verb}, lambda: stdin)
    if code:
        found, _, _ = Runtime.problem(code, out)
        assert found != 999, out
        assert found in {1, 4, 5, 6, 7, 11, 50, 51} or found >= 100
    else:
        assert verb == "VERSION", "no agent is there"
        json.loads(out)
    assert re.fullmatch(rb"[\x20-\x7e]*\n?", out)


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_whatever_the_agent_sends(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("agent")
    runtime = Runtime(folder)
    with StandIn(folder / "agent.sock") as agent:
        agent.faults.append(raw(b"HTTP/1.1 200 OK\r\n" + content))
        assert runtime.fail("ADD")[0] in (11, 104)
