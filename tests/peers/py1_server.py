"""A small MCP server on the Python SDK 1.x: legacy, with sessions whose streams can be resumed.

python py1_server.py [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
"""

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import anyio
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import SamplingMessage, TextContent
from py_common import PAGE, RETRY_MS, SAID, WATCHED, Events, serve, wanted
from pydantic import BaseModel

server = FastMCP("portcullis-py1", event_store=Events(), retry_interval=RETRY_MS)
cancelled: set[str] = set()
watching: WeakSet[Any] = WeakSet()
levels: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


@server.tool()
def echo(text: str) -> str:
    """Says it back"""
    return text


@server.tool()
def add(a: float, b: float) -> str:
    """Adds two numbers"""
    return f"{a + b:g}"


@server.tool()
def fail() -> str:
    """Always fails"""
    raise ValueError("failed on purpose")


@server.tool()
def secret() -> str:
    """A tool that policies hide"""
    return "leaked"


@server.tool()
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


@server.tool()
def was_cancelled(label: str) -> str:
    """Whether the slow call of that label was cancelled"""
    return str(label in cancelled)


class Colour(BaseModel):
    colour: str


@server.tool()
async def elicit(ctx: Context) -> str:
    """Asks for a colour"""
    return f"chose {(await ctx.elicit('Which colour?', Colour)).data.colour}"


@server.tool()
async def elicit_url(ctx: Context) -> str:
    """Sends the user to a page"""
    return f"page: {(await ctx.elicit_url('Please sign', PAGE, 'page-1')).action}"


@server.tool()
async def sample(ctx: Context) -> str:
    """Asks the model"""
    question = SamplingMessage(role="user", content=TextContent(type="text", text="a question"))
    got = await ctx.session.create_message([question], max_tokens=10, related_request_id=ctx.request_id)
    return f"model: {got.content.text}"


@server.tool()
async def roots(ctx: Context) -> str:
    """Asks for the roots"""
    return " ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)


@server.tool()
async def log(ctx: Context) -> str:
    """One message of each of four levels"""
    for level in SAID:
        if wanted(level, levels.get(ctx.session)):
            await ctx.log(level, f"a message of level {level}")
    return "logged"


@server.tool()
async def hang_up(ctx: Context) -> str:
    """Closes its stream before it answers"""
    await ctx.close_sse_stream()
    await anyio.sleep(0.3)
    return "answered later"


@server.tool()
async def touch(ctx: Context) -> str:
    """Tells those who watch the note"""
    if ctx.session in watching:
        await ctx.session.send_resource_updated(WATCHED)
    return "touched"


def extra() -> str:
    """Comes and goes"""
    return "here"


@server.tool()
async def toggle(ctx: Context) -> str:
    """Another tool comes or goes"""
    if any(tool.name == "extra" for tool in await server.list_tools()):
        server.remove_tool("extra")
    else:
        server.add_tool(extra)
    await ctx.session.send_tool_list_changed()
    return "toggled"


@server.resource(WATCHED, mime_type="text/plain")
def note() -> str:
    """A note that changes"""
    return "a note"


@server.prompt()
def greet(name: str) -> str:
    """A greeting"""
    return f"Greet {name}."


# Not offered by the class for servers itself.
inner = server._mcp_server


@inner.subscribe_resource()
async def on_subscribe(_: Any) -> None:
    watching.add(inner.request_context.session)


@inner.unsubscribe_resource()
async def on_unsubscribe(_: Any) -> None:
    watching.discard(inner.request_context.session)


@inner.set_logging_level()
async def on_level(level: str) -> None:
    levels[inner.request_context.session] = level


if __name__ == "__main__":
    serve(server.streamable_http_app())
