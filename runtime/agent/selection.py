"""Which pool a pod gets its address of: annotations of the pod, of its namespace, selectors of pools, the default. Pure.

Source: Cilium's IPAM metadata manager; the texts are its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from omnipam.core.cidr import Family
from omnipam.core.errors import Invalid, Unavailable
from omnipam.core.selector import Requirement, Selector, matches

IP_POOL = "ipam.cilium.io/ip-pool"
FAMILY_POOL: dict[Family, str] = {"ipv4": "ipam.cilium.io/ipv4-pool", "ipv6": "ipam.cilium.io/ipv6-pool"}
REQUIRE_MATCH = "ipam.cilium.io/require-pool-match"
SKIP_MASQUERADE = "ipam.cilium.io/skip-masquerade"
POD_NAMESPACE, POD_NAME = "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Unknown(Unavailable):
    """A pod or namespace is not there yet."""

    reason = "NotReady"


class Marked(msgspec.Struct, frozen=True):
    """What selection looks at of a pod or namespace."""

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class SelectingPool(msgspec.Struct, frozen=True):
    """A pool and whom it selects; None: nobody by that. families: those that it has ranges of.

    skip_masquerade: whether what its pods send keeps their addresses.
    """

    name: str
    families: frozenset[Family]
    pods: Selector | None = None
    namespaces: Selector | None = None
    skip_masquerade: bool = False


class Expression(msgspec.Struct, frozen=True):
    """One of a LabelSelector's `matchExpressions`."""

    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(msgspec.Struct, frozen=True, rename="camel"):
    """`meta/v1` LabelSelector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


def selector_of(source: LabelSelector | None) -> Selector | None:
    """Raises Invalid where an expression makes no sense."""
    if source is None:
        return None
    found = [Requirement(key, (value,)) for key, value in sorted((source.match_labels or {}).items())]
    for each in source.match_expressions or ():
        values = tuple(sorted(each.values or ()))
        match each.operator:
            case "In" | "NotIn" if values:
                found.append(Requirement(each.key, values, absent=each.operator == "NotIn"))
            case "Exists" | "DoesNotExist" if not values:
                found.append(Requirement(each.key, absent=each.operator == "DoesNotExist"))
            case _:
                raise Invalid(f"{each.operator!r} with {len(values)} values is not a valid label selector")
    return tuple(found)


def read_owner(owner: str) -> tuple[str, str] | None:
    """Namespace and name of a pod; None where the owner is none."""
    namespace, slash, name = owner.partition("/")
    if not slash or len(namespace) > 63 or len(name) > 253:
        return None
    if not _LABEL.fullmatch(namespace) or not _SUBDOMAIN.fullmatch(name):
        return None
    return namespace, name


def select(
    family: Family,
    pod: tuple[str, str],
    of_pod: Marked,
    of_namespace: Marked | None,
    pools: Iterable[SelectingPool],
    default: str,
) -> str:
    """The pool of a pod that is there. of_namespace None: that is not known. Raises Unknown, Invalid."""
    annotated = _annotated(of_pod, family)
    if annotated is not None:
        return annotated
    if of_namespace is None:
        raise Unknown(f'resource Namespace "{pod[0]}" not found')
    annotated = _annotated(of_namespace, family)
    if annotated is not None:
        return annotated
    labels = {**of_pod.labels, POD_NAMESPACE: pod[0], POD_NAME: pod[1]}
    found = sorted(
        pool.name
        for pool in pools
        if family in pool.families
        and (pool.pods is not None or pool.namespaces is not None)
        and (pool.pods is None or matches(pool.pods, labels))
        and (pool.namespaces is None or matches(pool.namespaces, of_namespace.labels))
    )
    text = f"{pod[0]}/{pod[1]} (family={family})"
    if len(found) > 1:
        raise Invalid(f"multiple CiliumPodIPPools match pod {text}: [{' '.join(found)}]")
    if found:
        return found[0]
    for marked, where in ((of_pod, "pod"), (of_namespace, "namespace")):
        if marked.annotations.get(REQUIRE_MATCH) == "true":
            raise Invalid(
                f"no matching CiliumPodIPPool found for pod {text} and require-pool-match annotation is set on {where}"
            )
    return default


def _annotated(marked: Marked, family: Family) -> str | None:
    return marked.annotations.get(FAMILY_POOL[family]) or marked.annotations.get(IP_POOL) or None
