"use strict";
// Texts of documents reach the page by textContent alone; no markup is made of strings.
const token = new URLSearchParams(location.search).get("token");
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const format = (value) => value.toLocaleString("en-US");
const short = (value) => {
  const size = Math.abs(value);
  return size >= 1e5 || (size && size < 1e-3) ? value.toExponential(1)
    : String(+value.toPrecision(size >= 1e3 ? 5 : 3));
};

function make(tag, properties = {}, ...children) {
  const svg = ["svg", "rect", "line", "title"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !svg) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

async function ask(path, body) {
  const answer = await fetch(`/api/${path}`, {
    method: "POST", body: JSON.stringify(body), cache: "no-store",
    headers: { "content-type": "application/json", "x-penstock-token": token },
  });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error || `no answer (${answer.status})`);
  return found;
}

let recipe, now, last, edited = {};
const inputs = new Map();

// -- controls: each writes its part of `now`; `change()` is what differs from the recipe

function control(key, label, { min, max, step, value, set, digits = short }) {
  const range = make("input", { type: "range", min, max, step, value });
  const number = make("input", { type: "number", min: 0, step: "any", value });
  range.setAttribute("aria-label", label);
  number.setAttribute("aria-label", `${label}, number`);
  const box = make("div", { className: `control${label.length <= 14 ? " short" : ""}` },
    make("div", { className: "head" }, make("span", {}, label), number), range);
  const changed = (from, other) => () => {
    if (from.value === "" || !Number.isFinite(+from.value)) return;
    other.value = from === range ? digits(+from.value) : from.value;
    set(from === range ? +digits(+from.value) : +from.value);
    box.classList.toggle("changed", +number.value !== value);
    update();
  };
  range.addEventListener("input", changed(range, number));
  number.addEventListener("change", changed(number, range));
  range.dataset.key = key;
  inputs.set(key, { range, number });
  return box;
}

const whole = (value) => String(Math.round(value));
const choice = (label, options, value, set) => {
  const select = make("select", {}, ...options.map(([name, words]) =>
    make("option", { value: name }, words)));
  select.value = value;
  select.setAttribute("aria-label", label);
  select.addEventListener("change", () => { set(select.value); update(); });
  return make("div", { className: "control" },
    make("label", {}, make("span", {}, label), select));
};

function edges(name) {
  const column = recipe.columns.find((own) => own.name === name && own.edges.length);
  return column && [column.edges[0], column.edges[column.edges.length - 1]];
}

function build() {
  const own = recipe.controls, box = $("inputs");
  now = { tokens: own.tokens, rank: { ...own.rank }, draw: own.draw, shares: own.shares,
    where: own.where || "", rules: {}, numbers: own.numbers.map((one) => one.value) };
  box.replaceChildren();
  box.append(make("h3", {}, "Budget"), control("tokens", "tokens", { min: own.sequence,
    max: Math.max(own.most_tokens, own.tokens), step: own.sequence, value: own.tokens,
    digits: whole, set: (value) => { now.tokens = value; } }));
  box.append(make("h3", {}, "Order by"));
  for (const name of own.columns) {
    box.append(control(`rank.${name}`, name, { min: 0, max: 1, step: 0.01,
      value: own.rank[name] || 0, set: (value) => { now.rank[name] = value; } }));
  }
  box.append(...drawing(own), ...sharing(own));
  if (own.rewritten) {
    box.append(make("p", { className: "note" },
      "This recipe rewrites documents: cleaning is changed by curate alone."));
    return;
  }
  box.append(make("h3", {}, "Condition (clean.where)"));
  const where = make("textarea", { value: now.where, spellcheck: false,
    placeholder: "words > 50 and meta.stars >= 3" });
  where.setAttribute("aria-label", "Condition");
  const numbers = make("div", {});
  where.addEventListener("change", () => {
    now.where = where.value; numbers.hidden = true; update();
  });
  own.numbers.forEach((one, at) => {
    const [low, high] = edges(one.column) || [0, 2 * Math.abs(one.value) + 1];
    const even = Number.isInteger(one.value) && high - low > 5;
    numbers.append(control(`where.${at}`, `${one.column} ${one.operator}`, {
      min: Math.max(0, Math.min(low, one.value)), max: Math.max(high, one.value),
      step: even ? 1 : (high - low) / 200, value: one.value, digits: even ? whole : short,
      set: (value) => {
        now.numbers[at] = value;
        let text = own.where;
        [...own.numbers.keys()].sort((a, b) => own.numbers[b].start - own.numbers[a].start)
          .forEach((k) => {
            if (now.numbers[k] === own.numbers[k].value) return;
            const { start, end } = own.numbers[k];
            text = text.slice(0, start) + now.numbers[k] + text.slice(end);
          });
        now.where = where.value = text;
      } }));
  });
  box.append(numbers, make("div", { className: "control" }, where));
  const rules = make("details", {}, make("summary", {},
    `Thresholds of ${own.rules.length} rules`));
  if (own.rules.length) box.append(rules);
  for (const one of own.rules) {
    const key = `${one.set}.${one.rule}`;
    const [low, high] = edges(key) || [0, 2 * one.threshold];
    rules.append(control(key, `${key} (${one.limit}${one.unit ? `, ${one.unit}` : ""})`, {
      min: Math.min(low, one.threshold), max: Math.max(high, one.threshold),
      step: one.whole ? 1 : (high - low) / 200, value: one.threshold,
      digits: one.whole ? whole : short,
      set: (value) => { (now.rules[one.set] ||= {})[one.rule] = value; } }));
  }
}

function drawing(own) {
  const kinds = [["top", "the highest scores"], ["keep", "at random from the best share"],
    ["above", "at random above a score"], ["gumbel", "by chance, Gumbel"]];
  const given = own.draw;
  const kind = given === "top" ? "top" : given.gumbel ? "gumbel"
    : given.uniform.keep != null ? "keep" : "above";
  const [low, high] = edges(Object.keys(own.rank)[0]) || [0, 1];
  const sizes = { keep: { min: 0.01, max: 1, step: 0.01, value: given.uniform?.keep ?? 0.5 },
    above: { min: low, max: high, step: (high - low) / 200,
      value: given.uniform?.above ?? +short((low + high) / 2) },
    gumbel: { min: 0.01, max: 2, step: 0.01, value: given.gumbel?.temperature ?? 0.5 } };
  const values = Object.fromEntries(Object.entries(sizes).map(([name, one]) => [name, one.value]));
  const draw = (name) => {
    now.kind = name;
    for (const [other, box] of Object.entries(boxes)) box.hidden = other !== name;
    now.draw = name === "top" ? "top" : name === "gumbel"
      ? { gumbel: { temperature: values.gumbel } } : { uniform: { [name]: values[name] } };
    if (name === kind && JSON.stringify(values[name]) === JSON.stringify(sizes[name]?.value)) {
      now.draw = given;
    }
  };
  const boxes = Object.fromEntries(Object.entries(sizes).map(([name, one]) => [name,
    control(`draw.${name}`, { keep: "share of the text", above: "score above",
      gumbel: "temperature" }[name], { ...one, set: (value) => { values[name] = value; draw(name); } })]));
  const select = choice("draw", kinds, kind, draw);
  for (const [other, box] of Object.entries(boxes)) box.hidden = other !== kind;
  return [select, ...Object.values(boxes)];
}

function sharing(own) {
  const names = Object.entries(own.sources).sort((a, b) => b[1].bytes - a[1].bytes)
    .map(([name]) => name).slice(0, 20);
  const given = own.shares;
  const kind = given === "pool" ? "pool" : Object.keys(given).length ? "given" : "free";
  const values = given === "pool" ? {} : { ...given };
  const box = make("div", { hidden: kind !== "given" });
  const share = (name) => {
    box.hidden = name !== "given";
    now.shares = name === "pool" ? "pool" : name === "free" ? {}
      : Object.fromEntries(Object.entries(values).filter(([, value]) => value > 0));
  };
  for (const name of names) {
    box.append(control(`shares.${name}`, name, { min: 0, max: 1, step: 0.01,
      value: values[name] || 0, set: (value) => { values[name] = value; share("given"); } }));
  }
  return [make("h3", {}, "Shares of the tokens by source"), choice("shares", [
    ["free", "free: by score alone"], ["pool", "as in the pool"], ["given", "given"]],
    kind, share), box];
}

function change() {
  const own = recipe.controls, budget = {}, clean = {};
  if (now.tokens !== own.tokens) budget.tokens = now.tokens;
  const rank = Object.entries(now.rank).filter(([, value]) => value > 0);
  const names = rank.map(([name]) => name);
  const same = names.length === Object.keys(own.rank).length
    && rank.every(([name, value]) => own.rank[name] === value);
  if (!same && names.length) {
    const alone = names.length === 1;
    if (!alone || Object.keys(own.rank).join() !== names[0]) {
      budget.rank = alone ? names[0] : Object.fromEntries(rank);
    }
  }
  if (JSON.stringify(now.draw) !== JSON.stringify(own.draw)) budget.draw = now.draw;
  if (JSON.stringify(now.shares) !== JSON.stringify(own.shares)) budget.shares = now.shares;
  if (now.where !== (own.where || "")) clean.where = now.where.trim() || null;
  for (const one of own.rules) {
    const value = now.rules[one.set]?.[one.rule];
    if (value !== undefined && value !== one.threshold) {
      ((clean.rules ||= {})[one.set] ||= {})[one.rule] = value;
    }
  }
  return { ...(Object.keys(budget).length && { budget }), ...(Object.keys(clean).length && { clean }) };
}

// -- answers: one request at a time, for the newest change

let running = false, again = false, started = 0, answers = 0, waiting = 0;

async function update(byHand = true) {
  if (byHand) started ||= performance.now();
  clearTimeout(waiting);
  document.documentElement.dataset.settled = "no";
  if (running) { again = true; return; }
  running = true;
  do {
    again = false;
    const from = started;
    started = 0;
    edited = change();
    try {
      show(await ask("preview", { change: edited }));
    } catch (error) {
      complain(error);
    }
    await new Promise(requestAnimationFrame);
    if (from) performance.measure("answer", { start: from, end: performance.now() });
    document.documentElement.dataset.answers = ++answers;
  } while (again);
  running = false;
  clearTimeout(waiting);
  waiting = setTimeout(settle, 250);
}

async function settle() {
  const mine = answers;
  try {
    if (last && last.preview.uncounted) {
      const { left } = await ask("count", { change: edited });
      if (mine !== answers || running) return;
      if (left) state(`counting tokens of ${format(left)} …`, "guess");
      update(false);
      return;
    }
    await list();
  } catch (error) {
    complain(error);
  }
  if (mine === answers && !running) document.documentElement.dataset.settled = "yes";
}

function state(words, kind) {
  $("state").textContent = words;
  $("state").className = kind;
}

function complain(error) {
  $("warning").hidden = false;
  $("warning").textContent = error.message;
  state("not a recipe", "guess");
}

function show(answer) {
  last = answer;
  const own = answer.preview;
  const warning = [own.problem, ...own.needs.map((need) => `Needs curate: ${need}.`)].filter(Boolean);
  if (own.needs.length) warning.push("The documents taken are an estimate until then.");
  $("warning").hidden = !warning.length;
  $("warning").textContent = warning.join("\n");
  const taken = `${format(own.taken)} taken`;
  if (own.exact) state(`${taken} · exact`, "exact");
  else if (own.problem) state("cannot be cut", "guess");
  else if (own.needs.length) state(`${taken} · estimate`, "guess");
  else state(`${taken} · counting tokens of ${format(own.uncounted)}`, "guess");
  const numbers = [["taken", own.taken, "documents taken"], ["came", own.came, "come in"],
    ["went", own.went, "go out"], ["tokens", own.delivered, "tokens delivered"],
    ["kept", own.kept, "documents kept"],
    ["dropped", Object.values(own.dropped_by).reduce((a, b) => a + b, 0), "dropped"]];
  $("numbers").replaceChildren(...numbers.map(([id, value, words]) =>
    make("div", { className: `number ${id}`, id: `n-${id}` },
      make("b", {}, format(value)), make("span", {}, words))));
  sources(own);
  charts(answer);
  reasons(own);
  const any = Object.keys(edited).length > 0;
  $("nothing").hidden = any;
  $("copy").hidden = !any;
  $("yaml").textContent = answer.yaml;
  $("command").textContent = answer.command;
}

const row = (cells, tag = "td") => make("tr", {}, ...cells.map((cell) => make(tag, {}, cell)));

function bar(part, whole, most) {
  const svg = make("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" },
    make("rect", { class: "kept", width: 100 * whole / most, height: 10 }),
    make("rect", { class: "taken", width: 100 * part / most, height: 10 }));
  return make("td", { className: "bar" }, svg);
}

function sources(own) {
  const all = Object.entries(own.by_source).sort((a, b) => b[1].kept - a[1].kept);
  const rows = all.slice(0, 20);
  const most = Math.max(1, ...rows.map(([, one]) => one.kept));
  const line = Object.fromEntries(own.groups.map((one) => [one.source, one]));
  const heads = ["kept", "taken", "in", "out", "tokens", "share", "line"];
  $("sources").replaceChildren(row(["source", "", ...heads], "th"),
    ...rows.map(([name, one]) => {
      const group = line[name] || line[null];
      const cells = row([name, format(one.kept), format(one.taken), format(one.came),
        format(one.went), format(one.tokens),
        `${(100 * one.tokens / Math.max(1, own.delivered)).toFixed(1)} %`,
        group && group.lowest != null ? short(group.lowest) : "–"]);
      heads.forEach((head, at) => { cells.children[at + 1].dataset.label = head; });
      cells.children[0].after(bar(one.taken, one.kept, most));
      return cells;
    }));
  if (all.length > rows.length) {
    $("sources").append(row([`and ${format(all.length - rows.length)} more`]));
  }
}

// The values of a bin: the first and the last one have all beyond their edge, too.
function rangeOf(column, bin) {
  const [low, high] = [short(column.edges[bin]), short(column.edges[bin + 1])];
  if (bin === 0) return `up to ${high}`;
  return bin === column.edges.length - 2 ? `${low} and more` : `${low} to ${high}`;
}

function charts(answer) {
  const ranked = Object.entries(now.rank).filter(([, value]) => value > 0);
  const figures = [], ofRules = [];
  recipe.columns.forEach((column, at) => {
    if (column.name === "source") return;
    const { kept, taken } = answer.histograms[at];
    const most = Math.max(1, ...kept, ...taken), count = kept.length, width = 480 / count;
    const svg = make("svg", { viewBox: "0 0 480 120", preserveAspectRatio: "none",
      width: "100%", height: 90, role: "img" });
    kept.forEach((value, bin) => {
      const [a, b] = [110 * value / most, 110 * taken[bin] / most];
      const label = column.labels[bin] ?? rangeOf(column, bin);
      const title = make("title", {}, `${label}: ${format(value)} kept, ${format(taken[bin])} taken`);
      if (value) svg.append(make("rect", { class: "kept", x: bin * width, y: 120 - a,
        width: width - 1, height: a }, title));
      if (taken[bin]) svg.append(make("rect", { class: "taken", x: bin * width, y: 120 - b,
        width: width - 1, height: b }, title.cloneNode(true)));
    });
    let line = null;
    if (column.kind === "rule") {
      const [set, rule] = column.name.split(".");
      line = now.rules[set]?.[rule] ?? column.threshold;
    } else if (column.kind === "score" && ranked.length === 1 && ranked[0][0] === column.name
        && answer.preview.groups.length === 1) {
      line = answer.preview.groups[0].lowest;
    } else if (column.kind === "condition" || column.kind === "length") {
      const index = recipe.controls.numbers.findIndex((one) => one.column === column.name);
      line = index < 0 ? null : now.numbers[index];
    }
    const [low, high] = [column.edges[0], column.edges[column.edges.length - 1]];
    if (line != null && column.edges.length) {
      const x = Math.min(479, Math.max(1, 480 * (line - low) / (high - low)));
      svg.append(make("line", { class: "line", x1: x, x2: x, y1: 0, y2: 120,
        "vector-effect": "non-scaling-stroke" }));
    }
    const words = column.labels.length ? column.labels.slice(0, 4).join(", ")
      : column.lowest == null ? "no value" : `${short(column.lowest)} – ${short(column.highest)}`;
    const caption = make("figcaption", {}, make("b", {}, column.name), make("span", {}, words));
    (column.kind === "rule" ? ofRules : figures).push(make("figure", {}, caption, svg));
  });
  $("charts").replaceChildren(...figures);
  const mixed = ranked.length > 1 ? `a mixture of ${ranked.map(([name]) => name).join(" and ")} orders the documents`
    : answer.preview.groups.length > 1 ? "each share has a line of its own" : "";
  $("has-line").hidden = !document.querySelector("#charts .line");
  $("no-line").hidden = !mixed;
  $("no-line").textContent = `The charts of scores have no line: ${mixed}. It is in the table of sources.`;
  $("rules").hidden = !ofRules.length;
  $("rule-charts").replaceChildren(...ofRules);
}

function reasons(own) {
  const rows = Object.entries(own.dropped_by).sort((a, b) => b[1] - a[1]);
  $("reasons").replaceChildren(row(["first reason", "documents"], "th"),
    ...rows.map(([name, count]) => row([name, format(count)])));
  if (!rows.length) $("reasons").append(row(["nothing is dropped", ""]));
}

// -- documents

// The score by which documents are ordered; null where it is that of one column.
function orderName() {
  const noise = now.draw.gumbel ? " with noise" : "";
  const mixed = Object.values(now.rank).filter((value) => value > 0).length > 1;
  return mixed ? `mixture${noise}` : noise && `score${noise}`;
}

const SIDES = { above: "just above the line", below: "just below the line", first: "taken first",
  came: "come in", went: "go out", dropped: "dropped" };

async function list() {
  const side = $("side").value, source = $("source").value || null, text = $("text").value.trim();
  if (text) $("found").textContent = "searching …";
  const found = await ask("documents", { change: edited, side, source, text });
  const count = found.documents.length;
  $("found").textContent = text
    ? `${count} found in ${format(found.searched)} documents searched${found.complete ? "" : "; there may be more"}`
    : count ? "" : "no documents";
  $("documents").replaceChildren(...found.documents.map((one) => {
    const text = make("p", { title: "click for more" }, one.text + (one.cut ? " …" : ""));
    text.addEventListener("click", () => text.classList.toggle("open"));
    const scores = Object.entries(one.scores).map(([name, value]) =>
      `${name} ${value == null ? "–" : short(value)}`);
    const order = orderName();
    if (order && one.score != null) scores.unshift(`${order} ${short(one.score)}`);
    return make("article", {}, make("div", { className: "head" },
      make("span", { className: one.taken ? "tag in" : "tag out" },
        one.taken ? "taken" : one.reason || "left"),
      make("b", {}, one.id), make("span", {}, one.source),
      make("span", {}, `${format(one.bytes)} bytes`),
      make("span", {}, one.tokens == null ? "" : one.taken && one.taken_tokens < one.tokens
        ? `${format(one.taken_tokens)} of ${format(one.tokens)} tokens`
        : `${format(one.tokens)} tokens`),
      ...scores.map((words) => make("span", {}, words))), text);
  }));
}

function searching() {
  document.documentElement.dataset.settled = "no";
  clearTimeout(waiting);
  waiting = setTimeout(settle, 250);
}

async function begin() {
  recipe = await ask("recipe", {});
  document.title = `${recipe.name} – Penstock browse`;
  $("recipe").textContent = recipe.name;
  $("side").append(...recipe.sides.map((name) => make("option", { value: name }, SIDES[name])));
  $("source").append(make("option", { value: "" }, "all sources"),
    ...Object.keys(recipe.answer.preview.by_source).slice(0, 200).map((name) =>
      make("option", { value: name }, name)));
  build();
  show(recipe.answer);
  for (const id of ["side", "source"]) $(id).addEventListener("change", searching);
  $("text").addEventListener("input", searching);
  $("reset").addEventListener("click", () => { build(); update(); });
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText($(button.dataset.copies).textContent);
      const words = button.textContent;
      button.textContent = "copied";
      setTimeout(() => { button.textContent = words; }, 1200);
    });
  }
  await settle();
}

begin().catch(complain);
