"""The Python SDK 2.x with OpenTelemetry's own SDK in the process, which is all it takes: it puts the context of its spans
into `_meta` by itself. Its argument is JSON: `url`, and the `tools` to call, one after the other. Prints its spans.
"""

import asyncio
import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
trace.set_tracer_provider(PROVIDER)

from mcp import Client  # noqa: E402


async def main(spec):
    async with Client(spec["url"], mode=spec.get("mode", "auto")) as client:
        for tool in spec["tools"]:
            await client.call_tool(tool, {"value": "x"})


spec = json.loads(sys.argv[1])
fault = None
try:
    asyncio.run(main(spec))
except Exception as caught:  # noqa: BLE001
    fault = repr(caught)
spans = [
    {
        "name": span.name,
        "trace": f"{span.context.trace_id:032x}",
        "span": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "method": span.attributes.get("mcp.method.name"),
    }
    for span in EXPORTER.get_finished_spans()
]
print(json.dumps({"fault": fault, "spans": spans}))
