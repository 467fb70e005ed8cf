/* Fills a table: names of columns, and rows of cells that are text, or nodes. */
function fill(table, columns, rows) {
  const line = (tag, cells) => {
    const row = document.createElement("tr");
    for (const content of cells) {
      const cell = document.createElement(tag);
      if (tag === "th") cell.scope = "col";
      cell.append(content);
      row.append(cell);
    }
    return row;
  };
  table.tHead.replaceChildren(line("th", columns));
  table.tBodies[0].replaceChildren(...rows.map((cells) => line("td", cells)));
}

/* Live entries over time: a line for each layer, the chosen ones on top. */
function drawTime(lives, layer, head) {
  const svg = by("time"), width = 600, height = 220, left = 44, right = 24, bottom = 12;
  const make = (tag, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const lines = [];
  for (let one = 0; one < report.layers; one++) lines.push(lives.live(lives.chosen(String(one), head)));
  const most = Math.max(1, ...lines.map((line) => line.reduce((a, b) => Math.max(a, b), 0)));
  const x = (query) => left + ((width - left) * query) / Math.max(1, lives.tokens - 1);
  const y = (live) => (height - bottom) * (1 - live / most) + 4;
  const points = Math.min(lives.tokens, 400);
  const drawn = lines.map((line, one) => {
    const places = [];
    for (let point = 0; point < points; point++) {
      const query = Math.round((point * (lives.tokens - 1)) / Math.max(1, points - 1));
      places.push(x(query).toFixed(1) + "," + y(line[query]).toFixed(1));
    }
    const shownLine = layer !== "" && +layer === one;
    return make("polyline", { points: places.join(" "), class: shownLine ? "shown" : "", "data-layer": one });
  });
  /* Names beside the ends of lines, as long as there is room for them. */
  const names = lines.map((line, one) => {
    const last = line[lives.tokens - 1];
    return make("text", { x: width + 4, y: y(last) + 4, "font-size": 11, fill: "currentColor" }, one);
  });
  const label = (at, live) => make("text", { x: left - 6, y: at, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, live);
  svg.setAttribute("viewBox", "0 0 " + (width + right) + " " + height);
  svg.replaceChildren(
    ...drawn.filter((line) => !line.classList.contains("shown")),
    ...drawn.filter((line) => line.classList.contains("shown")),
    make("line", { id: "now", x1: 0, x2: 0, y1: 0, y2: height - bottom, visibility: "hidden" }),
    label(12, most), label(height - bottom + 4, 0), ...(report.layers <= 12 ? names : []),
  );
  by("time-text").textContent = "Entries that each of " + lives.tokens + " queries sees, in each layer" +
    (report.groups > 1 && head === "" ? ", all KV heads together" : "") + "; the most is " + most + ".";
  return x;
}

/* Live entries of every layer at the end. */
function fillLayers(lives) {
  const rows = [];
  for (let layer = 0; layer < report.layers; layer++) {
    const lanes = lives.chosen(String(layer), "");
    const all = lanes.length * lives.tokens;
    const live = lives.live(lanes)[lives.tokens];
    const lived = lives.lived(lanes).reduce((a, b) => a + b, 0) / lives.tokens;
    rows.push([String(layer), String(live), percent(live / all), percent(lived)]);
  }
  fill(by("layers"), ["layer", "live at the end", "kept", "life of a token"], rows);
}

function fillKinds(sequence) {
  const titles = { text: "by text", place: "by place", frequency: "by frequency" };
  const rows = sequence.kinds.map((kind) => [
    titles[kind.by] + ": " + kind.name, String(kind.tokens), percent(kind.lived), percent(kind.kept),
  ]);
  fill(by("kinds"), ["kind", "tokens", "life of a token", "entries live at the end"], rows);
}
