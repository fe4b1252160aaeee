// Every feature of the server as browsers and Node use it, by pusher-js and by
// Laravel Echo; see features/run.js.
//
//   node page_server.js HOST PORT APP_ID KEY SECRET
//
// Environment: ENCRYPTION_MASTER_KEY (32 bytes in base64); CHROMIUM, where the
// browser is not on the path.
//
// Commands
//   {"cmd":"node","expected":{LIBRARY:{FEATURE:SEEN}}}
//   {"cmd":"chromium","expected":…,"profile":DIRECTORY,"screenshot":FILE}
// Reports
//   {"type":"chromium","pid":P,"version":V}      leader of its process group
//   {"type":"result","library":L,"feature":F,"passed":true|false,
//    "seen":SEEN?,"error":"…"?,"words":["…"]?}   words where it failed
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

// Also in the middle of a command: the test is gone, and the browser goes with it.
process.stdin.once("end", () => process.exit(0));

await serveCommands({
  async node({ expected }) {
    // Node has no `window.Pusher` that Echo could find.
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

/** Reports a result, and says whether it is the one that was expected. */
function judge({ words, ...result }, expected) {
  const passed = !result.error && isDeepStrictEqual(result.seen, expected[result.library]?.[result.feature]);
  print({ type: "result", passed, ...result, ...(passed || { words }) });
  return passed;
}

/** The version of a package, which not every package lets itself be asked. */
async function version(name) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(await readFile(file)).version;
}

/** What a person would read in the browser's console. */
function reportConsole(page) {
  const report = (text) => print({ type: "console", text });
  page.on("console", (message) => report(message.text()));
  page.on("pageerror", (error) => report(String(error)));
  page.on("requestfailed", (request) => report(`${request.url()}: ${request.failure()?.errorText}`));
}
