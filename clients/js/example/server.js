// Serves the page of the example and publishes its events.
//
//   fanfare --dev                      in one terminal
//   npm run example                    in another, then open the address it prints
//   npm run example -- URL APP_ID KEY SECRET     for a server without --dev

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { Market, publish } from "./feed.js";

const FILES = {
  "/": "index.html",
  "/page.js": "page.js",
  "/chart.js": "chart.js",
  "/style.css": "style.css",
  "/pusher.js": "../node_modules/pusher-js/dist/web/pusher.min.js",
};
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
const BUNDLE = { bundle: true, minify: true, format: "iife", globalName: "fanfare", target: "es2022", write: false };

const BATCH_INTERVAL_MS = 500;
const BATCH_EVENTS = 2;

const file = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Serves the page on 127.0.0.1 for the app of `server`. Resolves to the URL of the page. */
export async function servePage({ url, key }, port = 0) {
  const { outputFiles } = await build({ ...BUNDLE, entryPoints: [file("../src/index.js")] });
  const made = {
    "/fanfare.js": outputFiles[0].text,
    "/server.js": `const server = ${JSON.stringify({ url, key })};`,
  };
  const http = createServer(async ({ url: path }, response) => {
    const name = FILES[path];
    const body = made[path] ?? (name && (await readFile(file(name))));
    const type = TYPES[extname(name ?? path)];
    response.writeHead(body ? 200 : 404, { "content-type": `${type}; charset=utf-8` }).end(body);
  });
  await new Promise((resolve) => http.listen(port, "127.0.0.1", resolve));
  return `http://127.0.0.1:${http.address().port}/`;
}

/** Publishes a batch of `count` ticks. Resolves to their data. */
export async function publishTicks(server, market, count = BATCH_EVENTS) {
  const ticks = Array.from({ length: count }, () => JSON.stringify(market.tick()));
  await publish(server, ticks.map((data) => ({ name: "tick", channel: "market", data })));
  return ticks;
}

async function main([url = "http://127.0.0.1:6001", appId = "1001", key = "dev-key", secret = "dev-secret"]) {
  const server = { url, appId, key, secret };
  console.log(`open ${await servePage(server, 6080)}`);
  const market = new Market();
  setInterval(() => publishTicks(server, market).catch(console.error), BATCH_INTERVAL_MS);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
