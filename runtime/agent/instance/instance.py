"""The instance's id and what its CiliumNode's spec says of it, from its cloud and from what was wished."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from omnipam.core.errors import Invalid, Unavailable

from ...config.values import shown
from . import alibabacloud, aws, azure
from .cloud import Cloud, Facts, Warns

CLOUDS: dict[str, Cloud] = {"eni": aws.CLOUD, "azure": azure.CLOUD, "alibabacloud": alibabacloud.CLOUD}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Between two tries; each is twice the one before. One machine asks its own host: nothing to scatter."""


class Instance(msgspec.Struct, frozen=True):
    """instance_id: for `spec.instance-id`, never empty. spec: to be merged, section by section, into the CiliumNode's `spec`.

    missing: fields of the cloud's section that nobody could tell; asking again later may.
    """

    instance_id: str
    spec: dict[str, object]
    missing: tuple[str, ...] = ()


async def instance_of(
    mode: str,
    *,
    environ: Mapping[str, str],
    log: Warns,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    provider_id: str = "",
    labels: Mapping[str, str] | None = None,
    wishes: Mapping[str, Mapping[str, object]] | None = None,
    patience_s: float = 60.0,
    timeout_s: float = 2.0,
) -> Instance:
    """Return what this machine is, asked of the mode's cloud.

    mode: eni, azure or alibabacloud. provider_id, labels: the Node's, used where the metadata does not answer for patience_s
    (clock's seconds). wishes: what `wishes_of` made. Where the metadata differs from a wish, it wins, and a warning says so.
    timeout_s: of one request; the service is on the same host, and answers in milliseconds.
    Raises Invalid for what a person must change, Unavailable if neither metadata nor Node told: ask again later.
    """
    cloud = CLOUDS.get(mode)
    if cloud is None:
        raise Invalid(f"ipam: mode {mode} has no instance metadata; those that have are {', '.join(CLOUDS)}")
    told = cloud.of_node(provider_id.strip(), labels or {})
    asking = _Asking(cloud, environ, log, clock, sleep, patience_s, timeout_s)
    facts = await asking.facts(provider_id, told)
    if told is not None and told.instance_id != facts.instance_id:
        log.warning(
            "the Node's providerID is not what the instance metadata says: the metadata is used",
            provider_id=provider_id,
            instance_id=facts.instance_id,
        )
    return _merged(cloud, facts, wishes or {}, log)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Until there is an answer, or patience ends."""

    cloud: Cloud
    environ: Mapping[str, str]
    log: Warns
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    patience_s: float
    timeout_s: float

    async def facts(self, provider_id: str, told: Facts | None) -> Facts:
        """The metadata's, else what the Node told."""
        base = self.cloud.endpoint(self.environ)
        answer = (
            await self._answer(base) if base else "the instance metadata is switched off by the environment"
        )
        if isinstance(answer, Facts):
            return answer
        if told is None:
            node = f"providerID {shown(provider_id)} names none" if provider_id else "providerID is empty"
            raise Unavailable(f"the instance's id is not known: {answer}; and the Node's {node}")
        self.log.warning("facts of this instance are the Node's: the metadata has none", why=answer)
        return told

    async def _answer(self, base: str) -> Facts | str:
        """The facts, or why there are none. What is wrong is said when it begins, and when it changes."""
        from .metadata import Metadata  # here, because aiohttp is optional, and slow to import

        until, pause, said = self.clock() + self.patience_s, FIRST_PAUSE_S, ""
        async with Metadata(base, timeout_s=self.timeout_s) as metadata:
            while True:
                try:
                    return await self.cloud.ask(metadata, self.environ)
                except Unavailable as error:
                    why = str(error)
                left = until - self.clock()
                if left <= 0:
                    return why
                if why != said:
                    self.log.warning("the instance metadata is asked again", why=why)
                    said = why
                await self.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_S)


def _merged(cloud: Cloud, facts: Facts, wishes: Mapping[str, Mapping[str, object]], log: Warns) -> Instance:
    wished = wishes.get(cloud.section, {})
    for name, fact in sorted(facts.fields.items()):
        if wished.get(name, fact) != fact:
            log.warning(
                "a wish that the instance decides is ignored",
                key=f"{cloud.section}.{name}",
                wished=wished[name],
                actual=fact,
            )
    section = {**cloud.defaults, **wished, **facts.fields}
    missing = tuple(name for name in cloud.known if name not in section)
    if missing:
        log.warning("the operator may lack what it needs of this instance", missing=", ".join(missing))
    spec: dict[str, object] = {"instance-id": facts.instance_id}
    spec |= {
        name: dict(fields) for name, fields in sorted({**wishes, cloud.section: section}.items()) if fields
    }
    return Instance(facts.instance_id, spec, missing)
