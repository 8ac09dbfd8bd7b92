"""The agent's side of a call: what is asked of it, and its answers and refusals as the specification wants them told."""

from __future__ import annotations

from .exchange import NoAnswer, exchange
from .netconf import BAD_CONFIG, TRY_LATER, Failure, read_address, shown

NOT_HELD, DIFFERENT, IN_USE, CONFLICT, BAD_ANSWER, REFUSED = 100, 101, 102, 103, 104, 105
"""Codes of our own: CHECK finds nothing held, or an address that prevResult lacks; the requested address is another's; the key
holds what does not fit the request; an answer without a usable address; a refusal for a reason that we do not know."""
_CODES = {
    "Invalid": BAD_CONFIG,
    "PoolMismatch": BAD_CONFIG,
    "UnknownPool": BAD_CONFIG,
    "BlockTooSmall": BAD_CONFIG,
    "NotForPods": BAD_CONFIG,
    "AddressInUse": IN_USE,
    "Conflict": CONFLICT,
    "Exhausted": TRY_LATER,
    "NotReady": TRY_LATER,
    "NoInterface": TRY_LATER,
}
"""The agent's reasons as codes."""
_MSGS = {
    "Invalid": "the agent refused the request as invalid",
    "PoolMismatch": "the requested address is outside what this node has of the pod's pool",
    "UnknownPool": "the pool does not exist, or lacks an asked family",
    "BlockTooSmall": "the pool's blocks are too small to have a gateway",
    "NotForPods": "the requested address is not for pods",
    "AddressInUse": "the requested address is in use",
    "Conflict": "this attachment holds other addresses already",
    "Exhausted": "no address available yet",
    "NotReady": "the agent is not ready",
    "NoInterface": "the interface of the address is not known",
}

_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

Key = tuple[str, str, str]
"""Network, container, interface."""


def ask(path: str, method: str, target: str, body: object = None, *, timeout_s: float) -> tuple[int, object]:
    """Status and body of the answer. Raises Failure 11 if there is none."""
    try:
        return exchange(path, method, target, body, timeout_s=timeout_s)
    except NoAnswer as lost:
        raise Failure(TRY_LATER, "node agent unreachable", str(lost)) from None


def release(path: str, key: Key, timeout_s: float) -> None:
    """Releases now. Raises NoAnswer if it may not have happened, Failure if the agent refused for good."""
    status, answer = exchange(path, "DELETE", target(key), timeout_s=timeout_s)
    reason = answer.get("reason") if isinstance(answer, dict) else None
    if status == 204 or (status == 404 and reason == "NotFound"):
        return
    if reason is None or status >= 500:  # whatever that was, it was no agent that has released anything
        raise NoAnswer(refusal(status, answer).details or f"the agent answered {status}", maybe_done=True)
    raise refusal(status, answer)


def refusal(status: int, answer: object) -> Failure:
    """The agent's error as one of ours."""
    if not isinstance(answer, dict):
        text = f"status {status}" + (f": {answer}" if answer else "")
        return Failure(TRY_LATER if status == 503 else REFUSED, "the agent refused", text)
    reason, text = str(answer.get("reason", "")), str(answer.get("message", ""))
    facts = answer.get("details")
    if not text and isinstance(facts, dict):
        text = ", ".join(f"{name} {value}" for name, value in facts.items())
    code = _CODES.get(reason, TRY_LATER if status == 503 else REFUSED)
    return Failure(code, _MSGS.get(reason, f"the agent refused: {reason or status}"), text)


def addresses(answer: object) -> list[tuple[str, str, int, str]]:
    """Family, address, prefix length and gateway (may be empty) of each address in the agent's answer. Raises Failure 104."""
    listed = answer.get("addresses") if isinstance(answer, dict) else None
    found = []
    for each in listed if isinstance(listed, list) else []:
        given = each if isinstance(each, dict) else {}
        read = read_address(f"{given.get('address')}/{given.get('prefix_length')}")
        gateway = given.get("gateway") or ""
        if read is None or read[2] is None or (gateway and read_address(gateway) is None):
            raise Failure(BAD_ANSWER, "the agent's answer has no usable address", shown(each))
        found.append((read[0], read[1], read[2], str(gateway)))
    if not found:
        raise Failure(BAD_ANSWER, "the agent's answer has no usable address", shown(answer))
    return found


def target(key: Key) -> str:
    """The key's path, percent-encoded."""
    return "/v1/allocations/" + "/".join(map(_quote, key))


def _quote(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if chr(byte) in _SAFE else f"%{byte:02X}" for byte in raw)
