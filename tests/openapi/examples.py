"""Compares the error examples of docs/openapi.yaml with responses of a server.

    examples.py URL

Every example of a status below 500 needs a request here, or a reason in SKIPPED.
"""

import sys
import time
from pathlib import Path

import requests
import yaml
from signing import Signature

ROOT = Path(__file__).parents[2]
EVENT = {"name": "e", "channel": "news", "data": "x"}
EVENTS, BATCH = "/apps/1001/events", "/apps/1001/batch_events"
CHANNELS, USERS = "/apps/1001/channels", "/apps/1001/users"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
KEY = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def post(path, body=EVENT, sign=None, headers=None):
    data = {"data": body} if isinstance(body, str | bytes) else {"json": body}
    return {"method": "POST", "path": path, "headers": headers, "auth": sign or Signature(), **data}


def get(path, sign=None, headers=None):
    return {"method": "GET", "path": path, "headers": headers, "auth": sign or Signature()}


def changed(**members):
    return {name: value for name, value in (EVENT | members).items() if value is not None}


# 10 of them have 4,198,810 bytes over all channels.
WIDE_EVENT = changed(channel=None, channels=[f"news-{n}" for n in range(41)], data="x" * 10_240)

# (operation or shared response, name of the example): the request.
REQUESTS = {
    ("publishEvent", "not_json"): post(EVENTS, "hello"),
    ("publishEvent", "not_an_object"): post(EVENTS, [1]),
    ("publishEvent", "too_deep"): post(EVENTS, "[" * 65 + "]" * 65),
    ("publishEvent", "missing_member"): post(EVENTS, {}),
    ("publishEvent", "reserved_name"): post(EVENTS, changed(name="pusher:delta")),
    ("publishEvent", "invalid_channel"): post(EVENTS, changed(channel="a/b")),
    ("publishEvent", "encrypted_with_others"): post(EVENTS, changed(channels=["private-encrypted-a"])),
    ("publishEvent", "too_many_channels"): post(EVENTS, changed(channel=None, channels=["c"] * 101)),
    ("publishEvent", "cost_above_rate_limit"): post("/apps/1002/events", changed(channels=["a", "b", "c"])),
    ("publishBatch", "missing_batch"): post(BATCH, {}),
    ("publishBatch", "invalid_event"): post(BATCH, {"batch": [EVENT, changed(name="")]}),
    ("publishBatch", "event_not_an_object"): post(BATCH, {"batch": [7]}),
    ("publishBatch", "too_many_events"): post(BATCH, {"batch": [EVENT] * 11}),
    ("listChannels", "unknown_attribute"): get(f"{CHANNELS}?info=nonsense"),
    ("listChannels", "user_count_unavailable"): get(f"{CHANNELS}?info=user_count"),
    ("listChannels", "cache_unavailable"): get(f"{CHANNELS}?info=cache"),
    ("getChannel", "invalid_channel"): get(f"{CHANNELS}/bad%20name"),
    ("getChannel", "name_too_long"): get(f"{CHANNELS}/{'c' * 201}"),
    ("getChannel", "unknown_attribute"): get(f"{CHANNELS}/news?info=nonsense"),
    ("getChannel", "user_count_unavailable"): get(f"{CHANNELS}/news?info=user_count"),
    ("getChannel", "cache_unavailable"): get(f"{CHANNELS}/news?info=cache"),
    ("listUsers", "not_a_presence_channel"): get(f"{CHANNELS}/news/users"),
    ("terminateConnections", "control_character"): post(f"{USERS}/no%0Abody/terminate_connections", {}),
    ("connect", "not_utf8"): get("/app/%FF", headers=UPGRADE | KEY),
    ("connect", "no_upgrade"): get("/app/dev-key"),
    ("connect", "headers_removed"): get("/app/dev-key", headers=KEY),
    ("Unauthorized", "missing_parameter"): post(EVENTS, sign=Signature(auth_key=None)),
    ("Unauthorized", "wrong_key"): post(EVENTS, sign=Signature(auth_key="unknown-key")),
    ("Unauthorized", "timestamp_not_a_number"): post(EVENTS, sign=Signature(auth_timestamp="now")),
    ("Unauthorized", "wrong_version"): post(EVENTS, sign=Signature(auth_version="2.0")),
    ("Unauthorized", "wrong_signature"): post(EVENTS, sign=Signature(b"wrong")),
    ("Unauthorized", "wrong_md5"): post(EVENTS, sign=Signature(body_md5="0" * 32)),
    ("Forbidden", "disabled"): post("/apps/1003/events"),
    ("AppNotFound", "unknown_app"): post("/apps/9/events"),
    ("AppNotFound", "unknown_path"): get("/nothing"),
    ("PayloadTooLarge", "body"): post(EVENTS, "x" * 400_000),
    ("PayloadTooLarge", "data"): post(EVENTS, changed(data="x" * 10_241)),
    ("PayloadTooLarge", "batch"): post(BATCH, {"batch": [WIDE_EVENT] * 10}),
    ("PayloadTooLarge", "data_in_batch"): post(BATCH, {"batch": [EVENT, changed(data="x" * 10_241)]}),
    ("UnsupportedEncoding", "gzip"): post(EVENTS, headers={"Content-Encoding": "gzip"}),
    ("RateLimited", "exceeded"): post("/apps/1002/batch_events", {"batch": [EVENT] * 3}),
    ("getServer", "example"): get("/"),
    ("getLive", "example"): get("/live"),
    ("getReady", "example"): get("/ready"),
    ("getUp", "example"): get("/up"),
    ("terminateConnections", "example"): post(f"{USERS}/42/terminate_connections", {}),
    ("publishEvent", "without_info"): post(EVENTS),
    ("publishBatch", "without_info"): post(BATCH, {"batch": [EVENT]}),
    ("getChannel", "unoccupied"): get(f"{CHANNELS}/news"),
    ("listUsers", "unoccupied"): get(f"{CHANNELS}/presence-room/users"),
}

SKIPPED = {
    ("Unauthorized", "timestamp_outside_window"): "has the time of the server",
    ("RequestTimeout", "incomplete_body"): "takes 30 s",
    ("connect", "http_1_0"): "the client has no HTTP/1.0",
    # The transcripts in tests/it/transcripts have these.
    ("publishEvent", "with_info"): "needs subscribers",
    ("publishBatch", "with_info"): "needs subscribers",
    ("listChannels", "without_info"): "needs subscribers",
    ("listChannels", "with_info"): "needs subscribers",
    ("getChannel", "presence"): "needs subscribers",
    ("getChannel", "cache"): "needs subscribers",
    ("getChannel", "cache_miss"): "needs subscribers",
    ("listUsers", "without_info"): "needs subscribers",
    ("listUsers", "with_info"): "needs subscribers",
}


def examples(document):
    """(owner, example name): (status, value), for all responses below 500."""
    methods = [method for path in document["paths"].values() for name, method in path.items() if name in ("get", "post")]
    responses = [
        (method["operationId"], status, response)
        for method in methods
        for status, response in method["responses"].items()
        if "$ref" not in response
    ]
    shared = document["components"]["responses"].items()
    responses += [(name, None, response) for name, response in shared]
    found = {}
    for owner, status, response in responses:
        content = response.get("content", {}).get("application/json", {})
        named = {name: example["value"] for name, example in content.get("examples", {}).items()}
        if "example" in content:
            named["example"] = content["example"]
        for name, value in named.items():
            expected = int(status or value["status"])
            if expected < 500:
                found[owner, name] = (expected, value)
    return found


def main():
    url = sys.argv[1]
    document = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    found, failures = examples(document), []
    for key in REQUESTS.keys() | SKIPPED.keys():
        if key not in found:
            failures.append(f"{key}: the document has no such example")
    for key, (status, value) in found.items():
        if key not in REQUESTS:
            if key not in SKIPPED:
                failures.append(f"{key}: no request for this example")
            continue
        request = dict(REQUESTS[key])
        request["url"] = url + request.pop("path")
        # A rate limit takes a second request within its window.
        deadline = time.monotonic() + 10
        while (response := requests.request(**request, timeout=10)).status_code != status:
            if key[0] != "RateLimited" or time.monotonic() > deadline:
                break
        if (response.status_code, response.json()) != (status, value):
            failures.append(f"{key}: expected {status} {value}, got {response.status_code} {response.text}")
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(REQUESTS)} examples compared, {len(failures)} failures")
    sys.exit(bool(failures))


main()
