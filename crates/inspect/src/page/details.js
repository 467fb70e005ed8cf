/* Rows of victims that are listed one by one. */
const LISTED = 400;

/* What became of one token, and what it killed; `lived` is its life in what the strip shows. */
function showDetails(lives, position, lived, choose) {
  const jump = (to) => {
    const button = document.createElement("button");
    button.textContent = to + " " + shown(lives.text(to)).slice(0, 20);
    button.onclick = () => choose(to);
    return button;
  };
  const fates = [], killers = new Set();
  let kept = 0;
  for (let lane = 0; lane < lives.lanes; lane++) {
    const entry = lane * lives.tokens + position;
    const end = lives.ends[entry];
    if (end === 0) {
      kept++;
      fates.push([laneName(lane), "lives", "", ""]);
      continue;
    }
    const killer = lives.killers[entry];
    const score = lives.scores && !Number.isNaN(lives.scores[entry]) ? lives.scores[entry].toFixed(3) : "";
    if (killer < lives.tokens) killers.add(killer);
    fates.push([laneName(lane), String(end), killer < lives.tokens ? jump(killer) : "after the end", score]);
  }
  const where = report.groups === 1 ? "layer" : "layer.head";
  const withScores = lives.scores !== null;
  const cut = (row) => (withScores ? row : row.slice(0, 3));
  fill(by("fates"), cut([where, "unseen from", "killed by", "score"]), fates.map(cut));
  const victims = lives.victims(position);
  const rows = victims.slice(0, LISTED).map(([lane, victim]) => [laneName(lane), jump(victim)]);
  if (victims.length > LISTED) rows.push(["", "and " + (victims.length - LISTED) + " more"]);
  fill(by("victims"), [where, "token"], rows);
  by("victims").caption.textContent = "What it killed (" + victims.length + ")";
  by("tables").hidden = false;
  by("details-title").textContent = "Token " + position + ": " + shown(lives.text(position));
  by("life").textContent = "id " + lives.sequence.ids[position] +
    (position < lives.sequence.prompt_tokens ? ", of the prompt" : ", generated") +
    "; live at the end in " + kept + " of " + lives.lanes + (report.groups === 1 ? " layers" : " lanes") +
    "; lived " + percent(lived) + " of its time in what is shown";
  return [[...killers], [...new Set(victims.map(([, victim]) => victim))]];
}
