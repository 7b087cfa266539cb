// The script of the page that lists runs: sorts, filters, and shows two rows beside each other.
// Everything from a run is put in as text, never as markup.
(async () => {
  const { runs, rows } = await unpack($("payload").textContent);
  const lines = [...document.querySelectorAll(".runs tbody tr")];
  const boxes = new Map(lines.flatMap((line) => line.dataset.row ? [[Number(line.dataset.row), line.querySelector("input")]] : []));
  let chosen = [];

  // Filters.
  const texts = new Map(lines.map((line) => [line, line.textContent.toLowerCase()]));
  function filter() {
    const words = $("words").value.toLowerCase().split(/\s+/);
    const [data, shift] = [$("data").value, $("shift").value];
    for (const line of lines) {
      const run = runs[line.dataset.run], row = rows[line.dataset.row];
      line.hidden = !(words.every((word) => texts.get(line).includes(word))
        && (!data || run.data === data) && (!shift || run.shifts.includes(shift))
        && (!row?.variant || $("variants").checked));
    }
    const shown = lines.filter((line) => !line.hidden).length;
    $("count").textContent = `${shown} of ${lines.length} rows`;
  }
  document.querySelector(".filters").addEventListener("input", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());

  // Sorting: what has no value comes last.
  const compareText = new Intl.Collator(undefined, { numeric: true }).compare;
  const heads = [...document.querySelectorAll("th[aria-sort]")];
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", label = head.textContent;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keys = new Map(lines.map((line) =>
        [line, [...line.cells].find((cell) => cell.dataset.label === label)?.dataset.value ?? ""]));
      const known = lines.filter((line) => keys.get(line)), rest = lines.filter((line) => !keys.get(line));
      const isNumber = known.every((line) => !Number.isNaN(Number(keys.get(line))));
      const compare = isNumber ? (a, b) => a - b : compareText;
      known.sort((a, b) => compare(keys.get(a), keys.get(b)) * (up ? 1 : -1));
      lines[0].parentElement.append(...known, ...rest);
    });
  }

  // Two rows beside each other.
  for (const [row, box] of boxes) {
    box.addEventListener("change", () => {
      chosen = box.checked ? [...chosen, row].slice(-2) : chosen.filter((other) => other !== row);
      follow();
    });
  }
  function follow() {
    for (const [row, box] of boxes) box.checked = chosen.includes(row);
    $("tray").hidden = !chosen.length;
    $("show").disabled = chosen.length < 2;
    $("chosen").textContent = chosen.map((row) => rows[row].title).join("  |  ") + (chosen.length === 1 ? "  |  choose one more" : "");
    if (chosen.length < 2) $("beside").hidden = true;
  }
  $("clear").addEventListener("click", () => { chosen = []; follow(); });
  $("show").addEventListener("click", () => {
    const pair = chosen.map((row) => rows[row]);
    const names = pair.map(({ title, model }) => (pair[0].run === pair[1].run ? model : title));
    $("numbers").replaceChildren(...["Accuracy (%)", "Confidence − accuracy (points)"].map((caption, at) =>
      table(caption, ["Images", ...names, "Second − first"], compareNumbers(pair, at))));
    const same = runs[pair[0].run].images === runs[pair[1].run].images;
    $("test").textContent = same ? "These differences have no intervals. To test them:"
      : "The test images differ, and a part of each difference may be theirs.";
    $("command").textContent = same ? `fairweather compare ${pair[0].compared} ${pair[1].compared}` : "";
    const facts = pair.map(({ run, facts }) => ({ ...runs[run].facts, ...facts }));
    const every = [...new Set(facts.flatMap(Object.keys))];
    // Where one has none and the other has keys below, these say it.
    const keys = every.filter((key) => facts[0][key] !== facts[1][key] && !every.some((other) => other.startsWith(`${key}.`)));
    const settings = keys.map((key) => [key, ...facts.map((own) => own[key] ?? "–")]);
    $("settings").replaceChildren(settings.length
      ? table(`Settings that differ (${keys.length})`, ["Setting", ...names], settings)
      : make("p", { textContent: "All settings are the same." }));
    $("beside").hidden = false;
    $("beside").focus();
    $("beside").scrollIntoView();
  });
  function compareNumbers([a, b], at) {
    const titles = [...new Set([...Object.keys(a.numbers), ...Object.keys(b.numbers)])];
    return titles.map((title) => {
      const pair = [a, b].map((row) => row.numbers[title]?.[at]);
      const [first, second] = pair.map((score) => score?.[0] ?? null);
      const difference = first === null || second === null ? "–" : percent(second - first, true);
      const cells = pair.map((score, side) =>
        write(score, at === 1) + (title === "Worst level" && score ? ` ${[a, b][side].worst}` : ""));
      return [title, ...cells, difference];
    });
  }
  function percent(share, signed) {
    const text = Math.abs(100 * share).toFixed(1);
    return `${share < 0 && Number(text) ? "−" : signed ? "+" : ""}${text}`;
  }
  function write(score, signed) {
    if (!score || score[0] === null) return "–";
    const [value, low, high] = score.map((share) => (share === null ? "" : percent(share, signed)));
    return low ? `${value} [${low}, ${high}]` : value;
  }
  function table(caption, names, body) {
    const roles = (element, role) => { element.setAttribute("role", role); return element; };
    const cell = (text, at) => at
      ? roles(make("td", { textContent: text }), "cell") : roles(make("th", { textContent: text, scope: "row" }), "rowheader");
    const row = (texts) => roles(make("tr", {}, ...texts.map((text, at) => {
      const made = cell(text, at);
      made.dataset.label = names[at];
      return made;
    })), "row");
    const head = roles(make("tr", {}, ...names.map((text) => roles(make("th", { textContent: text, scope: "col" }), "columnheader"))), "row");
    return make("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: caption }, roles(make("table", { className: "pairs" },
      make("caption", { textContent: caption }), roles(make("thead", {}, head), "rowgroup"),
      roles(make("tbody", {}, ...body.map(row)), "rowgroup")), "table"));
  }

  filter();
  document.documentElement.dataset.ready = "";
})();
