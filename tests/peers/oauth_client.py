"""Gets itself a token for an MCP server through the Python SDK, as a person or as a program, and calls its tools.

python oauth_client.py '{"url": "http://…/mcp", "calls": [{"name": "echo", "arguments": {…}}, …], "redirect": "http://…/cb",
                         "era": "legacy" | "auto", "cimd": "https://…/client.json",
                         "machine": {"id": "…", "secret": "…", "issuer": "…"}}'

As oauth_client.mjs, also in what it prints.
"""

import base64
import html
import json
import re
import sys
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import anyio
import httpx2
from mcp.client import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata

SPEC: dict[str, Any] = json.loads(sys.argv[1])
HOPS_MAX = 20
OUT: dict[str, Any] = {"client": None, "tokens": [], "logins": 0, "texts": []}


class Storage:
    """What a client keeps."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens
        part = tokens.access_token.split(".")[1]
        OUT["tokens"].append(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client: Any) -> None:
        self.client = client


async def approve(start: str) -> dict[str, str]:
    """What a browser and the person in front of it do: every form is sent, until the way leads back to the client."""
    async with httpx2.AsyncClient() as browser:
        answer = await browser.get(start)
        for _ in range(HOPS_MAX):
            location = answer.headers.get("location")
            if location:
                url = urljoin(str(answer.request.url), location)
                if url.startswith(SPEC["redirect"]):
                    return dict(parse_qsl(urlsplit(url).query))
                answer = await browser.get(url)
                continue
            action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)
            prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
            if action is None or prompt is None:
                raise RuntimeError(f"{answer.status_code} {answer.request.url}: {answer.text[:400]}")
            url = urljoin(str(answer.request.url), html.unescape(action[1]))
            answer = await browser.post(url, data={"prompt": prompt[1], "login": "alice", "password": "x"})
    raise RuntimeError("no way back")


def person(storage: Storage) -> OAuthClientProvider:
    back: dict[str, str] = {}

    async def redirect(url: str) -> None:
        OUT["logins"] += 1
        back.clear()
        back.update(await approve(url))

    async def callback() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=back["code"], state=back.get("state"), iss=back.get("iss"))

    metadata = OAuthClientMetadata(
        client_name="a test",
        redirect_uris=[SPEC["redirect"]],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="none",
    )
    return OAuthClientProvider(
        SPEC["url"], metadata, storage, redirect, callback, client_metadata_url=SPEC.get("cimd")
    )


def machine(storage: Storage, who: dict[str, str]) -> OAuthClientProvider:
    return ClientCredentialsOAuthProvider(
        SPEC["url"], storage, who["id"], who["secret"], scope=SPEC.get("scope"), issuer=who["issuer"]
    )


async def main() -> None:
    storage = Storage()
    who = SPEC.get("machine")
    auth = machine(storage, who) if who else person(storage)
    async with httpx2.AsyncClient(auth=auth, timeout=60) as http:
        async with Client(streamable_http_client(SPEC["url"], http_client=http), mode=SPEC.get("era", "auto")) as client:
            for call in SPEC["calls"]:
                result = await client.call_tool(call["name"], call["arguments"])
                OUT["texts"].append("".join(it.text for it in result.content))
    OUT["client"] = who["id"] if who else storage.client.client_id
    print(json.dumps(OUT))


anyio.run(main)
