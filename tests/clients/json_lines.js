// Commands on stdin and reports on stdout, one JSON value per line.

import { createInterface } from "node:readline";

/** Writes a report for the test. */
export function print(report) {
  process.stdout.write(JSON.stringify(report) + "\n");
}

/**
 * Runs `handlers[command.cmd](command)` for each line of stdin, sequentially, also with
 * asynchronous handlers. Exits at the end of stdin, so that no client outlives its test.
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
