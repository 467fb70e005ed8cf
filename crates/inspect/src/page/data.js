"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1) + " %";

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/* One sequence: for lane * tokens + position the query that no longer saw the entry (0: none) and the one that killed it. */
class Lives {
  constructor(sequence) {
    this.sequence = sequence;
    this.tokens = sequence.ids.length;
    this.lanes = report.layers * report.groups;
    this.ends = new Uint32Array(this.lanes * this.tokens);
    this.killers = new Uint32Array(this.lanes * this.tokens);
    const bytes = bytesOf(sequence.lives);
    let at = 0;
    const varint = () => {
      let number = 0, shift = 0, byte;
      do {
        byte = bytes[at++];
        number += (byte & 127) * 2 ** shift;
        shift += 7;
      } while (byte & 128);
      return number;
    };
    this.scores = null;
    const scores = sequence.scores && new DataView(bytesOf(sequence.scores).buffer);
    if (scores) this.scores = new Float32Array(this.ends.length);
    let deaths = 0;
    for (let entry = 0; entry < this.ends.length; entry++) {
      const seen = varint();
      if (seen === 0) continue;
      this.ends[entry] = (entry % this.tokens) + seen;
      this.killers[entry] = this.ends[entry] - varint();
      if (scores) this.scores[entry] = scores.getFloat32(4 * deaths, true);
      deaths++;
    }
    this.index(deaths);
    this.drawn = new Map();
  }

  /* Sorts the entries that died by their killers: those of one stand together, from `from[killer]` on. */
  index(deaths) {
    this.from = new Uint32Array(this.tokens + 2);
    this.dead = new Uint32Array(deaths);
    const each = (tell) => {
      for (let entry = 0; entry < this.ends.length; entry++) {
        /* Whoever decides after the text has ended is no token of it. */
        if (this.ends[entry] !== 0) tell(Math.min(this.killers[entry], this.tokens), entry);
      }
    };
    each((killer) => this.from[killer + 1]++);
    for (let killer = 0; killer <= this.tokens; killer++) this.from[killer + 1] += this.from[killer];
    const next = this.from.slice();
    each((killer, entry) => (this.dead[next[killer]++] = entry));
  }

  /* The lanes of a choice: "" stands for all layers, or all heads. */
  chosen(layer, head) {
    const lanes = [];
    for (let lane = 0; lane < this.lanes; lane++) {
      const of = [Math.floor(lane / report.groups), lane % report.groups];
      if ((layer === "" || of[0] === +layer) && (head === "" || of[1] === +head)) lanes.push(lane);
    }
    return lanes;
  }

  /* For each token the mean share of the queries that saw its entries, of those that could have. */
  lived(lanes) {
    const shares = new Float64Array(this.tokens);
    for (const lane of lanes) {
      for (let position = 0; position < this.tokens; position++) {
        const end = this.ends[lane * this.tokens + position];
        shares[position] += end === 0 ? 1 : (end - position) / (this.tokens - position);
      }
    }
    return shares.map((share) => share / lanes.length);
  }

  /* Entries that each query sees, summed over lanes. */
  live(lanes) {
    const change = new Int32Array(this.tokens + 1);
    for (const lane of lanes) {
      for (let position = 0; position < this.tokens; position++) {
        change[position]++;
        const end = this.ends[lane * this.tokens + position];
        if (end !== 0) change[end]--;
      }
    }
    let sum = 0;
    return change.map((step) => (sum += step));
  }

  /* Entries that each query sees in each layer; drawn again whenever another layer is looked at. */
  layers(head) {
    if (!this.drawn.has(head)) {
      const lines = [];
      for (let layer = 0; layer < report.layers; layer++) lines.push(this.live(this.chosen(String(layer), head)));
      this.drawn.set(head, lines);
    }
    return this.drawn.get(head);
  }

  /* Entries that a query killed, as [lane, position]. */
  victims(killer) {
    const dead = this.dead.subarray(this.from[killer], this.from[killer + 1]);
    return Array.from(dead, (entry) => [Math.floor(entry / this.tokens), entry % this.tokens]);
  }

  text(position) {
    return this.sequence.texts[position] ?? "\u27e8" + this.sequence.ids[position] + "\u27e9";
  }
}

/* A text with its control characters written out, and what cannot be seen marked. */
function shown(text) {
  if (text === "") return "\u00b7";
  return text.replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5").replace(/[\u0000-\u001f\u007f-\u009f]/g, escaped);
}

function escaped(character) {
  return "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0");
}

function laneName(lane) {
  const layer = Math.floor(lane / report.groups);
  return report.groups === 1 ? String(layer) : layer + "." + (lane % report.groups);
}
