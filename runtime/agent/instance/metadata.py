"""HTTP to a metadata service: no proxy, no redirect, a bounded answer in bounded time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import aiohttp
from yarl import URL

from omnipam.core.errors import Unavailable

from ...kube.errors import one_line

LARGEST = 16 << 10
"""Bytes of an answer; what we ask for are single values."""


class Metadata:
    """`cloud.Asks` over HTTP. base: the service's URL, without a slash at its end. timeout_s: of one request."""

    def __init__(self, base: str, *, timeout_s: float) -> None:
        self._base, self._timeout_s = base, timeout_s

    async def __aenter__(self) -> Self:
        # trust_env is off: a proxy would answer with what it knows of its own machine.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, ceil_threshold=float("inf")),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, headers: Mapping[str, str]) -> str:
        status, body = await self._request("GET", path, headers)
        if status != 200:
            raise Unavailable(f"the instance metadata answered {status} to GET {self._base}{path}")
        return body

    async def put(self, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        return await self._request("PUT", path, headers)

    async def _request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        where = f"the instance metadata {self._base}"
        try:
            async with self._session.request(
                method, URL(self._base + path, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST:
                        response.close()
                        raise Unavailable(f"{where} answers {method} {path} with more than {LARGEST} bytes")
                return response.status, body.decode("utf-8", "replace")
        except TimeoutError:
            why = f"gives no answer in {self._timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            why = f"cannot be reached ({one_line(error.os_error.strerror or str(error.os_error))})"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = f"breaks off {method} {path} ({one_line(str(error)) or type(error).__name__})"
        raise Unavailable(
            f"{where} {why}; check that the agent is on the host's network, and no policy is between"
        )
