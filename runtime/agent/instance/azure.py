"""What an Azure VM knows of itself: its resource id.

Path, header and version: Azure documentation, "Azure Instance Metadata Service". A member of a Uniform scale set is
`…/virtualMachineScaleSets/SET/virtualMachines/0`, one of a Flexible set an ordinary VM `…/virtualMachines/SET_0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from .cloud import Asks, Cloud, Facts, checked, endpoint_in

ENDPOINT = "OMNIPAM_AZURE_METADATA_ENDPOINT"
RESOURCE_ID = "/metadata/instance/compute/resourceId?api-version=2021-02-01&format=text"
HEADERS = {"Metadata": "true"}

_NAME = r"[^/\s\x00-\x1f]{1,90}"
_RESOURCE = re.compile(
    rf"/subscriptions/{_NAME}/resourcegroups/{_NAME}/providers/microsoft\.compute"
    rf"/(?:virtualmachinescalesets/{_NAME}/virtualmachines/[0-9]{{1,9}}|virtualmachines/{_NAME})"
)


def endpoint(environ: Mapping[str, str]) -> str:
    return endpoint_in(environ, ENDPOINT, "http://169.254.169.254")


async def ask(metadata: Asks, environ: Mapping[str, str]) -> Facts:
    text = (await metadata.get(RESOURCE_ID, HEADERS)).strip().lower()
    return Facts(checked("resource id", text, _RESOURCE))


def of_node(provider_id: str, labels: Mapping[str, str]) -> Facts | None:
    """`azure:///subscriptions/…`, in whatever mixture of cases the controller wrote."""
    scheme, _, resource = provider_id.lower().partition("://")
    return Facts(resource) if scheme == "azure" and _RESOURCE.fullmatch(resource) else None


CLOUD = Cloud("azure", (), MappingProxyType({}), endpoint, ask, of_node)
