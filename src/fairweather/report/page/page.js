// The script of the page: draws the charts, sorts and copies tables, and lets a reader choose.
// Everything from the run is put in as text, never as markup.
(async () => {
  const $ = (id) => document.getElementById(id);
  const data = await unpack($("payload").textContent);
  const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1).replace("-", "−")} %`);
  const between = ([value, low, high]) =>
    value === null ? "–" : `${percent(value)} [${[low, high].map((x) => (100 * x).toFixed(1)).join(", ")}]`;
  const views = new Map(), linked = new Map();

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // Charts. Vega's interpreter stands in for evaluated code, which the page's policy forbids.
  async function draw(place, datasets) {
    const spec = { ...data.charts[place.dataset.chart], ...(datasets && { datasets }) };
    const result = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false,
      config: data.config, tooltip: { disableDefaultStyle: true },
    });
    views.set(place.dataset.chart, result.view);
    place.addEventListener("click", sayUnderFinger);
    const parameters = [spec, ...(spec.layer ?? [])].flatMap(({ params }) => params ?? []);
    if (parameters.every(({ name }) => name !== "focus")) return;
    linked.set(place, { view: result.view, at: "" });
    result.view.addEventListener("pointerover", (_, item) => focusOn(item?.datum?.title ?? pinned));
    result.view.addEventListener("pointerout", () => focusOn(pinned));
  }

  // Vega shows the numbers of a mark when a pointer moves over it; a finger taps, and never moves.
  function sayUnderFinger({ target, clientX, clientY }) {
    target.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX, clientY }));
  }

  // Linked hover: the model under the pointer stands out in every chart that is in sight.
  let pinned = "", focused = "";
  function focusOn(title) {
    focused = title;
    for (const [place, chart] of linked) {
      const { bottom, top } = place.getBoundingClientRect();
      if (chart.at === focused || bottom < 0 || top > innerHeight) continue;
      chart.at = focused;
      chart.view.signal("focus", focused).runAsync();
    }
  }
  for (const button of document.querySelectorAll("button.model")) {
    button.addEventListener("click", () => {
      pinned = pinned === button.dataset.title ? "" : button.dataset.title;
      for (const each of document.querySelectorAll("button.model"))
        each.setAttribute("aria-pressed", String(each.dataset.title === pinned));
      focusOn(pinned);
    });
  }
  addEventListener("scroll", () => focusOn(focused), { passive: true });
  // Paper shows every chart, and so what is pinned must hold in all of them.
  addEventListener("beforeprint", () => {
    for (const chart of linked.values()) chart.view.signal("focus", chart.at = pinned).run();
  });

  // Tables.
  for (const head of document.querySelectorAll("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const table = head.closest("table"), at = head.cellIndex;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[at].dataset.value;
      const rows = [...table.tBodies[0].rows];
      const there = rows.filter((row) => key(row) !== ""), absent = rows.filter((row) => key(row) === "");
      const numbers = at > 0;  // the first column holds names
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

  // Choosers.
  const chooser = { model: $("model"), shift: $("shift"), level: $("level"), risk: $("risk") };
  const chosen = () => {
    const model = data.models[chooser.model.value], shift = data.shifts[chooser.shift.value];
    const place = shift.cells[chooser.level.value];
    return { model, shift, place, cell: data.cells[model.name][place.id] };
  };
  function fill(select, names, start) {
    select.replaceChildren(...names.map((name, value) => make("option", { value, textContent: name })));
    select.value = start;
    select.disabled = names.length < 2;
  }
  // What a model was not tested on, or what a page of many models leaves out, cannot be chosen.
  const measured = (id) => id in data.cells[data.models[chooser.model.value].name];
  function offer(select, isThere) {
    const options = [...select.options], at = Number(select.value);
    for (const option of options) option.disabled = !isThere(option.value);
    // The nearest, and of two as near the one behind.
    const away = ({ value }) => Math.abs(value - at) - (value > at ? 0.5 : 0);
    const [nearest] = options.filter((option) => !option.disabled).sort((a, b) => away(a) - away(b));
    select.value = (nearest ?? options[at]).value;
  }
  function offerLevels() {
    const { cells } = data.shifts[chooser.shift.value];
    offer(chooser.level, (level) => measured(cells[level].id));
  }
  function fillLevels() {
    const { cells } = data.shifts[chooser.shift.value];
    const worst = data.worst.map(([, cell]) => cell);
    const at = cells.findIndex(({ id }) => worst.includes(id));
    fill(chooser.level, cells.map(({ heading }) => heading || "as they are"), Math.max(0, at));
    offerLevels();
  }
  function offerMeasured() {
    const before = chooser.shift.value;
    offer(chooser.shift, (shift) => data.shifts[shift].cells.some(({ id }) => measured(id)));
    if (chooser.shift.value !== before) fillLevels();
    else offerLevels();
  }

  // The charts of a cell are drawn with the first numbers, and then take those of each next cell.
  async function show(name, rows) {
    const place = document.querySelector(`[data-chart="${name}"]`);
    if (!place) return;
    if (!views.has(name)) await draw(place, { rows });
    else await views.get(name).data("rows", rows).resize().runAsync();
  }

  // One after the other, so that what was chosen last is what is shown last.
  let showing = Promise.resolve();
  const showNext = () => (showing = showing.then(showCell, showCell));
  async function showCell() {
    const { model, shift, place, cell } = chosen();
    const where = place.heading ? `${shift.title}, ${place.heading}` : shift.title;
    const words = cell ? data.summaries[model.name][place.id] : "Not measured.";
    $("chosen").replaceChildren(make("strong", { textContent: `${model.title}, ${where}. ` }), words);
    for (const part of document.querySelectorAll(".of-cell")) part.hidden = !cell;
    if (cell) {
      await showConfidence(cell, data.cells[model.name].clean);
      await showClasses(cell);
    }
    await showHandOver(model);
    showPictures(model, shift);
  }

  async function showConfidence(cell, clean) {
    const width = 1 / data.bins, bar = 1 / cell.bars[0].length;
    const edges = (at, step) => `${(100 * at * step).toFixed(0)} to ${(100 * (at + 1) * step).toFixed(0)} %`;
    const bins = cell.bins.map(([at, confidence, accuracy, low, high, images]) => ({
      confidence, accuracy, low, high, images, lower: at * width, upper: (at + 1) * width, bin: edges(at, width),
      confidence_text: percent(confidence), accuracy_text: between([accuracy, low, high]),
    }));
    await show("reliability", bins);
    await show("counts", bins);
    await show("confidence", cell.bars.flatMap((counts, side) => counts.map((images, at) => ({
      lower: at * bar, upper: (at + 1) * bar, bin: edges(at, bar), images,
      answer: side ? "wrong" : "right", from: 0, to: side ? -images : images,
    }))));
    const point = (which) => ([coverage, risk, low, high]) => ({
      coverage, risk, low, high, which, coverage_text: percent(coverage), risk_text: between([risk, low, high]),
    });
    // The first step is of all images that share it: it begins where nothing is answered.
    const curve = (points, which) => [points[0], ...points].map(point(which))
      .map((row, at) => (at ? row : { ...row, coverage: 0 }));
    const [over, , , ...risk] = cell.kept[chooser.risk.value] ?? [];
    const kept = typeof risk[0] === "number" ? [{ ...point("chosen images")([1 - over, ...risk]), kept: true }] : [];
    await show("risk-coverage", [
      ...curve(cell.curve, "chosen images"),
      ...kept,
      ...(clean && clean !== cell ? curve(clean.curve, "clean images") : []),
    ]);
  }

  async function showClasses(cell) {
    await show("classes", cell.classes.map(([at, images, accuracy, low, high]) => ({
      at, name: data.classes[at], images, accuracy, low, high, accuracy_text: between([accuracy, low, high]),
    })));
    const totals = new Map(cell.classes.map(([at, images]) => [at, images]));
    const triples = Array.from({ length: cell.confused.length / 3 }, (_, i) => cell.confused.slice(3 * i, 3 * i + 3));
    await show("confusion", triples.map(([label, predicted, images]) => ({
      label: data.classes[label], predicted: data.classes[predicted], label_at: label, predicted_at: predicted, images,
      share: images / totals.get(label), share_text: percent(images / totals.get(label)),
    })));
    const wrong = triples.filter(([label, predicted]) => label !== predicted).slice(0, 8);
    $("confusions").replaceChildren(...wrong.map(([label, predicted, images]) => make("tr", {},
      make("td", { textContent: data.classes[label] }),
      make("td", { textContent: data.classes[predicted] }),
      make("td", { textContent: images }))));
  }

  async function showHandOver(model) {
    const at = Number(chooser.risk.value);
    const found = data.worst.map(([place, id]) => [place, data.cells[model.name][id]]);
    const rows = found.filter(([, cell]) => cell).map(([place, cell]) => {
      const [needed, low, high] = cell.hand[at], kept = cell.kept[at] ?? [null, null, null, null, null, null];
      return {
        place, needed, low, high, over: kept[0], needed_text: between(cell.hand[at]),
        over_text: between(kept.slice(0, 3)), risk_text: between(kept.slice(3)),
      };
    });
    await show("hand-over", rows);
    const texts = new Map(rows.map((row) => [row.place, [row.needed_text, row.over_text, row.risk_text]]));
    $("hand-over-rows").replaceChildren(...found.map(([place]) => make("tr", {},
      make("th", { scope: "row", textContent: place }),
      ...(texts.get(place) ?? ["not measured", "–", "–"]).map((text) => make("td", { textContent: text })))));
  }

  // Pictures.
  const whole = (text) => text.replaceAll(" ", "\u00a0");
  const classOf = (at) => data.classes[at] ?? "?";
  // A name may be written from right to left; what stands beside it is not.
  const named = (at) => make("bdi", { textContent: classOf(at) });
  function picture(index, only) {
    const { image, label, predictions, cell } = data.gallery.pictures[index];
    const lines = predictions.map((prediction, at) => [prediction, data.models[at]])
      .filter(([prediction, model]) => prediction && (!only || model === only))
      .map(([[predicted, confidence], model]) => make("li", { className: predicted === label ? "right" : "wrong" },
        make("span", { className: `chip m${model.color}`, title: model.title, textContent: model.glyph, ariaHidden: "true" }),
        make("span", { className: "hidden", textContent: `${model.title}: ` }),
        ` ${predicted === label ? "✓" : "✗"} `, named(predicted), ` (${(100 * confidence).toFixed(0)} %)`));
    const shown = make("img", { src: image, alt: `Class ${classOf(label)}, ${headings.get(cell)}` });
    const item = make("figure", { className: "picture" }, shown,
      make("figcaption", {}, make("span", { className: "label" }, "Label: ", named(label)), make("ul", {}, ...lines)));
    shown.addEventListener("load", () => { if (Math.max(shown.naturalWidth, shown.naturalHeight) <= 64) shown.classList.add("pixels"); });
    return item;
  }
  const headings = new Map((data.shifts ?? []).flatMap((shift) => shift.cells.map(({ id, heading }) =>
    [id, heading ? `${shift.title}, ${whole(heading)}` : "Clean"])));

  function showPictures(model, shift) {
    if (!data.gallery) return;
    const { lost, mistakes } = data.gallery;
    // Under attack each model sees other images: those of the chosen one stand beside the clean ones.
    const attacked = shift.attack ? data.gallery.attacked[model.name] ?? {} : {};
    const strip = { ...data.gallery.strip, ...attacked };
    const only = shift.attack || data.models.length > data.most_models ? model : null;
    const cells = [...new Set(["clean", ...shift.cells.map(({ id }) => id)])].filter((id) => id in strip);
    $("attacked").hidden = !Object.keys(attacked).length;
    cells.sort((a, b) => strength(shift, a) - strength(shift, b));
    $("strip").replaceChildren(...cells.map((id) => make("div", { className: "row" },
      make("h4", { textContent: headings.get(id) }),
      make("div", { className: "pictures" }, ...strip[id].map((index) => picture(index, only))))));
    const unseen = shift.attack ? "Chosen for shifts only: under attack, each model sees other images." : "";
    grid("lost", lost?.[shift.name], only, unseen
      || (shift.name === "clean" ? "Choose a shift to see them." : "")
      || (lost ? "There is none: no image that all models get right when clean is then wrong for all of them."
        : "They are not searched among the models of several runs; the page of each run shows its own."));
    const mine = mistakes[model.name]?.[shift.name];
    const seen = Object.keys(mistakes[model.name] ?? {}).length > 0;
    grid("mistakes", mine, model, unseen || (!seen ? "The run of this model has no pictures."
      : mine ? "There is none." : "This model was not tested under this shift."));
  }
  function strength(shift, id) {
    const at = shift.cells.findIndex((cell) => cell.id === id);
    return at < 0 || id === "clean" ? -1 : shift.distance[at];
  }
  function grid(id, indices, only, otherwise) {
    $(id).replaceChildren(...(indices?.length ? indices.map((index) => {
      const item = picture(index, only);
      item.querySelector(".label").after(make("span", { className: "where", textContent: headings.get(data.gallery.pictures[index].cell) }));
      return item;
    }) : [make("p", { className: "note", textContent: otherwise })]));
  }

  if (chooser.model) {
    fill(chooser.model, data.models.map(({ title }) => title), data.models.findIndex(({ name }) => name === data.start.model));
    fill(chooser.shift, data.shifts.map(({ title }) => title), data.shifts.findIndex(({ name }) => name === data.start.shift));
    fill(chooser.risk, data.risks.map((risk) => `${100 * risk} %`), 2);
    fillLevels();
    offerMeasured();
  }
  for (const place of document.querySelectorAll("[data-chart]:not(#closer *)")) await draw(place);
  if (chooser.model) {
    chooser.shift.addEventListener("change", fillLevels);
    chooser.model.addEventListener("change", offerMeasured);
    for (const select of Object.values(chooser)) select.addEventListener("change", showNext);
    await showNext();
  }
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  document.documentElement.dataset.ready = "no";
  document.getElementById("broken").hidden = false;
  console.error(error);
});
