"""What is wished for a node in a cloud: by flags of the agent, and, stronger, by the CNI configuration that it reads.

The configuration is Cilium's custom one, a plugin's or a list's; of it Cilium's agent reads the sections `ipam`, `eni`, `azure`
and `alibaba-cloud`, which have the fields of the CiliumNode's spec.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import msgspec

from omnipam.core.errors import Invalid

from ...config.values import shown
from .cloud import Warns
from .wish import WISHES

LARGEST = 1 << 20
PLUGIN, OURS = "cilium-cni", "omnipam-cni"
Sections = dict[str, dict[str, object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--read-cni-conf` and Cilium's flags for the node's own wishes."""
    group = parser.add_argument_group("in the modes eni, azure, alibabacloud")
    group.add_argument(
        "--read-cni-conf",
        metavar="FILE",
        help="a CNI configuration whose ipam, eni, azure, alibaba-cloud apply",
    )
    for wish in WISHES:
        if wish.flag:
            group.add_argument(f"--{wish.flag}", metavar=wish.form.metavar, help=wish.meaning)


def texts_of(args: argparse.Namespace) -> dict[str, str]:
    """The flags that were given, by their names without dashes, as they were written."""
    given = {wish.flag: getattr(args, wish.flag.replace("-", "_"), None) for wish in WISHES if wish.flag}
    return {flag: str(text).strip() for flag, text in given.items() if text is not None}


def wishes_of(mode: str, texts: Mapping[str, str], conf: Path | None, log: Warns) -> Sections:
    """Return the sections of a CiliumNode's spec that are wished for in this mode; empty values wish for nothing.

    texts: flags (or keys of the same names) as they were written. conf: the CNI configuration, which is stronger.
    Raises Invalid for the first value that is none.
    """
    found: Sections = {}
    unheard = []
    for wish in WISHES:
        text = texts.get(wish.flag, "") if wish.flag else ""
        if not text:
            continue
        if mode not in wish.modes:
            unheard.append(wish.flag)
            continue
        try:
            value = wish.form.read(text)
        except Invalid as error:
            raise Invalid(f"{wish.flag}: {error}; write it as {wish.form.metavar}") from None
        if value or wish.keeps_zero:
            found.setdefault(wish.section, {})[wish.name] = value
    if unheard:
        log.warning("settings for another cloud are ignored", mode=mode, settings=", ".join(unheard))
    for section, fields in (wishes_in(conf, mode, log) if conf is not None else {}).items():
        found.setdefault(section, {}).update(fields)
    return found


def wishes_in(path: Path, mode: str, log: Warns) -> Sections:
    """Return the sections that the CNI configuration has for this mode. Unknown fields of a cloud's section are warned of.

    Raises Invalid if it cannot be read, is no CNI configuration, or a value is not what the CiliumNode takes.
    """
    conf = _netconf(path)
    found: Sections = {}
    heard = {(wish.section, wish.name): wish for wish in WISHES if mode in wish.modes}
    for section in dict.fromkeys(section for section, _ in heard):
        given = conf.get(section)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise Invalid(f"{path}: {section}: {shown(repr(given))} is no object; write its fields in braces")
        # `ipam` is CNI's own section, too: a plugin's fields stand beside ours.
        unknown = sorted(str(name) for name in given if (section, name) not in heard and section != "ipam")
        if unknown:
            log.warning(
                "the CNI configuration has fields that are ignored",
                path=str(path), section=section, fields=", ".join(map(shown, unknown)),
            )  # fmt: skip
        for name, value in given.items():
            wish = heard.get((section, name))
            if wish is None or value is None:
                continue
            try:
                taken = wish.form.take(value)
            except Invalid as error:
                raise Invalid(f"{path}: {section}.{name}: {error}; write it as {wish.form.metavar}") from None
            if taken or wish.keeps_zero:
                found.setdefault(section, {})[name] = taken
    return found


def _netconf(path: Path) -> dict[object, object]:
    """Cilium's plugin in a list of plugins, else the one whose addresses come from us, else the file's object."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Invalid(f"read-cni-conf: {path} cannot be read ({why}); name a CNI configuration") from None
    if len(body) > LARGEST:
        raise Invalid(f"read-cni-conf: {path} is larger than {LARGEST} bytes; name a CNI configuration")
    try:
        conf = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Invalid(f"read-cni-conf: {path} is not JSON ({error}); name a CNI configuration") from None
    if not isinstance(conf, dict):
        raise Invalid(f"read-cni-conf: {path} holds no object; name a CNI configuration")
    plugins = conf.get("plugins")
    listed = [each for each in plugins if isinstance(each, dict)] if isinstance(plugins, list) else []
    for each in listed:
        if each.get("type") == PLUGIN:
            return each
    for each in listed:
        ipam = each.get("ipam")
        if isinstance(ipam, dict) and ipam.get("type") == OURS:
            return each
    return conf
