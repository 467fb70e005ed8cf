function option(value, text) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  return element;
}

let lives, strip, overview, place;

function choose(position) {
  const [killers, victims] = showDetails(lives, position, strip.shares[position], choose);
  strip.choose(position, killers.filter((killer) => killer !== position), victims);
  overview.mark(position);
  moveNow(position);
}

function moveNow(position) {
  const now = by("now");
  now.setAttribute("x1", place(position));
  now.setAttribute("x2", place(position));
  now.setAttribute("visibility", "visible");
}

/* Shows the chosen layers and heads. */
function look() {
  const [layer, head] = [by("layer").value, by("head").value];
  strip.colour(lives.lived(lives.chosen(layer, head)));
  overview.draw(head);
  place = drawTime(lives, layer, head);
  if (strip.chosen >= 0) choose(strip.chosen);
}

/* Shows one layer, or all of them again where it is shown already. */
function showLayer(layer) {
  by("layer").value = by("layer").value === String(layer) ? "" : layer;
  look();
}

/* Shows the chosen sequence. */
function openSequence() {
  const sequence = report.sequences[+by("sequence").value];
  lives = new Lives(sequence);
  strip = new Strip(lives, choose);
  overview = new Overview(lives, choose);
  by("here").hidden = true;
  const live = lives.live(lives.chosen("", ""))[lives.tokens];
  const all = lives.tokens * lives.lanes;
  by("run").textContent = report.model + ", " + report.method + ": " + lives.tokens + " tokens (" +
    sequence.prompt_tokens + " of the prompt), " + report.layers + " layers" +
    (report.groups > 1 ? " of " + report.groups + " KV heads" : "") + "; at the end " + live + " of " + all +
    " entries are live (" + percent(live / all) + ")" +
    (sequence.ended === null ? "; the trace stops before its end" : "; ended: " + shown(sequence.ended));
  fillLayers(lives);
  fillKinds(sequence);
  look();
  search(false);
}

let hit = 0;

/* Finds the words of the search field; goes on to a next place when asked. */
function search(next, back = false) {
  const words = by("search").value;
  const hits = strip.search(words);
  if (hits.length === 0) {
    by("found").textContent = words === "" ? "" : "not found";
    return;
  }
  hit = next ? (hit + (back ? hits.length - 1 : 1)) % hits.length : 0;
  by("found").textContent = hit + 1 + " of " + hits.length;
  choose(hits[hit]);
}

report.sequences.forEach((sequence, index) => by("sequence").append(option(index, "sequence " + sequence.id)));
by("layer").append(option("", "all"));
for (let layer = 0; layer < report.layers; layer++) by("layer").append(option(layer, layer));
by("head").append(option("", "all"));
for (let head = 0; head < report.groups; head++) by("head").append(option(head, head));
by("head-label").hidden = report.groups === 1;
by("torn").hidden = report.torn === null;
by("torn").textContent = report.torn ?? "";
by("sequence").onchange = openSequence;
by("layer").onchange = look;
by("time").onclick = (event) => {
  const layer = event.target.dataset.layer;
  if (layer !== undefined) showLayer(layer);
};
by("head").onchange = look;
by("search").oninput = () => search(false);
by("search").onkeydown = (event) => {
  if (event.key === "Enter") search(true, event.shiftKey);
};
openSequence();
