// Commands in, reports out: one JSON value per line.

import { createInterface } from "node:readline";

/** Report one thing to the test. */
export function print(report) {
  process.stdout.write(JSON.stringify(report) + "\n");
}

/**
 * Run `handlers[command.cmd](command)` for each line of stdin, one after the
 * other, also where a handler is asynchronous. The end of stdin is the end of
 * the program: a test that dies leaves no client behind.
 */
export async function serveCommands(handlers) {
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() === "") continue;
    try {
      const command = JSON.parse(line);
      const handler = Object.hasOwn(handlers, command.cmd) && handlers[command.cmd];
      if (!handler) throw new Error(`unknown command ${JSON.stringify(command.cmd)}`);
      await handler(command);
    } catch (error) {
      print({ type: "bad_command", line, error: String(error) });
    }
  }
  process.exit(0);
}
