"""A small MCP server on the Python SDK (`mcp` 2.3.0): both eras at one URL, sessions in the legacy one.

python py_server.py [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
"""

import sys
from typing import Annotated, Any

import anyio
import mcp_types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from py_common import PAGE, RETRY_MS, SAID, WATCHED, Events, serve, wanted
from pydantic import BaseModel

server = MCPServer("portcullis-py", version="1.0.0")
cancelled: set[str] = set()
# By session, of the legacy era.
watching: set[str | None] = set()
levels: dict[str | None, str] = {}


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


def ask() -> Elicit[Colour]:
    return Elicit("Which colour?", Colour)


@server.tool()
async def elicit(choice: Annotated[Colour, Resolve(ask)]) -> str:
    """Asks for a colour"""
    return f"chose {choice.colour}"


@server.resource("note://hello", mime_type="text/plain")
def hello() -> str:
    """A note"""
    return "hello"


@server.prompt()
def greet(name: str) -> str:
    """A greeting"""
    return f"Greet {name}."


def question() -> Sample:
    content = mcp_types.TextContent(type="text", text="a question")
    return Sample([mcp_types.SamplingMessage(role="user", content=content)], max_tokens=10)


def folders() -> ListRoots:
    return ListRoots()


@server.tool()
async def sample(got: Annotated[mcp_types.CreateMessageResult, Resolve(question)]) -> str:
    """Asks the model"""
    return f"model: {got.content.text}"


@server.tool()
async def roots(got: Annotated[mcp_types.ListRootsResult, Resolve(folders)]) -> str:
    """Asks for the roots"""
    return " ".join(str(root.uri) for root in got.roots)


@server.tool()
async def elicit_url(ctx: Context) -> str | mcp_types.InputRequiredResult:
    """Sends the user to a page"""
    if not modern(ctx):
        return f"page: {(await ctx.elicit_url('Please sign', PAGE, 'page-1')).action}"
    if ctx.input_responses and (went := ctx.input_responses.get("page")):
        return f"page: {went.action}"
    params = mcp_types.ElicitRequestURLParams(message="Please sign", url=PAGE)
    return mcp_types.InputRequiredResult(input_requests={"page": mcp_types.ElicitRequest(params=params)})


@server.tool()
async def log(ctx: Context) -> str:
    """One message of each of four levels"""
    for level in SAID:
        if wanted(level, levels.get(session(ctx.headers))):
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
    await ctx.notify_resource_updated(WATCHED)
    if session(ctx.headers) in watching:
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
    await ctx.notify_tools_changed()
    if not modern(ctx):
        await ctx.session.send_tool_list_changed()
    return "toggled"


@server.resource(WATCHED, mime_type="text/plain")
def note() -> str:
    """A note that changes"""
    return "a note"


def modern(ctx: Context) -> bool:
    return ctx.protocol_version == "2026-07-28"


def session(headers: Any) -> str | None:
    return headers.get("mcp-session-id") if headers else None


async def on_subscribe(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    watching.add(session(getattr(ctx.request, "headers", None)))
    return mcp_types.EmptyResult()


async def on_unsubscribe(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    watching.discard(session(getattr(ctx.request, "headers", None)))
    return mcp_types.EmptyResult()


async def on_level(ctx: Any, params: Any) -> mcp_types.EmptyResult:
    levels[session(getattr(ctx.request, "headers", None))] = params.level
    return mcp_types.EmptyResult()


if __name__ == "__main__":
    # Of the legacy era only, and not offered by the class for servers itself.
    inner = server._lowlevel_server
    inner.add_request_handler("resources/subscribe", mcp_types.SubscribeRequestParams, on_subscribe)
    inner.add_request_handler("resources/unsubscribe", mcp_types.UnsubscribeRequestParams, on_unsubscribe)
    inner.add_request_handler("logging/setLevel", mcp_types.SetLevelRequestParams, on_level)
    if sys.argv[1:] == ["stdio"]:
        server.run(transport="stdio")
    else:
        serve(server.streamable_http_app(event_store=Events(), retry_interval=RETRY_MS))
