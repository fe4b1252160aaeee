// All features of the server with pusher-js and Laravel Echo, in a browser and in Node;
// see features/run.js.
//
//   node page_server.js HOST PORT APP_ID KEY SECRET
//
// Environment: ENCRYPTION_MASTER_KEY (32 bytes in base64); CHROMIUM, if the browser is
// not on the path.
//
// Commands
//   {"cmd":"node","expected":{LIBRARY:{FEATURE:SEEN}}}
//   {"cmd":"chromium","expected":…,"profile":DIRECTORY,"screenshot":FILE}
// Reports
//   {"type":"chromium","pid":P,"version":V}      leader of its process group
//   {"type":"result","library":L,"feature":F,"passed":true|false,
//    "seen":SEEN?,"error":"…"?,"words":["…"]?}   words: log of pusher-js, after a failure
//   {"type":"console","text":"…"}
//   {"type":"done"}

import Echo from "laravel-echo";
import { readFile } from "node:fs/promises";
import { isDeepStrictEqual } from "node:util";
import Pusher from "pusher-js";
import { launchChromium } from "./chromium.js";
import { runAll } from "./features/run.js";
import { print, serveCommands } from "./json_lines.js";
import { startWebApp } from "./web_app.js";

const [host, port, appId, key, secret] = process.argv.slice(2);
if (!secret) {
  console.error("usage: page_server.js HOST PORT APP_ID KEY SECRET");
  process.exit(2);
}

const encryptionMasterKeyBase64 = process.env.ENCRYPTION_MASTER_KEY;
const server = { key, host, port: Number(port) };
const versions = { "pusher-js": await version("pusher-js"), "laravel-echo": await version("laravel-echo") };
const app = await startWebApp(
  { appId, key, secret, host, port, encryptionMasterKeyBase64 },
  { server, versions },
);

// Exit with the test, even during a command. The browser exits with this process.
process.stdin.once("end", () => process.exit(0));

await serveCommands({
  async node({ expected }) {
    // Echo takes its client from `window.Pusher`, which Node does not have.
    const makeEcho = (options) => new Echo({ ...options, client: new Pusher(options.key, options) });
    await runAll({ Pusher, makeEcho, app, server }, (result) => judge(result, expected));
    print({ type: "done" });
  },

  async chromium({ expected, profile, screenshot }) {
    const browser = await launchChromium(profile);
    try {
      print({ type: "chromium", pid: browser.process().pid, version: await browser.version() });
      const page = await browser.newPage();
      await page.setViewport({ width: 1360, height: 800 });
      reportConsole(page);
      await page.exposeFunction("judge", (result) => judge(result, expected));
      await page.goto(app);
      await page.waitForFunction("window.finished", { timeout: 0 });
      await page.screenshot({ path: screenshot, fullPage: true });
    } finally {
      await browser.close();
    }
    print({ type: "done" });
  },
});

/** Reports a result. Returns whether it equals the expected one. */
function judge({ words, ...result }, expected) {
  const passed = !result.error && isDeepStrictEqual(result.seen, expected[result.library]?.[result.feature]);
  print({ type: "result", passed, ...result, ...(passed || { words }) });
  return passed;
}

/** The version of a package, from its package.json, which some packages do not export. */
async function version(name) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(await readFile(file)).version;
}

/** Reports the messages of the browser's console. */
function reportConsole(page) {
  const report = (text) => print({ type: "console", text });
  page.on("console", (message) => report(message.text()));
  page.on("pageerror", (error) => report(String(error)));
  page.on("requestfailed", (request) => report(`${request.url()}: ${request.failure()?.errorText}`));
}
