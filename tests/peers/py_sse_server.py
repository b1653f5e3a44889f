"""A small MCP server on the Python SDK 1.x (`mcp` 1.30.0) that speaks HTTP+SSE of 2024-11-05 only.

python py_sse_server.py [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/sse
"""

import os
import socket
import sys
import threading

import anyio
import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP("portcullis-py-sse")
cancelled: set[str] = set()


@server.tool(structured_output=False)
def echo(text: str) -> str:
    """Says it back"""
    return text


@server.tool(structured_output=False)
def add(a: float, b: float) -> str:
    """Adds two numbers"""
    return f"{a + b:g}"


@server.tool(structured_output=False)
def fail() -> str:
    """Always fails"""
    raise ValueError("failed on purpose")


@server.tool(structured_output=False)
def secret() -> str:
    """A tool that policies hide"""
    return "leaked"


@server.tool(structured_output=False)
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


@server.tool(structured_output=False)
def was_cancelled(label: str) -> str:
    """Whether the slow call of that label was cancelled"""
    return str(label in cancelled)


class Colour(BaseModel):
    colour: str


@server.tool(structured_output=False)
async def elicit(ctx: Context) -> str:
    """Asks for a colour"""
    asked = await ctx.elicit("Which colour?", Colour)
    return f"chose {asked.data.colour}" if asked.action == "accept" else asked.action


@server.resource("note://hello", mime_type="text/plain")
def hello() -> str:
    """A note"""
    return "hello"


@server.prompt()
def greet(name: str) -> str:
    """A greeting"""
    return f"Greet {name}."


def leave_when_alone() -> None:
    """The test that started us holds the other end: when it is gone, however it went, so are we."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    if os.environ.get("PEER_HELD"):
        threading.Thread(target=leave_when_alone, daemon=True).start()
    # Naming the protocol lets asyncio see TCP and set TCP_NODELAY on what it accepts.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    listener.listen(128)
    print(f"listening {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(server.sse_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
