"""Drives one MCP server through the Python SDK, and prints what happened as one JSON object.

python py_client.py '{"url": "http://…/mcp", "era": "legacy" | "modern" | "auto", "token": "…", "headers": {…},
                      "steps": {…}, "more": […]}'

Runs on fastmcp and `mcp` 2.x (every era), and `mcp` 1.x (legacy only), whichever is installed: `Fast`, `Two` and `One`
below hide the difference. `"transport": "sse"` speaks the deprecated HTTP+SSE instead of streamable
HTTP. `steps` replaces single entries of STEPS; null leaves a step out. `more` names entries of
MORE, which are done in that order. `prefix` stands in front of every tool's name, `watched` is the URI of the watched
resource, `root` its own, `tour` what the step of that name does. A step that needs something done to the world prints `waiting for WHAT` and waits
for a line. The outcomes are those of ts_client.mjs.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
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
    "sample": {"name": "sample", "arguments": {}},
    "roots": {"name": "roots", "arguments": {}},
    "resume": {"name": "slow", "arguments": {"steps": 8, "step_ms": 100, "label": "resume"}},
    "touch": {"name": "touch", "arguments": {}},
}
STEP_TIMEOUT_S = 60
PROBES_MAX = 40
CANCELLED_WAIT_S = 0.5
LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SPEC: dict[str, Any] = json.loads(sys.argv[1])
PREFIX: str = SPEC.get("prefix", "")
WATCHED: str = SPEC.get("watched", "note://watched")
ROOT: str = SPEC.get("root", "file:///work")

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


class Heard:
    """What the client heard, and was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.urls: list[str] = []
        self.levels: list[str] = []
        self.updated = 0
        self.changed = 0

    async def log(self, params: Any) -> None:
        self.levels.append(params.level)

    async def message(self, message: Any) -> None:
        method = getattr(getattr(message, "root", message), "method", None)
        self.updated += method == "notifications/resources/updated"
        self.changed += method == "notifications/tools/list_changed"


def callbacks(types: Any, heard: Heard, answer: Any) -> dict[str, Any]:
    """What both generations' sessions take."""

    async def on_elicit(_: Any, params: Any) -> Any:
        heard.asked.append(params.message)
        if params.mode == "url":
            heard.urls.append(str(params.url))
        return types.ElicitResult(action="accept", content=None if params.mode == "url" else answer)

    async def on_sample(_: Any, params: Any) -> Any:
        text = types.TextContent(type="text", text=f"heard {params.messages[0].content.text}")
        return types.CreateMessageResult(role="assistant", content=text, model="none")

    async def on_roots(_: Any) -> Any:
        return types.ListRootsResult(roots=[types.Root(uri=ROOT, name="work")])

    return {
        "elicitation_callback": on_elicit,
        "sampling_callback": on_sample,
        "list_roots_callback": on_roots,
        "logging_callback": heard.log,
        "message_handler": heard.message,
    }


class Two:
    """`mcp` 2.x: `Client`, httpx2, snake case; cancelling the call is cancelling the request."""

    def __init__(self, stack: AsyncExitStack, spec: dict[str, Any], answer: Any, wire: Wire) -> None:
        import httpx2
        import mcp_types
        from mcp.client import Client
        from mcp.client.streamable_http import streamable_http_client

        self.stack, self.wire, self.heard = stack, wire, Heard()
        self.http = httpx2.AsyncClient(**settings(spec, wire))
        mode = {"modern": "2026-07-28"}.get(spec["era"], spec["era"])
        old = spec.get("transport") == "sse"
        transport = over_sse(spec) if old else streamable_http_client(spec["url"], http_client=self.http)
        self.client = Client(transport, mode=mode, **callbacks(mcp_types, self.heard, answer))

    async def connect(self) -> Outcome:
        await self.stack.enter_async_context(self.http)
        return await self.enter()

    async def enter(self) -> Outcome:
        await self.stack.enter_async_context(self.client)
        server = self.client.server_info
        return {"protocol": self.client.protocol_version, "server": server and server.name}

    def modern(self) -> bool:
        return self.client.protocol_version == "2026-07-28"

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def resources(self) -> list[str]:
        return [str(it.uri) for it in (await self.client.list_resources()).resources]

    async def prompts(self) -> list[str]:
        return [it.name for it in (await self.client.list_prompts()).prompts]

    async def call(self, step: dict[str, Any], progress: Progress | None = None, meta: Any = None) -> Any:
        return await self.client.call_tool(PREFIX + step["name"], step["arguments"], STEP_TIMEOUT_S, progress, meta=meta)

    def direct(self) -> Any:
        """Whatever of the SDK takes the plain requests."""
        return self.client

    async def complete(self, step: dict[str, Any]) -> Any:
        import mcp_types

        kind = {"ref/prompt": "PromptReference", "ref/resource": "ResourceTemplateReference"}[step["ref"]["type"]]
        return await self.client.complete(getattr(mcp_types, kind)(**step["ref"]), step["argument"])

    async def cancel(self, step: dict[str, Any]) -> Outcome:
        with anyio.CancelScope() as scope:

            async def stop(*_: Any) -> None:
                scope.cancel()

            return {"cancelled": False, "ended": said(await self.call(step, stop))}
        return {"cancelled": True, "ended": None}

    async def level(self, level: str) -> None:
        await self.client.session.set_logging_level(level)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """While updates of the watched resource and changes of the tools are told."""
        session = self.client.session
        if self.modern():
            async with self.client.listen(tools_list_changed=True, resource_subscriptions=[WATCHED]):
                yield
        else:
            await session.subscribe_resource(WATCHED)
            await listening(self.wire)
            yield
            await session.unsubscribe_resource(WATCHED)


class Fast(Two):
    """fastmcp: a client of its own on `mcp` 2.x; it cannot listen in the modern era."""

    def __init__(self, stack: AsyncExitStack, spec: dict[str, Any], answer: Any, wire: Wire) -> None:
        import httpx2
        import mcp_types
        from fastmcp import Client
        from fastmcp.client.transports import StreamableHttpTransport

        self.stack, self.wire, self.heard = stack, wire, Heard()
        on = callbacks(mcp_types, self.heard, answer)
        given = settings(spec, wire)

        def http(**wanted: Any) -> Any:
            return httpx2.AsyncClient(**{**wanted, **given})

        async def on_elicit(message: str, kind: Any, params: Any, context: Any) -> Any:
            return await on["elicitation_callback"](context, params)

        async def on_sample(_: Any, params: Any, context: Any) -> Any:
            return await on["sampling_callback"](context, params)

        self.client = Client(
            StreamableHttpTransport(spec["url"], httpx_client_factory=http),
            mode={"modern": "2026-07-28"}.get(spec["era"], spec["era"]),
            roots=[ROOT],
            sampling_handler=on_sample,
            elicitation_handler=on_elicit,
            log_handler=self.heard.log,
            message_handler=self.heard.message,
        )

    async def connect(self) -> Outcome:
        return await self.enter()

    async def tools(self) -> list[str]:
        return [tool.name for tool in await self.client.list_tools()]

    async def resources(self) -> list[str]:
        return [str(it.uri) for it in await self.client.list_resources()]

    async def prompts(self) -> list[str]:
        return [it.name for it in await self.client.list_prompts()]

    async def call(self, step: dict[str, Any], progress: Progress | None = None, meta: Any = None) -> Any:
        return await self.client.call_tool_mcp(PREFIX + step["name"], step["arguments"], progress, STEP_TIMEOUT_S, meta)

    async def level(self, level: str) -> None:
        await self.client.set_logging_level(level)


class One:
    """`mcp` 1.x: `ClientSession`, httpx, legacy only; a cancelled call is one whose notification was sent."""

    def __init__(self, stack: AsyncExitStack, spec: dict[str, Any], answer: Any, wire: Wire) -> None:
        import httpx
        from mcp import types

        self.types = types
        self.stack, self.spec, self.wire, self.heard = stack, spec, wire, Heard()
        self.on = callbacks(types, self.heard, answer)
        self.http = httpx.AsyncClient(**settings(spec, wire))
        assert spec["era"] == "legacy", "mcp 1.x speaks no modern revision"

    async def connect(self) -> Outcome:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        await self.stack.enter_async_context(self.http)
        old, url = self.spec.get("transport") == "sse", self.spec["url"]
        transport = over_sse(self.spec) if old else streamable_http_client(url, http_client=self.http)
        read, write, *_ = await self.stack.enter_async_context(transport)
        self.session = await self.stack.enter_async_context(ClientSession(read, write, **self.on))
        got = await self.session.initialize()
        return {"protocol": got.protocolVersion, "server": got.serverInfo.name}

    def modern(self) -> bool:
        return False

    async def tools(self) -> list[str]:
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def resources(self) -> list[str]:
        return [str(it.uri) for it in (await self.session.list_resources()).resources]

    async def prompts(self) -> list[str]:
        return [it.name for it in (await self.session.list_prompts()).prompts]

    async def call(self, step: dict[str, Any], progress: Progress | None = None, meta: Any = None) -> Any:
        return await self.session.call_tool(PREFIX + step["name"], step["arguments"], progress_callback=progress, meta=meta)

    def direct(self) -> Any:
        """Whatever of the SDK takes the plain requests."""
        return self.session

    async def complete(self, step: dict[str, Any]) -> Any:
        kind = {"ref/prompt": "PromptReference", "ref/resource": "ResourceTemplateReference"}[step["ref"]["type"]]
        return await self.session.complete(getattr(self.types, kind)(**step["ref"]), step["argument"])

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

    async def level(self, level: str) -> None:
        await self.session.set_logging_level(level)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """While updates of the watched resource and changes of the tools are told."""
        await self.session.subscribe_resource(WATCHED)
        await listening(self.wire)
        yield
        await self.session.unsubscribe_resource(WATCHED)


Peer = One | Two


async def until(what: str, so: Callable[[], bool], seconds: float = 20) -> None:
    for _ in range(int(seconds * 100)):
        if so():
            return
        await anyio.sleep(0.01)
    raise TimeoutError(f"never: {what}")


async def listening(wire: Wire) -> None:
    """The stream for what belongs to no request opens beside us."""
    await until(
        "a stream for messages", lambda: any(it["http"] == "GET" and it.get("status") == 200 for it in wire.lines)
    )


async def arranged(what: str) -> None:
    """Asks whoever started us to do something to the world, and waits until it is done."""
    print(f"waiting for {what}", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)


async def plain(peer: Peer, name: str, meta: Any = None) -> Outcome:
    return said(await peer.call({"name": name, "arguments": {}}, meta=meta))


async def url(peer: Peer, _: Any) -> Outcome:
    return {**await plain(peer, "elicit_url"), "urls": peer.heard.urls}


async def log(peer: Peer, _: Any) -> Outcome:
    peer.heard.levels.clear()
    if not peer.modern():
        await peer.level("warning")
    got = await plain(peer, "log", {LEVEL_KEY: "warning"} if peer.modern() else None)
    return {**got, "levels": peer.heard.levels}


async def updated(peer: Peer, _: Any) -> Outcome:
    async with peer.told():
        peer.heard.updated = 0
        await plain(peer, "touch")
        await until("the update", lambda: peer.heard.updated > 0)
        return {"updated": peer.heard.updated}


async def changed(peer: Peer, _: Any) -> Outcome:
    async with peer.told():
        peer.heard.changed = 0
        await plain(peer, "toggle")
        await until("the change", lambda: peer.heard.changed > 0)
        return {"tools": await peer.tools()}


async def resumed(peer: Peer, steps: Any, cut: str) -> Outcome:
    """An answer whose stream is cut after its first message, before us or behind the gateway."""
    await arranged(f"{cut} notifications/progress")
    return await progress(peer, steps["resume"])


async def resumed_get(peer: Peer, cut: str) -> Outcome:
    """The same of the stream for what belongs to no request."""
    async with peer.told():
        peer.heard.updated = 0
        await arranged(f"{cut} notifications/resources/updated")
        await plain(peer, "touch")
        await until("the first update", lambda: peer.heard.updated == 1)
        await plain(peer, "touch")
        await until("the second update", lambda: peer.heard.updated == 2)
        await anyio.sleep(0.2)
        return {"updated": peer.heard.updated}


async def restart(peer: Peer, steps: Any) -> Outcome:
    # In the modern era nobody takes a stream up again: who listened finds out, and listens anew.
    watched = steps["touch"] and not peer.modern()
    async with peer.told() if watched else nullcontext():
        peer.heard.updated = 0
        await arranged("another server")
        got = said(await peer.call(steps["call"]))
        if not watched:
            return got
        # A stream may be on its way back.
        for _ in range(50):
            if peer.heard.updated:
                break
            await plain(peer, "touch")
            await anyio.sleep(0.2)
        await until("an update", lambda: peer.heard.updated > 0, 1)
        return got


async def tour(peer: Peer, _: Any) -> Outcome:
    return {"stops": [await outcome(lambda: visit(peer, stop)) for stop in SPEC["tour"]]}


async def visit(peer: Peer, stop: dict[str, Any]) -> Outcome:
    """One stop: a tool called, a resource read, a prompt got, an argument completed; by their exposed names."""
    if tool := stop.get("call"):
        return said(await peer.direct().call_tool(tool["name"], tool["arguments"]))
    if uri := stop.get("read"):
        got = (await peer.direct().read_resource(uri)).contents
    elif prompt := stop.get("prompt"):
        got = (await peer.direct().get_prompt(prompt["name"], prompt["arguments"])).messages
    else:
        found = await peer.complete(stop["complete"])
        return {"text": json.dumps(found.completion.values)}
    return {"text": json.dumps([it.model_dump(mode="json") for it in got])}


async def ended(peer: Peer, steps: Any) -> Outcome:
    await arranged("the end of the session")
    return said(await peer.call(steps["call"]))


MORE: dict[str, Callable[[Peer, Any], Awaitable[Outcome]]] = {
    "sample": lambda peer, steps: reply(peer, steps["sample"]),
    "roots": lambda peer, steps: reply(peer, steps["roots"]),
    "url": url,
    "log": log,
    "updated": updated,
    "changed": changed,
    "hang_up": lambda peer, _: plain(peer, "hang_up"),
    "resume": lambda peer, steps: resumed(peer, steps, "a cut at"),
    "resume_get": lambda peer, _: resumed_get(peer, "a cut at"),
    "behind": lambda peer, steps: resumed(peer, steps, "a cut behind at"),
    "behind_get": lambda peer, _: resumed_get(peer, "a cut behind at"),
    "restart": restart,
    "tour": tour,
    "ended": ended,
}


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


async def progress(peer: Peer, step: dict[str, Any]) -> Outcome:
    notes: list[dict[str, Any]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        notes.append({"progress": done, "total": total})

    return {**said(await peer.call(step, note)), "notifications": notes}


async def cancel(peer: Peer, step: dict[str, Any]) -> Outcome:
    """Cancels at the first progress, then asks the server (when it can tell) whether it noticed."""
    probe, label = step.get("probe"), f"cancel-{os.getpid()}-{time.monotonic_ns()}"
    arguments = {**step["arguments"], **({"label": label} if probe else {})}
    ended = await peer.cancel({**step, "arguments": arguments})
    return {**ended, "noticed": await noticed(peer, probe, label) if probe else None}


async def noticed(peer: Peer, probe: str, label: str) -> bool:
    for _ in range(PROBES_MAX):
        if said(await peer.call({"name": probe, "arguments": {"label": label}}))["text"].lower() == "true":
            return True
        await anyio.sleep(0.05)
    return False


def sdk() -> tuple[type[One] | type[Two], str]:
    """What is installed."""
    try:
        return Fast, f"fastmcp {version('fastmcp')}"
    except PackageNotFoundError:
        return (One if version("mcp").startswith("1.") else Two), f"python {version('mcp')}"


async def run(spec: dict[str, Any]) -> Outcome:
    steps = {**STEPS, **(spec.get("steps") or {})}
    wire = Wire()
    kind, name = sdk()
    out: Outcome = {"client": name, "era": spec["era"]}
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
                out["elicit"] = {**await outcome(lambda: reply(peer, step)), "asked": [*peer.heard.asked]}
            for name in spec.get("more") or []:
                out[name] = await outcome(lambda: MORE[name](peer, steps))
            out["connect"]["session"] = any("mcp-session-id" in line["headers"] for line in wire.lines)
        out["close"] = {"ok": True}
    except Exception as fault:
        out["close" if "connect" in out else "connect"] = {"ok": False, **failed(fault)}
    return {**out, "wire": wire.lines}


async def named(key: str, found: Awaitable[list[str]]) -> Outcome:
    return {key: await found}


async def reply(peer: Peer, step: dict[str, Any]) -> Outcome:
    return said(await peer.call(step))


if __name__ == "__main__":
    print(json.dumps(anyio.run(run, SPEC), default=str))
