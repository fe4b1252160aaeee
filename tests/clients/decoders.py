"""The third-party VCDIFF decoder of Python clients.

  .venv/bin/python decoders.py

Command, all bytes in base64
  {"cmd":"decode","algorithm":"xdelta3","base":…,"delta":…}
Reports
  {"type":"decoded","target":…}
  {"type":"failed","error":…}
"""

import base64
import json
import sys

import vcdiff_decoder


def main():
    for line in sys.stdin:
        print(json.dumps(report_on(json.loads(line))), flush=True)


def report_on(command):
    base, delta = (base64.b64decode(command[name]) for name in ("base", "delta"))
    try:
        target = vcdiff_decoder.decode(base, delta)
    except Exception as error:  # The decoder raises various types for an invalid delta.
        return {"type": "failed", "error": repr(error)}
    return {"type": "decoded", "target": base64.b64encode(target).decode()}


main()
