"""Layers into one checked Config: defaults, file or directory, ConfigMap, environment, flags; the last one wins."""

from __future__ import annotations

import argparse
from collections import ChainMap
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from omnipam.core.errors import Invalid

from ..sqlite.location import default_url
from . import sources
from .checks import line, problems
from .config import Config
from .keys import BOOL, BY_NAME, DURATION, KEYS, Key
from .modes import Known, Modes
from .sources import Layer, Setting
from .values import format_duration, shown

KNOWN = Known()
_FIRST_NAMES = 5  # of unknown keys, in their one summary line


class InvalidConfig(Invalid):
    """Everything that is wrong with a configuration. Its text is `problems`, one complete line each."""

    def __init__(self, problems: Collection[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Loaded(msgspec.Struct, frozen=True):
    """config; warnings: finished lines; path: the file or directory that was read, to be watched. ended: as in Layer."""

    config: Config
    warnings: tuple[str, ...]
    path: str | None
    ended: bool = True


class _Once(argparse.Action):
    """A flag whose second value would silently take the place of the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        args: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(args, self.dest)
        if before is not None:
            raise argparse.ArgumentError(
                self, f"given twice, {shown(before)} and {shown(values)}; keep one of them"
            )
        setattr(args, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--config-dir` and a flag for every key. None of them has a default: `load` knows those."""
    parser.allow_abbrev = False  # half a key's name must not set it
    group = parser.add_argument_group("configuration", "also read from OMNIPAM_KEY and CILIUM_KEY; flags win")
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--config", metavar="FILE", action=_Once, help="YAML: a flat mapping of keys, or a ConfigMap"
    )
    where.add_argument(
        "--config-dir", metavar="DIR", action=_Once, help="one file a key, as a ConfigMap is mounted"
    )
    for key in KEYS:
        text = f"{key.meaning} ({key.unit}; default: {_default_text(key)})".replace("%", "%%")
        flag, metavar = f"--{key.name}", key.kind.metavar
        if key.kind is BOOL:  # as in Go, --enable-ipv6 alone is --enable-ipv6=true
            group.add_argument(flag, dest=key.field, metavar=metavar, help=text, nargs="?", const="true")
        elif key.kind.many:
            group.add_argument(flag, dest=key.field, metavar=metavar, help=text, action="append")
        else:
            group.add_argument(flag, dest=key.field, metavar=metavar, help=text)


def _default_text(key: Key) -> str:
    return (key.unset if key.unset else key.default) or "empty"


def load(
    args: argparse.Namespace,
    env: Mapping[str, str],
    configmap: Mapping[str, str] | None = None,
    *,
    configmap_name: str = "kube-system/cilium-config",
    modes: Modes = KNOWN,
) -> Loaded:
    """Reads every source, checks the whole, and returns it.

    args: what `add_arguments` parsed (a missing attribute is a flag not given). configmap: `data` of the one read
    through the API. modes: what `ipam` may be.
    Raises InvalidConfig with every problem found; a file that cannot be read is the only one then.
    """
    path, layers = _layers(args, env)
    if configmap is not None:
        layers.insert(1 if path else 0, sources.from_mapping(configmap, f"ConfigMap {configmap_name}"))
    wrong = [problem for layer in layers for problem in layer.problems]
    settings = ChainMap(*(layer.settings for layer in reversed(layers)))
    store = settings["store"].text if "store" in settings else ""
    values: dict[str, object] = {}
    broken: set[str] = set()
    for key in KEYS:
        setting = settings.get(key.name)
        try:
            if key.name == "ipam" and setting and setting.text and not modes.has(setting.text, store):
                raise Invalid(f"{shown(setting.text)} is not a mode that is served here")
            values[key.field] = _value(key, setting)
        except Invalid as error:
            source = setting.source if setting else "default"
            advice = modes.advice(store) if key.name == "ipam" else _advice(key)
            wrong.append(line(key.name, str(error), source, advice))
            broken.add(key.name)
            values[key.field] = _read(key, key.default) if key.default is not None else None
    _fill(values, env)
    origin = {key.name: settings[key.name].source if key.name in settings else "default" for key in KEYS}
    config = msgspec.convert(values | {"sources": origin}, Config)
    wrong += problems(config, broken)
    if wrong:
        raise InvalidConfig(wrong)
    warnings = (*_unknown(layers), *_idle(config))
    return Loaded(config, warnings, path, all(layer.ended for layer in layers))


def store_of(args: argparse.Namespace, env: Mapping[str, str]) -> str:
    """What `store` will be, before the ConfigMap is read: whether there is one to read hangs on it. Raises as `load`."""
    _, layers = _layers(args, env)
    setting = ChainMap(*(layer.settings for layer in reversed(layers))).get("store")
    if setting is None:
        return default_url(env)
    try:
        return str(_value(BY_NAME["store"], setting))
    except Invalid:
        load(args, env)  # says this with all else that is wrong
        raise


def _layers(args: argparse.Namespace, env: Mapping[str, str]) -> tuple[str | None, list[Layer]]:
    """The file or directory, if any is named, and all layers but the ConfigMap's, weakest first."""
    file, directory = getattr(args, "config", None), getattr(args, "config_dir", None)
    for prefix in reversed(sources.PREFIXES):
        if file is None and directory is None:
            file, directory = env.get(f"{prefix}CONFIG"), env.get(f"{prefix}CONFIG_DIR")
    layers = [sources.from_environment(env), sources.from_flags(args)]
    if file is not None and directory is not None:
        raise InvalidConfig(
            [f"config: {shown(file)} and config-dir {shown(directory)} are both given; keep one of them"]
        )
    try:
        if file is not None:
            layers.insert(0, sources.from_file(file))
        elif directory is not None:
            layers.insert(0, sources.from_directory(directory))
    except Invalid as error:
        raise InvalidConfig([f"{'config' if file is not None else 'config-dir'}: {error}"]) from None
    return (file if file is not None else directory), layers


def _value(key: Key, setting: Setting | None) -> object:
    """The typed value, None where nothing set it and its default hangs on others. Raises Invalid with the reason."""
    if setting is None:
        return None if key.default is None else _read(key, key.default)
    if not setting.text and not key.optional and key.kind.many:
        return ()  # for the checks, which know what empty means there
    if not setting.text and not key.optional:
        raise Invalid("set but empty")
    value = _read(key, setting.text)
    if key.choices and value not in key.choices:
        raise Invalid(f"{shown(setting.text)} is none of the values it can have")
    if key.least is not None and isinstance(value, int | float) and value < key.least:
        raise Invalid(f"{shown(setting.text)} is too small")
    return value


def _advice(key: Key) -> str:
    if key.choices:
        return f"use one of {', '.join(key.choices)}"
    if key.least is None:
        return key.kind.advice
    least = format_duration(key.least) if key.kind is DURATION else f"{key.least:g}"
    return f"{key.kind.advice}, at least {least}"


def _read(key: Key, text: str) -> object:
    return "" if not text and key.optional and not key.kind.many else key.kind.read(text)


def _fill(values: dict[str, object], env: Mapping[str, str]) -> None:
    """Puts in the defaults that hang on other keys or on the machine."""
    if (
        values["cluster_pool_ipv6_mask_size"] is None
    ):  # Helm's pair for the default pool, else Cilium's own default
        values["cluster_pool_ipv6_mask_size"] = 120 if values["cluster_pool_ipv6_cidr"] is None else 112
    for family in ("ipv4", "ipv6"):
        field = f"cluster_pool_{family}_cidr"
        if values[field] is None:
            used = values["ipam"] == "cluster-pool" and values[f"enable_{family}"]
            key = BY_NAME[f"cluster-pool-{family}-cidr"]
            values[field] = key.kind.read(key.unset) if used else ()
    if values["store"] is None:
        values["store"] = default_url(env)


def _idle(config: Config) -> tuple[str, ...]:
    """One line for each key of Cilium's that is set where it would do something there, and does nothing here."""
    key = "multi-pool-migration-workers"
    at_work = config.ipam == "multi-pool" and config.enable_cluster_pool_to_multi_pool_migration
    if not at_work or config.sources[key] == "default":
        return ()
    return (f"{key}: {BY_NAME[key].meaning} ({config.sources[key]}); remove it",)


def _unknown(layers: Collection[Layer]) -> tuple[str, ...]:
    """One line for all names that are no keys of ours; never their values."""
    names = [name for layer in layers for name in layer.unknown]
    if not names:
        return ()
    first = ", ".join(shown(name) for name in names[:_FIRST_NAMES]) + (
        ", …" if len(names) > _FIRST_NAMES else ""
    )
    counts = ", ".join(f"{len(layer.unknown)} in {layer.label}" for layer in layers if layer.unknown)
    return (
        f"ignored {len(names)} {'keys that are' if len(names) > 1 else 'key that is'} not omnipam's: {first} ({counts})",
    )
