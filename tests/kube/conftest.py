"""Every test here needs a real API server; where there is none they are skipped, and the summary says so loudly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from tests.kube import cleanup
from tests.kube.apiserver import ApiServer
from tests.kube.binary import NoServer, server_binary
from tests.kube.cluster import Cluster
from tests.kube.external import VARIABLE, ExternalCluster, cannot

HERE = Path(__file__).parent
NO_SERVER = pytest.StashKey[str]()
"""Why our own server cannot be had; unset if it can."""

StartApiServer = Callable[..., ApiServer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kube)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test starts: no test's timeout is made for that."""
    if session.config.option.collectonly or VARIABLE in os.environ:
        return
    if not any(HERE in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        if capture:
            stack.enter_context(capture.global_and_fixture_disabled())
        try:
            server_binary()
        except NoServer as error:
            session.config.stash[NO_SERVER] = str(error)


@pytest.fixture(scope="session")
def start_apiserver(request: pytest.FixtureRequest) -> Iterator[StartApiServer]:
    """A function that starts a server of our own with ApiServer's keywords; call `stop()` or leave that to the end."""
    why = request.config.stash.get(NO_SERVER, None)
    if VARIABLE in os.environ:
        why = f"needs a server of our own, and {VARIABLE} is set"
    with ExitStack() as stack:

        def start(**options: object) -> ApiServer:
            if why:
                cannot(why)
            return stack.enter_context(cast(StartApiServer, ApiServer)(**options))

        yield start


@pytest.fixture(scope="session")
def apiserver(start_apiserver: StartApiServer) -> Iterator[Cluster]:
    """The server that tests share: any cluster, so ask it only what Cluster promises, and break nothing."""
    named = os.environ.get(VARIABLE)
    with ExternalCluster(Path(named)) if named else start_apiserver() as cluster:
        yield cluster


@pytest.fixture
def cluster(apiserver: Cluster) -> Iterator[Cluster]:
    """The shared server; what the test leaves in it of nodes, pools, leases, config maps and events is deleted."""
    before = cleanup.content(apiserver.admin)
    yield apiserver
    cleanup.restore(apiserver.admin, before)
