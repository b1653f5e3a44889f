"""What the Python servers share: events to resume from, and their way in and out of the world."""

import os
import socket
import sys
import threading
from typing import Any

import uvicorn
from mcp.server.streamable_http import EventMessage, EventStore

RETRY_MS = 100
WATCHED = "note://watched"
PAGE = "https://sign.test/1"
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
SAID = ["debug", "info", "warning", "error"]
EVENTS_KEPT_MAX = 1000


class Events(EventStore):
    """The last events of all sessions, in the order they were sent."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, Any]] = {}
        self.next = 0

    async def store_event(self, stream_id: str, message: Any) -> str:
        name = f"{self.next}~{stream_id}"
        self.next += 1
        self.kept[name] = (stream_id, message)
        if len(self.kept) > EVENTS_KEPT_MAX:
            del self.kept[next(iter(self.kept))]
        return name

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        if last_event_id not in self.kept:
            return None
        stream, _ = self.kept[last_event_id]
        seen = False
        for name, (of, message) in list(self.kept.items()):
            # The event that opens a stream carries no message.
            if seen and of == stream and message is not None:
                await send_callback(EventMessage(message, name))
            seen = seen or name == last_event_id
        return stream


def wanted(level: str, least: str | None) -> bool:
    """Whether a client that set its level so wants a message of this one."""
    return least is None or LEVELS.index(level) >= LEVELS.index(least)


def leave_when_alone() -> None:
    """The test that started us holds the other end: when it is gone, however it went, so are we."""
    sys.stdin.buffer.read()
    os._exit(0)


def serve(app: Any) -> None:
    """Serves it on loopback, on the port that was told or a free one, and says on which."""
    if os.environ.get("PEER_HELD"):
        threading.Thread(target=leave_when_alone, daemon=True).start()
    # Naming the protocol lets asyncio see TCP and set TCP_NODELAY on what it accepts.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    listener.listen(128)
    print(f"listening {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
