/* The text as a strip of tokens. */
class Strip {
  constructor(lives, choose) {
    this.lives = lives;
    this.element = by("strip");
    this.chosen = -1;
    this.marked = [];
    this.hits = new Set();
    const all = document.createDocumentFragment();
    this.tokens = Array.from({ length: lives.tokens }, (_, position) => {
      const token = document.createElement("span");
      token.id = "t" + position;
      token.setAttribute("role", "option");
      const text = lives.text(position);
      /* A line break stays one, behind its sign. */
      token.textContent = shown(text) + "\n".repeat((text.match(/\n/g) || []).length);
      all.append(token);
      return token;
    });
    this.element.replaceChildren(all);
    this.element.onclick = (event) => {
      const token = event.target.closest("#strip > span");
      if (token) choose(+token.id.slice(1));
    };
    this.element.onmouseover = (event) => {
      const token = event.target.closest("#strip > span");
      if (token) token.title = "token " + token.id.slice(1) + ", lived " + percent(this.shares[+token.id.slice(1)]);
    };
    this.element.onkeydown = (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, PageDown: 100, PageUp: -100 };
      const ends = { Home: 0, End: lives.tokens - 1 };
      const to = ends[event.key] ?? (event.key in steps ? this.chosen + steps[event.key] : undefined);
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      choose(Math.min(Math.max(to, 0), lives.tokens - 1));
    };
  }

  colour(shares) {
    this.shares = shares;
    this.tokens.forEach((_, position) => this.paint(position));
  }

  paint(position, mark = "") {
    const level = Math.min(9, Math.floor(this.shares[position] * 10));
    const prompt = position === this.lives.sequence.prompt_tokens - 1 ? " prompt-end" : "";
    const mute = this.lives.sequence.texts[position] ? "" : " mute";
    const hit = this.hits.has(position) ? " hit" : "";
    this.tokens[position].className = "l" + level + prompt + mute + hit + mark;
  }

  choose(position, killers, victims) {
    const before = this.marked;
    this.marked = [position, ...killers, ...victims];
    before.forEach((old) => this.paint(old));
    victims.forEach((victim) => this.paint(victim, " victim"));
    killers.forEach((killer) => this.paint(killer, " killer"));
    this.paint(position, " chosen");
    if (this.chosen >= 0) this.tokens[this.chosen].removeAttribute("aria-selected");
    this.chosen = position;
    this.tokens[position].setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", "t" + position);
    this.show(position);
  }

  show(position) {
    const strip = this.element, token = this.tokens[position];
    const above = token.offsetTop - strip.offsetTop;
    if (above < strip.scrollTop || above > strip.scrollTop + strip.clientHeight - 40) {
      strip.scrollTop = above - strip.clientHeight / 2;
    }
  }

  /* Marks the first token of every place where the text holds `words`, and gives those tokens. */
  search(words) {
    const before = this.hits;
    const found = [];
    if (words !== "") {
      const starts = [];
      let text = "";
      for (let position = 0; position < this.lives.tokens; position++) {
        starts.push(text.length);
        text += this.lives.text(position);
      }
      const [all, wanted] = [text.toLowerCase(), words.toLowerCase()];
      let position = 0;
      for (let at = all.indexOf(wanted); at >= 0; at = all.indexOf(wanted, at + 1)) {
        while (position + 1 < starts.length && starts[position + 1] <= at) position++;
        if (found.at(-1) !== position) found.push(position);
      }
    }
    this.hits = new Set(found);
    [...before, ...found].forEach((token) => this.paint(token));
    return found;
  }
}
