"""A running configuration and a newer one: what changed, what of it can be applied, and what must be refused."""

from __future__ import annotations

import msgspec

from omnipam.core.cidr import FAMILIES

from .checks import line, problems
from .config import Config
from .keys import KEYS, Key
from .values import format_cidrs, shown


class Change(msgspec.Struct, frozen=True):
    """Keys whose value differs, in the table's order. live: applied by a reload; restart: they wait for one."""

    live: tuple[str, ...]
    restart: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """The line about what waits, None if nothing does."""
        if not self.restart:
            return None
        return f"{', '.join(self.restart)}: changed, and needs a restart; the running value stays until then"


def changed(old: Config, new: Config) -> Change:
    """Compares values, not where they came from. A pool whose mode or family waits for a restart waits with it."""
    differing = [key for key in KEYS if getattr(old, key.field) != getattr(new, key.field)]
    live = tuple(key.name for key in differing if _live(key, old, new))
    return Change(live, tuple(key.name for key in differing if key.name not in live))


def _live(key: Key, old: Config, new: Config) -> bool:
    if not key.live or old.ipam != new.ipam:
        return False
    family = next((family for family in FAMILIES if f"-{family}-" in key.name), None)
    return family is None or (family in old.families) == (family in new.families)


def apply_live(old: Config, new: Config) -> Config:
    """`old` with the live changes of `new`; everything else, sources included, as it was."""
    names = set(changed(old, new).live)
    fields = {key.field: getattr(new, key.field) for key in KEYS if key.name in names}
    origin = {name: (new if name in names else old).sources[name] for name in old.sources}
    return msgspec.structs.replace(old, **fields, sources=origin)


def refusals(old: Config, new: Config) -> tuple[str, ...]:
    """Why a valid `new` must not replace a running `old`, as finished lines; empty if it may.

    A list that was set and is now empty, and a pool whose key is gone, look like a file cut short: they would give up
    reserved ranges, or silently move the cluster to the default pool.
    """
    lines = []
    for key in KEYS:
        if key.name not in changed(old, new).live or not key.kind.many:
            continue
        before, source = shown(format_cidrs(getattr(old, key.field))), new.sources[key.name]
        if source == "default" and not key.optional:
            step = "set it, or restart to use the default pool"
            lines.append(
                line(
                    key.name,
                    f"was {before} and is gone: a running pool is not emptied",
                    "no source sets it",
                    step,
                )
            )
        elif source != "default" and not getattr(new, key.field):
            lines.append(
                line(key.name, f"was {before} and is now empty", source, "remove the key to clear it")
            )
    return tuple(lines) or tuple(problems(apply_live(old, new), frozenset()))
