"use strict";
/* The chart that answers to its controls. Everything it shows is in #data; its state is in the fragment. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("explore");
  if (!data.slices.length) return;
  const SVG = "http://www.w3.org/2000/svg";
  const at = (name) => root.querySelector(`[data-at="${name}"]`);

  const MEASURES = {
    time: { title: "time of one call", column: "time", write: seconds, base: 10, guides: true },
    speedup: { title: "times as fast as the reference", write: times, base: 2 },
    peak: { title: "peak memory", column: "peak", write: bytes, base: 2, guides: true },
    workspace: { title: "memory beyond inputs and outputs", column: "workspace", write: bytes, base: 2, guides: true },
    setup: { title: "set-up", column: "setup", write: seconds, base: 10 },
    first: { title: "first call", column: "first", write: seconds, base: 10 },
  };

  /* --- numbers for people ------------------------------------------------------------------- */

  function significant(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
    return value >= 100 ? String(Math.round(value)) : value.toPrecision(3);
  }
  function seconds(value) {
    for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]])
      if (value >= scale * 0.9995) return `${significant(value / scale)} ${unit}`;
    return `${significant(value / 1e-9)} ns`;
  }
  function bytes(value) {
    for (const [unit, scale] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
      if (value >= scale) return `${significant(value / scale)} ${unit}`;
    return `${Math.round(value)} B`;
  }
  function times(value) {
    return `${significant(value)}x`;
  }

  /* --- state: what is shown, kept in the address ---------------------------------------------- */

  const defaults = {};
  for (const axis of data.axes) defaults[axis.name] = String(data.slices[0].axes[axis.name]);
  const state = { ...defaults, measure: "time", reference: "", hide: "", off: "" };

  function read() {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) state[key] = asked.has(key) ? asked.get(key) : (defaults[key] ?? (key === "measure" ? "time" : ""));
    if (!(state.measure in MEASURES)) state.measure = "time";
  }
  function write() {
    const kept = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      const usual = defaults[key] ?? (key === "measure" ? "time" : "");
      if (value !== usual) kept.set(key, value);
    }
    const text = kept.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }
  const hidden = (key) => new Set(state[key].split(",").filter(Boolean));
  function toggle(key, name) {
    const names = hidden(key);
    names.has(name) ? names.delete(name) : names.add(name);
    state[key] = [...names].sort().join(",");
    update();
  }

  /* The workload with most of what is asked for; an axis that was just set weighs most. */
  let wanted = null;
  function chosen() {
    let best = null;
    for (const [index, slice] of data.slices.entries()) {
      let score = 0;
      for (const axis of data.axes)
        if (String(slice.axes[axis.name]) === state[axis.name]) score += axis.name === wanted ? 100 : 1;
      if (!best || score > best.score) best = { index, slice, score };
    }
    for (const axis of data.axes) state[axis.name] = String(best.slice.axes[axis.name]);
    return best;
  }

  /* --- what is drawn -------------------------------------------------------------------------- */

  function series(index, slice) {
    const off = hidden("off"), hide = hidden("hide");
    const measure = MEASURES[state.measure];
    const found = new Map();
    for (const row of data.rows) {
      if (row.slice !== index) continue;
      const variant = data.variants[row.variant];
      if (!found.has(row.variant)) {
        const shown = !hide.has(variant.family) && !off.has(variant.label);
        found.set(row.variant, { variant, id: row.variant, shown, points: [] });
      }
      const point = { n: row.n, status: row.status, reason: row.reason, value: null, low: null, high: null, verdict: "" };
      if (measure.column) {
        point.value = row[measure.column] ?? null;
        if (measure.column === "time") [point.low, point.high] = [row.low ?? null, row.high ?? null];
      }
      found.get(row.variant).points.push(point);
    }
    if (state.measure === "speedup") {
      const reference = slice.references.includes(state.reference) ? state.reference : slice.references[0];
      for (const r of data.ratios) {
        if (r.slice !== index || r.reference !== reference) continue;
        const point = found.get(r.variant)?.points.find((p) => p.n === r.n);
        if (point) Object.assign(point, { value: r.value, low: r.low, high: r.high, verdict: r.verdict });
      }
      const own = [...found.values()].find((s) => s.variant.label === reference);
      for (const point of own?.points ?? []) if (point.status === "ok" || point.status === "not_converged") point.value = 1;
    }
    for (const one of found.values()) one.points.sort((a, b) => a.n - b.n);
    return [...found.values()];
  }

  function element(name, attributes = {}, parent = null, text = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    parent?.append(made);
    return made;
  }

  const SHAPES = {
    o: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    s: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    "^": (r) => `M0,${-r * 1.2}L${r * 1.1},${r}H${-r * 1.1}z`,
    v: (r) => `M0,${r * 1.2}L${r * 1.1},${-r}H${-r * 1.1}z`,
    "<": (r) => `M${-r * 1.2},0L${r},${-r * 1.1}V${r * 1.1}z`,
    ">": (r) => `M${r * 1.2},0L${-r},${-r * 1.1}V${r * 1.1}z`,
    D: (r) => `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0z`,
    P: (r) => `M${-r / 2},${-r}h${r}v${r / 2}h${r / 2}v${r}h${-r / 2}v${r / 2}h${-r}v${-r / 2}h${-r / 2}v${-r}h${r / 2}z`,
    X: (r) => `M${-r},${-r}L${r},${r}M${r},${-r}L${-r},${r}`,
    h: (r) => `M${r},0L${r / 2},${r}H${-r / 2}L${-r},0L${-r / 2},${-r}H${r / 2}z`,
  };
  function mark(variant, x, y, parent, r = 4) {
    const shape = SHAPES[variant.marker] ?? SHAPES.o;
    const drawn = element("path", { d: shape(r), transform: `translate(${x},${y})`, stroke: variant.colour }, parent);
    drawn.setAttribute("fill", variant.marker === "X" ? "none" : variant.colour);
    return drawn;
  }

  let places = []; // of the points that are drawn
  let pointed = null;

  /* Curves by sequence length; a workload of one length is a list of variants, the best on top. */
  function draw(all, slice) {
    const measure = MEASURES[state.measure];
    const holder = at("chart");
    const width = Math.max(320, holder.clientWidth), narrow = width < 620;
    const shown = all.filter((s) => s.shown);
    const values = shown.flatMap((s) => s.points.flatMap((p) => [p.value, p.low, p.high])).filter((v) => v !== null && v > 0);
    const lengths = [...new Set(shown.flatMap((s) => s.points.filter((p) => p.value > 0).map((p) => p.n)))].sort((a, b) => a - b);
    places = [];
    const svg = element("svg", { role: "img", tabindex: "0" });
    if (!values.length) {
      size(svg, width, 120);
      element("text", { x: width / 2, y: 60, "text-anchor": "middle" }, svg, "nothing to draw: no value of what is shown");
    } else {
      if (state.measure === "speedup") values.push(1);
      let low = Math.min(...values), high = Math.max(...values);
      const margin = Math.max((high / low) ** 0.05, 1.1);
      (lengths.length > 1 ? curves : list)(svg, { measure, shown, lengths, width, narrow, low: low / margin, high: high * margin });
    }
    const along = lengths.length > 1 ? "by sequence length" : `at sequence length ${lengths[0]}`;
    svg.setAttribute("aria-label", `${measure.title} ${along}, ${slice.where}: ${shown.length} variants. Arrow keys go from point to point; the table below has every value.`);
    holder.replaceChildren(svg);
    return svg;
  }
  function size(svg, width, height) {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
  }
  function told(measure, value) {
    return measure.write(value).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
  }

  function list(svg, { measure, shown, lengths, width, narrow, low, high }) {
    const step = 19;
    const point = (one) => one.points.find((p) => p.n === lengths[0]);
    const way = state.measure === "speedup" ? -1 : 1;
    const lines = shown.filter((one) => point(one)?.value > 0).sort((a, b) => way * (point(a).value - point(b).value));
    const room = { left: narrow ? 150 : 230, right: 24, top: 8, bottom: 44 };
    const height = room.top + step * lines.length + room.bottom;
    size(svg, width, height);
    const x = (v) => room.left + ((width - room.left - room.right) * Math.log(v / low)) / Math.log(high / low);
    const marks = ticks(low, high, measure.base), every = Math.ceil(marks.length / (narrow ? 3 : 8));
    for (const tick of marks.filter((_, i) => i % every === 0)) {
      element("line", { x1: x(tick), x2: x(tick), y1: room.top, y2: height - room.bottom, class: "grid" }, svg);
      element("text", { x: x(tick), y: height - room.bottom + 18, "text-anchor": "middle" }, svg, told(measure, tick));
    }
    if (state.measure === "speedup")
      element("line", { x1: x(1), x2: x(1), y1: room.top, y2: height - room.bottom, class: "one" }, svg);
    element("text", { x: (room.left + width - room.right) / 2, y: height - 8, "text-anchor": "middle" }, svg, `${measure.title} at sequence length ${lengths[0]}`);
    for (const [i, one] of lines.entries()) {
      const p = point(one), y = room.top + step * (i + 0.5);
      const group = element("g", { "data-variant": one.variant.label }, svg);
      element("line", { x1: room.left, x2: width - room.right, y1: y, y2: y, class: "grid" }, group);
      name(one.variant.label, { x: room.left - 8, y: y + 4, "text-anchor": "end" }, group, narrow ? 21 : 34);
      if (p.low && p.high)
        element("line", { x1: x(p.low), x2: x(p.high), y1: y, y2: y, stroke: one.variant.colour, "stroke-width": 4, opacity: 0.35 }, group);
      mark(one.variant, x(p.value), y, group, 3.8);
      places.push({ x: x(p.value), y, point: p, one, group });
    }
  }
  function name(label, where, group, most) {
    element("text", { ...where, class: "name" }, group, label.length > most ? `${label.slice(0, most - 1)}…` : label);
  }

  function curves(svg, { measure, shown, lengths, width, narrow, low, high }) {
    const height = narrow ? 380 : Math.min(900, Math.max(520, 12 * shown.length + 60));
    const room = { left: 64, right: narrow ? 12 : 190, top: 12, bottom: 44 };
    size(svg, width, height);
    const first = lengths[0] / 2 ** 0.2, last = lengths[lengths.length - 1] * 2 ** 0.2;
    const x = (n) => room.left + ((width - room.left - room.right) * Math.log(n / first)) / Math.log(last / first);
    const y = (v) => height - room.bottom - ((height - room.top - room.bottom) * Math.log(v / low)) / Math.log(high / low);

    for (const tick of ticks(low, high, measure.base)) {
      element("line", { x1: room.left, x2: width - room.right, y1: y(tick), y2: y(tick), class: "grid" }, svg);
      element("text", { x: room.left - 6, y: y(tick) + 4, "text-anchor": "end" }, svg, told(measure, tick));
    }
    const step = Math.ceil(lengths.length / (narrow ? 5 : 12));
    for (const n of [...lengths].reverse().filter((_, i) => i % step === 0)) {
      element("line", { x1: x(n), x2: x(n), y1: room.top, y2: height - room.bottom, class: "grid" }, svg);
      element("text", { x: x(n), y: height - room.bottom + 18, "text-anchor": "middle" }, svg, String(n));
    }
    element("line", { x1: room.left, x2: width - room.right, y1: height - room.bottom, y2: height - room.bottom, class: "axis" }, svg);
    element("text", { x: (room.left + width - room.right) / 2, y: height - 8, "text-anchor": "middle" }, svg, "sequence length");
    if (measure.guides)
      for (const [power, name] of [[1, "n"], [2, "n²"]]) {
        const start = low * (high / low) ** 0.03;
        const end = Math.min(last, first * (high / start) ** (1 / power));
        element("line", { x1: x(first), y1: y(start), x2: x(end), y2: y(start * (end / first) ** power), class: "guide" }, svg);
        const middle = first * (end / first) ** 0.9;
        element("text", { x: x(middle), y: y(start * (middle / first) ** power) - 5, "text-anchor": "end" }, svg, name);
      }
    if (state.measure === "speedup")
      element("line", { x1: room.left, x2: width - room.right, y1: y(1), y2: y(1), class: "one" }, svg);

    const names = [];
    for (const one of shown) {
      const group = element("g", { "data-variant": one.variant.label }, svg);
      const there = one.points.filter((p) => p.value > 0);
      for (let i = 1; i < one.points.length; i++) {
        const [a, b] = [one.points[i - 1], one.points[i]];
        if (!(a.value > 0 && b.value > 0)) continue;
        element("line", {
          x1: x(a.n), y1: y(a.value), x2: x(b.n), y2: y(b.value), stroke: one.variant.colour,
          "stroke-width": 1.7, "stroke-dasharray": one.variant.dash,
        }, group);
      }
      for (const p of there) {
        if (p.low && p.high)
          element("line", { x1: x(p.n), x2: x(p.n), y1: y(p.low), y2: y(p.high), stroke: one.variant.colour, "stroke-width": 4, opacity: 0.35 }, group);
        mark(one.variant, x(p.n), y(p.value), group, 3.4);
        places.push({ x: x(p.n), y: y(p.value), point: p, one, group });
      }
      const end = there[there.length - 1];
      if (end) names.push({ y: y(end.value), label: one.variant.label, colour: one.variant.colour, group });
    }
    if (!narrow && names.length * 12 < height - room.top) {
      names.sort((a, b) => a.y - b.y);
      for (let i = 1; i < names.length; i++) names[i].y = Math.max(names[i].y, names[i - 1].y + 12);
      let limit = height - room.bottom + 8;
      for (let i = names.length - 1; i >= 0; i--, limit -= 12) names[i].y = Math.min(names[i].y, limit);
      for (const n of names) name(n.label, { x: width - room.right + 6, y: n.y + 4 }, n.group, 28);
    }
  }

  function ticks(low, high, base) {
    const found = [];
    const first = Math.ceil(Math.log(low) / Math.log(base)), last = Math.floor(Math.log(high) / Math.log(base));
    const step = Math.max(1, Math.ceil((last - first + 1) / 8));
    for (let k = first; k <= last; k += step) found.push(base ** k);
    if (found.length >= 3) return found;
    const fine = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++)
      for (const m of [1, 2, 5]) if (m * 10 ** k >= low && m * 10 ** k <= high) fine.push(m * 10 ** k);
    return fine;
  }

  /* --- pointing: with the mouse, a finger or the arrow keys ---------------------------------------- */

  function sentence({ point, one }) {
    const measure = MEASURES[state.measure];
    const interval = point.low && point.high ? ` [${measure.write(point.low)}, ${measure.write(point.high)}]` : "";
    const verdict = point.verdict ? `, ${point.verdict}` : "";
    const status = point.status === "ok" ? "" : ` (${point.status})`;
    return `${one.variant.label} at ${point.n}: ${measure.write(point.value)}${interval}${verdict}${status}; ${one.variant.family}, ${one.variant.computes}`;
  }
  function tell(place) {
    pointed = place;
    for (const p of places) p.group.classList.toggle("dim", place !== null && p.group !== place.group);
    at("told").textContent = place ? sentence(place) : at("told").dataset.idle;
  }
  function attach(svg) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const [mx, my] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      let best = null, least = 40 ** 2;
      for (const place of places) {
        const away = (place.x - mx) ** 2 + (place.y - my) ** 2;
        if (away < least) [best, least] = [place, away];
      }
      if (best !== pointed) tell(best);
    });
    svg.addEventListener("pointerleave", () => tell(null));
    svg.addEventListener("keydown", (event) => {
      const keys = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key === "Escape") return tell(null);
      if (!(event.key in keys) || !places.length) return;
      event.preventDefault();
      if (!pointed) return tell(places[0]);
      const [dn, dv] = keys[event.key];
      if (dn) {
        const mine = places.filter((p) => p.one === pointed.one).sort((a, b) => a.point.n - b.point.n);
        tell(mine[Math.min(mine.length - 1, Math.max(0, mine.indexOf(pointed) + dn))]);
      } else {
        const here = places.filter((p) => p.point.n === pointed.point.n).sort((a, b) => a.y - b.y);
        tell(here[Math.min(here.length - 1, Math.max(0, here.indexOf(pointed) + dv))]);
      }
    });
  }

  /* --- legend and table ---------------------------------------------------------------------------- */

  function button(text, pressed, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-pressed", String(pressed));
    made.addEventListener("click", act);
    return made;
  }
  function keepFocus(holder, children) {
    const had = holder.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    holder.replaceChildren(...children);
    if (had) holder.querySelector(`[data-key="${CSS.escape(had)}"]`)?.focus();
  }
  function families(all) {
    const names = [...new Set(all.map((s) => s.variant.family))];
    keepFocus(at("families"), names.map((name) => {
      const item = document.createElement("li");
      const made = button(name, !hidden("hide").has(name), () => toggle("hide", name));
      made.dataset.key = `family ${name}`;
      item.append(made);
      return item;
    }));
  }
  function legend(all, index) {
    const family = hidden("hide");
    keepFocus(at("legend"), all.filter((s) => !family.has(s.variant.family)).map((one) => {
      const item = document.createElement("li");
      const made = button("", one.shown, () => toggle("off", one.variant.label));
      made.dataset.key = one.variant.label;
      const swatch = element("svg", { width: 30, height: 12, "aria-hidden": "true" });
      element("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: one.variant.colour, "stroke-width": 1.7, "stroke-dasharray": one.variant.dash }, swatch);
      mark(one.variant, 15, 6, swatch, 3.4);
      made.append(swatch, document.createTextNode(one.variant.label));
      const exponent = data.exponents[`${index} ${one.id} ${state.measure}`];
      if (exponent) {
        const small = document.createElement("small");
        small.textContent = ` ${exponent}`;
        made.append(small);
      }
      item.append(made);
      return item;
    }));
  }
  function cell(kind, text, name = "") {
    const made = document.createElement(kind);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  }
  function table(all, slice) {
    const measure = MEASURES[state.measure];
    const head = document.createElement("tr");
    for (const text of ["variant", "family", ...slice.lengths.map(String)]) {
      const made = cell("th", text, /^\d/.test(text) ? "number" : "");
      made.scope = "col";
      head.append(made);
    }
    const last = slice.lengths[slice.lengths.length - 1];
    const way = state.measure === "speedup" ? -1 : 1; // the best first, those without a value last
    const order = (one) => way * (one.points.find((p) => p.n === last)?.value ?? way * Infinity);
    const shown = all.filter((s) => s.shown).sort((a, b) => (order(a) === order(b) ? 0 : order(a) - order(b)));
    const rows = shown.map((one) => {
      const line = document.createElement("tr");
      const name = cell("th", one.variant.label);
      name.scope = "row";
      line.append(name, cell("td", one.variant.family));
      for (const n of slice.lengths) {
        const point = one.points.find((p) => p.n === n);
        const made = cell("td", "–", "number");
        if (point && point.value !== null) {
          made.textContent = measure.write(point.value) + (point.verdict ? ` ${point.verdict}` : "");
          if (point.low && point.high) made.title = `95 % interval ${measure.write(point.low)} to ${measure.write(point.high)}`;
          made.classList.toggle("faster", point.verdict === "FASTER");
          made.classList.toggle("slower", point.verdict === "SLOWER");
        } else if (point && point.status !== "ok") {
          made.textContent = point.status;
          made.title = point.reason ?? "";
        }
        line.append(made);
      }
      return line;
    });
    at("head").replaceChildren(head);
    at("body").replaceChildren(...rows);
    at("caption").textContent = `${measure.title}: ${slice.where}`;
  }

  /* --- controls ------------------------------------------------------------------------------------- */

  function select(name, title, options) {
    const label = document.createElement("label");
    label.append(document.createTextNode(title));
    const made = document.createElement("select");
    made.name = name;
    for (const [value, text] of options) made.append(new Option(text, value));
    made.addEventListener("change", () => {
      state[name] = made.value;
      wanted = name;
      update();
    });
    label.append(made);
    return label;
  }
  function controls() {
    const made = [select("measure", "show", Object.entries(MEASURES).map(([k, m]) => [k, m.title]))];
    made.push(select("reference", "reference", []));
    for (const axis of data.axes) made.push(select(axis.name, axis.title, axis.values.map((v) => [String(v.value), v.text])));
    const reset = document.createElement("button");
    reset.type = "button";
    reset.textContent = "reset";
    reset.addEventListener("click", () => {
      Object.assign(state, defaults, { measure: "time", reference: "", hide: "", off: "" });
      update();
    });
    at("controls").replaceChildren(...made, reset);
  }
  function fill(slice) {
    const own = at("controls");
    const reference = own.querySelector('[name="reference"]');
    reference.replaceChildren(...slice.references.map((label) => new Option(label, label)));
    if (!slice.references.includes(state.reference)) state.reference = "";
    reference.value = state.reference || slice.references[0] || "";
    reference.disabled = state.measure !== "speedup";
    own.querySelector('[name="measure"]').value = state.measure;
    for (const axis of data.axes) own.querySelector(`[name="${axis.name}"]`).value = state[axis.name];
  }

  function update() {
    const { index, slice } = chosen();
    const all = series(index, slice);
    fill(slice);
    families(all);
    legend(all, index);
    table(all, slice);
    attach(draw(all, slice));
    tell(null);
    write();
  }

  controls();
  read();
  root.hidden = false;
  update();
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return; // a link to a section
    read();
    wanted = null;
    update();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) update();
    width = innerWidth;
  });
})();
