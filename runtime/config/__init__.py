"""Configuration: Cilium's ConfigMap keys and ours, from files, the API, the environment and flags, into one `Config`."""

from __future__ import annotations

from .change import Change, apply_live, changed, refusals
from .config import Config
from .keys import KEYS, MODES, Key
from .load import InvalidConfig, Loaded, add_arguments, load, store_of
from .values import Endpoint, format_duration, read_duration
from .watch import Watched, fingerprint

__all__ = [
    "KEYS",
    "MODES",
    "Change",
    "Config",
    "Endpoint",
    "InvalidConfig",
    "Key",
    "Loaded",
    "Watched",
    "add_arguments",
    "apply_live",
    "changed",
    "fingerprint",
    "format_duration",
    "load",
    "read_duration",
    "refusals",
    "store_of",
]
