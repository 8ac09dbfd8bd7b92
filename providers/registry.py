"""Finds a mode's provider by name: ours directly, others' by entry point (reading those costs a start more than importing ours)."""

from __future__ import annotations

from importlib import import_module

from omnipam.core.allocator import Provider
from omnipam.core.errors import Invalid

GROUP = "omnipam.providers"
OURS = {
    "cluster-pool": "omnipam.providers.cluster_pool",
    "kubernetes": "omnipam.providers.kubernetes",
    "multi-pool": "omnipam.providers.multi_pool",
}


def find(mode: str) -> Provider:
    """The provider of a mode. Raises Invalid, naming the modes there are."""
    if mode in OURS:
        provider = import_module(OURS[mode]).PROVIDER
        if not isinstance(provider, Provider):  # pragma: no cover - a broken installation
            raise Invalid(f"{OURS[mode]}.PROVIDER is not a provider")
        return provider
    from importlib.metadata import entry_points

    others = entry_points(group=GROUP)
    if mode not in others.names:
        raise Invalid(f"ipam: {mode!r} is not a mode known here; use one of {', '.join(modes())}")
    provider = others[mode].load()
    if not isinstance(provider, Provider):
        raise Invalid(f"ipam: {mode!r} is registered as {others[mode].value}, which is not a Provider")
    return provider


def modes() -> tuple[str, ...]:
    """Every mode that is installed, sorted."""
    from importlib.metadata import entry_points

    return tuple(sorted({*OURS, *entry_points(group=GROUP).names}))
