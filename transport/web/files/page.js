// The page of an app. It draws the states that the server sends each second, and changes nothing.
// Texts of the app reach the page only as `textContent` and as attributes, never as HTML.

const WINDOW = 120; // seconds that the charts show
const RATE_SPAN = 5; // seconds over which a rate is the mean
const TIMELINE = 600; // seconds that the timeline shows
const MOST_PARTITIONS = 20; // unless all are shown
const MOST_SAME = 4; // tasks that do the same are one line if there are more of them
// In milliseconds
const INTERVAL = 1000; // between two questions
const PATIENCE = 10_000; // for an answer
const RETRY = 3000; // after a question without an answer

const LANES = ["assigned", "revoked", "lost"];
const SVG = "http://www.w3.org/2000/svg";

const samples = []; // of the whole app, the oldest first
const histories = new Map(); // by partition: its samples
let last = null; // the last state
let hasEnded = false; // the server has sent its last state

const byId = (id) => document.getElementById(id);

// Making elements

function make(name, className = "", text = null) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}

function draw(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setClass(element, className) {
  if (element.getAttribute("class") !== className) element.setAttribute("class", className);
}

// Give a parent as many children as there are items, and update each of them in place. So a
// selected text and the place of the reader stay as they are.
function fill(parent, items, create, update) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    const child = parent.children[index] ?? parent.appendChild(create(item));
    update(child, item);
  });
}

// Numbers and times

const whole = (number) => (number === null ? "–" : Math.round(number).toLocaleString("en-US"));

function rateText(rate) {
  if (rate === null) return "–";
  return rate > 0 && rate < 10 ? rate.toFixed(1) : whole(rate);
}

const clockOf = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

function secondsText(seconds) {
  if (seconds === null) return "not served yet";
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

const nameOf = (partition) => `${partition.topic}-${partition.partition}`;

// Samples and rates

function trim(list, now) {
  while (list.length && list[0].clock < now - WINDOW) list.shift();
}

// Return the sample that is RATE_SPAN older than the last one, or the oldest.
function earlier(list) {
  const now = list[list.length - 1].clock;
  return list.find((sample) => sample.clock >= now - RATE_SPAN) ?? list[0];
}

function rate(list, field) {
  if (list.length < 2) return null;
  const [from, to] = [earlier(list), list[list.length - 1]];
  if (from[field] === null || to[field] === null || to.clock <= from.clock) return null;
  return Math.max(0, to[field] - from[field]) / (to.clock - from.clock);
}

function sum(values) {
  return values.reduce((total, value) => total + (value ?? 0), 0);
}

// Return the rate over all partitions. Null: the states of no partition suffice for a rate.
function sumOfRates(lists, field) {
  const rates = lists.map((list) => rate(list, field)).filter((each) => each !== null);
  return rates.length || !lists.length ? sum(rates) : null;
}

function take(state) {
  const { clock, status } = state;
  const held = new Set();
  for (const partition of status.partitions) {
    const name = nameOf(partition);
    held.add(name);
    if (!histories.has(name)) histories.set(name, []);
    const { committed, highwater, lag } = partition;
    const history = histories.get(name);
    history.push({ clock, committed, highwater, lag });
    trim(history, clock);
  }
  for (const name of histories.keys()) if (!held.has(name)) histories.delete(name);
  const all = [...histories.values()];
  samples.push({
    clock,
    lag: sum(status.partitions.map((partition) => partition.lag)),
    written: sumOfRates(all, "highwater"),
    committed: sumOfRates(all, "committed"),
    unacked: sum(status.partitions.map((partition) => partition.unacked)),
    waiting: sum(status.partitions.map((partition) => partition.waiting)),
    sending: status.in_flight,
  });
  trim(samples, clock);
}

function forget() {
  samples.length = 0;
  histories.clear();
}

// Charts

// Return a round number that is not below `most`, for the top of an axis.
function ceiling(most) {
  if (most <= 4) return 4;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 5, 10].map((step) => step * unit).find((top) => top >= most);
}

function axisText(value) {
  if (value >= 1e6) return `${+(value / 1e6).toFixed(1)} M`;
  return value >= 1e4 ? `${+(value / 1e3).toFixed(1)} k` : String(value);
}

const curve = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// A chart of some fields of the samples, with a legend that has the last values.
class Chart {
  constructor(parent, title, lines) {
    this.title = title;
    this.lines = lines;
    this.legend = parent.appendChild(make("ul", "legend"));
    this.svg = parent.appendChild(draw("svg", { class: "chart", role: "img" }));
    this.values = lines.map(({ label, kind }) => {
      const item = this.legend.appendChild(make("li"));
      const key = item.appendChild(draw("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" }));
      key.append(draw("path", { d: "M0 4H18", class: `curve ${kind}` }));
      const value = item.appendChild(make("b", "", "–"));
      item.append(make("span", "", label));
      return value;
    });
    new ResizeObserver(() => this.update()).observe(this.svg);
  }

  update() {
    const newest = samples[samples.length - 1];
    if (!newest) return;
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const [left, right, top, bottom] = [44, 4, 8, 20];
    const most = Math.max(...samples.flatMap((sample) => this.lines.map(({ field }) => sample[field])));
    const ceil = ceiling(most);
    const x = (clock) => width - right - ((newest.clock - clock) / WINDOW) * (width - left - right);
    const y = (value) => height - bottom - (value / ceil) * (height - top - bottom);
    const parts = [];
    for (const value of [0, ceil / 2, ceil]) {
      parts.push(draw("path", { class: "grid", d: `M${left} ${y(value)}H${width - right}` }));
      const label = draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" });
      label.textContent = axisText(value);
      parts.push(label);
    }
    for (const [age, text, anchor] of [[WINDOW, "2 min ago", "start"], [WINDOW / 2, "1 min ago", "middle"], [0, "now", "end"]]) {
      const label = draw("text", { x: x(newest.clock - age), y: height - 5, "text-anchor": anchor });
      label.textContent = text;
      parts.push(label);
    }
    this.lines.forEach(({ field, kind, format }, index) => {
      const known = samples.filter((sample) => sample[field] !== null);
      const points = known.map((sample) => [x(sample.clock), y(sample[field])]);
      if (index === 0 && points.length > 1) {
        const ends = `L${points[points.length - 1][0].toFixed(1)} ${y(0)}L${points[0][0].toFixed(1)} ${y(0)}Z`;
        parts.push(draw("path", { class: "area", d: curve(points) + ends }));
      }
      parts.push(draw("path", { class: `curve ${kind}`, d: curve(points) }));
      setText(this.values[index], format(newest[field]));
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const now = this.lines.map(({ field, label, format }) => `${label} ${format(newest[field])}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title} of the last 2 minutes. Now: ${now}. At most: ${whole(most)}.`);
    this.svg.replaceChildren(...parts);
  }
}

function updateSpark(svg, history) {
  const newest = history[history.length - 1];
  const most = Math.max(1, ...history.map((sample) => sample.lag ?? 0));
  const points = history
    .filter((sample) => sample.lag !== null)
    .map((sample) => [96 - ((newest.clock - sample.clock) / WINDOW) * 96, 18 - (sample.lag / most) * 16]);
  svg.firstElementChild.setAttribute("d", curve(points));
}

// Tables

// A table whose columns are objects with a `title`, a `text` of a row, and a `kind` of its cells.
class Table {
  constructor(parent, empty, columns) {
    this.columns = columns;
    this.empty = parent.appendChild(make("p", "empty", empty));
    this.table = parent.appendChild(make("table"));
    this.table.hidden = true;
    const head = this.table.appendChild(make("thead")).appendChild(make("tr"));
    for (const { title, kind } of columns) {
      const cell = head.appendChild(make("th", kind?.includes("number") ? "number" : "", title));
      cell.scope = "col";
    }
    this.body = this.table.appendChild(make("tbody"));
  }

  update(rows, empty = null) {
    if (empty !== null) setText(this.empty, empty);
    this.empty.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    fill(this.body, rows, () => this.row(), (element, row) => {
      this.columns.forEach(({ text, kind, look, update }, index) => {
        const cell = element.children[index];
        if (update) update(cell, row);
        else setText(cell, text(row));
        setClass(cell, [kind, look?.(row)].filter(Boolean).join(" "));
      });
    });
  }

  row() {
    const row = make("tr");
    for (const { create } of this.columns) {
      const cell = row.appendChild(make("td"));
      if (create) cell.append(create());
    }
    return row;
  }
}

function spark() {
  const svg = draw("svg", { class: "spark", viewBox: "0 0 96 20", "aria-hidden": "true" });
  svg.append(draw("path", { class: "curve first" }));
  return svg;
}

const historyOf = (partition) => histories.get(nameOf(partition)) ?? [];

function stateOfPartition(partition) {
  if (partition.stuck !== null) return `stuck: ${partition.stuck}`;
  if (partition.is_paused) return "paused by the program";
  return partition.highwater === null ? "not fetched from yet" : "is read";
}

const at = { title: "Time", text: (row) => clockOf(row.at), kind: "short-text" };
const count = (title, field) => ({ title, text: (row) => whole(row[field]), kind: "number" });

const tables = {
  partitions: new Table(byId("partitions"), "The app has no partition.", [
    { title: "Partition", text: nameOf, kind: "name strong" },
    { title: "Lag", text: (row) => whole(row.lag), kind: "number strong" },
    { title: "Lag, 2 min", create: spark, update: (cell, row) => updateSpark(cell.firstElementChild, historyOf(row)) },
    { title: "Written /s", text: (row) => rateText(rate(historyOf(row), "highwater")), kind: "number" },
    { title: "Committed /s", text: (row) => rateText(rate(historyOf(row), "committed")), kind: "number" },
    count("Committed", "committed"),
    count("End of log", "highwater"),
    count("Waiting", "waiting"),
    count("Unacked", "unacked"),
    {
      title: "State",
      text: stateOfPartition,
      look: (row) => (row.stuck !== null ? "bad" : row.is_paused ? "warm" : ""),
    },
  ]),
  handlers: new Table(byId("handlers"), "The app has no handler.", [
    { title: "Handler", text: (row) => row.name, kind: "name strong" },
    { title: "Topic", text: (row) => row.topic, kind: "name" },
    { title: "Running", text: (row) => `${whole(row.running)} of ${whole(row.concurrency)}`, kind: "number" },
    count("Waiting", "waiting"),
    count("Handled", "handled"),
    count("Filtered", "filtered"),
    count("Failed", "failed"),
    count("Dead letters", "dead_letters"),
    count("Skipped", "skipped"),
  ]),
  rebalances: new Table(byId("rebalances"), "", [
    at,
    { title: "Kind", text: (row) => row.kind, kind: "short-text strong" },
    { title: "Served in", text: (row) => secondsText(row.seconds), kind: "number" },
    count("Count", "count"),
    { title: "Partitions", text: (row) => row.partitions || "none", kind: "long-text" },
  ]),
  errors: new Table(byId("errors"), "", [
    at,
    count("Times", "count"),
    { title: "Where", text: (row) => row.place, kind: "name" },
    { title: "Partition", text: (row) => row.partition ?? "–", kind: "name" },
    { title: "Offset", text: (row) => row.offsets ?? "–", kind: "number" },
    { title: "Error", text: (row) => row.error, kind: "name strong" },
    { title: "Text", text: (row) => row.text, kind: "long-text" },
    { title: "What follows", text: (row) => row.outcome, kind: "name", look: (row) => (row.ends_app ? "bad" : "") },
  ]),
  letters: new Table(byId("letters"), "", [
    at,
    { title: "Handler", text: (row) => row.handler, kind: "name" },
    { title: "Partition", text: (row) => row.partition, kind: "name" },
    { title: "Offset", text: (row) => row.offsets, kind: "number" },
    { title: "Sent to", text: (row) => row.topic, kind: "name" },
    count("Attempts", "attempts"),
    { title: "Error", text: (row) => row.error, kind: "name strong" },
    { title: "Text", text: (row) => row.text, kind: "long-text" },
  ]),
};

const charts = [
  new Chart(byId("lag-chart"), "Lag", [{ field: "lag", label: "offsets behind", kind: "first", format: whole }]),
  new Chart(byId("rates-chart"), "Rates", [
    { field: "written", label: "written to the logs", kind: "first", format: rateText },
    { field: "committed", label: "committed", kind: "second", format: rateText },
  ]),
  new Chart(byId("flight-chart"), "Messages in flight", [
    { field: "unacked", label: "unacked", kind: "first", format: whole },
    { field: "waiting", label: "waiting", kind: "second", format: whole },
    { field: "sending", label: "sending", kind: "third", format: whole },
  ]),
];

// The sections

function showPartitions() {
  const { partitions } = last.status;
  const filter = byId("filter").value.trim().toLowerCase();
  const isAll = byId("all").checked;
  const found = partitions.filter((partition) => nameOf(partition).toLowerCase().includes(filter));
  // The stuck ones come first, and then those that are far behind.
  found.sort(
    (a, b) =>
      (b.stuck !== null) - (a.stuck !== null) ||
      (b.lag ?? -1) - (a.lag ?? -1) ||
      a.topic.localeCompare(b.topic) ||
      a.partition - b.partition,
  );
  const shown = isAll ? found : found.slice(0, MOST_PARTITIONS);
  byId("partitions-controls").hidden = partitions.length <= MOST_PARTITIONS && !filter;
  const note = hasEnded ? ["As they were before the app ended."] : [];
  if (filter) note.push(`${found.length} of ${partitions.length} match the filter.`);
  if (shown.length < found.length) note.push(`The ${shown.length} with the highest lag are shown, of ${found.length}.`);
  setText(byId("partitions-note"), note.join(" "));
  tables.partitions.update(shown, partitions.length ? "No partition matches the filter." : "The app has no partition.");
}

function showTimeline() {
  const now = last.status.at;
  let svg = byId("timeline").firstElementChild;
  if (!svg) {
    svg = byId("timeline").appendChild(draw("svg", { class: "lanes", role: "img" }));
    new ResizeObserver(() => last && showTimeline()).observe(svg);
  }
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  const [left, right, bottom] = [70, 8, 20];
  const lane = (height - bottom) / LANES.length;
  const x = (time) => width - right - ((now - time) / TIMELINE) * (width - left - right);
  const parts = [];
  LANES.forEach((kind, index) => {
    const y = lane * (index + 0.5);
    parts.push(draw("path", { class: "grid", d: `M${left} ${y}H${width - right}` }));
    const label = draw("text", { x: left - 8, y: y + 4, "text-anchor": "end" });
    label.textContent = kind;
    parts.push(label);
  });
  const steps = width < 560 ? 2 : 5;
  for (let age = TIMELINE; age >= 0; age -= TIMELINE / steps) {
    const anchor = age === TIMELINE ? "start" : age ? "middle" : "end";
    const label = draw("text", { x: x(now - age), y: height - 4, "text-anchor": anchor });
    label.textContent = age ? `${age / 60} min ago` : "now";
    parts.push(label);
  }
  const shown = last.rebalances.filter((each) => (each.seconds === null ? now : each.at + each.seconds) >= now - TIMELINE);
  for (const each of shown) {
    const from = Math.max(left, x(each.at));
    const to = Math.min(width - right, x(each.seconds === null ? now : each.at + each.seconds));
    const mark = draw("rect", {
      class: `mark ${each.kind}${each.seconds === null ? " open" : ""}`,
      x: Math.min(from, width - right - 7),
      y: lane * (LANES.indexOf(each.kind) + 0.5) - 8,
      width: Math.max(7, to - from),
      height: 16,
      rx: 2,
    });
    const title = draw("title");
    title.textContent = `${clockOf(each.at)} ${each.kind} ${each.count}: ${each.partitions || "none"}, ${secondsText(each.seconds)}`;
    mark.append(title);
    parts.push(mark);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `Timeline of the last 10 minutes: ${shown.length} rebalances. The table below has them all.`);
  svg.replaceChildren(...parts);
}

function showEvents() {
  const how = "The app keeps no events: give it the monitor RecentEvents().";
  const { has_events: has, rebalances, errors, dead_letters: letters } = last;
  tables.rebalances.update(rebalances.toReversed(), has ? "No rebalance yet." : how);
  tables.errors.update(errors.toReversed(), has ? "No error yet." : how);
  tables.letters.update(letters.toReversed(), has ? "No dead letter yet." : how);
  showTimeline();
}

// Replace tasks that follow one another and do the same by one node, as "worker 1 to 98".
function folded(nodes) {
  const groups = [];
  for (const node of nodes) {
    const parts = /^(.*\D)(\d+)$/.exec(node.name);
    const sign = parts && !node.children.length ? JSON.stringify([parts[1], node.state, node.waits_in]) : null;
    const group = groups[groups.length - 1];
    if (sign !== null && group?.sign === sign) group.nodes.push(node);
    else groups.push({ sign, nodes: [node] });
  }
  return groups.flatMap(({ nodes: same }) => {
    if (same.length < MOST_SAME) return same;
    const end = /\d+$/.exec(same[same.length - 1].name)[0];
    return [{ ...same[0], name: `${same[0].name} to ${end}`, times: same.length }];
  });
}

const LOOKS = { running: "good", starting: "warm", stopping: "warm", ended: "bad", idle: "" };

function createNode() {
  const item = make("li");
  const line = item.appendChild(make("div", "node"));
  line.append(make("span", "name"), make("span", "badge"), make("span", "waits"));
  return item;
}

function updateNode(item, node) {
  const [name, state, waits] = item.firstElementChild.children;
  setClass(item, node.waits_in.length && !node.children.length ? "task" : "service");
  setText(name, node.name);
  setText(state, node.state);
  setClass(state, `badge ${LOOKS[node.state] ?? ""}`);
  state.hidden = node.waits_in.length > 0 && node.state === "running";
  const inner = node.waits_in.slice(-3).join(" › ");
  setText(waits, inner ? `waits in ${inner}` : "");
  waits.title = node.waits_in.join(" › ");
  let list = item.children[1];
  if (!node.children.length) {
    list?.remove();
    return;
  }
  list ??= item.appendChild(make("ul"));
  fill(list, folded(node.children), createNode, updateNode);
}

function showHead() {
  const { status, health } = last;
  document.title = `${health.ready ? "" : "● "}${status.app} – kafka-nursery`;
  setText(byId("app"), status.app);
  const now = [
    [status.tree.state, LOOKS[status.tree.state]],
    health.live ? ["live", "good"] : ["not live", "bad"],
    health.ready ? ["ready", "good"] : ["not ready", "warm"],
  ];
  const badges = hasEnded ? [last.has_crashed ? ["crashed", "bad"] : ["closed", ""]] : now;
  fill(byId("badges"), badges, () => make("span"), (badge, [text, look]) => {
    setText(badge, text);
    setClass(badge, `badge ${look}`);
  });
  const member = { true: "a member", false: "not a member" }[status.is_member] ?? "reads no topic";
  const facts = [
    ["Group", status.generation < 0 ? member : `${member}, generation ${status.generation}`],
    ["Topics", status.topics.join(", ") || "none"],
    ["Partitions", whole(status.partitions.length)],
    ["Process", String(status.pid)],
    ["Client", status.client],
  ];
  const createFact = () => {
    const fact = make("span");
    fact.append(make("span"), make("b"));
    return fact;
  };
  fill(byId("facts"), facts, createFact, (fact, [name, value]) => {
    setText(fact.firstElementChild, `${name} `);
    setText(fact.lastElementChild, value);
  });
  const reasons = hasEnded ? [] : health.reasons;
  byId("reasons").hidden = reasons.length === 0;
  fill(byId("reasons"), reasons, () => make("li"), setText);
}

function showBanner(title, text, isCalm = false) {
  const banner = byId("banner");
  banner.hidden = title === null;
  setClass(banner, isCalm ? "banner calm" : "banner");
  fill(banner, title === null ? [] : [title, text], (_) => make(banner.children.length ? "span" : "b"), setText);
}

function showEnd() {
  const { status, errors } = last;
  const time = clockOf(status.at);
  const error = errors.findLast((each) => each.ends_app) ?? errors[errors.length - 1];
  const said = error
    ? `The last error, at ${clockOf(error.at)} in ${error.place}${error.partition ? `, ${error.partition} offset ${error.offsets}` : ""}: ${error.error}: ${error.text}`
    : "This page has no error of the app. The log has more.";
  if (last.has_crashed) showBanner(`The app has crashed at ${time}.`, said);
  else showBanner(`The app has closed at ${time}.`, "The page shows the last state.", true);
}

function show() {
  showHead();
  for (const chart of charts) chart.update();
  showPartitions();
  tables.handlers.update(last.status.handlers);
  showEvents();
  fill(byId("tree"), [last.status.tree], createNode, updateNode);
}

// The connection

// Show a state. Without a stream that is open, the page is not live: it would miss the last state.
function connected(state, isLive) {
  if (last && (last.status.pid !== state.status.pid || last.status.app !== state.status.app)) forget();
  hasEnded = state.is_last;
  // The app releases its partitions before it ends. The page goes on to show how they were.
  if (hasEnded && last && !state.status.partitions.length) state.status.partitions = last.status.partitions;
  else take(state);
  last = state;
  show();
  const connection = byId("connection");
  setClass(connection, hasEnded ? "connection away" : "connection");
  setText(connection, hasEnded ? "The app has ended" : isLive ? "Live, updated each second" : "Connecting");
  if (hasEnded) showEnd();
  else showBanner(null, "");
}

function lost() {
  const connection = byId("connection");
  setClass(connection, "connection away");
  if (hasEnded) return; // the banner says it already
  setText(connection, "Not connected");
  const since = last ? ` It shows the state of ${clockOf(last.status.at)}.` : "";
  showBanner("The app does not answer.", `It has ended, hangs, or cannot be reached, or too many pages show it. The page tries again.${since}`);
}

// Ask for a state. Then read the others from the stream, or ask again each second.
async function connect() {
  try {
    const answer = await fetch("status.json", { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    connected(state, !state.has_stream);
  } catch {
    lost();
    setTimeout(connect, RETRY);
    return;
  }
  if (last.has_stream) follow();
  else setTimeout(connect, hasEnded ? RETRY : INTERVAL);
}

function follow() {
  const stream = new EventSource("events");
  stream.onmessage = (event) => connected(JSON.parse(event.data), true);
  stream.onerror = () => {
    // The browser connects again only after some errors, and not to a server that refuses.
    stream.close();
    lost();
    setTimeout(connect, RETRY);
  };
}

byId("filter").addEventListener("input", () => last && showPartitions());
byId("all").addEventListener("change", () => last && showPartitions());
connect();
