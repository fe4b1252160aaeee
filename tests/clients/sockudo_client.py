"""Sockudo's client library for Python, used like by an application: with its default
protocol, which is 2, and with deltas enabled.

  APP_SECRET=… .venv/bin/python sockudo_client.py HOST PORT KEY USER

A callback authorises channels like a backend, and signs presence channels for USER.

Commands
  {"cmd":"subscribe","channel":C}
  {"cmd":"unsubscribe","channel":C}
  {"cmd":"trigger","channel":C,"event":E,"data":D}     E begins with client-
  {"cmd":"stats"}
  {"cmd":"disconnect"}
Reports
  {"type":"connection","current":…,"socket_id":…}
  {"type":"deltas","data":…}                  the server's reply to the opt-in
  {"type":"event","channel":C,"event":E,"data":D}
  {"type":"stats","full":…,"delta":…,"errors":…}
  {"type":"error","error":…}
Events are those of the channel's global callbacks. A member is reported by its id, a
presence channel's roster by all ids.
"""

import asyncio
import hashlib
import hmac
import json
import os
import sys

from sockudo_python import (
    ChannelAuthorizationData,
    ChannelAuthorizationOptions,
    DeltaOptions,
    PresenceMember,
    SockudoClient,
    SockudoOptions,
)
from sockudo_python.client import PresenceMembers


def report(**members):
    print(json.dumps(members), flush=True)


def plain(data):
    """The data of a callback as a JSON value."""
    if isinstance(data, PresenceMember):
        return data.id
    if isinstance(data, PresenceMembers):
        # The library has no public list of the members.
        return sorted(data._members)
    return data


def authorizer(key, user):
    secret = os.environ["APP_SECRET"].encode()

    async def authorize(request):
        text = f"{request.socket_id}:{request.channel_name}"
        channel_data = None
        if request.channel_name.startswith("presence-"):
            channel_data = json.dumps({"user_id": user})
            text += f":{channel_data}"
        signature = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
        return ChannelAuthorizationData(auth=f"{key}:{signature}", channel_data=channel_data)

    return authorize


def start(host, port, key, user):
    deltas = DeltaOptions(enabled=True, on_error=lambda error: report(type="error", error=repr(error)))
    options = SockudoOptions(
        cluster="none",
        ws_host=host,
        ws_port=int(port),
        force_tls=False,
        channel_authorization=ChannelAuthorizationOptions(custom_handler=authorizer(key, user)),
        delta_compression=deltas,
    )
    client = SockudoClient(key, options)
    client.bind(
        "state_change",
        lambda state, _: report(
            type="connection", current=state["current"], socket_id=client.socket_id
        ),
    )
    client.bind(
        "sockudo:delta_compression_enabled", lambda data, _: report(type="deltas", data=data)
    )
    client.bind("error", lambda error, _: report(type="error", error=str(error)))
    return client


async def dispatch(client, command):
    name, channel = command["cmd"], command.get("channel")
    if name == "subscribe":
        known = client.channel(channel)
        subscribed = client.subscribe(channel)
        if known is None:
            subscribed.bind_global(
                lambda event, data: report(
                    type="event", channel=channel, event=event, data=plain(data)
                )
            )
    elif name == "unsubscribe":
        await client.unsubscribe(channel)
    elif name == "trigger":
        await client.channel(channel).trigger(command["event"], command["data"])
    elif name == "stats":
        stats = client.get_delta_stats()
        report(
            type="stats",
            full=stats.full_messages,
            delta=stats.delta_messages,
            errors=stats.errors,
        )
    elif name == "disconnect":
        await client.disconnect()
    else:
        raise ValueError(f"unknown command {name!r}")


async def main():
    if len(sys.argv) != 5:
        sys.exit("usage: sockudo_client.py HOST PORT KEY USER")
    client = start(*sys.argv[1:])
    await client.connect()
    loop = asyncio.get_running_loop()
    # A thread reads stdin. The program exits at its end.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            await dispatch(client, json.loads(line))
        except Exception as error:  # the test evaluates the error
            report(type="bad_command", line=line, error=repr(error))


if __name__ == "__main__":
    asyncio.run(main())
