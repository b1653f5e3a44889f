"""A small MCP server on fastmcp: both eras at one URL, sessions whose streams can be resumed in the legacy one.

python fastmcp_server.py [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
"""

from typing import Any

import anyio
import mcp_types
from fastmcp import Context, FastMCP
from py_common import PAGE, RETRY_MS, SAID, WATCHED, Events, serve
from pydantic import BaseModel

server = FastMCP("portcullis-fastmcp", version="1.0.0")
cancelled: set[str] = set()
# By session, of the legacy era.
watching: set[str | None] = set()


@server.tool
def echo(text: str) -> str:
    """Says it back"""
    return text


@server.tool
def add(a: float, b: float) -> str:
    """Adds two numbers"""
    return f"{a + b:g}"


@server.tool
def fail() -> str:
    """Always fails"""
    raise ValueError("failed on purpose")


@server.tool
def secret() -> str:
    """A tool that policies hide"""
    return "leaked"


@server.tool
async def slow(steps: int, step_ms: int, ctx: Context, label: str = "") -> str:
    """Takes steps, tells of each"""
    try:
        for step in range(1, steps + 1):
            await anyio.sleep(step_ms / 1000)
            await ctx.report_progress(step, steps)
    except anyio.get_cancelled_exc_class():
        cancelled.add(label)
        raise
    return f"took {steps} steps"


@server.tool
def was_cancelled(label: str) -> str:
    """Whether the slow call of that label was cancelled"""
    return str(label in cancelled)


class Colour(BaseModel):
    colour: str


def modern(ctx: Context) -> bool:
    return ctx.session.protocol_version == "2026-07-28"


def answered(ctx: Context, request: Any) -> Any:
    """Of the modern era: what the client answered, or the result that asks it."""
    given = ctx.input_responses and ctx.input_responses.get("it")
    return given or mcp_types.InputRequiredResult(input_requests={"it": request})


@server.tool
async def elicit(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Asks for a colour"""
    if not modern(ctx):
        return f"chose {(await ctx.elicit('Which colour?', Colour)).data.colour}"
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
    params = mcp_types.ElicitRequestFormParams(message="Which colour?", requested_schema=schema)
    got = answered(ctx, mcp_types.ElicitRequest(params=params))
    return got if isinstance(got, mcp_types.InputRequiredResult) else f"chose {got.content['colour']}"


@server.tool
async def elicit_url(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Sends the user to a page"""
    if not modern(ctx):
        got = await ctx.session.elicit_url("Please sign", PAGE, "page-1", related_request_id=ctx.request_id)
        return f"page: {got.action}"
    params = mcp_types.ElicitRequestURLParams(message="Please sign", url=PAGE)
    got = answered(ctx, mcp_types.ElicitRequest(params=params))
    return got if isinstance(got, mcp_types.InputRequiredResult) else f"page: {got.action}"


@server.tool
async def sample(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Asks the model"""
    content = mcp_types.TextContent(type="text", text="a question")
    messages = [mcp_types.SamplingMessage(role="user", content=content)]
    if not modern(ctx):
        got = await ctx.session.create_message(messages, max_tokens=10, related_request_id=ctx.request_id)
        return f"model: {got.content.text}"
    params = mcp_types.CreateMessageRequestParams(messages=messages, max_tokens=10)
    got = answered(ctx, mcp_types.CreateMessageRequest(params=params))
    return got if isinstance(got, mcp_types.InputRequiredResult) else f"model: {got.content.text}"


@server.tool
async def roots(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Asks for the roots"""
    got = answered(ctx, mcp_types.ListRootsRequest()) if modern(ctx) else await ctx.session.list_roots()
    return got if isinstance(got, mcp_types.InputRequiredResult) else " ".join(str(root.uri) for root in got.roots)


@server.tool
async def log(ctx: Context) -> str:
    """One message of each of four levels"""
    for level in SAID:
        await ctx.log(f"a message of level {level}", level)
    return "logged"


@server.tool
async def hang_up(ctx: Context) -> str:
    """Closes its stream before it answers"""
    await ctx.close_sse_stream()
    await anyio.sleep(0.3)
    return "answered later"


@server.tool
async def touch(ctx: Context) -> str:
    """Tells those who watch the note"""
    if ctx.session_id in watching:
        await ctx.session.send_resource_updated(WATCHED)
    return "touched"


def extra() -> str:
    """Comes and goes"""
    return "here"


@server.tool
async def toggle(ctx: Context) -> str:
    """Another tool comes or goes"""
    if any(tool.name == "extra" for tool in await server.list_tools()):
        server.local_provider.remove_tool("extra")
    else:
        server.add_tool(extra)
    await ctx.session.send_tool_list_changed()
    return "toggled"


@server.resource(WATCHED, mime_type="text/plain")
def note() -> str:
    """A note that changes"""
    return "a note"


@server.prompt
def greet(name: str) -> str:
    """A greeting"""
    return f"Greet {name}."


async def on_subscribe(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    watching.add(ctx.request.headers.get("mcp-session-id"))
    return mcp_types.EmptyResult()


async def on_unsubscribe(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    watching.discard(ctx.request.headers.get("mcp-session-id"))
    return mcp_types.EmptyResult()


if __name__ == "__main__":
    # Of the legacy era only, and not offered by the class for servers itself.
    inner = server._mcp_server
    inner.add_request_handler("resources/subscribe", mcp_types.SubscribeRequestParams, on_subscribe)
    inner.add_request_handler("resources/unsubscribe", mcp_types.UnsubscribeRequestParams, on_unsubscribe)
    serve(server.http_app(event_store=Events(), retry_interval=RETRY_MS))
