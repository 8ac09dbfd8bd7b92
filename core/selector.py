"""Label selectors as Kubernetes writes them on one line: `zone=a,tier in (x, y),!spot`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from .errors import Invalid

# k8s.io/apimachinery labels.Parse; keys and values are checked no further than they must be to be told apart.
_WORD = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_SET = re.compile(rf"({_WORD})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_WORD})\s*(==|=|!=)\s*({_WORD})?")
_THERE = re.compile(rf"(!?)\s*({_WORD})")


class Requirement(msgspec.Struct, frozen=True, gc=False):
    """One requirement. absent: the key is missing or has none of the values; values empty: whatever its value."""

    key: str
    values: tuple[str, ...] = ()
    absent: bool = False

    def met_by(self, labels: Mapping[str, str]) -> bool:
        there = self.key in labels and (not self.values or labels[self.key] in self.values)
        return there is not self.absent

    def __str__(self) -> str:
        if not self.values:
            return f"!{self.key}" if self.absent else self.key
        if len(self.values) == 1:
            return f"{self.key}{'!=' if self.absent else '='}{self.values[0]}"
        return f"{self.key} {'notin' if self.absent else 'in'} ({','.join(self.values)})"


Selector = tuple[Requirement, ...]
"""All of them must be met; empty: everything is selected."""


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether the labels meet every requirement."""
    return all(requirement.met_by(labels) for requirement in selector)


def selector_text(selector: Selector) -> str:
    """The selector on one line, as `parse_selector` reads it."""
    return ",".join(map(str, selector))


def parse_selector(text: str) -> Selector:
    """Reads a selector; an empty one selects everything. Raises Invalid."""
    found: list[Requirement] = []
    at = 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        for pattern in (_SET, _EQUAL, _THERE):
            match = pattern.match(text, at)
            rest = text[match.end() :].lstrip() if match else ""
            if match and (not rest or rest.startswith(",")):
                break
        else:
            raise Invalid(f"{text!r} is no label selector: {text[at:]!r} is not of the form key=value")
        found.append(_requirement(pattern, match, text))
        at = len(text) - len(rest)
        if rest:
            at += 1
            if not text[at:].strip():
                raise Invalid(f"{text!r} is no label selector: it ends with a comma")
    return tuple(found)


def _requirement(pattern: re.Pattern[str], match: re.Match[str], text: str) -> Requirement:
    if pattern is _THERE:
        return Requirement(match[2], absent=bool(match[1]))
    if pattern is _EQUAL:
        return Requirement(match[1], (match[3] or "",), absent=match[2] == "!=")
    values = tuple(sorted({value.strip() for value in match[3].split(",")}))
    if not match[3].strip():
        raise Invalid(f"{text!r} is no label selector: {match[1]} has no values")
    return Requirement(match[1], values, absent=match[2] == "notin")
