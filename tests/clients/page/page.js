// Runs all features in the page and shows their results.

import { FEATURES, LIBRARIES, runAll } from "/features/run.js";

const { server, versions } = await (await fetch("/site.json")).json();
const environment = {
  Pusher: window.Pusher,
  // Echo takes its client from `window.Pusher`, as in an application.
  makeEcho: (options) => new window.Echo.default(options),
  app: location.origin,
  server,
};

const cells = new Map();
const results = [];
drawTable();
await runAll(environment, show);
window.finished = true;

function drawTable() {
  const [chromium] = navigator.userAgent.match(/Chrome\/[\d.]+/);
  document.querySelector("#browser").textContent = chromium.replace("/", " ");
  for (const library of LIBRARIES) document.querySelector(`#${library}`).append(versions[library]);
  const rows = FEATURES.map(({ id, title, about }) => {
    const name = element("th", {}, element("b", {}, title), element("p", {}, about));
    const row = LIBRARIES.map((library) => {
      const cell = element("td", {}, badge("waiting"));
      cells.set(`${library} ${id}`, cell);
      return cell;
    });
    return element("tr", {}, name, ...row);
  });
  document.querySelector("tbody").replaceChildren(...rows);
}

async function show(result) {
  const { library, feature, seen, error } = result;
  const passed = await window.judge(result);
  results.push(passed);
  const lines = error ? [element("p", { className: "error" }, error)] : Object.entries(seen).map(line);
  cells.get(`${library} ${feature}`).replaceChildren(badge(passed ? "passed" : "failed"), ...lines);
  summarise();
}

function summarise() {
  const [all, passed] = [FEATURES.length * LIBRARIES.length, results.filter(Boolean).length];
  const failed = results.length - passed;
  const summary = document.querySelector("#summary");
  summary.textContent = `${passed} of ${all} passed` + (failed ? `, ${failed} failed` : "");
  summary.className = failed ? "failed" : passed === all ? "passed" : "";
}

/** The events that a person received. */
function line([person, seen]) {
  const events = Array.isArray(seen) ? seen : [seen];
  const codes = events.map((event) => element("code", {}, text(event)));
  return element("p", {}, element("span", {}, person), ...codes);
}

/** The text of an event: its name unquoted, its data as JSON. */
function text(value) {
  if (Array.isArray(value)) return value.map(text).join(" ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

function badge(state) {
  return element("strong", { className: `badge ${state}` }, state);
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
