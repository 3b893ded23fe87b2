"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const P = D.picture, LEGS = D.maps, F = D.findings;
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, cls) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (cls) e.className = cls; return e; };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const OPS = ["READ", "WRITE", "FLUSH", "DISCARD", "OTHER"], OPCSS = ["--read", "--write", "--flush", "--discard", "--meta"];
  const ENDS = ["", "error", "refused", "abandoned", "still open"];
  const time = (us) => us >= 1e6 ? (us / 1e6).toFixed(us >= 1e8 ? 1 : 3) + " s" : us >= 1000 ? (us / 1000).toFixed(2) + " ms" : Math.round(us) + " µs";
  const at = (us) => (us / 1e6).toFixed(6) + " s";
  const legName = (leg) => leg < 0 ? "guest" : "leg " + LEGS[leg].name;
  const fitCanvas = (canvas, height) => {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 300;
    canvas.style.height = height + "px"; canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    const g = canvas.getContext("2d"); g.setTransform(ratio, 0, 0, ratio, 0, 0); g.clearRect(0, 0, width, height); return [g, width];
  };
  const tip = $("tip");
  const showTip = (event, text) => {
    if (!text) { tip.hidden = true; return; }
    tip.textContent = text; tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 350 > 0 ? window.innerWidth - 350 : 8) + "px"; tip.style.top = (event.clientY + 14) + "px";
  };

  /* ---- timeline ---- */
  const SPAN = Math.max(P.span_us, 1), tl = $("tl");
  let view = [0, SPAN], spots = [], lit = -1;
  const KINDS = [["read", "reads", "--read"], ["write", "writes", "--write"], ["flush", "flushes", "--flush"], ["discard", "discards", "--discard"],
    ["boot", "boots", "--ink"], ["mark", "marks", "--accent"], ["console", "console", "--faint"], ["fault", "faults", "--faulted"],
    ["superblock", "superblocks", "--meta"], ["bitmap", "bitmap", "--excused"], ["device", "device", "--warn"]];
  const on = Object.fromEntries(KINDS.map(([k]) => [k, true])), legOn = LEGS.map(() => true);
  const check = (parent, name, css, set, id) => {
    const label = el("label"), box = el("input"), parts = [name]; box.type = "checkbox"; box.checked = true; box.id = id;
    if (css) { const sw = el("i", undefined, "sw"); sw.style.background = "var(" + css + ")"; parts.unshift(sw); } else parts.unshift(" ");
    box.addEventListener("change", () => { set(box.checked); draw(); });
    label.append(box, ...parts); parent.append(label);
  };
  for (const [kind, name, color] of KINDS) check($("kinds"), name, color, (v) => { on[kind] = v; }, "kind-" + kind);
  LEGS.forEach((leg, i) => check($("legfilter"), "leg " + leg.name, null, (v) => { legOn[i] = v; }, "leg-" + i));
  const OPKIND = ["read", "write", "flush", "discard", "read"];
  let wanted = null;
  $("sectors").addEventListener("input", () => {
    const m = $("sectors").value.trim().match(/^(\d+)(?:\s*\+\s*(\d+)|\s*(?:-|…|\.\.)\s*(\d+))?$/);
    wanted = m ? [Number(m[1]), m[2] ? Number(m[1]) + Number(m[2]) : m[3] ? Number(m[3]) + 1 : Number(m[1]) + 1] : null; draw();
  });
  $("onlynear").addEventListener("change", () => draw());
  const NEAR = 200, marks = [];
  F.forEach((f) => { marks.push(f.event, f.first); });
  marks.sort((a, b) => a - b);
  const near = (no) => { let lo = 0, hi = marks.length; while (lo < hi) { const m = (lo + hi) >> 1; if (marks[m] < no - NEAR) lo = m + 1; else hi = m; } return lo < marks.length && marks[lo] <= no + NEAR; };
  const pass = (r) => on[OPKIND[r[3]]] && legOn[r[0]] && (!wanted || (r[4] < wanted[1] && r[4] + r[5] > wanted[0])) && (!$("onlynear").checked || near(r[8]));
  const passMoment = (m) => on[m.kind] && (m.leg < 0 || legOn[m.leg]) && (!$("onlynear").checked || near(m.event));
  const X = (us, w) => (us - view[0]) / (view[1] - view[0]) * w;

  function draw() {
    const shown = LEGS.map((_, i) => i).filter((i) => legOn[i]);
    const TOP = 34, GUEST = 50, LANE = 96, H = TOP + GUEST + shown.length * LANE + 8;
    const [g, w] = fitCanvas(tl, H); spots = [];
    const ink = css("--ink"), faint = css("--faint"), line = css("--line");
    g.font = "11px system-ui, sans-serif"; g.textBaseline = "top";
    const width = view[1] - view[0];
    const ticks = Math.max(2, Math.min(12, w / 84));
    let step = 10 ** Math.floor(Math.log10(width / ticks)); for (const by of [2.5, 2, 2]) if (width / step > ticks) step *= by;
    for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
      const x = X(t, w); g.fillStyle = line; g.fillRect(x, TOP - 6, 1, H - TOP); g.fillStyle = faint; const said = time(t); if (x + 3 + g.measureText(said).width < w) g.fillText(said, x + 3, 18);
    }
    // findings on top
    F.forEach((f, i) => {
      const x = X(f.us, w); if (x < -6 || x > w + 6) return;
      g.fillStyle = css(f.known ? "--faint" : f.suspect ? "--warn" : "--bad"); g.globalAlpha = i === lit ? 1 : .8;
      g.beginPath(); g.moveTo(x - 5, 2); g.lineTo(x + 5, 2); g.lineTo(x, 11); g.fill(); g.fillRect(x - .5, 10, 1, H - 14); g.globalAlpha = 1;
      spots.push({ x0: x - 6, x1: x + 6, y0: 0, y1: 16, text: f.headline, finding: i });
    });
    // the guest: boots, marks, console
    const rowOf = { boot: 0, mark: 0, console: 1, device: 1, fault: 1 };
    g.fillStyle = faint; g.fillText("guest", w - 34, TOP);
    let labelEnd = -1;
    for (const m of P.moments) {
      if (m.leg >= 0 || m.us < view[0] || m.us > view[1] || !passMoment(m)) continue;
      const row = rowOf[m.kind] || 0, x = X(m.us, w), y = TOP + 17 + row * 14;
      g.fillStyle = css(KINDS.find((k) => k[0] === m.kind)[2]); g.fillRect(x, y, 2, 11);
      // In words above, where there is room.
      if (m.kind !== "console" && x >= labelEnd) {
        const text = m.text.length > 28 ? m.text.slice(0, 27) + "…" : m.text, wide = g.measureText(text).width;
        if (x + wide < w - 40) { g.fillText(text, x, TOP); labelEnd = x + wide + 12; }
      }
      spots.push({ x0: x - 3, x1: x + 5, y0: y, y1: y + 13, text: at(m.us) + " " + m.text, moment: m });
    }
    // legs
    const single = P.whole || P.requests.length > 0;
    shown.forEach((leg, lane) => {
      const y = TOP + GUEST + lane * LANE, B = P.bins, T = B.legs[leg];
      g.fillStyle = line; g.fillRect(0, y, w, 1);
      // bins: stacked rates, and in flight as a line
      const b0 = Math.max(0, Math.floor(view[0] / B.width_us)), b1 = Math.min(B.used, Math.ceil(view[1] / B.width_us) + 1);
      const group = Math.max(1, Math.floor((b1 - b0) / w));
      const series = [["read", T.reads, "--read"], ["write", T.writes, "--write"], ["flush", T.flushes, "--flush"], ["discard", T.discards, "--discard"]].filter(([k]) => on[k]);
      const sums = []; let most = 1, deep = 1;
      for (let b = b0; b < b1; b += group) {
        const s = { b, v: [], q: 0, e: 0 }; let all = 0;
        for (const [, values] of series) { let n = 0; for (let i = b; i < Math.min(b + group, b1); i++) n += values[i] || 0; s.v.push(n); all += n; }
        for (let i = b; i < Math.min(b + group, b1); i++) { s.q = Math.max(s.q, T.in_flight[i] || 0); s.e += T.errors[i] || 0; }
        most = Math.max(most, all); deep = Math.max(deep, s.q); sums.push(s);
      }
      const RATE = 44, base = y + 16 + RATE, bw = Math.max(1, X(view[0] + B.width_us * group, w));
      for (const s of sums) {
        const x = X(s.b * B.width_us, w); let top = base;
        s.v.forEach((n, i) => { if (!n) return; const h = Math.max(1, n / most * RATE); g.fillStyle = css(series[i][2]); g.globalAlpha = .55; g.fillRect(x, top - h, Math.max(1, bw - .5), h); top -= h; });
        g.globalAlpha = 1; if (s.e) { g.fillStyle = css("--err"); g.fillRect(x, base, Math.max(2, bw), 2); }
      }
      g.strokeStyle = ink; g.globalAlpha = .45; g.beginPath();
      sums.forEach((s, i) => { const x = X(s.b * B.width_us, w), yy = base - s.q / deep * RATE; if (i) g.lineTo(x, yy); else g.moveTo(x, yy); g.lineTo(x + bw, yy); });
      g.stroke(); g.globalAlpha = 1;
      g.fillStyle = faint; g.fillText("leg " + LEGS[leg].name + "  · in flight up to " + deep, 4, y + 3);
      spots.push({ x0: 0, x1: w, y0: y + 16, y1: base, bins: leg });
      // single requests
      if (single) {
        const rows = []; let drawn = 0;
        for (const r of P.requests) {
          if (r[0] !== leg || r[1] > view[1] || r[1] + Math.max(r[2], 0) < view[0] || !pass(r)) continue;
          if (++drawn > 4000) break;
          const x = X(r[1], w), x1 = Math.max(x + 1.5, X(r[1] + Math.max(r[2], 0), w));
          let row = rows.findIndex((end) => end <= x); if (row < 0) { row = rows.length < 5 ? rows.length : 0; } rows[row] = x1;
          const yy = base + 3 + row * 3.2;
          g.fillStyle = css(r[6] ? "--err" : OPCSS[r[3]]); g.fillRect(x, yy, x1 - x, 2.6); if (r[9]) { g.fillStyle = css("--faulted"); g.fillRect(x, yy, 2, 4); }
          if (drawn < 1500) spots.push({ x0: x - 2, x1: x1 + 2, y0: yy - 1, y1: yy + 3.5, request: r, text: words(r) });
        }
      }
      for (const m of P.moments) {
        if (m.leg !== leg || m.us < view[0] || m.us > view[1] || !passMoment(m)) continue;
        const x = X(m.us, w), yy = y + LANE - 14; g.fillStyle = css(KINDS.find((k) => k[0] === m.kind)[2]);
        if (m.kind === "superblock") { g.beginPath(); g.arc(x, yy + 5, 3.2, 0, 7); g.fill(); } else g.fillRect(x - 1, yy, 2.5, 10);
        spots.push({ x0: x - 4, x1: x + 4, y0: yy - 2, y1: yy + 12, text: at(m.us) + " " + legName(m.leg) + ": " + m.text, moment: m });
      }
    });
    $("range").textContent = at(view[0]) + " … " + at(view[1]);
    list();
  }
  const words = (r) => at(r[1]) + " " + legName(r[0]) + " request " + r[7] + ": " + OPS[r[3]] + (r[5] ? " " + r[4] + "+" + r[5] : "") + (r[2] < 0 ? ", " + ENDS[4] : ", took " + time(r[2])) + (r[6] ? ", " + ENDS[r[6]] : "") + (r[9] ? ", a rule hit it" : "");
  function list() {
    const body = $("rows"), all = [];
    for (const r of P.requests) if (r[1] <= view[1] && r[1] + Math.max(r[2], 0) >= view[0] && pass(r)) all.push([r[8], r[1], r[0], OPS[r[3]] + (r[5] ? " " + r[4] + "+" + r[5] : "") + (r[6] ? " · " + ENDS[r[6]] : "") + (r[9] ? " · fault" : ""), r[2] < 0 ? "" : time(r[2])]);
    for (const m of P.moments) if (m.us >= view[0] && m.us <= view[1] && passMoment(m)) all.push([m.event, m.us, m.leg, m.text, ""]);
    all.sort((a, b) => a[0] - b[0]);
    $("rowcount").textContent = all.length + (P.whole ? "" : " kept") + (all.length > 300 ? ", the first 300 listed" : "");
    $("rowcount").dataset.n = all.length;
    if (!$("rowsbox").open) { body.replaceChildren(); return; }
    const hits = new Set(F.map((f) => f.event));
    body.replaceChildren(...all.slice(0, 300).map(([no, us, leg, what, took]) => {
      const tr = el("tr"); if (hits.has(no)) tr.className = "hit";
      tr.append(el("td", "#" + no, "n"), el("td", at(us), "t"), el("td", legName(leg), "w"), el("td", what), el("td", took, "t")); return tr;
    }));
  }
  $("rowsbox").addEventListener("toggle", list);
  const look = (from, to) => { const least = 5, w = Math.max(least, Math.min(to - from, SPAN)); const f = Math.max(0, Math.min(from, SPAN - w)); view = [f, f + w]; draw(); };
  const zoom = (factor, centre) => { const c = centre === undefined ? (view[0] + view[1]) / 2 : centre; look(c - (c - view[0]) * factor, c + (view[1] - c) * factor); };
  $("fit").onclick = () => { lit = -1; look(0, SPAN); }; $("zoomin").onclick = () => zoom(.5); $("zoomout").onclick = () => zoom(2);
  const shift = (part) => { const d = (view[1] - view[0]) * part; look(view[0] + d, view[1] + d); };
  $("left").onclick = () => shift(-.4); $("right").onclick = () => shift(.4);
  const usAt = (event) => view[0] + (event.clientX - tl.getBoundingClientRect().left) / tl.clientWidth * (view[1] - view[0]);
  tl.addEventListener("wheel", (e) => { if (!e.ctrlKey && !e.shiftKey) return; e.preventDefault(); zoom((e.deltaY || e.deltaX) > 0 ? 1.3 : 1 / 1.3, usAt(e)); }, { passive: false });
  tl.addEventListener("dblclick", (e) => zoom(.3, usAt(e)));
  tl.addEventListener("keydown", (e) => { const f = { "+": () => zoom(.5), "=": () => zoom(.5), "-": () => zoom(2), ArrowLeft: () => shift(-.2), ArrowRight: () => shift(.2), "0": () => look(0, SPAN) }[e.key]; if (f) { e.preventDefault(); f(); } });
  const find = (e) => { const r = tl.getBoundingClientRect(), x = e.clientX - r.left, y = e.clientY - r.top; let bins = null; for (let i = spots.length; i--;) { const s = spots[i]; if (x >= s.x0 && x <= s.x1 && y >= s.y0 && y <= s.y1) { if (s.bins !== undefined) bins = s; else return s; } } return bins; };
  const fingers = new Map(); let grab = null, moved = false;
  tl.addEventListener("pointerdown", (e) => { fingers.set(e.pointerId, e.clientX); grab = { x: e.clientX, view: view.slice(), gap: null }; moved = false; if (fingers.size === 2) { const [a, b] = [...fingers.values()]; grab.gap = Math.abs(a - b); } tl.setPointerCapture(e.pointerId); });
  tl.addEventListener("pointermove", (e) => {
    if (!grab) { const s = find(e); showTip(e, s && s.text); tl.style.cursor = s && s.bins === undefined ? "pointer" : "grab"; return; }
    fingers.set(e.pointerId, e.clientX); const w = grab.view[1] - grab.view[0];
    if (fingers.size === 2 && grab.gap) { const [a, b] = [...fingers.values()], k = grab.gap / Math.max(10, Math.abs(a - b)), c = (grab.view[0] + grab.view[1]) / 2; moved = true; look(c - w * k / 2, c + w * k / 2); return; }
    const d = (grab.x - e.clientX) / tl.clientWidth * w; if (Math.abs(grab.x - e.clientX) > 3) { moved = true; look(grab.view[0] + d, grab.view[0] + d + w); }
  });
  const release = (e) => { fingers.delete(e.pointerId); grab = null; };
  tl.addEventListener("pointerup", (e) => { release(e); if (moved) return; const s = find(e); if (s && s.finding !== undefined) openFinding(s.finding); else if (s && (s.request || s.moment)) detail(s); });
  tl.addEventListener("pointercancel", release); tl.addEventListener("pointerleave", () => { tip.hidden = true; });
  function detail(s) {
    const box = $("detail"); box.hidden = false; box.replaceChildren(el("span", s.text + "  ")); const no = s.request ? s.request[8] : s.moment.event; box.append(el("span", "#" + no + "  ", "faint"));
    F.forEach((f, i) => { const touches = s.request && f.legs.some((r) => r[0] === s.request[0] && r[1] < s.request[4] + s.request[5] && r[1] + r[2] > s.request[4]); if (touches || f.event === no) { const a = el("a", "in finding: " + f.headline + "  "); a.href = "#finding-" + i; a.onclick = (e) => { e.preventDefault(); openFinding(i); }; box.append(a); } });
  }
  function openFinding(i) {
    document.querySelectorAll(".finding.at").forEach((e) => e.classList.remove("at")); lit = i; draw();
    const card = $("finding-" + i); if (!card) return; if (card.tagName === "DETAILS") card.open = true; else { const more = card.closest("details"); if (more) more.open = true; }
    card.classList.add("at"); card.scrollIntoView({ block: "start" });
  }
  document.addEventListener("click", (e) => {
    const a = e.target.closest("[data-goto],[data-map]"); if (!a) return; e.preventDefault();
    if (a.dataset.goto !== undefined) { const i = Number(a.dataset.goto), f = F[i]; if (!f) return; lit = i; const w = Math.max(2000, Math.min(SPAN / 4, f.around)); look(f.us - w, f.us + w); $("timeline").scrollIntoView({ block: "start" }); }
    else { const f = F[Number(a.dataset.map)], r = f && f.legs[0]; if (!r) return; const start = toMap(r[0], r[1]); mapLook(Math.floor(start - CELLS / 4), CELLS); $("legs").scrollIntoView({ block: "start" }); }
  });
  $("tlnote").textContent = (P.whole ? "Every request is here; zoom in to see each. " : "Rates are of all " + P.events + " events; single requests are kept near findings (" + P.requests.length + "). ") + (P.moments_more ? P.moments_more + " marks, lines and the like were left out. " : "") + "Drag moves, Ctrl + wheel or two fingers zoom; triangles are findings.";

  /* ---- maps ---- */
  const LAYERS = [["metadata", "metadata", "--meta"], ["written", "written", "--written"], ["equal", "equal", "--equal"], ["different", "different", "--different"], ["excused", "excused", "--excused"], ["faulted", "faulted", "--faulted"], ["wrong", "in a finding", "--wrong"]];
  for (const [key, name, color] of LAYERS) { const s = el("span"), sw = el("i", undefined, "sw"); sw.style.background = "var(" + color + ")"; s.append(sw, name); s.dataset.layer = key; $("legend").append(s); }
  const origin = (leg) => LEGS[leg].data ? LEGS[leg].data[0] : 0;
  const ORIGIN = Math.max(0, ...LEGS.map((_, i) => origin(i)));
  const toMap = (leg, sector) => sector - origin(leg) + ORIGIN, fromMap = (leg, pos) => pos - ORIGIN + origin(leg);
  const MAPALL = Math.max(1, ...LEGS.map((l, i) => toMap(i, l.sectors)));
  const COLS = 64, ROWS = 24, CELLS = COLS * ROWS; let map = [0, MAPALL]; const past = [], canvases = [];
  LEGS.forEach((leg, i) => { const box = el("div"); const h = el("h3", "leg " + leg.name + " "); h.append(el("span", LAYERS.filter(([k]) => leg[k].sectors).map(([k, name]) => leg[k].sectors + " " + name).join(" · ") || "never written", "faint")); const c = el("canvas"); c.dataset.leg = i; box.append(h, c); $("maps").append(box); canvases.push(c); });
  function cells(leg) {
    const per = map[1] / CELLS, out = LAYERS.map(() => new Float64Array(CELLS));
    LAYERS.forEach(([key], l) => {
      for (const [start, count] of LEGS[leg][key].ranges) {
        const a = toMap(leg, start) - map[0], b = a + count; if (b <= 0 || a >= map[1]) continue;
        const c0 = Math.max(0, Math.floor(a / per)), c1 = Math.min(CELLS - 1, Math.ceil(b / per) - 1);
        for (let c = c0; c <= c1; c++) out[l][c] += Math.max(0, Math.min(b, (c + 1) * per) - Math.max(a, c * per)) / per;
      }
    });
    return out;
  }
  function drawMaps() {
    const per = map[1] / CELLS;
    canvases.forEach((canvas, leg) => {
      const w0 = canvas.clientWidth || 300, size = w0 / COLS, [g] = fitCanvas(canvas, Math.ceil(size * ROWS)), share = cells(leg), soft = css("--soft");
      const colors = LAYERS.map(([, , c]) => css(c));
      for (let c = 0; c < CELLS; c++) {
        const x = (c % COLS) * size, y = Math.floor(c / COLS) * size, pos = map[0] + c * per, inside = pos < toMap(leg, LEGS[leg].sectors) && fromMap(leg, pos + per) > 0;
        if (!inside) continue;
        g.fillStyle = soft; g.fillRect(x + .4, y + .4, size - .8, size - .8);
        for (let l = 0; l < LAYERS.length; l++) { const s = share[l][c]; if (s <= 0) continue; g.globalAlpha = l >= 3 ? 1 : .35 + .65 * Math.min(1, s); g.fillStyle = colors[l]; g.fillRect(x + .4, y + .4, size - .8, size - .8); }
        g.globalAlpha = 1;
      }
    });
    $("mapwhere").textContent = (per <= 1 ? "a cell is a sector" : "a cell is " + Math.ceil(per).toLocaleString("en") + " sectors") + ", from array sector " + Math.max(0, Math.floor(map[0] - ORIGIN)).toLocaleString("en") + ". ";
  }
  function mapLook(from, count) { past.push(map); const n = Math.max(CELLS, Math.min(count, MAPALL)); map = [Math.max(0, Math.min(Math.floor(from), Math.max(0, MAPALL - n))), n]; drawMaps(); }
  $("mapout").onclick = () => { past.length = 0; map = [0, MAPALL]; drawMaps(); };
  $("mapup").onclick = () => { const c = map[0] + map[1] / 2; if (past.length) { map = past.pop(); drawMaps(); } else { mapLook(c - map[1] * 8, map[1] * 16); past.length = 0; } };
  const cellAt = (canvas, e) => { const r = canvas.getBoundingClientRect(), size = canvas.clientWidth / COLS; return Math.floor((e.clientY - r.top) / size) * COLS + Math.min(COLS - 1, Math.floor((e.clientX - r.left) / size)); };
  canvases.forEach((canvas, leg) => {
    canvas.addEventListener("mousemove", (e) => { const c = cellAt(canvas, e), per = map[1] / CELLS, a = Math.floor(fromMap(leg, map[0] + c * per)), share = cells(leg); const has = LAYERS.filter((_, l) => share[l][c] > 0).map(([, name]) => name).join(", "); showTip(e, a < 0 ? "" : "leg sector " + a.toLocaleString("en") + (LEGS[leg].data && a >= LEGS[leg].data[0] ? " (array " + (a - LEGS[leg].data[0]).toLocaleString("en") + ")" : "") + ": " + (has || "never written")); });
    canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
    canvas.addEventListener("click", (e) => {
      const c = cellAt(canvas, e), per = map[1] / CELLS, pos = map[0] + c * per;
      if (per > 1) { mapLook(pos - CELLS * Math.max(1, per / 16) / 2, CELLS * Math.max(1, per / 16)); return; }
      const sector = Math.floor(fromMap(leg, pos)); const i = F.findIndex((f) => f.legs.some((r) => r[0] === leg && r[1] <= sector && sector < r[1] + r[2])); if (i >= 0) openFinding(i);
    });
  });
  const closed = LEGS.flatMap((leg) => LAYERS.map(([k]) => leg[k].closed)); const worst = Math.max(0, ...closed);
  $("mapnote").textContent = "Legs lie side by side by their array's sectors; what is before the data is metadata. Click zooms in, down to a sector; there, a click on a wrong one opens its finding." + (worst ? " Gaps up to " + worst + " sectors are closed to keep this file small." : "");

  /* ---- durations ---- */
  const NS = "http://www.w3.org/2000/svg";
  const svg = (tag, attrs, parent, text) => { const e = document.createElementNS(NS, tag); for (const k in attrs) e.setAttribute(k, attrs[k]); if (text !== undefined) e.textContent = text; if (parent) parent.append(e); return e; };
  const bucket = (i) => i === 0 ? "0" : time(2 ** (i - 1));
  function histogram(title, sets) {
    const used = sets.filter((s) => s.h.buckets.some((n) => n)); if (!used.length) return;
    let lo = 99, hi = 0; for (const s of used) s.h.buckets.forEach((n, i) => { if (n) { lo = Math.min(lo, i); hi = Math.max(hi, i); } });
    const box = el("div"); box.append(el("h3", title)); const W = 420, H = 130, s = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" }); svg("title", {}, s, title);
    const n = hi - lo + 1, bw = (W - 8) / n, most = Math.max(...used.flatMap((u) => u.h.buckets));
    for (let i = lo; i <= hi; i++) { used.forEach((u, k) => { const v = u.h.buckets[i]; if (!v) return; const h = Math.max(1.5, Math.sqrt(v / most) * (H - 30)), x = 4 + (i - lo) * bw + k * (bw - 3) / used.length; const r = svg("rect", { x, y: H - 18 - h, width: Math.max(1, (bw - 4) / used.length), height: h, rx: 1, style: "fill:var(" + u.c + ")" }, s); svg("title", {}, r, `${u.name}: ${v} from ${bucket(i)} to below ${time(2 ** i)}`); }); if (n < 7 || (i - lo) % Math.ceil(n / 6) === 0) svg("text", { x: 4 + (i - lo) * bw, y: H - 5 }, s, bucket(i)); }
    box.append(s); const legend = el("p", undefined, "legend faint"); for (const u of used) { const t = el("span"), sw = el("i", undefined, "sw"); sw.style.background = "var(" + u.c + ")"; t.append(sw, u.name + ", the longest " + time(u.h.max_us)); legend.append(t); } box.append(legend); $("hists").append(box);
  }
  LEGS.forEach((leg, i) => histogram("Leg " + leg.name + ": latency", [["reads", 0, "--read"], ["writes", 1, "--write"], ["flushes and discards", 2, "--flush"]].map(([name, k, c]) => ({ name, c, h: P.latency[i][k] }))));
  const LC = ["--write", "--read", "--flush", "--discard", "--accent", "--different", "--faulted", "--meta"];
  histogram("Mirror lag: later than the first leg", LEGS.map((leg, i) => ({ name: "leg " + leg.name, c: LC[i], h: P.lag[i] })));
  if (!$("hists").children.length) $("hists").append(el("p", "No request was completed.", "quiet"));
  if (P.resync.length) {
    const W = 860, H = 120, s = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" }), t0 = P.resync[0].us, t1 = Math.max(t0 + 1, P.resync[P.resync.length - 1].us);
    const line = (leg, style) => { const name = leg < 0 ? "the guest's sysfs" : "leg " + LEGS[leg].name + "'s superblock"; let part = [], last = 0; const put = () => { if (part.length) { const l = svg("polyline", { points: part.join(" "), style: "fill:none;" + style }, s); svg("title", {}, l, name); } part = []; }; for (const p of P.resync) { if (p.leg !== leg) continue; if (p.done < last) put(); last = p.done; part.push(`${(4 + (p.us - t0) / (t1 - t0) * (W - 8)).toFixed(1)},${(H - 16 - Math.min(1, p.done / Math.max(1, p.all)) * (H - 26)).toFixed(1)}`); } put(); };
    LEGS.forEach((_, leg) => line(leg, "stroke-width:2;stroke:var(" + LC[leg] + ")")); line(-1, "stroke-width:1.2;stroke-dasharray:5 3;stroke:var(--ink)");
    svg("text", { x: 4, y: H - 3 }, s, at(t0)); svg("text", { x: W - 70, y: H - 3 }, s, at(t1)); $("resync").append(el("h3", "Resync and recovery, by the superblocks' checkpoints (lines) and the guest's sysfs (dashes)"), s);
  }

  /* ---- theme, size ---- */
  $("theme").onclick = () => { const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches; root.dataset.theme = dark ? "light" : "dark"; redraw(); };
  const redraw = () => { draw(); drawMaps(); };
  let soon = 0; window.addEventListener("resize", () => { clearTimeout(soon); soon = setTimeout(redraw, 80); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
  if (location.hash.startsWith("#finding-")) openFinding(Number(location.hash.slice(9)));
  document.documentElement.dataset.ready = "yes";
})();
