/* Columns of the overview at most: about as many as a screen shows. */
const COLUMNS = 1200;

/* The whole text at a glance: tokens from left to right, layers downwards, the stronger the longer they lived. */
class Overview {
  constructor(lives, choose) {
    this.lives = lives;
    this.canvas = by("overview");
    this.canvas.width = Math.min(lives.tokens, COLUMNS);
    this.canvas.height = report.layers;
    this.canvas.onclick = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const place = Math.floor(((event.clientX - box.left) / box.width) * lives.tokens);
      choose(Math.min(Math.max(place, 0), lives.tokens - 1));
    };
  }

  /* Of the chosen heads; whichever layer is looked at, all of them are here. */
  draw(head) {
    if (this.head === head) return;
    this.head = head;
    const { lives, canvas } = this, { width, height } = canvas;
    const pen = canvas.getContext("2d");
    const picture = pen.createImageData(width, height);
    for (let layer = 0; layer < height; layer++) {
      const shares = lives.lived(lives.chosen(String(layer), head));
      for (let column = 0; column < width; column++) {
        const from = Math.floor((column * lives.tokens) / width);
        const to = Math.max(from + 1, Math.floor(((column + 1) * lives.tokens) / width));
        let sum = 0;
        for (let position = from; position < to; position++) sum += shares[position];
        /* The colour of the strip's longest lives; what died at once leaves the paper as it is. */
        picture.data.set([222, 140, 20, (255 * sum) / (to - from)], 4 * (layer * width + column));
      }
    }
    pen.putImageData(picture, 0, 0);
  }

  mark(position) {
    by("here").style.left = (100 * (position + 0.5)) / this.lives.tokens + "%";
    by("here").hidden = false;
  }
}
