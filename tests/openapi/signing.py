"""Signs requests as Pusher's libraries do."""

import hashlib
import hmac
import time
from urllib.parse import unquote

import requests

SECRET = b"openapi-secret"
KEYS = {"1001": "openapi-key", "1002": "limited-key", "1003": "disabled-key"}


class Signature(requests.auth.AuthBase):
    """Signs the request as it goes over the wire: path, query and body are final here.

    A value in `replaced` replaces the parameter before signing; `None` removes it.
    """

    def __init__(self, secret: bytes = SECRET, **replaced: str | None):
        self.secret, self.replaced = secret, replaced

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        path, _, query = request.path_url.partition("?")
        segments = path.split("/")
        if segments[1] != "apps":
            return request
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        auth = {
            "auth_key": KEYS.get(segments[2], KEYS["1001"]),
            "auth_timestamp": str(int(time.time())),
            "auth_version": "1.0",
            "body_md5": hashlib.md5(body).hexdigest() if body else None,
        }
        auth |= self.replaced
        pairs = [pair for pair in query.split("&") if pair]
        pairs += [f"{name}={value}" for name, value in auth.items() if value is not None]
        decoded = [tuple(map(unquote, pair.partition("=")[::2])) for pair in pairs]
        in_order = sorted(((name.lower(), value) for name, value in decoded), key=lambda pair: pair[0])
        text = "\n".join([request.method, path, "&".join(f"{name}={value}" for name, value in in_order)])
        signature = hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()
        request.url = request.url.partition("?")[0] + "?" + "&".join([*pairs, f"auth_signature={signature}"])
        return request
