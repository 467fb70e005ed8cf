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

/* Layers from the first to the last: blue, purple, red, orange, ever lighter, which light and dark paper both bear. */
function colourOf(layer) {
  const share = layer / Math.max(1, report.layers - 1);
  return "hsl(" + Math.round(225 + 170 * share) + " 62% " + Math.round(46 + 10 * share) + "%)";
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
  const lines = lives.layers(head);
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
    const kind = shownLine ? "shown" : layer === "" ? "" : "aside";
    const drawnLine = make("polyline", { points: places.join(" "), class: kind, stroke: colourOf(one), "data-layer": one });
    drawnLine.append(make("title", {}, "layer " + one + ": " + line[lives.tokens - 1] + " live at the end"));
    return drawnLine;
  });
  /* What colour is which layer: a square for each, which shows it alone. */
  const side = Math.min(14, 300 / report.layers);
  const squares = lines.map((_, one) => {
    const square = make("rect", {
      x: left + 50 + one * side, y: 4, width: Math.max(1, side - 1), height: 12, fill: colourOf(one), "data-layer": one,
    });
    square.append(make("title", {}, "layer " + one));
    return square;
  });
  const word = (at, text) => make("text", { x: at, y: 14, "font-size": 11, fill: "currentColor" }, text);
  const legend = [word(left + 8, "layer 0"), ...squares, word(left + 54 + report.layers * side, report.layers - 1)];
  const label = (at, live) => make("text", { x: left - 6, y: at, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, live);
  svg.setAttribute("viewBox", "0 0 " + (width + right) + " " + height);
  svg.replaceChildren(
    ...drawn.filter((line) => !line.classList.contains("shown")),
    ...drawn.filter((line) => line.classList.contains("shown")),
    make("line", { id: "now", x1: 0, x2: 0, y1: 0, y2: height - bottom, visibility: "hidden" }),
    label(12, most), label(height - bottom + 4, 0), ...(report.layers > 1 ? legend : []),
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
    const live = lives.layers("")[layer][lives.tokens];
    const lived = lives.lived(lanes).reduce((a, b) => a + b, 0) / lives.tokens;
    const button = document.createElement("button");
    button.textContent = layer;
    button.title = "show this layer";
    button.onclick = () => showLayer(layer);
    rows.push([button, String(live), percent(live / all), percent(lived)]);
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
