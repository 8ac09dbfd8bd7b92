"""Releases that cannot be carried out now, and those that earlier calls left."""

from __future__ import annotations

import os
import time

from .agent import Key, release
from .exchange import NoAnswer
from .netconf import IO_FAILED, TRY_LATER, Failure, Network

FOLDER, SUFFIX = "deletions", ".json"
"""The queue's, told twice: a look for what waits must not cost its import."""
LOCK_S, SETTLE_S = 10.0, 2.0
"""Seconds: a DEL waits for the queue's lock; a call takes for what earlier ones left."""


def put_off(network: Network, key: Key, lost: NoAnswer) -> None:
    """Leaves the release to a later call: a DEL has succeeded once nothing but time stands before it. Raises Failure if that fails."""
    from . import queue

    directory = os.path.join(network.state, FOLDER)
    try:
        with queue.locked(directory, wait_s=LOCK_S):
            if not lost.maybe_done:
                try:  # an agent that starts holds the lock from reading the queue until it can be reached
                    release(network.socket, key, SETTLE_S)
                    return
                except NoAnswer:
                    pass
            queue.put(directory, *key)
    except OSError as error:
        text = f"{error.filename or directory}: {error.strerror}; agent: {lost}"
        code = IO_FAILED if isinstance(error, queue.NoQueue) else TRY_LATER
        raise Failure(code, "node agent unreachable, and the release cannot be queued", text) from None


def settle(network: Network, key: Key | None = None) -> None:
    """Carries out what earlier calls queued, as far as it goes in time.

    key: of an ADD. Raises Failure 11 if it is among what remains, since its own late release would take the address that it is given;
    Failure 5 if the queue is no directory: its release could not wait there.
    """
    directory = os.path.join(network.state, FOLDER)
    try:
        if not any(name.endswith(SUFFIX) for name in os.listdir(directory)):
            return
    except NotADirectoryError:
        if key is None:
            return
        raise Failure(IO_FAILED, "releases wait there, and it is no directory", directory) from None
    except OSError:
        return  # there is none, which is the rule
    from . import queue

    deadline = time.monotonic() + SETTLE_S
    mine = queue.path_of(directory, *key) if key else None
    try:
        with queue.locked(directory, wait_s=SETTLE_S if mine and os.path.exists(mine) else 0.0) as held:
            waiting = queue.pending(directory) if held else []
            waiting.sort(key=lambda each: each.path != mine)
            for each in waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                try:
                    release(network.socket, each.key, left)
                except Failure:
                    queue.set_aside(each)
                else:
                    queue.remove(each)
    except (OSError, NoAnswer):
        pass  # they keep; what matters now is asked below
    if mine and os.path.exists(mine):
        raise Failure(TRY_LATER, "an earlier release of this attachment waits for the agent", mine)
