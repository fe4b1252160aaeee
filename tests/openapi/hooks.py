"""Extends schemathesis: signatures, WebSockets, and rules that OpenAPI cannot express.

With FANFARE_OPENAPI_SIGN=no the requests stay unsigned.
"""

import os
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

sys.path.insert(0, str(Path(__file__).parent))
from signing import Signature


def close_websocket(response, **_):
    """A connection that has become a WebSocket must not carry the next request."""
    if response.status_code == 101:
        response.raw.close()


class Authentication(Signature):
    def __call__(self, request):
        request.register_hook("response", close_websocket)
        return super().__call__(request)


if os.environ.get("FANFARE_OPENAPI_SIGN") != "no":
    schemathesis.auth.set_from_requests(Authentication())


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """False for a finding that is not a failure."""
    rules = (is_unavailable_attribute, is_empty_attribute)
    return not any(rule(failure, case, response) for rule in rules)


def is_unavailable_attribute(failure, case, response):
    """`info` may only have attributes of the channel: a rule across two parameters."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return False
    info = str((case.query or {}).get("info"))
    if "channel" in case.path_parameters:
        name = unquote(str(case.path_parameters["channel"]))
        is_cache = name.startswith(("cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"))
    else:
        name, is_cache = str(case.query.get("filter_by_prefix")), False
    return ("user_count" in info and not name.startswith("presence-")) or ("cache" in info and not is_cache)


def is_empty_attribute(failure, case, response):
    """Empty names in `info` are ignored. As values of its enum they would only confuse readers."""
    if not isinstance(failure, AcceptedNegativeData) or response.status_code != 200:
        return False
    sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True).get("info", [])
    names = [name.strip() for value in sent for name in value.split(",")]
    return "" in names and set(names) <= {"", "subscription_count", "user_count", "cache"}
