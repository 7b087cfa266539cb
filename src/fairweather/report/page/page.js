// The script of the page: draws its charts, sorts and copies tables, and lets a reader choose.
// Everything from the run is put in as text, never as markup.
(async () => {
  const data = await unpack($("payload").textContent);
  const chosen = { model: data.start, shift: "", stop: Number($("risk")?.value), noun: $("noun")?.value };

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Marks: a shape for each kind of number, around its own middle. Accuracy is blue, and round but where
  // it is worst; diamonds are confidence alone.
  const SHAPES = {
    circle: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z", diamond: "M0,-6.5L6.5,0L0,6.5L-6.5,0Z", triangle: "M-6,-5L6,-5L0,6Z",
    ring: "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0ZM-3,0a3,3 0 1,1 6,0a3,3 0 1,1 -6,0Z",
    square: "M-4.5,-4.5L4.5,-4.5L4.5,4.5L-4.5,4.5Z", cross: "M-6,-4L-4,-6L0,-2L4,-6L6,-4L2,0L6,4L4,6L0,2L-4,6L-6,4L-2,0Z",
  };
  const LOOKS = {
    clean: ["circle", "●"], mean: ["ring", "○"], worst: ["triangle", "▼"], right: ["circle", "●"],
    sure: ["diamond", "◆"], needed: ["square", "■"], sent: ["cross", "✕"],
    sensitivity: ["circle", "●"], specificity: ["diamond", "◆"], "at-right": ["circle", "●"], "at-worst": ["triangle", "▼"],
    reader: ["diamond", "◆"],
  };
  const at = (share) => `${(100 * share).toFixed(3)}%`;
  const mark = (kind, x, y) => draw("svg", { x, y, overflow: "visible" },
    draw("path", { d: SHAPES[LOOKS[kind][0]], class: `mark ${kind}` }));

  // A chart with a row for each thing: a table that has the numbers as text, and marks between.
  function drawRows(place, rows, { head, kinds, ticks = [0, 0.5, 1], tick = (x) => `${Math.round(100 * x)} %`, open }) {
    const low = ticks[0], x = (value) => at((value - low) / (ticks.at(-1) - low));
    const grid = () => ticks.map((value) => draw("line", { x1: x(value), x2: x(value), y1: "0", y2: "100%", class: value === 0 && low < 0 ? "zero" : "grid" }));
    const anchor = (value) => (value === low ? "start" : value === ticks.at(-1) ? "end" : "middle");
    const axis = draw("svg", { class: "line axis" }, ...ticks.map((value) =>
      draw("text", { x: x(value), y: "14", "text-anchor": anchor(value) }, tick(value))));
    const shown = Object.entries(kinds).filter(([, [column]]) => rows.some(([, , marks]) => marks[column]));
    const lines = rows.map(([title, note, marks, opens]) => {
      const known = marks.filter(Boolean), ends = known.map(([, value]) => value);
      const bars = known.filter(([, , from]) => from !== null)
        .map(([kind, , from, to]) => draw("line", { x1: x(from), x2: x(to), y1: "50%", y2: "50%", class: `interval ${kind}` }));
      const span = draw("line", { x1: x(Math.min(...ends)), x2: x(Math.max(...ends)), y1: "50%", y2: "50%", class: "span" });
      const name = open && opens ? make("button", { type: "button", className: "open", textContent: title, onclick: () => open(opens) }) : make("span", { textContent: title });
      if (open && opens) name.setAttribute("aria-pressed", String(opens === chosen.shift));
      const plot = make("td", { className: "plot", ariaHidden: "true" },
        draw("svg", { class: "line" }, ...grid(), span, ...bars, ...known.map(([kind, value]) => mark(kind, x(value), "50%"))));
      return make("tr", {}, make("th", { scope: "row" }, name, note && make("span", { className: "note", textContent: note })), plot,
        ...shown.map(([kind, [column, words]]) => {
          const cell = make("td", { textContent: marks[column]?.[4] ?? "–" });
          cell.dataset.label = `${LOOKS[kind][1]} ${words}`;
          return cell;
        }));
    });
    const heads = shown.map(([kind, [, words]]) => make("th", { scope: "col" },
      make("span", { className: kind, textContent: LOOKS[kind][1], ariaHidden: "true" }), ` ${words}`));
    place.replaceChildren(make("table", { className: "dots" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: head }), make("td", { className: "plot", ariaHidden: "true" }, axis), ...heads)),
      make("tbody", {}, ...lines)));
  }
  function say(place, [finding, ...notes]) {
    place.replaceChildren(...(finding ? [make("p", { textContent: finding })] : []),
      ...notes.map((textContent) => make("p", { className: "note", textContent })));
  }

  // Sections that follow the model.
  function showVerdict() {
    $("tiles").replaceChildren(...data.tiles[chosen.model].map(([number, line, ...notes]) => make("li", {},
      make("p", {}, make("strong", { textContent: number }), ` ${line}`),
      ...notes.map((textContent) => make("p", { className: "note", textContent })))));
  }
  function showBreaks() {
    const { said, rows } = data.breaks?.[chosen.model] ?? { said: [], rows: [] };
    if (!$("breaks-rows")) return;
    say($("breaks-said"), rows.length ? said : ["This model was tested under no shift."]);
    drawRows($("breaks-rows"), rows, { head: "Right answers under", open,
      kinds: { clean: [0, "clean"], mean: [1, "mean"], worst: [2, "worst"] } });
  }
  function open(shift) {
    chosen.shift = shift;
    showShift();
    $("knows").scrollIntoView({ block: "nearest" });
    $("shift").focus({ preventScroll: true });
  }
  function showReview() {
    if (!$("review-rows")) return;
    const stop = data.review[chosen.model]?.[chosen.stop];
    $("risk-says").textContent = stop?.risk ?? "";
    $("risk").setAttribute("aria-valuetext", stop?.risk ?? "");
    say($("review-said"), stop?.said ?? ["This model has no predictions here."]);
    drawRows($("review-rows"), stop?.rows ?? [], data.reviewed ?? { head: "Share to review of", kinds: { needed: [0, "needed"], sent: [1, "by the threshold"] } });
  }
  function showCosts() {
    const own = data.costs?.[chosen.model];
    if (!$("costs-rows")) return;
    say($("costs-said"), own?.said ?? ["This model has no costs."]);
    const top = own?.top ?? 1;
    drawRows($("costs-rows"), own?.rows ?? [], { head: "Cost", kinds: { clean: [0, "clean"], worst: [1, "worst shift"] }, ticks: [0, top / 2, top], tick: (x) => String(+x.toFixed(3)) });
  }
  function showHurt() {
    if (!$("hurt-rows")) return;
    const own = data.hurt[chosen.model]?.[chosen.noun ?? Object.keys(data.hurt[chosen.model] ?? {})[0]];
    say($("hurt-said"), own?.said ?? ["This model has no predictions here."]);
    drawRows($("hurt-rows"), own?.rows ?? [], data.divided ?? { head: "Right answers of", kinds: { clean: [0, "clean"], mean: [1, "over the shifts"] } });
  }
  function showComparison() {
    if (!$("compare-rows")) return;
    const known = data.compare.flatMap(([, , marks]) => marks.flatMap(([, ...numbers]) => numbers.slice(0, 3))).filter((x) => x !== null);
    const far = Math.max(0.01, ...known.map(Math.abs)), steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
    const end = steps.find((step) => step >= far) ?? 1;
    const points = (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${+Math.abs(100 * x).toFixed(1)}`;
    drawRows($("compare-rows"), data.compare, { head: "Points of accuracy", ticks: [-end, -end / 2, 0, end / 2, end], tick: points,
      kinds: { clean: [0, "clean"], mean: [1, "over the shifts"] } });
  }

  // Sections that follow the model and the shift.
  const known = () => data.knows?.[chosen.model] ?? {};
  function showShift() {
    const own = known()[chosen.shift];
    if ($("knows-chart")) {
      $("shift").replaceChildren(...Object.keys(known()).map((value) => make("option", { value, textContent: data.shifts[value] })));
      $("shift").value = chosen.shift;
      $("shift").disabled = Object.keys(known()).length < 2;
      say($("knows-said"), own?.said ?? ["This model was tested under no shift."]);
      drawCurve($("knows-chart"), own);
    }
    for (const button of document.querySelectorAll("button.open"))
      button.setAttribute("aria-pressed", String(data.shifts[chosen.shift] === button.textContent));
    showFinding();
    showPictures(own);
    showCloser(own);
  }

  // Accuracy and confidence at each level; between them the gap, split where the two cross.
  function drawCurve(place, own) {
    const levels = own?.levels ?? [], last = Math.max(1, levels.length - 1);
    const x = (index) => (100 * index) / last, y = (share) => 100 - 100 * share;
    const gaps = [], paths = { right: "", sure: "" };
    levels.forEach((level, index) => {
      for (const kind of ["right", "sure"]) if (level[kind]) paths[kind] += `${paths[kind] ? "L" : "M"}${x(index)},${y(level[kind][1])}`;
      const next = levels[index + 1];
      if (!next?.sure || !level.sure) return;
      const [r0, s0, r1, s1] = [level.right[1], level.sure[1], next.right[1], next.sure[1]], d0 = s0 - r0, d1 = s1 - r1;
      const cut = d0 * d1 < 0 ? [d0 / (d0 - d1)] : [];
      const stops = [0, ...cut, 1], between = (a, b, t) => a + (b - a) * t;
      stops.slice(1).forEach((to, part) => {
        const from = stops[part], middle = between(d0, d1, (from + to) / 2);
        const corner = (t, a, b) => `${x(index + t)},${y(between(a, b, t))}`;
        gaps.push(draw("polygon", { class: `gap ${middle > 0 ? "" : "cautious"}`,
          points: [corner(from, r0, r1), corner(to, r0, r1), corner(to, s0, s1), corner(from, s0, s1)].join(" ") }));
      });
    });
    const stretched = draw("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", width: "100%", height: "100%" }, ...gaps,
      ...Object.entries(paths).map(([kind, d]) => draw("path", { d, class: `curve-line ${kind}`, "vector-effect": "non-scaling-stroke" })));
    const ticks = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
      draw("line", { x1: "0", x2: "100%", y1: at(1 - share), y2: at(1 - share), class: "grid" }),
      draw("text", { x: "-8", y: at(1 - share), dy: "4", "text-anchor": "end" }, `${100 * share} %`)]);
    const every = Math.ceil(levels.length / 9);
    const marks = levels.flatMap((level, index) => {
      const place = at(index / last), worst = level.cell === own.worst, side = index > last / 2 ? ["end", "-9"] : ["start", "9"];
      const higher = level.sure?.[1] >= level.right?.[1] ? "sure" : "right", apart = Math.abs(level.sure?.[1] - level.right?.[1]) > 0.15;
      const above = (kind) => kind === higher || (level[kind][1] < 0.1 && apart);
      const bar = level.right && level.right[2] !== null ? [draw("line", { x1: place, x2: place, y1: at(1 - level.right[2]), y2: at(1 - level.right[3]), class: "interval right" })] : [];
      return [...bar, ...["right", "sure"].filter((kind) => level[kind]).flatMap((kind) => [
        mark(kind, place, at(1 - level[kind][1])),
        ...(worst ? [draw("text", { x: place, y: at(1 - level[kind][1]), dx: side[1], dy: above(kind) ? "-9" : "19", "text-anchor": side[0], class: `number ${kind}` }, level[kind][4])] : [])]),
        ...(index % every && level.title !== "clean" ? [] : [draw("text", { x: place, y: "100%", dy: "20", "text-anchor": "middle" }, level.title)])];
    });
    place.setAttribute("aria-label", `Accuracy and mean confidence against ${own?.axis}. ${levels.map(({ title, right, sure }) =>
      `${title}: right ${right[4]}${sure ? `, sure ${sure[4]}` : ""}`).join("; ")}.`);
    place.replaceChildren(make("div", { className: "plot" }, draw("svg", { class: "whole" }, ...ticks, stretched, ...marks)),
      make("p", { className: "note", textContent: own?.axis ?? "" }));
  }

  // Several findings: a map of findings and shifts, and the curves of one.
  const signed = (x, digits) => (x === 0 ? "0" : `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(digits)}`);
  function showMap() {
    const own = data.map?.[chosen.model], gap = $("shown")?.value === "1";
    if (!own) return;
    say($("map-said"), own.said);
    const write = (x) => (gap ? signed(100 * x, 1) : x.toFixed(2));
    const heads = own.columns.map(([title, level, shift]) => make("th", { scope: "col" },
      shift === "clean" ? title : make("button", { type: "button", className: "open", textContent: title, onclick: () => open(shift) }),
      level && make("span", { className: "note", textContent: level })));
    $("map").replaceChildren(
      make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "Finding" }), ...heads)),
      make("tbody", {}, ...own.rows.map(([name, ...cells]) => make("tr", {},
        make("th", { scope: "row" }, make("button", { type: "button", className: "open", textContent: name, onclick: () => openFinding(name) })),
        ...cells.map((cell) => {
          const numbers = cell[gap ? 1 : 0], item = make("td", { textContent: numbers ? write(numbers[0]) : "–" });
          if (!numbers) return item;
          const [value, low, high] = numbers, far = gap ? Math.abs(value) / 0.3 : (1 - value) / 0.5;
          item.style.setProperty("--share", `${Math.round(40 * Math.min(1, Math.max(0, far)))}%`);
          item.title = low === null ? "too few images for an interval" : `95 % interval ${write(low)} to ${write(high)}`;
          if (gap && value < 0) item.className = "cautious";
          return item;
        })))));
  }
  // One finding: its calls, or its AUC, under each shift.
  function showRates() {
    const own = data.rates?.[chosen.model]?.[Number($("shown")?.value ?? 0)];
    if (!$("rates-rows")) return;
    say($("rates-said"), own?.said ?? []);
    const areas = own?.head === "AUC" ? { ticks: [0, 0.5, 1], tick: String } : {};
    drawRows($("rates-rows"), own?.rows ?? [], { head: own?.head ?? "", kinds: own?.kinds ?? {}, open, ...areas });
  }
  function openFinding(name) {
    $("finding").value = name;
    showFinding();
    $("knows").scrollIntoView({ block: "nearest" });
    $("finding").focus({ preventScroll: true });
  }
  function showFinding() {
    const findings = data.findings?.[chosen.model] ?? {}, own = findings[$("finding")?.value ?? Object.keys(findings)[0]];
    if (!own) return;
    const shifts = Object.keys(own.levels), shift = shifts.includes(chosen.shift) ? chosen.shift : shifts[0] ?? "clean";
    $("shift").replaceChildren(...(shifts.length ? shifts : ["clean"]).map((value) => make("option", { value, textContent: data.shifts[value] })));
    $("shift").value = shift;
    $("shift").disabled = shifts.length < 2;
    say($("finding-said"), own.said[shift] ?? []);
    const drawn = [["right", "clean"], ...(shift === "clean" ? [] : [["worst", shift]])].filter(([, place]) => own.curves[place]);
    const of = (curve) => drawn.map(([kind, place]) => ({ kind, points: own.curves[place][curve] }));
    const points = (where) => drawn.flatMap(([kind, place]) => own.points[place].map((point) => [`at-${kind}`, point[0], ...where(point, own.curves[place])]));
    const levels = own.levels[shift] ?? [], last = Math.max(1, levels.length - 1);
    const areas = levels.map(([, value, low, high], index) => [index / last, value, low, high]);
    const tops = drawn.map(([, place]) => own.curves[place][5]), top = Math.max(0.01, ...tops);
    const dotted = drawn.slice(0, 1).map(([, place]) => ({ kind: "all", points: own.curves[place][3], plain: true }));
    $("curves").replaceChildren(
      drawLines("ROC", "1 − specificity; up: sensitivity", of(0), { diagonal: true, points: points(([, x, y]) => [x, y]), readers: own.readers }),
      drawLines("Precision–recall", "sensitivity (recall); up: PPV (precision)", of(1), { points: points(([, , x, y]) => [x, y]) }),
      drawLines("Net benefit", "threshold; up: net benefit", [...of(2), ...dotted], { range: [-top / 4, top], points: points(([, , , , t], curves) => [t, heightAt(curves[2], t)]) }),
      drawLines("Calibration", "probability; up: share of the images with it", of(4), { diagonal: true }),
      ...(levels.length ? [drawLines("AUC at each level", data.axes[shift], [{ kind: "worst", points: areas, marked: true }], { ticks: levels.map(([title], index) => [index / last, title]) })] : []));
  }
  // The height of a curve between two of its points.
  function heightAt(points, x) {
    const next = points.findIndex(([at]) => at >= x);
    if (x === null || next < 0) return null;
    const [[x0, y0], [x1, y1]] = [points[Math.max(0, next - 1)], points[next]];
    return x1 === x0 ? y1 : y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
  }
  // Lines from 0 to 1, with bands where they have ends, and operating points on them.
  function drawLines(title, axis, lines, { ticks = [[0, "0"], [0.5, "0.5"], [1, "1"]], diagonal = false, range: [bottom, top] = [0, 1], points: dots = [], readers = [] } = {}) {
    const up = (value) => (top - value) / (top - bottom), edge = (value) => Math.min(top, Math.max(bottom, value));
    const d = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${100 * x},${100 * up(edge(y))}`).join("");
    const bands = lines.filter(({ marked, plain, points }) => !marked && !plain && points.length && points[0][2] != null).map(({ kind, points }) => draw("path", {
      d: `${d(points.map(([x, , low]) => [x, low]))}${d(points.map(([x, , , high]) => [x, high]).reverse()).replace("M", "L")}Z`, class: `band ${kind}` }));
    const stretched = draw("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", width: "100%", height: "100%" }, ...bands,
      ...(diagonal ? [draw("path", { d: "M0,100L100,0", class: "zero", "vector-effect": "non-scaling-stroke" })] : []),
      ...lines.map(({ kind, points }) => draw("path", { d: d(points), class: `curve-line ${kind}`, "vector-effect": "non-scaling-stroke" })));
    const heights = bottom < 0 ? [0, top / 2, top] : [0, 0.5, 1];
    const grid = heights.flatMap((value) => [
      draw("line", { x1: "0", x2: "100%", y1: at(up(value)), y2: at(up(value)), class: bottom < 0 && !value ? "zero" : "grid" }),
      draw("text", { x: "-6", y: at(up(value)), dy: "4", "text-anchor": "end" }, bottom < 0 ? value.toFixed(value ? (top < 0.1 ? 3 : 2) : 0) : String(value))]);
    const every = Math.ceil(ticks.length / 6);
    const below = ticks.filter((_, index) => index % every === 0).map(([x, text]) => draw("text", { x: at(x), y: "100%", dy: "18", "text-anchor": "middle" }, text));
    const marks = lines.filter(({ marked }) => marked).flatMap(({ kind, points }) => points.flatMap(([x, y, low, high]) => [
      ...(low != null ? [draw("line", { x1: at(x), x2: at(x), y1: at(up(low)), y2: at(up(high)), class: `interval ${kind}` })] : []),
      mark(kind, at(x), at(up(y)))]));
    // Both curves have the same operating points: the text stands beside the clean one.
    const shown = dots.filter(([, , x, y]) => x != null && y != null);
    const operating = shown.flatMap(([kind, text, x, y]) => [
      mark(kind, at(x), at(up(edge(y)))),
      ...(kind === "at-right" ? [draw("text", { x: at(x), y: at(up(edge(y))), dx: x > 0.7 ? "-9" : "9", dy: "13", "text-anchor": x > 0.7 ? "end" : "start", class: "number sure" }, text)] : [])]);
    const people = readers.flatMap(([name, x, y, [left, right], [low, high]]) => [
      draw("line", { x1: at(left), x2: at(right), y1: at(up(y)), y2: at(up(y)), class: "interval reader" }),
      draw("line", { x1: at(x), x2: at(x), y1: at(up(low)), y2: at(up(high)), class: "interval reader" }),
      draw("g", {}, draw("title", {}, name), mark("reader", at(x), at(up(y))))]);
    const chart = make("div", { className: "lines" }, make("h3", { textContent: title }),
      make("div", { className: "plot", role: "img" }, draw("svg", { class: "whole" }, ...grid, stretched, ...marks, ...below, ...operating, ...people)),
      make("p", { className: "note", textContent: axis }));
    const named = { right: "Clean", worst: "Under the shift", all: "Every image called" };
    const spoken = (points) => points.filter((_, index) => index % Math.ceil(points.length / 12) === 0).map(([x, y]) => `${x.toFixed(2)}, ${y.toFixed(2)}`).join("; ");
    const places = shown.map(([kind, text, x, y]) => `${named[kind.slice(3)]}, operating point ${text}: ${x.toFixed(2)}, ${y.toFixed(2)}`);
    chart.querySelector(".plot").setAttribute("aria-label", `${[`${title}`, ...lines.map(({ kind, points }) => `${named[kind]}: ${spoken(points)}`), ...places, ...readers.map(([name, x, y]) => `Reader ${name}: ${x.toFixed(2)}, ${y.toFixed(2)}`)].join(". ")}.`);
    return chart;
  }

  // Pictures. A name may be written from right to left; what stands beside it is not.
  const named = (index) => make("bdi", { textContent: data.classes[index] ?? "?" });
  function pixelated(image) {
    image.addEventListener("load", () => { if (Math.max(image.naturalWidth, image.naturalHeight) <= 64) image.classList.add("pixels"); });
    return image;
  }
  function picture(index, heading, titled = false) {
    const { image, label, predictions } = data.gallery.pictures[index];
    const own = predictions[data.models.indexOf(chosen.model)];
    if (data.gallery.findings) return findingsPicture(image, heading, label, own, titled);
    const shown = pixelated(make("img", { src: image, alt: `Class ${data.classes[label] ?? "?"}, ${heading}` }));
    const right = own?.[0] === label;
    return make("figure", { className: "picture" }, ...(titled ? [make("span", { className: "note" }, named(label))] : []), shown, make("figcaption", { className: right ? "right" : "wrong" }, ...(own
      ? [`${right ? "✓" : "✗"} “`, named(own[0]), "” ", ...(own[1] === null ? [] : [make("strong", { textContent: `${Math.round(100 * own[1])}\u00a0%` })])] : ["–"])));
  }
  function findingsPicture(image, heading, label, own, titled) {
    const shown = pixelated(make("img", { src: image, alt: `Findings: ${label}, ${heading}` }));
    const lines = (own ?? []).map(([finding, probability, there]) => make("span", { className: `finding ${there === -1 ? "" : (there === 1) === (probability >= 0.5) ? "right" : "wrong"}` },
      { 1: "✓\u00a0", 0: "✗\u00a0" }[there] ?? "?\u00a0", named(finding), " ", make("strong", { textContent: `${Math.round(100 * probability)}\u00a0%` })));
    return make("figure", { className: "picture" }, ...(titled ? [make("span", { className: "note", textContent: label })] : []), shown, make("figcaption", {}, ...lines));
  }
  function showPictures(own) {
    if (!$("strip") || !data.gallery) return;
    const { strip, attacked } = data.gallery, mine = attacked[chosen.model] ?? {};
    const [cells, headings] = own ? [own.cells, own.headings] : [["clean"], ["Clean"]];
    const found = cells.map((cell) => mine[cell] ?? strip[cell] ?? []);
    $("attacked").hidden = !cells.some((cell) => mine[cell]);
    $("strip").replaceChildren(...found.map((indices, row) => make("div", { className: "row" },
      make("h3", { textContent: row && own ? `${data.shifts[chosen.shift]}, ${headings[row].replaceAll(" ", "\u00a0")}` : headings[row] }),
      indices.length ? make("div", { className: "pictures" }, ...indices.slice(0, 5).map((index) => picture(index, headings[row], !row)))
        : make("p", { className: "note", textContent: "No picture is stored for this model." }))));
  }

  // Details of the chosen model and shift.
  function showCloser(own) {
    const title = $("model")?.selectedOptions[0].textContent ?? "";
    const where = own ? `${data.shifts[chosen.shift]}` : "clean images";
    for (const place of document.querySelectorAll(".chosen")) place.textContent = `${title ? `${title}, ` : ""}${where}, as chosen above.`;
    if ($("mistakes")) {
      const { lost, mistakes } = data.gallery;
      fill("mistakes", mistakes[chosen.model]?.[chosen.shift || "clean"]);
      if ($("lost")) fill("lost", lost?.[chosen.shift]);
    }
    const table = $("confusions"), triples = data.confusions?.[chosen.model]?.[own?.worst ?? "clean"] ?? [];
    if (!table) return;
    const share = (value) => (value ? `${Math.round(100 * value)}` : "");
    if (!table.classList.contains("matrix")) {
      table.replaceChildren(make("thead", {}, make("tr", {}, ...["Label", "Predicted", "Of the label's images (%)"].map((textContent) => make("th", { scope: "col", textContent })))),
        make("tbody", {}, ...triples.map(([label, predicted, value]) => make("tr", {}, make("td", {}, named(label)), make("td", {}, named(predicted)), make("td", { textContent: share(value) })))));
      return;
    }
    const values = new Map(triples.map(([label, predicted, value]) => [`${label},${predicted}`, value]));
    const every = [...data.classes.keys()];
    table.replaceChildren(make("thead", {}, make("tr", {}, make("td", { textContent: "Label" }), ...every.map((index) => make("th", { scope: "col" }, named(index))))),
      make("tbody", {}, ...every.map((label) => make("tr", {}, make("th", { scope: "row" }, named(label)), ...every.map((predicted) => {
        const value = values.get(`${label},${predicted}`) ?? 0, cell = make("td", { textContent: share(value) });
        cell.style.setProperty("--share", `${Math.round(55 * value)}%`);
        if (label === predicted) cell.className = "same";
        return cell;
      })))));
  }
  function fill(id, indices = []) {
    $(id).replaceChildren(...(indices.length ? indices.map((index) => {
      const { cell, label } = data.gallery.pictures[index], item = picture(index, cell);
      item.append(make("span", { className: "note" }, "Label: ", named(label)));
      return item;
    }) : [make("p", { className: "note", textContent: "No picture is stored for this choice." })]));
  }

  function showModel() {
    const shifts = Object.keys(known());
    if (!shifts.includes(chosen.shift)) chosen.shift = shifts[0] ?? "";
    showVerdict();
    showBreaks();
    showMap();
    showRates();
    showShift();
    showReview();
    showCosts();
    showHurt();
  }

  // Tables.
  for (const head of document.querySelectorAll("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const table = head.closest("table"), column = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows];
      const there = rows.filter((row) => key(row) !== ""), absent = rows.filter((row) => key(row) === "");
      const numbers = column > 0;  // the first column holds names
      there.sort((a, b) => (numbers ? key(a) - key(b) : key(a).localeCompare(key(b))) * (up ? 1 : -1));
      table.tBodies[0].append(...there, ...absent);
    });
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const { copy, format } = button.dataset;
      const text = copy === "cite" ? $("cite").textContent : data.tables[copy][format];
      try {
        await navigator.clipboard.writeText(text);
        tell(button, "copied");
      } catch {
        $("copy-text").value = text;
        $("copy-dialog").showModal();
        $("copy-text").select();
      }
    });
  }
  function tell(button, words) {
    button.dataset.words ??= button.textContent;
    button.textContent = words;
    clearTimeout(Number(button.dataset.timer));
    button.dataset.timer = setTimeout(() => { button.textContent = button.dataset.words; }, 1500);
  }

  for (const [id, key, show] of [["model", "model", showModel], ["shift", "shift", showShift], ["noun", "noun", showHurt], ["shown", "shown", () => { showMap(); showRates(); }], ["finding", "finding", showFinding]])
    $(id)?.addEventListener("change", ({ target }) => { chosen[key] = target.value; show(); });
  $("risk")?.addEventListener("input", ({ target }) => { chosen.stop = Number(target.value); showReview(); });
  if (chosen.model) showModel();
  showComparison();

  // In two columns, each section goes where there is room first, and stays there.
  const ends = [0, 0];
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) target.style.setProperty("--rows", Math.ceil(target.getBoundingClientRect().height));
  });
  for (const section of document.querySelectorAll(".front > section")) {
    const column = section.id === "verdict" ? 0 : ends.indexOf(Math.min(...ends));
    if (section.id !== "verdict") ends[column] += section.offsetHeight;
    section.style.setProperty("--column", column + 1);
    fit.observe(section);
  }
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  document.documentElement.dataset.ready = "no";
  document.getElementById("broken").hidden = false;
  console.error(error);
});
