"""What an EC2 instance knows of itself: IMDSv2, and IMDSv1 where the service has no tokens.

Paths and headers: Amazon EC2 User Guide, "Access instance metadata" and "Instance metadata categories". Variables: AWS SDKs
and Tools Reference Guide, "IMDS client".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from omnipam.core.errors import Invalid

from ...config.values import shown
from .cloud import INSTANCE_TYPE, ZONE, Asks, Cloud, Facts, checked, endpoint_in, is_true, labelled
from .token import TokenForm, session

ENDPOINTS = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
ENDPOINT, MODE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"
DISABLED, V1_DISABLED = "AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_V1_DISABLED"
TOKEN = TokenForm("/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token")
META = "/latest/meta-data/"

_INSTANCE = re.compile(r"i-[0-9a-f]{8,32}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)
_FORMS = {
    INSTANCE_TYPE: re.compile(r"[a-z0-9][a-z0-9.-]{1,62}"),
    ZONE: re.compile(r"[a-z]{2,}-[a-z0-9-]{3,60}"),
    "vpc-id": re.compile(r"vpc-[0-9a-f]{8,32}"),
    "node-subnet-id": re.compile(r"subnet-[0-9a-f]{8,32}"),
}
_PROVIDER_ID = re.compile(r"aws://[^/]*/(?:(?P<zone>[^/]*)/)?(?P<instance>i-[0-9a-f]{8,32})")

DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "first-interface-index": 0,
        "use-primary-address": False,
        "disable-prefix-delegation": False,
        "delete-on-termination": True,
    }
)
"""Those of Cilium's agent, which writes them out; its operator does not bear a missing first-interface-index."""


def endpoint(environ: Mapping[str, str]) -> str:
    mode = environ.get(MODE, "").strip().lower() or "ipv4"
    if mode not in ENDPOINTS:
        raise Invalid(f"environment {MODE}: {shown(mode)} is no mode; write IPv4 or IPv6")
    return "" if is_true(environ, DISABLED) else endpoint_in(environ, ENDPOINT, ENDPOINTS[mode])


async def ask(metadata: Asks, environ: Mapping[str, str]) -> Facts:
    headers = await session(metadata, TOKEN, tokenless=not is_true(environ, V1_DISABLED))

    async def get(name: str, form: re.Pattern[str], path: str) -> str:
        return checked(name, (await metadata.get(META + path, headers)).strip(), form)

    instance = await get("instance-id", _INSTANCE, "instance-id")
    mac = await get("mac", _MAC, "mac")  # the primary interface's
    paths = {
        INSTANCE_TYPE: "instance-type",
        ZONE: "placement/availability-zone",
        "vpc-id": f"network/interfaces/macs/{mac}/vpc-id",
        "node-subnet-id": f"network/interfaces/macs/{mac}/subnet-id",
    }
    return Facts(instance, {name: await get(name, _FORMS[name], path) for name, path in paths.items()})


def of_node(provider_id: str, labels: Mapping[str, str]) -> Facts | None:
    """`aws:///eu-west-1a/i-0123456789abcdef0`. VPC and subnet are not to be had of a Node."""
    match = _PROVIDER_ID.fullmatch(provider_id)
    if match is None:
        return None
    fields = labelled(labels, _FORMS)
    zone = match["zone"] or ""
    if _FORMS[ZONE].fullmatch(zone):
        fields[ZONE] = zone
    return Facts(match["instance"], fields)


CLOUD = Cloud("eni", tuple(_FORMS), DEFAULTS, endpoint, ask, of_node)
