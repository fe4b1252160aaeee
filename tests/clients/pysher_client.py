"""Pysher, the most used Pusher client for Python, as an application uses it:
protocol 6, and subscriptions made when the connection is established.

  APP_SECRET=… .venv/bin/python pysher_client.py HOST PORT KEY

APP_SECRET signs subscriptions that bring no `auth` of their own.

Command, once
  {"cmd":"connect","subscriptions":[{"channel":C,"events":[E…],"auth":A?}…]}
Reports
  {"type":"connected","socket_id":ID}                 also after a reconnection
  {"type":"event","channel":C,"event":E,"data":D}     one of the subscription's events
  {"type":"error","data":D}                           `pusher:error` of the connection
  {"type":"state","state":S}                          the answer to {"cmd":"state"}
where D is what Pysher passes to a callback: the text of `data` where it is a
string, and parsed JSON where it is not.
"""

import json
import os
import sys

import pysher


def report(**members):
    print(json.dumps(members), flush=True)


def connect(client, subscriptions):
    # Pysher passes events to a channel from its own thread. Callbacks bound in
    # this handler, which runs on that thread, miss no event.
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
        # Soon enough for a test that counts connections.
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
        except Exception as error:  # whatever goes wrong is the test's to judge
            report(type="bad_command", line=line, error=repr(error))


if __name__ == "__main__":
    main()
