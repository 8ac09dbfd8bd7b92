"""A running configuration and its sources: what is taken over, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from omnipam.core.errors import Invalid, Unavailable
from omnipam.runtime.config import add_arguments, load
from omnipam.runtime.config.config import Config
from omnipam.runtime.metrics import Metrics
from omnipam.runtime.operator import reload as module
from omnipam.runtime.operator.reload import Reloader

OLD = {"cluster-pool-ipv4-cidr": "10.1.0.0/16"}
GROWN = {"cluster-pool-ipv4-cidr": "10.1.0.0/16,10.2.0.0/16"}
BAD = {"cluster-pool-ipv4-cidr": "10.1.0.0/99"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)


class World:
    """A reloader with its sources, and what came of it."""

    def __init__(
        self, directory: Path, keys: Mapping[str, str] | None = None, path: Path | None = None
    ) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        args = parser.parse_args(
            [] if path is None else ["--config" if path.is_file() else "--config-dir", str(path)]
        )
        env = {"XDG_STATE_HOME": str(directory)}
        self.loads = 0
        self.first = self.fetched = keys
        self.is_away = False
        self.refuse: str | None = None
        self.adopted: list[Config] = []
        self.refused: list[str] = []
        self.news = asyncio.Event()
        self.logs = LogCapture()
        self.metrics = Metrics(lambda: None, lambda: ())

        def read(newest: Mapping[str, str] | None) -> Any:
            self.loads += 1
            self.news.set()
            return load(args, env, self.first if newest is None else newest)

        self.reloader = Reloader(
            read(None),
            read,
            fetch=self._fetch,
            adopt=self._adopt,
            refused=self._refused,
            metrics=self.metrics,
            log=structlog.wrap_logger(None, processors=[self.logs]),
        )

    async def _fetch(self) -> Mapping[str, str] | None:
        if self.is_away:
            raise Unavailable("the server is away")
        return self.fetched

    def _adopt(self, config: Config) -> None:
        if self.refuse:
            raise Invalid(self.refuse)
        self.adopted.append(config)
        self.news.set()

    async def _refused(self, why: str) -> None:
        self.refused.append(why)
        self.news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def said(self, event: str) -> list[Any]:
        return [entry for entry in self.logs.entries if entry["event"].startswith(event)]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.ensure_future(world.reloader.run())
    yield world
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def pool(config: Config) -> list[str]:
    return [str(cidr) for cidr in config.cluster_pool_ipv4_cidr]


async def test_a_changed_config_map_is_taken_over(tmp_path: Path) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.reloader.configmap(OLD)
        world.reloader.configmap(GROWN)
        await world.until(lambda: world.adopted)
        assert pool(world.adopted[0]) == ["10.1.0.0/16", "10.2.0.0/16"]
        world.reloader.configmap(OLD)
        await world.until(lambda: len(world.adopted) == 2)
        assert world.metrics.reloads == {"adopted": 2}


@pytest.mark.parametrize("bad", [BAD, {}, {"cluster-pool-ipv4-cidr": ""}, OLD | {"ipam": "nonsense"}])
async def test_a_bad_one_changes_nothing_and_is_shown(tmp_path: Path, bad: dict[str, str]) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.reloader.configmap(bad)
        await world.until(lambda: world.refused)
        assert not world.adopted
        assert world.metrics.reloads == {"refused": 1}
        assert "\n" not in world.refused[0]
        (line,) = world.said("configuration refused")
        assert line["why"] in world.refused[0]
        assert not world.said("configuration accepted again")
        world.reloader.configmap(GROWN)  # compared with what runs, not with what was refused
        await world.until(lambda: world.adopted and world.said("configuration accepted again"))


async def test_a_refusal_that_is_taken_back_is_said(tmp_path: Path) -> None:
    """Also where what is good again is what runs anyway; and once."""
    async with running(World(tmp_path, OLD)) as world:
        world.reloader.configmap(BAD)
        await world.until(lambda: world.refused)
        for loads in (3, 4):
            world.fetched = OLD
            world.reloader.ask()
            await world.until(lambda loads=loads: world.loads == loads)
        assert not world.adopted
    assert len(world.said("configuration accepted again")) == 1


async def test_what_the_allocator_refuses_is_refused(tmp_path: Path) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.refuse = "that pool makes no sense"
        world.reloader.configmap(GROWN)
        await world.until(lambda: world.refused)
        assert world.refused == ["that pool makes no sense"]
        world.refuse, world.fetched = None, GROWN
        world.reloader.ask()
        await world.until(lambda: world.adopted)


async def test_what_needs_a_restart_is_said_once_and_the_rest_taken_over(tmp_path: Path) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.reloader.configmap(GROWN | {"cluster-name": "other"})
        await world.until(lambda: world.adopted)
        world.reloader.configmap(OLD | {"cluster-name": "other"})
        await world.until(lambda: len(world.adopted) == 2)
        assert world.adopted[1].cluster_name == "default"
        assert len(world.said("cluster-name: changed, and needs a restart")) == 1


@pytest.mark.parametrize("number", [1, 3])
async def test_a_signal_reads_everything_anew(tmp_path: Path, number: int) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.fetched = GROWN  # the watch has not shown it yet
        for _ in range(number):
            world.reloader.ask()
        await world.until(lambda: world.adopted)
        assert len(world.adopted) == 1


async def test_a_signal_while_the_server_is_away_goes_by_what_is_known(tmp_path: Path) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.is_away = True
        world.reloader.ask()
        await world.until(lambda: world.loads == 2)
        assert world.said("the ConfigMap could not be read")
        assert not world.adopted
        assert not world.refused


async def test_a_config_map_that_was_deleted_is_no_empty_one(tmp_path: Path) -> None:
    async with running(World(tmp_path, OLD)) as world:
        world.fetched = None
        world.reloader.ask()
        await world.until(lambda: world.loads == 2)
        assert not world.adopted
        assert not world.refused


def write(path: Path, keys: Mapping[str, str]) -> None:
    if path.suffix == ".yaml":
        path.write_text("".join(f"{key}: {value!r}\n" for key, value in keys.items()))
    else:
        path.mkdir(exist_ok=True)
        for key, value in keys.items():
            (path / key).write_text(value)


@pytest.mark.parametrize("name", ["config.yaml", "config"])
async def test_a_changed_file_or_directory_is_noticed_by_itself(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, OLD)
    async with running(World(tmp_path, path=path)) as world:
        write(path, GROWN)
        await world.until(lambda: world.adopted)
        write(path, BAD)
        await world.until(lambda: world.refused)
        write(path, OLD)
        await world.until(lambda: len(world.adopted) == 2)
        assert pool(world.adopted[1]) == ["10.1.0.0/16"]
        assert world.metrics.reloads == {"adopted": 2, "refused": 1}


async def test_a_mounted_config_map_is_swapped_as_a_whole(tmp_path: Path) -> None:
    """As kubelet does it: keys are links to ..data/KEY, and ..data is replaced by one rename."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for version, keys in (("..1", OLD), ("..2", GROWN)):
        (mount / version).mkdir()
        write(mount / version, keys)
    (mount / "..data").symlink_to("..1")
    (mount / "cluster-pool-ipv4-cidr").symlink_to("..data/cluster-pool-ipv4-cidr")
    async with running(World(tmp_path, path=mount)) as world:
        (mount / "..new").symlink_to("..2")
        (mount / "..new").rename(mount / "..data")
        await world.until(lambda: world.adopted)
        assert pool(world.adopted[0]) == ["10.1.0.0/16", "10.2.0.0/16"]


@pytest.mark.parametrize("content", ["", "cluster-pool-ipv4-cidr: [10.1.0.0/16, 10.2", "- a list", "\x00"])
async def test_a_file_that_is_half_written_or_empty_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    write(path, OLD)
    async with running(World(tmp_path, path=path)) as world:
        path.write_text(content)
        await world.until(lambda: world.refused)
        path.unlink()
        await world.until(lambda: len(world.refused) == 2)
        assert not world.adopted


async def test_a_signal_and_the_watch_do_not_refuse_the_same_change_twice(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write(path, OLD)
    async with running(World(tmp_path, path=path)) as world:
        write(path, BAD)
        world.reloader.ask()
        await world.until(lambda: world.refused)
        write(path, GROWN)
        await world.until(lambda: world.adopted)
        assert len(world.refused) == 1


async def test_a_file_whose_last_line_lost_its_end_looks_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "omnipam.yaml"
    path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16,10.2.0.0/16\n")
    async with running(World(tmp_path, path=path)) as world:
        path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16")
        await world.until(lambda: world.refused)
        assert "its last line has no end, as it had before" in world.refused[0]
        path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16,10.2.0.0/17\n")
        await world.until(lambda: world.adopted)
        assert pool(world.adopted[0]) == ["10.1.0.0/16", "10.2.0.0/17"]


async def test_a_file_that_never_ended_its_last_line_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "omnipam.yaml"
    path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16")  # as in a ConfigMap of `|-`
    async with running(World(tmp_path, path=path)) as world:
        path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16,10.2.0.0/16")
        await world.until(lambda: world.adopted)
        assert not world.refused
