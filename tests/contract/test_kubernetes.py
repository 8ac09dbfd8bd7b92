"""kubernetes mode keeps the allocators' contract, as far as it applies: others give the space, and it takes from nobody."""

from __future__ import annotations

from dataclasses import replace

from omnipam.core.allocator import Settings
from omnipam.core.cidr import parse
from omnipam.core.values import Facts
from omnipam.fixtures.contract import AllocatorContract, Subject, allocator_machine
from omnipam.providers.kubernetes import KubernetesMode

SUBJECT = Subject(
    build=lambda: KubernetesMode(Settings()),
    pools=lambda blocks: (),
    origin=__file__,
    facts=lambda number: Facts(pod_cidrs=(parse(f"10.1.{number}.0/24"),)),
    exhausts=False,
)


class TestKubernetes(AllocatorContract):
    subject = SUBJECT


TestKubernetesUnderFaults = allocator_machine(SUBJECT, examples=40).TestCase

# Two machines each were given the same range: one of them may have it, and whose pods may run with it keeps it.
SHARED = replace(SUBJECT, facts=lambda number: Facts(pod_cidrs=(parse(f"10.1.{number // 2}.0/24"),)))
TestKubernetesWithSharedRangesUnderFaults = allocator_machine(SHARED, examples=100).TestCase
