"""What an ECS instance knows of itself: security hardening mode, and the normal mode where the service has no tokens.

Paths and headers: Alibaba Cloud ECS documentation, "View instance metadata".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from omnipam.core.cidr import parse
from omnipam.core.errors import Invalid, Unavailable

from .cloud import INSTANCE_TYPE, ZONE, Asks, Cloud, Facts, checked, endpoint_in, is_true, labelled
from .token import TokenForm, session

ENDPOINT, V1_DISABLED = "OMNIPAM_ALIBABACLOUD_METADATA_ENDPOINT", "ALIBABA_CLOUD_IMDSV1_DISABLED"
TOKEN = TokenForm(
    "/latest/api/token", "X-aliyun-ecs-metadata-token-ttl-seconds", "X-aliyun-ecs-metadata-token"
)
META = "/latest/meta-data/"

_INSTANCE = re.compile(r"i-[a-z0-9]{8,64}")
_FORMS = {
    INSTANCE_TYPE: re.compile(r"ecs\.[a-z0-9][a-z0-9.-]{1,60}"),
    ZONE: re.compile(r"[a-z]{2,}-[a-z0-9-]{3,60}"),
    "vpc-id": re.compile(r"vpc-[a-z0-9]{8,64}"),
    "cidr-block": re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/[0-9]{1,2}"),
}
_PATHS = {
    INSTANCE_TYPE: "instance/instance-type",
    ZONE: "zone-id",
    "vpc-id": "vpc-id",
    "cidr-block": "vpc-cidr-block",
}
_PROVIDER_ID = re.compile(r"(?:[a-z]+://)?[a-z]{2,}-[a-z0-9-]{2,60}\.(?P<instance>i-[a-z0-9]{8,64})")


def endpoint(environ: Mapping[str, str]) -> str:
    return endpoint_in(environ, ENDPOINT, "http://100.100.100.200")


async def ask(metadata: Asks, environ: Mapping[str, str]) -> Facts:
    headers = await session(metadata, TOKEN, tokenless=not is_true(environ, V1_DISABLED))

    async def get(name: str, form: re.Pattern[str], path: str) -> str:
        return checked(name, (await metadata.get(META + path, headers)).strip(), form)

    instance = await get("instance-id", _INSTANCE, "instance-id")
    fields = {name: await get(name, _FORMS[name], path) for name, path in _PATHS.items()}
    try:
        parse(fields["cidr-block"])
    except Invalid as error:
        raise Unavailable(f"the instance metadata's cidr-block is none: {error}") from None
    return Facts(instance, fields)


def of_node(provider_id: str, labels: Mapping[str, str]) -> Facts | None:
    """`cn-hangzhou.i-bp1…`, before which newer controllers write `alicloud://`. The VPC is not to be had of a Node."""
    match = _PROVIDER_ID.fullmatch(provider_id)
    return None if match is None else Facts(match["instance"], labelled(labels, _FORMS))


CLOUD = Cloud("alibaba-cloud", tuple(_FORMS), MappingProxyType({}), endpoint, ask, of_node)
