"""Our definitions: a superset of Cilium's, labelled below any release that knows more."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from omnipam.runtime.kube.definitions import ERROR_FIELD, LABEL, PLURALS, has_field, schema_version, shipped

FACTS = ("type", "format", "minimum", "maximum", "minLength", "minItems", "enum", "required")


def tree(plural: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(shipped(plural))
    return decoded


def theirs(plural: str) -> dict[str, Any]:
    path = files("omnipam.fixtures") / "kube_objects" / f"crd-{plural}-1.17.json"
    decoded: dict[str, Any] = json.loads(path.read_text())
    return decoded


def schema(definition: dict[str, Any]) -> dict[str, Any]:
    (version,) = definition["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def fields(part: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    found = {path: {key: part[key] for key in FACTS if key in part}}
    for key, inner in part.get("properties", {}).items():
        found |= fields(inner, f"{path}.{key}")
    if "items" in part:
        found |= fields(part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        found |= fields(part["additionalProperties"], f"{path}{{}}")
    return found


@pytest.mark.parametrize("plural", PLURALS)
def test_ours_are_a_superset_of_ciliums(plural: str) -> None:
    ours, cilium = fields(schema(tree(plural))), fields(schema(theirs(plural)))
    assert {path: ours.get(path) for path in cilium} == cilium
    assert len(ours) > len(cilium)
    for key in ("group", "names", "scope", "conversion"):
        assert tree(plural)["spec"][key] == theirs(plural)["spec"][key]
    for key in ("name", "served", "storage", "subresources", "additionalPrinterColumns"):
        assert tree(plural)["spec"]["versions"][0].get(key) == theirs(plural)["spec"]["versions"][0].get(key)


@pytest.mark.parametrize("plural", PLURALS)
def test_ours_are_newer_than_1_17s_and_older_than_any_release_that_knows_more(plural: str) -> None:
    label = schema_version(tree(plural)["metadata"]["labels"][LABEL])
    assert schema_version(theirs(plural)["metadata"]["labels"][LABEL]) < label < schema_version("1.30.8")


def test_labels_compare_as_numbers() -> None:
    assert (
        schema_version("1.9.1")
        < schema_version("1.30")
        < schema_version("1.30.2")
        < schema_version("1.30.11")
    )
    assert schema_version("1.30") == schema_version("1.30.0") == schema_version("v1.30.0-rc.1")
    assert schema_version("") == schema_version("none") == () < schema_version("0.1")


@pytest.mark.parametrize(
    ("part", "has"),
    [
        (None, False),
        ({}, False),
        ({"x-kubernetes-preserve-unknown-fields": True}, True),
        ({"properties": {"status": {"x-kubernetes-preserve-unknown-fields": True}}}, True),
        (
            {
                "properties": {
                    "status": {"properties": {"ipam": {"additionalProperties": {"type": "string"}}}}
                }
            },
            False,
        ),
        ({"properties": {"status": {"additionalProperties": {"additionalProperties": True}}}}, False),
    ],
)
def test_whether_a_schema_keeps_a_field(part: dict[str, Any] | None, has: bool) -> None:
    assert has_field(part, ERROR_FIELD) is has


def test_both_generations_keep_the_error() -> None:
    assert has_field(schema(tree("ciliumnodes")), ERROR_FIELD)
    assert has_field(schema(theirs("ciliumnodes")), ERROR_FIELD)
    assert not has_field(schema(theirs("ciliumpodippools")), ERROR_FIELD)
