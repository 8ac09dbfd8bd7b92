"""One node's pods, their control plane, and what must be true of both while they stand and when they are gone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from tests.kube.admin import wait_until
from tests.kube.cluster import Cluster
from tests.kube.operated import OPERATOR
from tests.kube.test_multi_pool import allocated
from tests.node.kubelet import Kubelet
from tests.node.netns import Host
from tests.node.plane import MODE, NODE, Plane

from omnipam.runtime.cni import queue

RANGES = {"default": ("10.60.0.0/22", 28), "blue": ("10.61.0.0/22", 29), "red": ("10.62.0.0/22", 27)}
"""By pool: its range, and the mask of a node's blocks."""
AT_ONCE = 8
MOST_PAUSE_S = 0.3
SETTLED_S = 60.0


class Whole:
    """seed: of the moments at which who is killed, and of what the runtime does next."""

    def __init__(self, cluster: Cluster, directory: Path, host: Host, seed: int) -> None:
        self.admin, self.host = cluster.admin, host
        self.rng = random.Random(seed)
        self._environ = {
            "KUBECONFIG": str(cluster.kubeconfig("admin")),
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
        }
        self.plane = Plane(cluster, directory, host)
        self.kubelet = Kubelet(host, cluster.admin, NODE, seed=seed, ready=self.plane.ready)
        self._pause = threading.Event()

    # -- doing

    def killing(self, kills: int, work: Sequence[Callable[[], object]]) -> None:
        """Does all the work, several things at once, and kills at that many random moments meanwhile."""
        moments = sorted(self.rng.sample(range(1, len(work)), min(kills, len(work) - 1)))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            futures = [threads.submit(each) for each in work]
            for moment in moments:
                wait_until(
                    lambda moment=moment: sum(each.done() for each in futures) >= moment,
                    f"{moment} of {len(work)} are done",
                    240.0,
                )
                self._pause.wait(self.rng.random() * MOST_PAUSE_S)
                self.plane.kill(self.rng.choice(("agent", "agent", "operator", "both")))
            for each in futures:
                each.result()
        self.plane.until_settled()

    def omnipam(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of ours, as a person would run it."""
        return subprocess.run(
            [sys.executable, "-m", "omnipam.runtime.cli", *words, MODE, "--store=kubernetes"],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )

    # -- looking

    def held(self) -> dict[str, str]:
        """The agent's record: addresses by container."""
        return {container: given["ipv4"] for container, given in self.plane.agent.held().items()}

    def queued(self) -> list[str]:
        """Files of releases that wait."""
        return [path.name for path in (self.host.state / queue.FOLDER).glob("*") if path.name != "lock"]

    def is_right(self) -> None:
        """Every sandbox has one address, of the right pool and of a block of the node's; no two are the same, and no other is on record."""
        standing = self.kubelet.standing.values()
        self.kubelet.ask("STATUS")  # a call of the plugin carries out what an agent's start has missed
        self._no_release_waits()
        odd = set(self.held().items()) ^ {(sandbox.name, address) for _, sandbox, address in standing}
        assert not odd, f"on record or in a sandbox, but not both: {sorted(odd)}"
        blocks = {name: list(map(ip_network, each)) for name, each in allocated(self.admin, NODE).items()}
        for wanted, sandbox, address in standing:
            shown = [each.partition("/")[0] for each in self.host.addresses(sandbox)]
            assert shown == [address], f"{wanted} was given {address}, and its eth0 has {shown}"
            assert ip_address(address) in ip_network(RANGES[wanted.pool][0]), f"{wanted} has {address}"
            assert any(ip_address(address) in each for each in blocks.get(wanted.pool, ())), (
                f"{address} of {wanted} is in none of the node's blocks {blocks}"
            )
        assert len({address for _, _, address in standing}) == len(standing), "no address is two's"
        links = self.host.links()
        assert len(links) == len(standing), f"{len(standing)} sandboxes and these links: {sorted(links)}"

    def _no_release_waits(self) -> None:
        queued = self.queued()
        assert not queued, f"releases wait: {queued}"

    def is_clean(self) -> None:
        """`omnipam check` finds nothing."""
        checked = self.omnipam("check", f"--lease-name={OPERATOR}")
        assert (checked.returncode, checked.stdout) == (0, "nothing found\n"), checked.stdout + checked.stderr

    def pings(self) -> None:
        """From a pod of each pool to one of each other."""
        of = {wanted.pool: (sandbox, address) for wanted, sandbox, address in self.kubelet.standing.values()}
        assert of.keys() == RANGES.keys(), f"there are pods of {sorted(of)} only"
        for source, (sandbox, _) in of.items():
            for target, (_, address) in of.items():
                assert source == target or self.host.reaches(sandbox, address), f"{source} to {target}"

    def counted(self, name: str) -> dict[str, Any]:
        """What `omnipam pool show` says of a pool's blocks."""
        shown = self.omnipam("pool", "show", name, "--output=json")
        assert shown.returncode == 0, shown.stderr
        counted: dict[str, Any] = json.loads(shown.stdout)["status"]["ipv4"]
        return counted

    def nothing_is_left(self) -> None:
        """No address is held, queued, routed or on a link, and the node gives its blocks up."""
        self._no_release_waits()
        for what, left in (
            ("addresses", self.held()),
            ("links", self.host.links()),
            ("routes", self.host.run("ip", "route")),
        ):
            assert not left, f"{what} are left: {left}"
        self.plane.agent.until(lambda: allocated(self.admin, NODE) == {}, "all is given up", SETTLED_S)
        self.pools_are_whole()

    def pools_are_whole(self) -> None:
        """`omnipam pool show` says of every block that it is free."""
        for name, (cidr, mask) in RANGES.items():
            counted, blocks = self.counted(name), 2 ** (mask - ip_network(cidr).prefixlen)
            assert counted["total"] == counted["free"] == blocks, f"pool {name} of {blocks} blocks: {counted}"
