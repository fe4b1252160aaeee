// Posts large bodies, which the server rejects before it has read them, over one
// keep-alive connection.
//
//   node early_answers.js HOST PORT APP_ID KEY COUNT BYTES
//
// Reports
//   {"type":"answer","status":401}    for each request, in order
//
// Requests have no listener for 'error': a connection that breaks while Node still
// sends ends the program with a stack trace and exit code 1, like a backend without
// such a listener.

import http from "node:http";
import { print } from "./json_lines.js";

const [host, port, appId, key, count, bytes] = process.argv.slice(2);
if (!bytes) {
  console.error("usage: early_answers.js HOST PORT APP_ID KEY COUNT BYTES");
  process.exit(2);
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const body = Buffer.alloc(Number(bytes), "x");

function post() {
  const query = new URLSearchParams({
    auth_key: key,
    auth_timestamp: Math.floor(Date.now() / 1000),
    auth_version: "1.0",
    body_md5: "0".repeat(32),
    auth_signature: "0".repeat(64),
  });
  return new Promise((resolve) => {
    const request = http.request({
      agent,
      host,
      port,
      method: "POST",
      path: `/apps/${appId}/events?${query}`,
      headers: { "content-type": "application/json", "content-length": body.length },
    });
    request.on("response", (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.end(body);
  });
}

for (let number = 0; number < Number(count); number++) {
  print({ type: "answer", status: await post() });
}
agent.destroy();
