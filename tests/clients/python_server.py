"""Pusher's server library for Python, used like by a backend.

  .venv/bin/python python_server.py HOST PORT APP_ID KEY SECRET

Environment: ENCRYPTION_MASTER_KEY (32 bytes in base64), for events on encrypted
channels.

Commands, each with one report, in order
  {"cmd":"trigger","channels":C|[C…],"event":E,"data":D,"socket_id":…?}
  {"cmd":"trigger_batch","batch":[{"channel":C,"name":E,"data":D,"info":…?,"socket_id":…?}…]}
  {"cmd":"channel_info","channel":C,"attributes":["subscription_count"]?}
  {"cmd":"send_to_user","user":ID,"event":E,"data":D}
  {"cmd":"terminate_user_connections","user":ID}
  {"cmd":"authenticate","channel":C,"socket_id":S,"data":D?}    the response of an auth endpoint
  {"cmd":"authenticate_user","socket_id":S,"user":{"id":ID,…}}
Reports
  {"type":"result","cmd":…,"body":…}
  {"type":"failed","cmd":…,"status":400|null,"body":…|null,"error":"…"}
`body` is the parsed JSON. A null status means that the library failed before the
request, or received no response.
"""

import json
import os
import sys

import pusher
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus, PusherForbidden

# The library maps these statuses to classes, and prefixes the body with any other status.
STATUS = {PusherBadRequest: 400, PusherBadAuth: 401, PusherForbidden: 403}


def main():
    if len(sys.argv) != 6:
        sys.exit("usage: python_server.py HOST PORT APP_ID KEY SECRET")
    host, port, app_id, key, secret = sys.argv[1:]
    client = pusher.Pusher(
        app_id=app_id,
        key=key,
        secret=secret,
        ssl=False,
        host=host,
        port=int(port),
        timeout=30,
        encryption_master_key_base64=os.environ.get("ENCRYPTION_MASTER_KEY"),
    )
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(report_on(client, line)), flush=True)


def report_on(client, line):
    try:
        command = json.loads(line)
        name = command["cmd"]
    except (ValueError, KeyError, TypeError) as error:
        return {"type": "bad_command", "line": line, "error": repr(error)}
    try:
        return {"type": "result", "cmd": name, "body": run(client, name, command)}
    except Exception as error:  # the test evaluates the error
        status, body = status_and_body(error)
        return {"type": "failed", "cmd": name, "status": status, "body": body, "error": repr(error)}


def run(client, name, command):
    if name == "trigger":
        return client.trigger(
            command["channels"], command["event"], command["data"], command.get("socket_id")
        )
    if name == "trigger_batch":
        return client.trigger_batch(command["batch"])
    if name == "channel_info":
        return client.channel_info(command["channel"], command.get("attributes", []))
    if name == "send_to_user":
        return client.send_to_user(command["user"], command["event"], command["data"])
    if name == "terminate_user_connections":
        return client.terminate_user_connections(command["user"])
    if name == "authenticate":
        response = client.authenticate(command["channel"], command["socket_id"], command.get("data"))
        # The library returns the secret of an encrypted channel as bytes.
        secret = response.get("shared_secret")
        return response if secret is None else {**response, "shared_secret": secret.decode()}
    if name == "authenticate_user":
        return client.authenticate_user(command["socket_id"], command["user"])
    raise ValueError(f"unknown command {name!r}")


def status_and_body(error):
    text = str(error)
    if isinstance(error, PusherBadStatus):
        status, _, text = text.partition(": ")
        status = int(status)
    else:
        status = STATUS.get(type(error))
    if status is None:
        return None, None
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


if __name__ == "__main__":
    main()
