// Shows the market from the application's events, and the savings from the statistics.

import { Chart } from "./chart.js";

const { hostname, port } = new URL(server.url);
// Global, for use in the browser's console.
window.pusher = new Pusher(server.key, {
  cluster: "",
  wsHost: hostname,
  wsPort: Number(port),
  forceTLS: false,
  enabledTransports: ["ws"],
  enableStats: false,
});
window.deltas = fanfare.withDeltas(pusher);

const OFFLINE_MS = 3000;

const at = (id) => document.getElementById(id);
const chart = new Chart(at("chart"));
const prices = new Map();
let before = deltas.stats();

pusher.connection.bind("state_change", ({ current }) => {
  at("state").textContent = current;
  at("state").className = current;
});
at("leave").onclick = () => {
  pusher.disconnect();
  setTimeout(() => pusher.connect(), OFFLINE_MS);
};

const market = pusher.subscribe("market");
market.bind("tick", ({ quotes }) => {
  document.querySelector("tbody").replaceChildren(...quotes.map(row));
  showSavings();
});
market.bind("pusher:subscription_succeeded", showSavings);
market.bind("fanfare:restart", showSavings);

function showSavings() {
  const now = deltas.stats();
  if (now.events > before.events) {
    const [full, wire] = [now.fullBytes - before.fullBytes, now.bytes - before.bytes];
    chart.add({ full, wire, isDelta: now.deltas > before.deltas });
  }
  before = now;
  for (const name of ["events", "deltas", "resumed", "restarted"]) at(name).textContent = now[name].toLocaleString("en");
  at("percent").textContent = now.events ? `${Math.round((100 * now.saved) / now.fullBytes)} %` : "–";
  at("full").textContent = size(now.fullBytes);
  at("wire").textContent = size(now.bytes);
  at("full-bar").style.width = "100%";
  at("wire-bar").style.width = `${(100 * now.bytes) / now.fullBytes}%`;
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function row({ symbol, name, price, change, low, high, volume }) {
  const direction = Math.sign(price - (prices.get(symbol) ?? price));
  prices.set(symbol, price);
  const cells = [price, (change > 0 ? "+" : "") + change.toFixed(2), low, high, volume];
  const texts = cells.map((cell) => (typeof cell === "number" && cell !== volume ? cell.toFixed(2) : String(cell)));
  const line = document.createElement("tr");
  line.className = ["fell", "", "rose"][direction + 1];
  line.append(heading(symbol, name), ...texts.map((text) => element("td", text)));
  line.children[2].className = change < 0 ? "down" : change > 0 ? "up" : "";
  return line;
}

function heading(symbol, name) {
  const cell = element("th", symbol);
  cell.append(element("small", name));
  return cell;
}

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}
