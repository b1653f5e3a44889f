"""A telemetry collector for the tests: OTLP over HTTP, read by the official protobuf definitions.

Prints `listening PORT`. `POST /v1/traces` and `/v1/metrics` are what a collector has; `GET /seen` gives everything that
came, as JSON; `POST /do` sets how it answers from then on: `{"status": 503, "retry_after": 1, "times": 2}`,
`{"delay_ms": 300}`, `{"hang": true}`, or `{}` for a good collector. Ends with its standard input.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LOCK = threading.Lock()
HOW: dict = {}
# `metrics`: the last number of each series, by name and labels, and how often the metrics came.
SEEN: dict = {"spans": [], "metrics": {}, "pushes": 0, "posts": 0, "faults": [], "fields": [], "resource": None}


def value(any_value):
    """An AnyValue as JSON has it."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    out = {pair.key: value(pair.value) for pair in pairs}
    if len(out) != len(pairs):
        SEEN["faults"].append(f"a key stands twice: {[pair.key for pair in pairs]}")
    return out


def take_traces(body):
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for resource in request.resource_spans:
        SEEN["resource"] = attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                SEEN["spans"].append(
                    {
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "name": span.name,
                        "kind": span.kind,
                        "begun": span.start_time_unix_nano,
                        "ended": span.end_time_unix_nano,
                        "attributes": attributes(span.attributes),
                        "links": [{"trace": link.trace_id.hex(), "span": link.span_id.hex()} for link in span.links],
                        "status": span.status.code,
                        "message": span.status.message,
                        "scope": scope.scope.name,
                        "schema": scope.schema_url,
                    }
                )


def take_metrics(body):
    request = ExportMetricsServiceRequest()
    request.ParseFromString(body)
    SEEN["pushes"] += 1
    for resource in request.resource_metrics:
        SEEN["resource"] = attributes(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                take_metric(metric)


def take_metric(metric):
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    if kind in ("sum", "histogram") and data.aggregation_temporality != 2:
        SEEN["faults"].append(f"{metric.name} is not cumulative")
    if not metric.description.endswith("."):
        SEEN["faults"].append(f"{metric.name} says nothing")
    for point in data.data_points:
        labels = attributes(point.attributes)
        if not 0 < point.start_time_unix_nano <= point.time_unix_nano:
            SEEN["faults"].append(f"{metric.name}: its times are none")
        one = {"name": metric.name, "unit": metric.unit, "kind": kind, "labels": labels}
        if kind == "histogram":
            if sum(point.bucket_counts) != point.count or len(point.bucket_counts) != len(point.explicit_bounds) + 1:
                SEEN["faults"].append(f"{metric.name}: its buckets do not add up")
            one |= {"count": point.count, "sum": point.sum, "bounds": list(point.explicit_bounds)}
            one |= {"buckets": list(point.bucket_counts)}
        else:
            one["value"] = getattr(point, point.WhichOneof("value"))
            one["monotonic"] = kind == "sum" and data.is_monotonic
        SEEN["metrics"][metric.name + json.dumps(labels, sort_keys=True)] = one


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with LOCK:
            body = json.dumps({**SEEN, "metrics": list(SEEN["metrics"].values())}).encode()
        self.answer(200, body, "application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/do":
            with LOCK:
                HOW.clear()
                HOW.update(json.loads(body))
            return self.answer(200, b"{}", "application/json")
        with LOCK:
            SEEN["posts"] += 1
            how = dict(HOW)
            if "times" in HOW:
                HOW["times"] -= 1
                if HOW["times"] <= 0:
                    HOW.clear()
        if how.get("hang"):
            time.sleep(3600)
        time.sleep(how.get("delay_ms", 0) / 1000)
        if how.get("status", 200) != 200:
            more = {"retry-after": str(how["retry_after"])} if "retry_after" in how else {}
            return self.answer(how["status"], b"", "text/plain", more)
        with LOCK:
            if self.headers["content-type"] != "application/x-protobuf":
                SEEN["faults"].append(f"content-type: {self.headers['content-type']}")
            SEEN["fields"].append({name.lower(): text for name, text in self.headers.items()})
            take = {"/v1/traces": take_traces, "/v1/metrics": take_metrics}.get(self.path)
            if take is None:
                SEEN["faults"].append(f"{self.path} is no signal")
                return self.answer(404, b"", "text/plain")
            try:
                take(body)
            except Exception as fault:  # noqa: BLE001
                SEEN["faults"].append(f"{self.path}: {fault!r}")
                return self.answer(400, b"", "text/plain")
        return self.answer(200, b"", "application/x-protobuf")

    def answer(self, status, body, media, more=None):
        self.send_response(status)
        for name, text in {"content-type": media, "content-length": str(len(body)), **(more or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PEER_PORT", "0"))), Collector)
server.daemon_threads = True
if os.environ.get("PEER_HELD"):
    threading.Thread(target=end_with_stdin, daemon=True).start()
print(f"listening {server.server_address[1]}", flush=True)
server.serve_forever()
