"""Operator and agent in multi-pool mode on a real API server, killed and begun anew; the agent runs in the host's network namespace."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.agent_process import AgentProcess
from tests.kube.cluster import Cluster
from tests.kube.operated import operator
from tests.node.inside import Door, inside
from tests.node.netns import Host
from tests.operator_process import OperatorProcess

NODE = "whole"
USER = "omnipam-agent"
MODE = "--ipam=multi-pool"
OPERATES = (
    MODE,
    "--nodes-gc-interval=0",
    "--leader-election-lease-duration=2s",
    "--leader-election-renew-deadline=1s",
    "--leader-election-retry-period=300ms",
)
SERVES = (
    MODE,
    "--store=kubernetes",
    "--cool-down=0s",
    "--leak-grace=1s",
    "--ipam-cilium-node-update-rate=200ms",
    "--ipam-multi-pool-pre-allocation=default=0,blue=0,red=0",  # so that what nobody uses is given up
)


class Plane:
    """Both, from construction until `close`."""

    def __init__(self, cluster: Cluster, directory: Path, host: Host) -> None:
        self._cluster, self._directory, self._host = cluster, directory, host
        self._door = Door(cluster.url, host.name)
        self._config = cluster.kubeconfig(USER, server=self._door.url)
        self._lives = 0
        self.operator = self._operate()
        self.agent = self._serve()

    def kill(self, which: str) -> None:
        """agent, operator or both, at once; and their next lives begin."""
        doomed = [each for each in ("operator", "agent") if which in (each, "both")]
        for each in doomed:
            self.end(each)
        for each in doomed:
            self.begin(each)

    def end(self, which: str) -> None:
        """As a power cut would."""
        running = self.operator if which == "operator" else self.agent
        assert running.running, f"the {which} ended by itself: {running.text()[-4000:]}"
        running.kill()
        assert "Traceback" not in running.text(), running.text()[-4000:]

    def begin(self, which: str) -> None:
        """The next life of one that has ended."""
        if which == "operator":
            self.operator = self._operate()
        else:
            self.agent = self._serve()

    def ready(self) -> bool:
        """Whether the agent serves."""
        return self.agent.status()[0] == 200

    def until_settled(self) -> None:
        self.operator.until_leading()
        self.agent.until_ready()

    def stop(self, which: str) -> None:
        """In good order."""
        running = self.operator if which == "operator" else self.agent
        assert running.stop() == 0, running.text()[-4000:]
        assert "Traceback" not in running.text(), running.text()[-4000:]

    def close(self) -> None:
        self.agent.kill()
        self.operator.kill()
        self._door.stop()

    def _operate(self) -> OperatorProcess:
        self._lives += 1
        return operator(self._cluster, self._directory / "op", *OPERATES, name=f"operator-{self._lives}")

    def _serve(self) -> AgentProcess:
        """Where it sees the host's routes; its socket and state are where the plugins look for them."""
        start = partial(AgentProcess, self._directory, *SERVES, node=NODE, kubeconfig=self._config)
        return inside(self._host.name, start)
