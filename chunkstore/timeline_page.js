"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROW = 24, RUNNING = 1, ASSUMED = 2, SKEWED = 4;
  const at = (id) => document.getElementById(id);
  const made = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text; // never as HTML
    return element;
  };
  const spans = data.spans.map(([depth, kind, label, name, status, start, end, flags, attempts, message], number) => (
    { number, depth, kind, label, name, status, start, end, flags, attempts, message, above: -1, last: number }));
  const path = [];
  for (const span of spans) {
    path.length = span.depth;
    span.above = path.length ? path[path.length - 1] : -1;
    for (const number of path) spans[number].last = span.number;
    path.push(span.number);
  }
  const whole = { from: 0, to: data.length || 1 };
  let view = { ...whole }, folded = new Set(), hidden = new Set(), shown = [], chosen = -1;

  const duration = (ms) => {
    if (ms < 1000) return `${+ms.toFixed(ms < 10 ? 2 : 0)} ms`;
    if (ms < 60000) return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
    const minutes = Math.floor(ms / 60000), two = (number) => String(number).padStart(2, "0");
    if (minutes < 60) return `${minutes}:${two(Math.floor(ms / 1000) % 60)} min`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours}:${two(minutes % 60)} h` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
  };
  const moment = (ms) => {
    if (ms === null || data.start === null) return "not known";
    const date = new Date(data.start + ms), two = (number, width = 2) => String(number).padStart(width, "0");
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
      `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)}`;
  };
  const length = (span) => {
    if (span.start === null || span.end === null || span.flags & SKEWED) return "?";
    return (span.flags & ASSUMED ? "≤ " : "") + duration(span.end - span.start);
  };
  const looks = (span) => {
    if (span.flags & RUNNING) return span.flags & ASSUMED ? "running assumed" : "running";
    return { SUCCESS: "done", FAIL: "failed" }[span.status.toUpperCase()] || "other";
  };

  const filter = () => {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (span) => !hidden.has(span.status) &&
      words.every((word) => `${span.name} ${span.label} ${span.status} ${span.message}`.toLowerCase().includes(word));
    const kept = new Uint8Array(spans.length);
    if (!words.length && !hidden.size) kept.fill(1);
    else for (const span of spans) {
      if (wanted(span)) for (let number = span.number; number >= 0 && !kept[number]; number = spans[number].above) kept[number] = 1;
    }
    shown = [];
    for (let number = 0; number < spans.length; number++) {
      if (!kept[number]) continue;
      shown.push(number);
      if (folded.has(number)) number = spans[number].last;
    }
    at("all").style.height = `${shown.length * ROW}px`;
    at("summary").textContent = `${shown.length.toLocaleString("en")} of ${spans.length.toLocaleString("en")} lines · ` +
      (data.start === null ? "no times were recorded" : `${moment(0)} to ${moment(data.length)} · ${duration(data.length)}`);
    draw();
  };

  const line = (number, place) => {
    const span = spans[number];
    const row = made("div", `row ${span.kind} ${looks(span)}${number === chosen ? " chosen" : ""}`);
    row.style.top = `${place * ROW}px`;
    row.dataset.number = number;
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", span.depth + 1);
    const name = made("div", "name");
    name.style.paddingLeft = `${6 + span.depth * 14}px`;
    if (span.last > number) {
      const button = made("button", "", folded.has(number) ? "▸" : "▾");
      button.type = "button";
      button.setAttribute("aria-label", folded.has(number) ? "unfold" : "fold");
      row.setAttribute("aria-expanded", String(!folded.has(number)));
      name.append(button);
    } else name.append(made("i"));
    const label = made("span", "", span.label);
    label.title = span.name || span.label;
    name.append(label);
    const track = made("div", "track");
    if (span.start !== null) {
      const bar = made("div", "bar"), end = span.end === null ? span.start : span.end;
      const scale = 100 / (view.to - view.from);
      bar.style.left = `${(span.start - view.from) * scale}%`;
      bar.style.width = `${(end - span.start) * scale}%`;
      if (span.end === null || span.flags & SKEWED) row.classList.add("point");
      track.append(bar);
    }
    row.append(name, made("div", "status", span.status), made("div", "time", length(span)), track);
    return row;
  };

  const ticks = () => {
    const box = at("ticks"), track = at("all").querySelector(".track");
    box.replaceChildren();
    if (!track || data.start === null) return;
    const rect = track.getBoundingClientRect();
    box.style.left = `${rect.left}px`;
    box.style.width = `${rect.width}px`;
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5];
    const least = (view.to - view.from) * 90 / Math.max(rect.width, 90);
    const step = steps.find((each) => each >= least) || Math.ceil(least / 864e5) * 864e5;
    const last = view.to - (view.to - view.from) * 50 / Math.max(rect.width, 100); // room for its label
    for (let time = Math.ceil(view.from / step) * step; time <= last; time += step) {
      const tick = made("div", "tick", time ? `+${duration(time)}` : "0");
      tick.style.left = `${(time - view.from) / (view.to - view.from) * 100}%`;
      box.append(tick);
    }
  };

  let waiting = false;
  const paint = () => {
    waiting = false;
    const rows = at("rows"), first = Math.max(0, Math.floor(rows.scrollTop / ROW) - 8);
    const last = Math.min(shown.length, first + Math.ceil(rows.clientHeight / ROW) + 17);
    const lines = [];
    for (let place = first; place < last; place++) lines.push(line(shown[place], place));
    at("all").replaceChildren(...lines);
    ticks();
  };
  const draw = () => {
    if (!waiting) { waiting = true; requestAnimationFrame(paint); }
  };

  const zoom = (factor, around = (view.from + view.to) / 2) => {
    const least = Math.min(1, whole.to), size = Math.min(whole.to, Math.max(least, (view.to - view.from) * factor));
    const share = (around - view.from) / (view.to - view.from);
    move(around - size * share - view.from, size);
  };
  const move = (by, size = view.to - view.from) => {
    const from = Math.min(Math.max(0, view.from + by), whole.to - size);
    view = { from, to: from + size };
    draw();
  };
  const zoomTo = (span) => {
    if (span.start === null) return;
    const end = span.end === null ? span.start : span.end, room = Math.max((end - span.start) * 0.05, 0.5);
    view = { from: Math.max(0, span.start - room), to: Math.min(whole.to, Math.max(end + room, span.start + 1)) };
    if (view.to - view.from < 1) view = { from: Math.max(0, whole.to - 1), to: whole.to };
    draw();
  };

  const tell = (span) => {
    const facts = [span.kind, span.status, length(span), `${moment(span.start)} to ${span.flags & RUNNING ? "now, still running" : moment(span.end)}`];
    if (span.attempts > 1) facts.push(`${span.attempts} attempts`);
    if (span.flags & ASSUMED) facts.push("no start is recorded yet: it is that of the end of what came before");
    if (span.flags & SKEWED) facts.push("it ends before it starts, or starts in the future: clocks differ");
    const told = [made("strong", "", span.name || span.label), made("p", "", facts.join(" · "))];
    if (span.message) told.push(made("pre", "", span.message));
    at("details").replaceChildren(...told);
  };
  const choose = (number) => {
    chosen = number;
    tell(spans[number]);
    draw();
  };
  const fold = (number) => {
    if (!folded.delete(number)) folded.add(number);
    filter();
  };

  at("rows").addEventListener("scroll", draw);
  at("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (!row) return;
    const number = Number(row.dataset.number);
    if (event.target.closest("button")) fold(number);
    else choose(number);
  });
  at("rows").addEventListener("dblclick", (event) => {
    const row = event.target.closest(".row");
    if (row && !event.target.closest("button")) zoomTo(spans[Number(row.dataset.number)]);
  });
  at("rows").addEventListener("wheel", (event) => {
    const track = at("all").querySelector(".track");
    if (!track || !(event.ctrlKey || event.metaKey || event.shiftKey)) return;
    event.preventDefault();
    const rect = track.getBoundingClientRect(), size = view.to - view.from, way = event.deltaY || event.deltaX;
    if (event.shiftKey) move(size * Math.sign(way) * 0.1);
    else zoom(way > 0 ? 1.25 : 0.8, view.from + size * Math.min(1, Math.max(0, (event.clientX - rect.left) / rect.width)));
  }, { passive: false });
  at("rows").addEventListener("keydown", (event) => {
    const place = Math.max(0, shown.indexOf(chosen));
    const keys = {
      "+": () => zoom(0.8), "-": () => zoom(1.25), "0": () => zoom(Infinity),
      ArrowLeft: () => move((view.from - view.to) * 0.1), ArrowRight: () => move((view.to - view.from) * 0.1),
      ArrowDown: () => step(place + (chosen >= 0)), ArrowUp: () => step(place - 1),
      Enter: () => { if (chosen >= 0) zoomTo(spans[chosen]); }, " ": () => { if (chosen >= 0 && spans[chosen].last > chosen) fold(chosen); },
    };
    const step = (to) => {
      if (to < 0 || to >= shown.length) return;
      const rows = at("rows");
      if (to * ROW < rows.scrollTop) rows.scrollTop = to * ROW;
      if ((to + 1) * ROW > rows.scrollTop + rows.clientHeight) rows.scrollTop = (to + 1) * ROW - rows.clientHeight;
      choose(shown[to]);
    };
    if (keys[event.key] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  at("closer").addEventListener("click", () => zoom(0.5));
  at("further").addEventListener("click", () => zoom(2));
  at("whole").addEventListener("click", () => { view = { ...whole }; draw(); });
  at("filter").addEventListener("input", () => { at("rows").scrollTop = 0; filter(); });
  at("fold").addEventListener("click", () => {
    const any = folded.size > 0;
    folded = new Set(any ? [] : spans.filter((span) => span.depth > 0 && span.last > span.number).map((span) => span.number));
    at("fold").textContent = any ? "fold all" : "unfold all";
    filter();
  });
  window.addEventListener("resize", draw);

  for (const note of data.notes) at("notes").append(made("li", "", note));
  const counts = new Map();
  for (const span of spans) counts.set(span.status, (counts.get(span.status) || 0) + 1);
  for (const [status, count] of counts) {
    const button = made("button", "", `${status || "no status"} ${count.toLocaleString("en")}`);
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(status)) hidden.add(status);
      button.setAttribute("aria-pressed", String(!hidden.has(status)));
      filter();
    });
    at("statuses").append(button);
  }
  filter();
})();
