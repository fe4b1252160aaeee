// A web application with a Pusher server: it serves its page, and signs and publishes
// with Pusher's own server library.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";
import Pusher from "pusher";

const ASSETS = {
  "/": "page/index.html",
  "/pusher.js": "node_modules/pusher-js/dist/web/pusher-with-encryption.js",
  "/echo.js": "node_modules/laravel-echo/dist/echo.iife.js",
};
const FOLDERS = /^\/(page|features)\/[a-z_]+\.(js|css)$/;
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };

/** Methods of the server library that the page may call. */
const METHODS = ["trigger", "triggerBatch", "sendToUser", "terminateUserConnections", "get"];

/** Watchlists by user. Names are without the `@` suffix. */
const WATCHLISTS = { wanda: ["victor", "vera"] };

/**
 * Starts the application on 127.0.0.1. Resolves to its URL. `server`: { host, port,
 * appId, key, secret, encryptionMasterKeyBase64 }. `site` is the content of
 * `/site.json`.
 */
export async function startWebApp(server, site) {
  const pusher = new Pusher({ ...server, useTLS: false, timeout: 10_000 });
  const forger = new Pusher({ ...server, secret: "not the secret" });
  const posts = {
    "/broadcasting/auth": (form, user) => authorize(user.id.startsWith("eve@") ? forger : pusher, form, user),
    "/broadcasting/user-auth": (form, user) => pusher.authenticateUser(form.get("socket_id"), user),
  };
  const http = createServer((request, response) => {
    respond(request).then(
      ({ type, body }) => response.writeHead(200, { "content-type": type }).end(body),
      (error) => response.writeHead(error.status ?? 500).end(`${error.message} ${error.body ?? ""}`),
    );
  });

  async function respond(request) {
    const { pathname } = new URL(request.url, "http://app");
    if (request.method === "GET") return pathname === "/site.json" ? json(site) : asset(pathname);
    const body = await text(request);
    if (posts[pathname]) return json(posts[pathname](new URLSearchParams(body), userOf(request)));
    const method = METHODS.find((method) => pathname === `/backend/${method}`);
    if (!method) throw notFound(pathname);
    return json(await (await pusher[method](...JSON.parse(body))).json());
  }

  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${http.address().port}`;
}

function authorize(pusher, form, user) {
  const [socketId, channel] = [form.get("socket_id"), form.get("channel_name")];
  // On members-only channels, the member is the signed-in user.
  const needsData = channel.startsWith("presence-") && !channel.startsWith("presence-members-only");
  const member = needsData ? { user_id: user.id, user_info: user.user_info } : undefined;
  return pusher.authorizeChannel(socketId, channel, member);
}

/** The user of a header `Bearer ann@pusher-js`. All its properties follow from the name. */
function userOf(request) {
  const id = request.headers.authorization.replace("Bearer ", "");
  const [name, library] = id.split("@");
  const user_info = { name: name[0].toUpperCase() + name.slice(1) };
  const watchlist = WATCHLISTS[name]?.map((other) => `${other}@${library}`);
  return { id, user_info, ...(watchlist && { watchlist }) };
}

async function asset(pathname) {
  const path = ASSETS[pathname] ?? (FOLDERS.test(pathname) && pathname.slice(1));
  if (!path) throw notFound(pathname);
  const body = await readFile(new URL(path, import.meta.url));
  return { type: `${TYPES[extname(path)]}; charset=utf-8`, body };
}

function json(value) {
  return { type: "application/json", body: JSON.stringify(value) };
}

function notFound(pathname) {
  return Object.assign(new Error(`nothing at ${pathname}`), { status: 404 });
}

async function text(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
