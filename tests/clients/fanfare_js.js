// Stock pusher-js with `withDeltas` of clients/js, in Node and in a browser with the
// page of the example.
//
//   node fanfare_js.js HOST PORT APP_ID KEY SECRET
//
// Commands
//   {"cmd":"connect","options":{…}?}             in Node: options of withDeltas
//   {"cmd":"subscribe","channel":C}   {"cmd":"unsubscribe","channel":C}
//   {"cmd":"echo","channel":C,"events":[E]}      subscribes by a Laravel Echo on this client
//   {"cmd":"lose"}                               drops the next delta before the client reads it
//   {"cmd":"leave"}                              disconnects
//   {"cmd":"come_back"}                          reconnects
//   {"cmd":"browse","profile":DIRECTORY}         in Chromium: opens the page
//   {"cmd":"publish","count":N,"batches":N}      publishes ticks of the example's market
//   {"cmd":"screenshot","file":FILE}
//   {"cmd":"stats"}                              reports the counts of Node, or of the page if it is open
// Reports
//   {"type":"connected","socket_id":ID}
//   {"type":"event","channel":C,"event":E,"data":D}    as the application receives it
//   {"type":"chromium","pid":P}                        leader of its process group
//   {"type":"published","data":[D]}
//   {"type":"stats",…,"algorithms":{A:N}}               deltas by their algorithm, in Node
//   {"type":"done"}   {"type":"console","text":"…"}

import Echo from "laravel-echo";
import Pusher from "pusher-js";
import { Market } from "../../clients/js/example/feed.js";
import { publishTicks, servePage } from "../../clients/js/example/server.js";
import { withDeltas } from "../../clients/js/src/index.js";
import { launchChromium } from "./chromium.js";
import { print, serveCommands } from "./json_lines.js";

const [host, port, appId, key, secret] = process.argv.slice(2);
if (!secret) {
  console.error("usage: fanfare_js.js HOST PORT APP_ID KEY SECRET");
  process.exit(2);
}

const server = { url: `http://${host}:${port}`, appId, key, secret };
const market = new Market();
const algorithms = {};
let pusher, deltas, browser, page;

// Exit with the test, even during a command. The browser exits with this process.
process.stdin.once("end", () => process.exit(0));

await serveCommands({
  connect({ options }) {
    const where = { cluster: "", wsHost: host, wsPort: Number(port), forceTLS: false, enabledTransports: ["ws"] };
    countAlgorithms();
    pusher = new Pusher(key, { ...where, enableStats: false });
    deltas = withDeltas(pusher, options);
    pusher.connection.bind("connected", ({ socket_id }) => print({ type: "connected", socket_id }));
  },
  subscribe({ channel }) {
    const report = (event, data) => print({ type: "event", channel, event, data: data ?? null });
    pusher.subscribe(channel).bind_global(report);
  },
  unsubscribe({ channel }) {
    pusher.unsubscribe(channel);
  },
  echo({ channel, events }) {
    const subscription = new Echo({ broadcaster: "pusher", client: pusher, key }).channel(channel);
    subscription.subscribed(() => print({ type: "event", channel, event: "subscribed", data: null }));
    for (const event of events) {
      subscription.listen(`.${event}`, (data) => print({ type: "event", channel, event, data }));
    }
  },
  lose() {
    const { transport } = pusher.connection.connection;
    const { emit } = transport;
    transport.emit = (name, message) => {
      if (!isDelta(message)) return emit(name, message);
      transport.emit = emit;
    };
    print({ type: "done" });
  },
  leave() {
    pusher.disconnect();
  },
  come_back() {
    pusher.connect();
  },

  async browse({ profile }) {
    const address = await servePage(server);
    browser = await launchChromium(profile);
    print({ type: "chromium", pid: browser.process().pid });
    page = await browser.newPage();
    page.on("console", (message) => print({ type: "console", text: message.text() }));
    page.on("pageerror", (error) => print({ type: "console", text: String(error) }));
    await page.setViewport({ width: 1220, height: 780 });
    await page.exposeFunction("report", (event, data) => print({ type: "event", channel: "market", event, data }));
    await page.goto(address);
    await page.waitForFunction(() => window.pusher?.channel("market")?.subscribed);
    await page.evaluate(() => {
      window.pusher.channel("market").bind_global((event, data) => window.report(event, data ?? null));
    });
    print({ type: "done" });
  },
  async publish({ count, batches }) {
    for (let batch = 0; batch < batches; batch += 1) {
      const ticks = await publishTicks(server, market, count);
      print({ type: "published", data: ticks.map((tick) => JSON.parse(tick)) });
    }
  },
  async screenshot({ file }) {
    await page.screenshot({ path: file, fullPage: true });
    await browser.close();
    print({ type: "done" });
  },

  async stats() {
    const stats = page ? await page.evaluate(() => window.deltas.stats()) : deltas.stats();
    print({ type: "stats", ...stats, algorithms });
  },
});

function isDelta(message) {
  return String(message?.data).startsWith('{"event":"pusher:delta",');
}

/** Counts received deltas by algorithm, before pusher-js reads them. */
function countAlgorithms() {
  const createWebSocket = Pusher.Runtime.createWebSocket.bind(Pusher.Runtime);
  Pusher.Runtime.createWebSocket = (url) => {
    const socket = createWebSocket(url);
    socket.addEventListener("message", (message) => {
      if (!isDelta(message)) return;
      const { algorithm } = JSON.parse(message.data).data;
      algorithms[algorithm] = (algorithms[algorithm] ?? 0) + 1;
    });
    return socket;
  };
}
