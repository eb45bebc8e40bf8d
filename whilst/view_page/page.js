// Moves the playhead and shows what holds at it. Every section is a page of its own: setup(section) knows one sample.
"use strict";

const MOST_NODES = 24; // in the drawing: of a larger graph, those that became known last
const MOST_LISTED = 200; // relations in the list under it
const WIDE = 720, HIGH = 400; // of the drawing, in its own units

const seconds = (t) => `${Math.round(t * 100) / 100} s`;
const html = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

// ---- What was known at a time: the same rule as Graph.as_of of the data pipeline.

function asOf(graph, t) {
  const edges = graph.edges.filter((e) => e.knowable_at <= t).map((e) => ({ ...e, end: Math.min(e.end, t) }));
  const touched = new Set(edges.flatMap((e) => [e.head, e.tail]));
  const nodes = graph.nodes
    .filter((n) => touched.has(n.id))
    .map((n) => ({ ...n, aliases: n.aliases.filter(([, time]) => time <= t) }));
  return { nodes, edges };
}

// ---- Where nodes stand: Fruchterman and Reingold's forces, from a spiral, so the same graph always looks the same.

function places(nodes, edges) {
  const at = new Map(nodes.map((n, i) => {
    const r = 0.25 * Math.sqrt(i + 0.5), angle = i * 2.39996;
    return [n.id, { x: r * Math.cos(angle), y: r * Math.sin(angle), dx: 0, dy: 0 }];
  }));
  const links = [...new Set(edges.filter((e) => e.head !== e.tail).map((e) => [e.head, e.tail].sort().join("\n")))]
    .map((pair) => pair.split("\n").map((id) => at.get(id)));
  const all = [...at.values()], rest = 1.1 / Math.sqrt(all.length || 1), steps = 350;
  for (let step = 0; step < steps; step++) {
    for (const a of all) { a.dx = -1.1 * a.x; a.dy = -1.5 * a.y; }
    for (let i = 0; i < all.length; i++) for (let j = i + 1; j < all.length; j++) {
      const a = all[i], b = all[j];
      const x = (a.x - b.x) * 0.75 || 1e-4, y = a.y - b.y; // names are wide, so nodes keep more distance sideways
      const push = rest * rest / Math.max(1e-4, x * x + y * y);
      a.dx += x * push; a.dy += y * push; b.dx -= x * push; b.dy -= y * push;
    }
    for (const [a, b] of links) {
      const x = a.x - b.x, y = a.y - b.y, pull = Math.hypot(x, y) / rest;
      a.dx -= x * pull; a.dy -= y * pull; b.dx += x * pull; b.dy += y * pull;
    }
    const heat = 0.12 * (1 - step / steps);
    for (const a of all) {
      const length = Math.hypot(a.dx, a.dy) || 1;
      a.x += a.dx / length * Math.min(length, heat); a.y += a.dy / length * Math.min(length, heat);
    }
  }
  const fit = (name, size, margin) => {
    const values = all.map((a) => a[name]), low = Math.min(...values), span = Math.max(...values) - low;
    for (const a of all) a[name] = span < 1e-6 ? size / 2 : margin + (a[name] - low) / span * (size - 2 * margin);
  };
  fit("x", WIDE, 80);
  fit("y", HIGH, 30);
  part(nodes.map((n) => [at.get(n.id), 14 + 3.4 * short(n.name).length]));
  return at;
}

function part(boxes) { // move nodes apart until no name lies on another, as far as there is room
  const high = boxes.length <= 20 ? 66 : 40; // with few nodes there is room for the relations between them
  for (let round = 0; round < 120; round++) {
    let moved = false;
    for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
      const [a, wa] = boxes[i], [b, wb] = boxes[j];
      const x = wa + wb - Math.abs(a.x - b.x), y = high - Math.abs(a.y - b.y);
      if (x <= 0 || y <= 0) continue;
      moved = true;
      const [axis, by] = x < y * 1.5 ? ["x", x] : ["y", y], sign = a[axis] < b[axis] ? -1 : 1;
      a[axis] += sign * by / 2; b[axis] -= sign * by / 2;
    }
    for (const [a, width] of boxes) {
      a.x = Math.min(WIDE - width, Math.max(width, a.x));
      a.y = Math.min(HIGH - 32, Math.max(18, a.y));
    }
    if (!moved) return;
  }
}

// ---- The drawing.

function grouped(edges) { // edges between the same two nodes with the same relation are one line
  const groups = new Map();
  for (const edge of edges) {
    const key = JSON.stringify([edge.head, edge.tail, edge.relation]);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(edge);
  }
  return [...groups.values()];
}

function drawEdge(group, at, radius, bend, since, named) {
  const { head, tail, relation, kind } = group[0], a = at.get(head), b = at.get(tail);
  const isNew = group.some((e) => e.knowable_at > since);
  const title = html(group.map((e) => `${seconds(e.knowable_at)}: ${e.text}`).join("\n"));
  const label = group.length > 1 ? `${relation} \u00d7${group.length}` : relation;
  let path, tip, x, y;
  if (head === tail) {
    const r = radius.get(head);
    path = `M${a.x - 4} ${a.y - r} c-26 -34 34 -34 8 0`;
    tip = ""; x = a.x; y = a.y - r - 28;
  } else {
    const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
    const side = head < tail ? 1 : -1; // so that two lines of opposite direction do not lie on each other
    const cx = (a.x + b.x) / 2 - (b.y - a.y) / length * bend * side;
    const cy = (a.y + b.y) / 2 + (b.x - a.x) / length * bend * side;
    const into = Math.hypot(b.x - cx, b.y - cy) || 1, ux = (b.x - cx) / into, uy = (b.y - cy) / into;
    const ex = b.x - ux * (radius.get(tail) + 2), ey = b.y - uy * (radius.get(tail) + 2);
    path = `M${a.x} ${a.y} Q${cx} ${cy} ${ex - ux * 6} ${ey - uy * 6}`;
    const back = [ex - ux * 9, ey - uy * 9], points = [[ex, ey]];
    for (const s of [4, -4]) points.push([back[0] - uy * s, back[1] + ux * s]);
    tip = `<polygon class="tip" points="${points.join(" ")}"/>`;
    // The name under the upper node takes room: the relation stands in the middle of what is left.
    const k = 0.5 + Math.max(-0.2, Math.min(0.2, 9 * (b.y - a.y) / length / length));
    x = (1 - k) ** 2 * a.x + 2 * k * (1 - k) * cx + k * k * b.x;
    y = (1 - k) ** 2 * a.y + 2 * k * (1 - k) * cy + k * k * b.y + 3;
  }
  const text = named || isNew ? `<text class="relation" x="${x}" y="${y}">${html(label)}</text>` : "";
  const ids = html(JSON.stringify(group.map((e) => e.id)));
  return `<g class="edge ${html(kind)}${isNew ? " new" : ""}" data-edges="${ids}">` +
    `<title>${title}</title><path d="${path}"/>${tip}${text}</g>`;
}

function short(name) {
  return name.length > 26 ? `${name.slice(0, 25)}\u2026` : name;
}

function drawGraph(known, at, colours, since) {
  if (!known.nodes.length) {
    const text = `<text class="empty" x="${WIDE / 2}" y="${HIGH / 2}">nothing is known yet</text>`;
    return `<svg viewBox="0 0 ${WIDE} ${HIGH}">${text}</svg>`;
  }
  const degree = new Map();
  for (const e of known.edges) for (const id of [e.head, e.tail]) degree.set(id, (degree.get(id) || 0) + 1);
  const radius = new Map(known.nodes.map((n) => [n.id, 6 + Math.min(9, 1.6 * Math.sqrt(degree.get(n.id) || 0))]));
  const groups = grouped(known.edges), between = new Map();
  const lines = groups.map((group) => {
    const pair = [group[0].head, group[0].tail].sort().join("\n"), n = between.get(pair) || 0;
    between.set(pair, n + 1);
    const bend = 14 + 22 * Math.floor(n / 2);
    return drawEdge(group, at, radius, n % 2 ? -bend : bend, since, groups.length <= 16);
  });
  const dots = known.nodes.map((n) => {
    const { x, y } = at.get(n.id), r = radius.get(n.id), also = n.aliases.map(([name]) => name).join(", ");
    const title = `${n.name} (${n.kind})${also ? `, also: ${also}` : ""}`;
    return `<g class="node" data-node="${html(n.id)}"><title>${html(title)}</title>` +
      `<circle cx="${x}" cy="${y}" r="${r}" fill="var(--kind-${colours.get(n.kind) % 8})"/>` +
      `<text x="${x}" y="${y + r + 13}">${html(short(n.name))}</text></g>`;
  });
  return `<svg viewBox="0 0 ${WIDE} ${HIGH}" role="img" aria-label="graph">${lines.join("")}${dots.join("")}</svg>`;
}

function latest(known) { // of a large graph, the nodes of the edges that became known last
  if (known.nodes.length <= MOST_NODES) return known;
  const kept = new Set();
  for (const e of [...known.edges].reverse()) {
    if (new Set([...kept, e.head, e.tail]).size > MOST_NODES) break;
    kept.add(e.head); kept.add(e.tail);
  }
  return {
    nodes: known.nodes.filter((n) => kept.has(n.id)),
    edges: known.edges.filter((e) => kept.has(e.head) && kept.has(e.tail)),
  };
}

function graphPanel(graph, t, since, fixed, colours) {
  const known = asOf(graph, t), drawn = latest(known);
  const at = fixed || places(drawn.nodes, drawn.edges);
  const dot = (kind) => `<i style="background:var(--kind-${colours.get(kind) % 8})"></i>`;
  const kinds = [...new Set(drawn.nodes.map((n) => n.kind))].map((kind) => `<span>${dot(kind)}${html(kind)}</span>`);
  const rows = [...known.edges].reverse().slice(0, MOST_LISTED).map((e) => {
    const span = e.end > e.start ? `${seconds(e.start)} to ${seconds(e.end)}` : seconds(e.start);
    return `<li${e.knowable_at > since ? ' class="new"' : ""}><time>${seconds(e.knowable_at)}</time>` +
      `<span>${html(e.text)}</span><small>${html(e.kind)}, ${span}</small></li>`;
  });
  const left = known.edges.length - rows.length;
  if (left > 0) rows.push(`<li><time></time><span class="quiet">and ${left} earlier ones</span></li>`);
  const part = drawn.nodes.length < known.nodes.length ? `; drawn: the ${drawn.nodes.length} latest entities` : "";
  return `<h3>The graph as of ${seconds(t)} <span>${known.nodes.length} of ${graph.nodes.length} entities, ` +
    `${known.edges.length} of ${graph.edges.length} relations are known${part}</span></h3>` +
    `${drawGraph(drawn, at, colours, since)}<div class="kinds">${kinds.join("")}</div>` +
    `<ol class="known">${rows.join("")}</ol>`;
}

// ---- What holds now.

function nowPanel(data, t) {
  const events = data.sample.events.map((e) => ({ ...e, time: e.type === "segment" ? e.end : e.time }));
  const past = events.filter((e) => e.time <= t), of = (type) => past.filter((e) => e.type === type);
  const arrived = of("segment").length, total = events.filter((e) => e.type === "segment").length;
  const spent = data.costs.slice(0, arrived), sum = (i) => spent.reduce((s, costs) => s + costs[i], 0);
  const [visual, text] = data.units;
  const costs = [
    visual === null ? "" : `${sum(0)} ${visual} seen`,
    `text memory ${sum(1) + data.memory} ${text}`,
    `queries ${sum(2)}, answers ${sum(3)}`,
  ].filter(Boolean).join("; ");
  const thought = of("thought").at(-1);
  const asked = of("query").reverse().map((q) => {
    const replies = past.filter((e) => e.query === q.id), said = replies.filter((e) => e.type === "answer");
    const silent = replies.length - said.length;
    const state = said.length ? said.map((a) => `<b>${html(a.text)}</b> <span>${seconds(a.time)}</span>`).join("<br>")
      : `<span>not answered yet${silent ? `, silent ${silent} time${silent > 1 ? "s" : ""}` : ""}</span>`;
    const options = q.options ? `<small>${html(q.options.join(" \u00b7 "))}</small>` : "";
    const about = [seconds(q.time), q.kind || ""].filter(Boolean).join(", ");
    return `<p class="query">${html(q.text)} <span>${html(about)}</span>${options}</p>` +
      `<p class="${said.length ? "answer" : "silence"}">${state}</p>`;
  });
  const head = `At ${seconds(t)} <span>${arrived} of ${total} segments have arrived</span>`;
  return `<h3>${head}</h3><p class="costs">${costs}</p>` +
    (thought ? `<p class="thought">${html(thought.text)} <span>${seconds(thought.time)}</span></p>`
      : '<p><span>no thought yet</span></p>') + `<div class="queries">${asked.join("")}</div>`;
}

// ---- One sample.

function setup(section) {
  const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
  const find = (name) => section.querySelector(name);
  const slider = find("input"), stage = find(".stage"), panel = find(".graph"), player = find("video");
  const marks = [...section.querySelectorAll(".track i, .strip th, .strip td.frames, .strip p")]
    .filter((m) => m.dataset.time);
  const strip = find(".scroll"), heads = [...section.querySelectorAll(".strip th")].filter((h) => h.dataset.time);
  const frames = [...section.querySelectorAll(".strip img")];
  const ends = data.sample.events.filter((e) => e.type === "segment").map((e) => e.end);
  const times = data.sample.events.map((e) => e.type === "segment" ? e.end : e.time);
  const stops = [...new Set([data.start, ...times, data.end])];
  const graph = data.graph;
  const colours = graph && new Map([...new Set(graph.nodes.map((n) => n.kind))].map((kind, i) => [kind, i]));
  const fixed = graph && graph.nodes.length <= MOST_NODES ? places(graph.nodes, graph.edges) : null;
  let now = data.start, video = null, picture = null, playing = null;

  function show(t) {
    now = Math.min(data.end, Math.max(data.start, t));
    slider.value = now;
    find("output").textContent = seconds(now);
    find(".playhead").style.left = `${100 * (now - data.start) / (data.end - data.start)}%`;
    for (const mark of marks) mark.classList.toggle("later", Number(mark.dataset.time) > now);
    find(".now").innerHTML = nowPanel(data, now);
    const arrived = ends.filter((end) => end <= now), since = arrived.at(-2) ?? -1;
    if (graph) panel.innerHTML = graphPanel(graph, now, since, fixed, colours);
    const head = heads.filter((h) => Number(h.dataset.time) <= now).at(-1) || heads[0];
    for (const one of heads) one.classList.toggle("current", one === head);
    if (head) {
      const first = head.offsetLeft, last = first + head.offsetWidth;
      if (first < strip.scrollLeft || last > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = first - 8;
    }
    if (picture) {
      const seen = frames.filter((f) => Number(f.dataset.time) <= now).at(-1) || frames[0];
      picture.src = seen.src;
      picture.alt = seen.alt;
    }
    section.dataset.now = now;
  }

  function seek(t) { // the slider, the marks and the buttons say a time exactly; the video follows
    show(t);
    if (video) video.currentTime = now;
  }

  function follow() { // a video that plays, or whose own controls were used, leads
    const expected = Math.min(now, video?.duration || now);
    if (video && Math.abs(video.currentTime - expected) > 0.02) show(video.currentTime);
  }

  function showFrames(why) {
    if (player) player.remove();
    video = null;
    stage.dataset.shows = frames.length ? "frames" : "nothing";
    if (!frames.length) return;
    picture = document.createElement("img");
    picture.className = `shown ${frames[0].className}`;
    stage.prepend(picture);
    if (why) find(".note").textContent += ` ${why}`;
  }

  function play() {
    if (video) { if (video.paused) video.play(); else video.pause(); return; }
    if (playing !== null) { cancelAnimationFrame(playing); playing = null; return; }
    let before = performance.now();
    const step = (time) => {
      show(now + (time - before) / 1000);
      before = time;
      playing = now < data.end ? requestAnimationFrame(step) : null;
    };
    playing = requestAnimationFrame(step);
  }

  const moves = document.createElement("div");
  moves.className = "moves";
  const button = (name, act) => {
    const made = document.createElement("button");
    made.type = "button"; made.textContent = name; made.addEventListener("click", act);
    moves.append(made);
  };
  button("\u2039 event", () => seek(stops.filter((t) => t < now - 1e-6).at(-1) ?? data.start));
  button("play / pause", play);
  button("event \u203a", () => seek(stops.find((t) => t > now + 1e-6) ?? data.end));
  find(".lanes").before(moves);

  if (player) {
    video = player;
    video.addEventListener("error", () => {
      showFrames("This browser cannot play it: the frames of the strip are shown.");
      show(now);
    });
    video.addEventListener("loadedmetadata", () => { stage.dataset.shows = "video"; video.currentTime = now; });
    for (const event of ["timeupdate", "seeking"]) video.addEventListener(event, follow);
    if (video.dataset.video) video.src = document.getElementById(video.dataset.video).textContent;
  } else {
    showFrames("");
  }
  if (player) player.addEventListener("click", play);
  slider.addEventListener("input", () => seek(Number(slider.value)));
  for (const track of section.querySelectorAll(".lane:not(.top) .track")) track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    seek(data.start + (event.clientX - box.left) / box.width * (data.end - data.start));
  });
  show(data.at);
  return { seek, id: data.sample.id, section };
}

// ---- The page: #t=3.5 opens every sample at 3.5 s; #id=train-3&t=3.5 scrolls to one.

const sections = [...document.querySelectorAll("section")].map(setup);

function open() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const one = sections.filter((s) => !asked.has("id") || s.id === asked.get("id"));
  if (asked.has("t")) for (const s of one) s.seek(Number(asked.get("t")));
  if (asked.has("id") && one.length) one[0].section.scrollIntoView();
}

addEventListener("hashchange", open);
open();
