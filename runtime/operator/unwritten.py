"""Nodes whose grant the store refuses time and again: their objects cannot say so, so it is told everywhere else."""

from __future__ import annotations

from omnipam.core.drive import Drive
from omnipam.core.values import Finding, Problem

NOT_WRITTEN = "GrantNotWritten"
STATE_NOT_WRITTEN = "StateNotWritten"
TRIES = 3
"""So many may fail before it is more than a moment's trouble."""
NAMED = 10
"""Nodes that the finding names."""
TRYING_ON = "it is tried on; mend what the store complains of"


class Unwritten:
    """Who they are, and why. Whether it is over is the drive's to say: an object may be mended by others, too."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._why: dict[str, str] = {}
        self.kept = ""
        """Why what must outlive us could not be written; empty while it can."""

    def failed(self, name: str, why: str) -> Problem | None:
        """A try failed. Answers the node's problem when it has been one too many, once."""
        attempts = self._drive.attempts.get(name, 0)
        if attempts <= TRIES:
            return None
        new = attempts == TRIES + 1 or name not in self._why
        self._why[name] = why
        if not new:
            return None
        text, hint = _parted(why)
        return Problem(NOT_WRITTEN, f"the grant could not be written: {text}", hint)

    def over(self, name: str) -> bool:
        """It was written, or the node is no more. Whether there was anything to be over."""
        return self._why.pop(name, None) is not None

    def mended(self) -> list[str]:
        """Those whose objects show their grants all the same: others wrote them."""
        attempts = self._drive.attempts
        return [name for name in self._why if attempts.get(name, 0) <= TRIES]

    def standing(self) -> dict[str, str]:
        """Why, by name, sorted."""
        attempts = self._drive.attempts
        return {name: why for name, why in sorted(self._why.items()) if attempts.get(name, 0) > TRIES}

    def findings(self) -> tuple[Finding, ...]:
        """One for all of them, so that a missing right is one."""
        found: tuple[Finding, ...] = ()
        if self.kept:
            text, hint = _parted(self.kept)
            lost = "a restart would forget what is kept from being granted"
            found = (Finding(STATE_NOT_WRITTEN, (), f"{lost}, for it cannot be written: {text}", hint),)
        standing = self.standing()
        if not standing:
            return found
        text, hint = _parted(next(iter(standing.values())))
        names = list(standing)[:NAMED]
        how_many = "the grant of 1 node" if len(standing) == 1 else f"the grants of {len(standing)} nodes"
        more = " and others" if len(standing) > NAMED else ""
        objects = tuple(f"CiliumNode/{name}" for name in names)
        return (
            *found,
            Finding(
                NOT_WRITTEN,
                objects,
                f"{how_many} could not be written ({', '.join(names)}{more}): {text}",
                hint,
            ),
        )

    def unserved(self) -> int:
        """Those that lack their blocks only for that; who lacks them anyway, the allocator counts."""
        allocator, count = self._drive.allocator, 0
        for name in self.standing():
            node, grant = allocator.node(name), allocator.grant(name)
            count += node is not None and grant.blocks != node.holds.blocks and not grant.problems
        return count


def _parted(why: str) -> tuple[str, str]:
    """What is wrong and what to do, of an error's line."""
    text, _, hint = why.partition(" — ")
    return text, hint or TRYING_ON
