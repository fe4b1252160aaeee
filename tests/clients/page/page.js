// The page: runs every feature and shows what was seen.

import { FEATURES, LIBRARIES, runAll } from "/features/run.js";

const { server, versions } = await (await fetch("/site.json")).json();
const environment = {
  Pusher: window.Pusher,
  // By itself it takes `window.Pusher`, as in an application.
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
  const told = error ? [element("p", { className: "error" }, error)] : Object.entries(seen).map(line);
  cells.get(`${library} ${feature}`).replaceChildren(badge(passed ? "passed" : "failed"), ...told);
  summarise();
}

function summarise() {
  const [all, passed] = [FEATURES.length * LIBRARIES.length, results.filter(Boolean).length];
  const failed = results.length - passed;
  const summary = document.querySelector("#summary");
  summary.textContent = `${passed} of ${all} passed` + (failed ? `, ${failed} failed` : "");
  summary.className = failed ? "failed" : passed === all ? "passed" : "";
}

/** Who saw what. */
function line([who, what]) {
  const things = Array.isArray(what) ? what : [what];
  const codes = things.map((thing) => element("code", {}, words(thing)));
  return element("p", {}, element("span", {}, who), ...codes);
}

/** One thing that was seen: the words of an event's name as they are, its data as JSON. */
function words(thing) {
  if (Array.isArray(thing)) return thing.map(words).join(" ");
  return typeof thing === "string" ? thing : JSON.stringify(thing);
}

function badge(state) {
  return element("strong", { className: `badge ${state}` }, state);
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
