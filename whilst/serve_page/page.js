// One stream at a time: starts it, shows what the server tells of it, and asks.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST_POINTS = 300; // of a chart
const MOST_LINES = 400; // of the feed
const STRIP = 24; // frames kept under the screen
const seconds = (t, digits = 1) => `${t.toFixed(digits)} s`;

let state = null; // what the server offers
let run = null; // {id, events, texts, charts}

// ---- Talking to the server. What changes something carries a header that no other site's page can send.

async function order(path, body, type = "application/json") {
  const response = await fetch(path, { method: "POST", headers: { "X-Whilst": "1", "Content-Type": type }, body });
  const told = await response.json();
  if (!response.ok) throw new Error(told.error);
  return told;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function load(chosen) {
  state = await (await fetch("/api/state")).json();
  const thinks = state.thinks ? "thinks about every segment" : "does not think";
  $("about").textContent = `Think whilst you watch. This model ${thinks}; ${state.layout}, ${state.fps} frames a second.`;
  $("segment").defaultValue = state.segment;  // shown until it is changed by hand
  const wanted = chosen || $("video").value;
  $("video").replaceChildren(...state.videos.map((v) => new Option(v.uploaded ? `${v.name} (uploaded)` : v.name, v.id)));
  if (state.videos.some((v) => v.id === wanted)) $("video").value = wanted;
  $("start").disabled = state.videos.length === 0;
  $("pick").hidden = state.upload_bytes === 0;
  if (state.videos.length === 0) trouble("The folder holds no videos: upload one.");
}

// ---- The feed.

function say(kind, time, text, small) {
  const line = document.createElement("li"), at = document.createElement("time"), said = document.createElement("p");
  line.className = kind;
  at.textContent = seconds(time);
  said.append(...[].concat(text));
  if (small) said.append(Object.assign(document.createElement("small"), { textContent: small }));
  line.append(at, said);
  const feed = $("feed"), follows = feed.scrollHeight - feed.scrollTop - feed.clientHeight < 60;
  feed.append(line);
  while (feed.childElementCount > MOST_LINES) feed.firstElementChild.remove();
  if (follows) feed.scrollTop = feed.scrollHeight;
  return line;
}

const strong = (text) => Object.assign(document.createElement("b"), { textContent: text });
const cut = (event) => (event.finished ? "" : " [cut by the token limit]");

// ---- Charts.

function draw(id, value, told) {
  const values = run.charts[id];
  values.push(value);
  if (values.length > MOST_POINTS) values.shift();
  const top = Math.max(...values) * 1.15 || 1, step = 240 / Math.max(1, values.length - 1);
  const points = values.map((v, i) => `${(i * step).toFixed(1)},${(58 - 54 * v / top).toFixed(1)}`);
  if (points.length === 1) points.push(`240,${points[0].split(",")[1]}`);
  const figure = $(id), svg = figure.querySelector("svg");
  svg.innerHTML = `<polygon points="0,60 ${points.join(" ")} 240,60"/><polyline points="${points.join(" ")}"/>`;
  svg.setAttribute("aria-label", `${figure.querySelector("figcaption").firstChild.data.trim()} over time, now ${told}`);
  figure.querySelector("b").textContent = told;
}

function clear() {
  $("feed").replaceChildren();
  $("strip").replaceChildren();
  for (const id of ["lag", "backlog", "tokens"]) $(id).querySelector("svg").replaceChildren();
}

// ---- What happens in a stream.

function status(text, look = "") {
  $("state").textContent = text;
  $("state").className = `state ${look}`;
}

const happens = {
  frames(event) {
    for (const { time, src } of event.images) {
      const image = new Image();
      image.alt = `frame at ${seconds(time)}`;
      image.title = image.alt;
      image.onload = () => image.classList.toggle("small", image.naturalHeight <= 96);
      image.src = src;
      $("strip").append(image);
      if ($("strip").childElementCount > STRIP) $("strip").firstElementChild.remove();
      run.last = image;
    }
    const shown = run.last.cloneNode();
    shown.onload = () => shown.classList.toggle("small", shown.naturalHeight <= 96);
    $("screen").replaceChildren(shown);
  },
  segment(event) {
    $("clock").textContent = seconds(event.end);
    if (run.duration) $("progress").firstElementChild.style.width = `${Math.min(100, 100 * event.end / run.duration)}%`;
    draw("lag", event.lag, seconds(event.lag, 2));
    draw("backlog", event.backlog, `${event.backlog} segment${event.backlog === 1 ? "" : "s"}`);
    draw("tokens", event.tokens, `${event.tokens} tokens`);
    if (event.dropped) say("bad", event.time, `${event.dropped} frames came too late and were dropped`);
  },
  thought(event) {
    const late = event.late ? ", after the next segment had come" : "";
    say("thought", event.time, event.text + cut(event), `thought in ${seconds(event.seconds, 2)}${late}`);
  },
  query(event) {
    const standing = event.text === run.standing && !run.texts.size;
    run.texts.set(event.id, event.text);
    say("query", event.time, event.text, standing ? "standing query" : "");
  },
  answer(event) {
    run.silent = null;
    const query = run.texts.get(event.query) || "";
    const known = event.thought_late ? `, from thoughts up to ${seconds(event.memory_time)}` : "";
    const how = event.silence === null
      ? `first token after ${seconds(event.first_token, 2)}, all after ${seconds(event.last_token, 2)}${known}`
      : `of itself: silence had ${(100 * event.silence).toFixed(0)} %`;
    say("answer", event.time, [strong(event.text || "(nothing)"), cut(event)], `${query} \u2014 ${how}`);
  },
  silence(event) { // silences in a row are one line
    const chance = `silence had ${(100 * event.probability).toFixed(0)} %`;
    if (run.silent && run.silent.line === $("feed").lastElementChild) {
      run.silent.times += 1;
      run.silent.line.querySelector("p").firstChild.data = `${event.state || "silent"}, ${run.silent.times} times`;
      run.silent.line.querySelector("time").textContent = seconds(event.time);
      run.silent.line.querySelector("small").textContent = chance;
    } else {
      run.silent = { times: 1, line: say("silence", event.time, event.state || "silent", chance) };
    }
  },
  gap(event) { say("bad", event.time, `no frames from ${seconds(event.start)} to ${seconds(event.end)}`); },
  rejected(event) { say("bad", event.time, `not taken: ${event.what}: ${event.reason}`); },
  failed(event) { say("bad", event.time, event.reason, "The stream has failed."); over("failed", "bad"); },
  stopped() { over("stopped"); },
  end(event) {
    $("progress").firstElementChild.style.width = "100%";
    over(`over: ${event.segments} segments, ${event.thoughts} thoughts, ${event.queries} queries`);
  },
};

function over(text, look) {
  if (!run) return;
  run.events.close();
  run = null;
  status(text, look);
  enable(false);
}

function enable(on) {
  for (const id of ["question", "send", "stop"]) $(id).disabled = !on;
  $("start").disabled = on || !state || state.videos.length === 0;
}

// ---- What one does.

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

$("controls").addEventListener("submit", async (event) => {
  event.preventDefault();
  trouble("");
  const standing = $("standing").value.trim();
  const wanted = { video: $("video").value, speed: number("speed"), segment: number("segment"), standing,
    threshold: number("threshold") };
  $("start").disabled = true;
  try {
    const { id, duration } = await order("/api/runs", JSON.stringify(wanted));
    clear();
    const events = new EventSource(`/api/runs/${id}/events`);
    run = { id, events, duration, standing, texts: new Map(), charts: { lag: [], backlog: [], tokens: [] } };
    events.onmessage = (message) => {
      const told = JSON.parse(message.data);
      if (run && run.events === events) happens[told.type](told);
    };
    events.onerror = () => run && run.events === events && over("the connection broke off", "bad");
    status("watching", "on");
    enable(true);
    $("question").focus();
  } catch (error) {
    trouble(error.message);
    enable(false);
  }
});

$("stop").addEventListener("click", () => run && order(`/api/runs/${run.id}/stop`, "{}").catch((e) => trouble(e.message)));

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || !run) return;
  try {
    await order(`/api/runs/${run.id}/ask`, JSON.stringify({ text }));
    $("question").value = "";
    trouble("");
  } catch (error) {
    trouble(error.message);
  }
});

$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const file = $("file").files[0];
  $("file").value = "";
  if (!file) return;
  if (file.size > state.upload_bytes) {
    trouble(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${(state.upload_bytes / 1e6).toFixed(0)} MB are taken.`);
    return;
  }
  trouble("");
  $("pick").disabled = true;
  try {
    const { id } = await order(`/api/upload?name=${encodeURIComponent(file.name)}`, file, "application/octet-stream");
    await load(id);
  } catch (error) {
    trouble(error.message);
  } finally {
    $("pick").disabled = false;
  }
});

load().catch((error) => trouble(`The server cannot be reached: ${error.message}`));
