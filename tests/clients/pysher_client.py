"""Pysher, the most used Pusher client for Python, used like by an application:
protocol 6, and subscriptions when the connection is established.

  APP_SECRET=… .venv/bin/python pysher_client.py HOST PORT KEY

APP_SECRET signs subscriptions without `auth`.

Command, once
  {"cmd":"connect","subscriptions":[{"channel":C,"events":[E…],"auth":A?}…]}
Reports
  {"type":"connected","socket_id":ID}                 also after a reconnect
  {"type":"event","channel":C,"event":E,"data":D}     one of the subscription's events
  {"type":"error","data":D}                           `pusher:error` of the connection
  {"type":"state","state":S}                          the reply to {"cmd":"state"}
  D is the value that Pysher passes to a callback: the text of `data` if it is a
  string, otherwise parsed JSON.
"""

import json
import os
import sys

import pysher


def report(**members):
    print(json.dumps(members), flush=True)


def connect(client, subscriptions):
    # Pysher dispatches events on its own thread. This handler runs on that thread,
    # so that the callbacks that it binds miss no event.
    def subscribe_all(data):
        report(type="connected", socket_id=json.loads(data)["socket_id"])
        for subscription in subscriptions:
            subscribe(client, **subscription)

    client.connection.bind("pusher:connection_established", subscribe_all)
    client.connection.bind("pusher:error", lambda data: report(type="error", data=data))
    client.connect()


def subscribe(client, channel, events, auth=None):
    subscribed = client.subscribe(channel, auth)
    for event in events:
        subscribed.bind(
            event,
            lambda data, event: report(type="event", channel=channel, event=event, data=data),
            event,
        )


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: pysher_client.py HOST PORT KEY")
    host, port, key = sys.argv[1:]
    client = pysher.Pusher(
        key,
        secret=os.environ["APP_SECRET"],
        custom_host=host,
        port=int(port),
        secure=False,
        # Immediately, for tests that count connections.
        reconnect_interval=0,
    )
    commands = {
        "connect": lambda subscriptions: connect(client, subscriptions),
        "state": lambda: report(type="state", state=client.connection.state),
    }
    for line in sys.stdin:
        try:
            command = json.loads(line)
            commands[command.pop("cmd")](**command)
        except Exception as error:  # the test evaluates the error
            report(type="bad_command", line=line, error=repr(error))


if __name__ == "__main__":
    main()
