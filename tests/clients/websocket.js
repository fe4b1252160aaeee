// WebSockets without a client library: `ws` in Node, or the WebSocket of Chromium.
//
//   node websocket.js
//
// Commands
//   {"cmd":"browse","profile":DIRECTORY}     opens a page in Chromium, which opens later sockets
//   {"cmd":"open","id":N,"url":U,"protocols":[P…]?}
//   {"cmd":"close","id":N}
// Reports
//   {"type":"chromium","pid":P}              leader of its process group
//   {"type":"done"}                          the page is open
//   {"id":N,"type":"opened","protocol":P}    the subprotocol that the server selected, or ""
//   {"id":N,"type":"frame","frame":TEXT}
//   {"id":N,"type":"error","error":TEXT}     empty in Chromium, which hides the reason from pages
//   {"id":N,"type":"closed","code":C,"reason":TEXT}

import { createServer } from "node:http";
import WebSocket from "ws";
import { launchChromium } from "./chromium.js";
import { print, serveCommands } from "./json_lines.js";

const sockets = new Map();
let page;

// Exit with the test, even during a command. The browser exits with this process.
process.stdin.once("end", () => process.exit(0));

await serveCommands({
  async browse({ profile }) {
    const browser = await launchChromium(profile);
    print({ type: "chromium", pid: browser.process().pid });
    page = await browser.newPage();
    await page.exposeFunction("report", print);
    await page.goto(await serveEmptyPage());
    await page.evaluate(`window.sockets = new Map(); ${openSocket}`);
    print({ type: "done" });
  },
  open({ id, url, protocols }) {
    if (page) return page.evaluate((...args) => openSocket(WebSocket, window.sockets, report, ...args), id, url, protocols);
    openSocket(WebSocket, sockets, print, id, url, protocols);
  },
  close({ id }) {
    if (page) return page.evaluate((id) => window.sockets.get(id).close(), id);
    sockets.get(id).close();
  },
});

/** Opens a socket and reports its events. Runs in Node and in the page. */
function openSocket(WebSocket, sockets, report, id, url, protocols) {
  const socket = protocols ? new WebSocket(url, protocols) : new WebSocket(url);
  sockets.set(id, socket);
  socket.onopen = () => report({ id, type: "opened", protocol: socket.protocol });
  socket.onmessage = ({ data }) => report({ id, type: "frame", frame: data });
  socket.onerror = ({ message }) => report({ id, type: "error", error: message ?? "" });
  socket.onclose = ({ code, reason }) => report({ id, type: "closed", code, reason });
}

/** Serves an empty page from this machine, because browsers may block local connections of others. */
async function serveEmptyPage() {
  const http = createServer((_, response) => response.end("<!doctype html><title>WebSockets</title>"));
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${http.address().port}/`;
}
