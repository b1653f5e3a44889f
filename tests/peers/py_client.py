"""Drives one MCP server through the Python SDK, and prints what happened as one JSON object.

python py_client.py '{"url": "http://…/mcp", "era": "legacy" | "modern" | "auto", "token": "…", "headers": {…}, "steps": {…}}'

Runs on `mcp` 2.x (every era) and 1.x (legacy only): `Two` and `One` below hide the difference.
`"transport": "sse"` speaks the deprecated HTTP+SSE instead of streamable HTTP.
`steps` replaces single entries of STEPS; null leaves a step out. The outcomes are those of ts_client.mjs.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

import anyio

STEPS: dict[str, Any] = {
    "call": {"name": "add", "arguments": {"a": 2, "b": 3}},
    "hidden": {"name": "secret", "arguments": {}},
    "unknown": {"name": "no_such_tool", "arguments": {}},
    "fail": {"name": "fail", "arguments": {}},
    "progress": {"name": "slow", "arguments": {"steps": 3, "step_ms": 20, "label": "progress"}},
    "cancel": {"name": "slow", "arguments": {"steps": 100, "step_ms": 100}, "probe": "was_cancelled"},
    "elicit": {"name": "elicit", "arguments": {}, "answer": {"colour": "blue"}},
}
STEP_TIMEOUT_S = 20
PROBES_MAX = 40
CANCELLED_WAIT_S = 0.5

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
Outcome = dict[str, Any]


class Wire:
    """Every exchange on the wire: what was asked, and what came back."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    async def request(self, request: Any) -> None:
        body = json.loads(request.content) if request.method == "POST" else {}
        headers = dict(request.headers)
        if "authorization" in headers:
            headers["authorization"] = "Bearer …"
        line = {"http": request.method, "method": body.get("method", "response" if body else None), "headers": headers}
        request.extensions["line"] = line
        self.lines.append(line)

    async def response(self, response: Any) -> None:
        line = response.request.extensions["line"]
        line["status"] = response.status_code
        line["type"] = response.headers.get("content-type")


def settings(spec: dict[str, Any], wire: Wire) -> dict[str, Any]:
    """What both httpx generations take."""
    token = {"authorization": f"Bearer {spec['token']}"} if spec.get("token") else {}
    return {
        "headers": {**(spec.get("headers") or {}), **token},
        "timeout": STEP_TIMEOUT_S,
        "event_hooks": {"request": [wire.request], "response": [wire.response]},
    }


def over_sse(spec: dict[str, Any]) -> Any:
    """The deprecated transport; it makes its own HTTP client."""
    from mcp.client.sse import sse_client

    headers = {**(spec.get("headers") or {}), "authorization": f"Bearer {spec['token']}"}
    return sse_client(spec["url"], headers=headers)


class Two:
    """`mcp` 2.x: `Client`, httpx2, snake case; cancelling the call is cancelling the request."""

    def __init__(self, stack: AsyncExitStack, spec: dict[str, Any], answer: Any, wire: Wire) -> None:
        import httpx2
        import mcp_types
        from mcp.client import Client
        from mcp.client.streamable_http import streamable_http_client

        self.asked: list[str] = []

        async def on_elicit(_: Any, params: Any) -> Any:
            self.asked.append(params.message)
            return mcp_types.ElicitResult(action="accept", content=answer)

        self.stack = stack
        self.http = httpx2.AsyncClient(**settings(spec, wire))
        mode = {"modern": "2026-07-28"}.get(spec["era"], spec["era"])
        old = spec.get("transport") == "sse"
        transport = over_sse(spec) if old else streamable_http_client(spec["url"], http_client=self.http)
        self.client = Client(transport, mode=mode, elicitation_callback=on_elicit)

    async def connect(self) -> Outcome:
        await self.stack.enter_async_context(self.http)
        await self.stack.enter_async_context(self.client)
        server = self.client.server_info
        return {"protocol": self.client.protocol_version, "server": server and server.name}

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def resources(self) -> list[str]:
        return [str(it.uri) for it in (await self.client.list_resources()).resources]

    async def prompts(self) -> list[str]:
        return [it.name for it in (await self.client.list_prompts()).prompts]

    async def call(self, step: dict[str, Any], progress: Progress | None = None) -> Any:
        return await self.client.call_tool(step["name"], step["arguments"], STEP_TIMEOUT_S, progress)

    async def cancel(self, step: dict[str, Any]) -> Outcome:
        with anyio.CancelScope() as scope:

            async def stop(*_: Any) -> None:
                scope.cancel()

            return {"cancelled": False, "ended": said(await self.call(step, stop))}
        return {"cancelled": True, "ended": None}


class One:
    """`mcp` 1.x: `ClientSession`, httpx, legacy only; a cancelled call is one whose notification was sent."""

    def __init__(self, stack: AsyncExitStack, spec: dict[str, Any], answer: Any, wire: Wire) -> None:
        import httpx
        from mcp import types

        self.asked: list[str] = []
        self.types = types

        async def on_elicit(_: Any, params: Any) -> Any:
            self.asked.append(params.message)
            return types.ElicitResult(action="accept", content=answer)

        self.stack, self.spec, self.on_elicit = stack, spec, on_elicit
        self.http = httpx.AsyncClient(**settings(spec, wire))
        assert spec["era"] == "legacy", "mcp 1.x speaks no modern revision"

    async def connect(self) -> Outcome:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        await self.stack.enter_async_context(self.http)
        if self.spec.get("transport") == "sse":
            transport = over_sse(self.spec)
        else:
            transport = streamable_http_client(self.spec["url"], http_client=self.http)
        read, write, *_ = await self.stack.enter_async_context(transport)
        self.session = await self.stack.enter_async_context(
            ClientSession(read, write, elicitation_callback=self.on_elicit)
        )
        got = await self.session.initialize()
        return {"protocol": got.protocolVersion, "server": got.serverInfo.name}

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def resources(self) -> list[str]:
        return [str(it.uri) for it in (await self.session.list_resources()).resources]

    async def prompts(self) -> list[str]:
        return [it.name for it in (await self.session.list_prompts()).prompts]

    async def call(self, step: dict[str, Any], progress: Progress | None = None) -> Any:
        return await self.session.call_tool(step["name"], step["arguments"], progress_callback=progress)

    async def cancel(self, step: dict[str, Any]) -> Outcome:
        # The next request's id; the SDK has no call that cancels.
        request = self.session._request_id
        note = self.types.CancelledNotification(params=self.types.CancelledNotificationParams(requestId=request))
        sent = False
        waited = anyio.CancelScope()

        async def stop(*_: Any) -> None:
            nonlocal sent
            if not sent:
                sent = True
                await self.session.send_notification(self.types.ClientNotification(note))
                # A server need not answer a call that was cancelled, and some do not.
                waited.deadline = anyio.current_time() + CANCELLED_WAIT_S

        with waited:
            try:
                return {"cancelled": False, "ended": said(await self.call(step, stop))}
            except Exception as fault:
                return {"cancelled": sent, "ended": failed(fault)}
        return {"cancelled": sent and waited.cancelled_caught, "ended": None}


def said(result: Any) -> Outcome:
    text = "\n".join(it.text for it in result.content if it.type == "text")
    is_error = getattr(result, "is_error", None) if hasattr(result, "is_error") else result.isError
    return {"text": text, "isError": bool(is_error)}


def failed(fault: BaseException) -> Outcome:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    error = getattr(fault, "error", None)
    known = {"code": error.code, "message": error.message, "data": error.data} if hasattr(error, "code") else {}
    return {"error": type(fault).__name__, "message": str(fault), **known}


async def outcome(act: Callable[[], Awaitable[Outcome]]) -> Outcome:
    start = time.monotonic()
    try:
        with anyio.fail_after(STEP_TIMEOUT_S):
            got = {"ok": True, **(await act())}
    except Exception as fault:
        got = {"ok": False, **failed(fault)}
    return {**got, "ms": round((time.monotonic() - start) * 1000)}


async def progress(peer: One | Two, step: dict[str, Any]) -> Outcome:
    notes: list[dict[str, Any]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        notes.append({"progress": done, "total": total})

    return {**said(await peer.call(step, note)), "notifications": notes}


async def cancel(peer: One | Two, step: dict[str, Any]) -> Outcome:
    """Cancels at the first progress, then asks the server (when it can tell) whether it noticed."""
    probe, label = step.get("probe"), f"cancel-{os.getpid()}-{time.monotonic_ns()}"
    arguments = {**step["arguments"], **({"label": label} if probe else {})}
    ended = await peer.cancel({**step, "arguments": arguments})
    return {**ended, "noticed": await noticed(peer, probe, label) if probe else None}


async def noticed(peer: One | Two, probe: str, label: str) -> bool:
    for _ in range(PROBES_MAX):
        if said(await peer.call({"name": probe, "arguments": {"label": label}}))["text"].lower() == "true":
            return True
        await anyio.sleep(0.05)
    return False


async def run(spec: dict[str, Any]) -> Outcome:
    steps = {**STEPS, **(spec.get("steps") or {})}
    wire = Wire()
    out: Outcome = {"client": f"python {version('mcp')}", "era": spec["era"]}
    kind = One if version("mcp").startswith("1.") else Two
    try:
        async with AsyncExitStack() as stack:
            peer = kind(stack, spec, (steps["elicit"] or {}).get("answer"), wire)
            # Not under a deadline of its own: what it enters outlives it.
            out["connect"] = {"ok": True, **(await peer.connect())}
            out["list"] = await outcome(lambda: named("tools", peer.tools()))
            out["resources"] = await outcome(lambda: named("uris", peer.resources()))
            out["prompts"] = await outcome(lambda: named("names", peer.prompts()))
            for name in ("call", "hidden", "unknown", "fail"):
                if step := steps[name]:
                    out[name] = await outcome(lambda: reply(peer, step))
            if step := steps["progress"]:
                out["progress"] = await outcome(lambda: progress(peer, step))
            if step := steps["cancel"]:
                out["cancel"] = await outcome(lambda: cancel(peer, step))
            if step := steps["elicit"]:
                out["elicit"] = {**await outcome(lambda: reply(peer, step)), "asked": peer.asked}
            out["connect"]["session"] = any("mcp-session-id" in line["headers"] for line in wire.lines)
        out["close"] = {"ok": True}
    except Exception as fault:
        out["close" if "connect" in out else "connect"] = {"ok": False, **failed(fault)}
    return {**out, "wire": wire.lines}


async def named(key: str, found: Awaitable[list[str]]) -> Outcome:
    return {key: await found}


async def reply(peer: One | Two, step: dict[str, Any]) -> Outcome:
    return said(await peer.call(step))


if __name__ == "__main__":
    print(json.dumps(anyio.run(run, json.loads(sys.argv[1])), default=str))
