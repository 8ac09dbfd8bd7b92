"""Where the database file is: `sqlite:///relative.db`, `sqlite:////absolute/path.db`, or the user's state directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from omnipam.core.errors import Invalid

SCHEME = "sqlite:///"
FORMS = "use sqlite:///relative.db or sqlite:////absolute/path.db"


def default_url(environ: Mapping[str, str]) -> str:
    """`omnipam/omnipam.db` under `$XDG_STATE_HOME`, else under `~/.local/state` (XDG Base Directory Specification 0.8).

    A relative `XDG_STATE_HOME` is ignored, as that specification demands. Raises Invalid where there is no home either.
    """
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            raise Invalid(
                "no place for the store: neither XDG_STATE_HOME nor HOME is an absolute path: set one, or pass --store"
            )
        state = os.path.join(home, ".local", "state")
    path = os.path.join(state, "omnipam", "omnipam.db")
    return SCHEME + path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def path_of(url: str) -> Path:
    """The file that a URL names; `%20` and the like are decoded. Raises Invalid."""
    if reason := fault(url):
        raise Invalid(f"store {url!r} {reason}: {FORMS}")
    return Path(unquote(url.removeprefix(SCHEME)))


def fault(url: str) -> str:
    """What is wrong with a URL, as what is said of it; empty: nothing."""
    if not url.startswith(SCHEME):
        return "is not a SQLite URL"
    rest = url.removeprefix(SCHEME)
    if "?" in rest or "#" in rest:
        return "has a query or fragment, which has no meaning here"
    path = unquote(rest)
    return "names no file" if not path or path.endswith("/") or path == ":memory:" or "\0" in path else ""


def is_there(path: Path) -> bool:
    """Whether the file exists. Raises Invalid where that cannot be seen."""
    try:
        return path.exists()
    except OSError as error:  # a directory that may not be entered, a name that is too long
        raise Invalid(
            f"store {path}: it cannot be looked at ({error.strerror}): "
            "make its directories accessible, or pass --store with another path"
        ) from error


def prepare_directory(path: Path) -> None:
    """Creates the file's directory, for its owner only. One that exists is left as it is. Raises Invalid."""
    missing = []
    directory = path.absolute().parent
    try:
        while not directory.exists():
            missing.append(directory)
            directory = directory.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        is_directory = path.is_dir()
        is_other = path.exists() and not is_directory and not path.is_file()
    except OSError as error:
        raise Invalid(
            f"store {path}: its directory cannot be created ({error.strerror}: {error.filename}): "
            "create it, or pass --store with another path"
        ) from error
    if is_directory:
        raise Invalid(f"store {path} is a directory: pass --store with the path of a file in it")
    if is_other:
        raise Invalid(f"store {path} is not a regular file: pass --store with another path")
