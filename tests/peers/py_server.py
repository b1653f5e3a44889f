"""A small MCP server on the Python SDK (`mcp` 2.3.0): both eras at one URL, sessions in the legacy one.

python py_server.py [PORT]      prints `listening PORT`, serves http://127.0.0.1:PORT/mcp
"""

import os
import socket
import sys
import threading
from typing import Annotated

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

server = MCPServer("portcullis-py", version="1.0.0")
cancelled: set[str] = set()


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
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
