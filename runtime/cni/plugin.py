"""`omnipam-cni`: one call of the CNI plugin. One result or one error object on stdout, whatever happens."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

from .agent import (
    BAD_ANSWER,
    DIFFERENT,
    NOT_HELD,
    Key,
    addresses,
    ask,
    refusal,
    release,
    target,
)
from .exchange import NoAnswer, exchange
from .netconf import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    IO_FAILED,
    VERSIONS,
    Args,
    Failure,
    Network,
    check_container,
    check_holdable,
    check_ifname,
    decode,
    read_address,
    read_verb,
    shown,
)
from .releases import SETTLE_S, put_off, settle

NOT_READY, IMPAIRED, INTERNAL = 50, 51, 999
"""Codes of STATUS, and the library's for what should not happen. Ours are in agent.py and netconf.py."""

WAIT_S, ADD_S, OTHER_S = 25.0, 30.0, 5.0
"""Seconds: an ADD may wait for an address, and then for the answer; the other verbs wait for theirs."""
_VALID = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""GC's list: the specification's name, and libcni's second name of the same."""
_ABOUT = (
    f"omnipam-cni: IPAM by omnipam's node agent\nCNI protocol versions supported: {', '.join(VERSIONS)}\n"
)


def main() -> int:
    """Runs the call that the environment and stdin describe, and answers the exit code. Raises nothing."""
    if not os.environ.get("CNI_COMMAND"):
        _write(2, _ABOUT.encode())
        return 0
    code, output = call(os.environ, _stdin)
    return code if _write(1, output) else 1


def call(environ: Mapping[str, str], stdin: Callable[[], bytes]) -> tuple[int, bytes]:
    """Exit code and stdout of one call. stdin: reads all of it, may raise OSError. Raises nothing."""
    content = b""
    try:
        verb = read_verb(environ)
        try:
            content = stdin()
        except OSError as error:
            if verb != "VERSION":
                raise Failure(IO_FAILED, "stdin cannot be read", str(error.strerror)) from None
        result = _VERBS[verb](environ, content)
        return 0, b"" if result is None else json.dumps(result).encode() + b"\n"
    except Failure as failure:
        problem = failure
    except Exception as error:  # noqa: BLE001 - the runtime reads stdout and cannot read a traceback
        problem = Failure(INTERNAL, "internal error", f"{type(error).__name__}: {error}")
    document: dict[str, object] = {
        "cniVersion": _asked(content),
        "code": problem.code,
        "msg": _line(problem.msg),
    }
    if problem.details:
        document["details"] = _line(problem.details)
    return 1, json.dumps(document).encode() + b"\n"


# -- the verbs


def _add(environ: Mapping[str, str], content: bytes) -> object:
    from .wishes import Wishes, check_gateway, reaching

    network = Network(content, "ADD")
    args = Args(environ.get("CNI_ARGS", ""))
    wishes = Wishes(network, args)
    key = network.name, environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]
    settle(network, key)
    body: dict[str, object] = {"owner": args.pod or key[1], "wait_s": WAIT_S}
    if wishes.pool is not None:
        body["pool"] = wishes.pool
    if wishes.families is not None:
        body["families"] = wishes.families
    if wishes.addresses:
        body["address"] = wishes.addresses
    if wishes.gateways:
        body["avoid"] = list(wishes.gateways.values())
    if args.pod_uid:
        body["pod_uid"] = args.pod_uid
    status, answer = ask(network.socket, "PUT", target(key), body, timeout_s=ADD_S)
    if status not in (200, 201):
        raise refusal(status, answer)
    ips = []
    for family, address, length, gateway in addresses(answer):
        if family in wishes.gateways:
            try:
                check_gateway(family, address, length, wishes.gateways[family])
            except Failure:
                if status == 201:  # else an earlier ADD got it, and a pod may live there
                    _free(network, key)
                raise
        ip = {"version": family[-1]} if network.version < "1.0.0" else {}
        gateway = wishes.gateways.get(family, gateway)
        if wishes.on_link and gateway:
            length = reaching(family, address, length, gateway)
        ip["address"] = f"{address}/{length}"
        if gateway:
            ip["gateway"] = gateway
        ips.append(ip)
    result: dict[str, object] = {"cniVersion": network.version, "ips": ips}
    families = {"ipv6" if ":" in ip["address"] else "ipv4" for ip in ips}
    if routes := wishes.routes_of(families):
        result["routes"] = routes
    if wishes.dns:
        result["dns"] = wishes.dns
    return result


def _free(network: Network, key: Key) -> None:
    """Gives back at once what this ADD got; what cannot be now is the queue's, or the DEL's that follows."""
    try:
        release(network.socket, key, SETTLE_S)
    except NoAnswer as lost:
        try:
            put_off(network, key, lost)
        except Failure:
            pass
    except Failure:
        pass


def _del(environ: Mapping[str, str], content: bytes) -> None:
    network = Network(content, "DEL")
    key = network.name, environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]
    try:
        check_holdable(key[1], key[2], BAD_ENVIRONMENT)
    except Failure:  # no ADD got anything by this key: it is free, whether an agent runs or not
        return
    try:
        release(network.socket, key, OTHER_S)
    except NoAnswer as lost:
        put_off(network, key, lost)
    else:
        settle(network)


def _check(environ: Mapping[str, str], content: bytes) -> None:
    network = Network(content, "CHECK")
    previous = network.document.get("prevResult")
    if not isinstance(previous, dict):
        raise Failure(BAD_CONFIG, "CHECK needs the prevResult of the ADD")
    key = network.name, environ["CNI_CONTAINERID"], environ["CNI_IFNAME"]
    status, answer = ask(network.socket, "GET", target(key), timeout_s=OTHER_S)
    if status == 404 and isinstance(answer, dict) and answer.get("reason") == "NotFound":
        raise Failure(NOT_HELD, "the agent holds no address for this attachment", "/".join(key))
    if status != 200:
        raise refusal(status, answer)
    ips = previous.get("ips")
    seen = set()  # of parsed addresses: one address has many spellings
    for ip in ips if isinstance(ips, list) else []:
        read = read_address(ip.get("address") if isinstance(ip, dict) else None)
        if read is not None:
            seen.add(read[1])
    held = [address for _, address, _, _ in addresses(answer)]
    lacking = [address for address in held if address not in seen]
    if lacking:  # more in prevResult than is ours is other plugins'
        raise Failure(DIFFERENT, "prevResult is not what the agent holds", f"it lacks {', '.join(lacking)}")


def _gc(_: Mapping[str, str], content: bytes) -> None:
    network = Network(content, "GC")
    names = [name for name in _VALID if name in network.document]
    if not names:
        raise Failure(BAD_CONFIG, "GC needs cni.dev/valid-attachments", "an empty list means: none is valid")
    # What either list names stays: to keep too much is mended by the next GC, to free what is in use is not.
    keep = dict.fromkeys(pair for name in names for pair in _attachments(name, network.document[name]))
    settle(network)
    status, answer = ask(
        network.socket, "POST", "/v1/gc", {"network": network.name, "keep": list(keep)}, timeout_s=OTHER_S
    )
    if status != 200:
        raise refusal(status, answer)
    if not isinstance(answer, dict) or not isinstance(answer.get("released"), list):
        raise Failure(BAD_ANSWER, "the agent's answer does not say what it released", shown(answer))


def _attachments(name: str, listed: object) -> list[tuple[str, str]]:
    """Container and interface of each in a GC's list. Raises Failure 7."""
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise Failure(BAD_CONFIG, f"{name} is no list", shown(listed))
    keep = []
    for each in listed:
        container, ifname = (
            (each.get("containerID"), each.get("ifname")) if isinstance(each, dict) else (0, 0)
        )
        if not isinstance(container, str) or not isinstance(ifname, str):
            raise Failure(BAD_CONFIG, f"{name}: an attachment lacks its containerID or ifname", shown(each))
        check_container(container, BAD_CONFIG)
        check_ifname(ifname, BAD_CONFIG)
        keep.append((container, ifname))
    return keep


def _status(_: Mapping[str, str], content: bytes) -> None:
    network = Network(content, "STATUS")
    try:
        status, answer = exchange(network.socket, "GET", "/v1/status", timeout_s=OTHER_S)
    except NoAnswer as lost:
        raise Failure(NOT_READY, "node agent unreachable", str(lost)) from None
    if status == 200 and isinstance(answer, dict) and answer.get("ready") is True:
        return
    if status < 400:
        raise Failure(NOT_READY, "the agent does not say that it is ready", shown(answer))
    problem = refusal(status, answer)
    # 51 has the runtime believe that running pods suffer: only the agent can know.
    impaired = isinstance(answer, dict) and answer.get("reason") == "Impaired"
    raise Failure(IMPAIRED if impaired else NOT_READY, problem.msg, problem.details)


def _versions(_: Mapping[str, str], content: bytes) -> object:
    return {"cniVersion": _asked(content), "supportedVersions": list(VERSIONS)}


_VERBS: dict[str, Callable[[Mapping[str, str], bytes], object]] = {
    "ADD": _add,
    "DEL": _del,
    "CHECK": _check,
    "GC": _gc,
    "STATUS": _status,
    "VERSION": _versions,
}


# -- stdin and stdout


def _asked(content: bytes) -> str:
    """The version that errors and VERSION are told in: the caller's, ours if it has none."""
    try:
        version = decode(content).get("cniVersion")
    except Failure:
        version = None
    return version if isinstance(version, str) and version else VERSIONS[-1]


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 1000 else f"{line[:1000]}…"


def _stdin() -> bytes:
    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _write(file: int, content: bytes) -> bool:
    """Whether all of it went out."""
    try:
        while content:
            content = content[os.write(file, content) :]
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
