"""Network namespaces that stand for a host and its pods, and a container runtime's calls of real main plugins in them.

The host is a namespace as well: nothing that a plugin makes touches the machine's own links, and hosts do not see each other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from omnipam.runtime.cni.install import install_plugin, interpreter

PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
"""Where Debian and the CNI project's own releases put theirs."""
_NEEDED = ("ptp", "bridge")
_TIMEOUT_S = 120.0


class Failed(Exception):
    """A plugin's error object. code, msg, details: its members."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(document))
        self.code = document["code"]
        self.msg = document["msg"]
        self.details = document.get("details", "")


def plugins() -> Path | None:
    """The folder of the main plugins, if there is one."""
    folders = (Path(folder) for folder in PLUGINS)
    return next((folder for folder in folders if all((folder / name).exists() for name in _NEEDED)), None)


def obstacle() -> str | None:
    """Why namespaces cannot be had here, None if they can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces; run as root"
    missing = [word for word in ("ip", "ping") if shutil.which(word) is None]
    if missing or plugins() is None:
        what = ", ".join([*missing, *([] if plugins() else ["the CNI plugins bridge and ptp"])])
        return f"not installed: {what}; run tests/node/setup.sh as root"
    name = f"omnipam-try-{uuid4().hex[:8]}"
    script = f"ip netns add {name} && ip -n {name} link add name a type veth peer name b; e=$?; ip netns delete {name}; exit $e"
    tried = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"the kernel refuses network namespaces: {tried.stderr.strip().splitlines()[-1]}"
    return None


@dataclass(frozen=True)
class Pod:
    """One sandbox. name: of its namespace, and its container id. uid: the Pod's; empty: the runtime does not tell it."""

    name: str
    owner: str
    uid: str = ""

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.name}"


class Host:
    """A host's namespace, from construction until `close`, with the installed plugin in `folder`/bin."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent.sock"
        self.state = folder / "state"
        self._id = uuid4().hex[:8]
        self.name = f"omnipam-{self._id}"
        self.bin = folder / "bin"
        self._pods: list[Pod] = []
        install_plugin(self.bin, python=interpreter())
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Every namespace is gone; with it its links."""
        for name in (*(pod.name for pod in self._pods), self.name):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pod(self, owner: str, uid: str = "") -> Pod:
        """A fresh namespace. owner: namespace/name as Kubernetes has it."""
        pod = Pod(f"omnipam-{self._id}-{len(self._pods)}", owner, uid)
        self._pods.append(pod)
        _run("ip", "netns", "add", pod.name)
        _run("ip", "-n", pod.name, "link", "set", "lo", "up")
        return pod

    def conf(
        self, type: str, name: str = "podnet", *, ipam: Mapping[str, object] | None = None, **more: object
    ) -> dict[str, Any]:
        """A network configuration of that main plugin, delegating to ours."""
        own: dict[str, object] = {
            "type": "omnipam-cni",
            "socket": str(self.socket),
            "stateDir": str(self.state),
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"cniVersion": "1.0.0", "name": name, "type": type, "ipam": own | dict(ipam or {})} | more

    def call(self, verb: str, conf: Mapping[str, Any], pod: Pod) -> Any:
        """What the main plugin answers, None for nothing. Raises Failed."""
        folder = plugins()
        assert folder
        namespace, _, name = pod.owner.partition("/")
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": pod.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{folder}:{self.bin}",
            "CNI_ARGS": f"{args};K8S_POD_UID={pod.uid}" if pod.uid else args,
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, folder / str(conf["type"])],
            input=json.dumps(conf).encode(),
            env=environ,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
        if done.returncode:
            try:
                raise Failed(json.loads(done.stdout))
            except ValueError:
                raise AssertionError(f"{verb}: no error object: {done.stdout!r} {done.stderr!r}") from None
        return json.loads(done.stdout) if done.stdout.strip() else None

    def run(self, *words: str) -> str:
        """What a command prints that runs in the host's namespace."""
        return _run("ip", "netns", "exec", self.name, *words)

    def links(self) -> set[str]:
        """Names of the host's links but lo."""
        listed = json.loads(_run("ip", "-n", self.name, "-j", "link", "show"))
        return {link["ifname"] for link in listed} - {"lo"}

    def addresses(self, pod: Pod) -> list[str]:
        """The addresses of the pod's eth0 with their lengths, none of the link-local ones; empty without an eth0."""
        shown = subprocess.run(
            ["ip", "-n", pod.name, "-j", "address", "show", "dev", "eth0"], capture_output=True, check=False
        )
        return [
            f"{each['local']}/{each['prefixlen']}"
            for link in (json.loads(shown.stdout) if shown.returncode == 0 else [])
            for each in link["addr_info"]
            if each["scope"] == "global"
        ]

    @staticmethod
    def reaches(pod: Pod, address: str) -> bool:
        """Whether it gets an answer to a ping; three tries, since neighbours have yet to be found."""
        words = ["ip", "netns", "exec", pod.name, "ping", "-c", "1", "-W", "2", address]
        return any(subprocess.run(words, capture_output=True, check=False).returncode == 0 for _ in range(3))


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout
