"""Draws the runs of `dropcap train` as one SVG: held-out perplexity by step, and the keep ratio of each layer.

    python3 runs/plot_runs.py curves.svg RUN [RUN ...]

Standard library only.
"""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 460, 280, 48
COLOURS = ["#3b6fb6", "#c8553d", "#4f8a4c", "#8a5fa8", "#c9971c", "#3f8f92", "#7a6a58", "#a84a78"]


def evaluations(run):
    lines = (json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "evaluation"]


def steps_of(run, key):
    lines = (json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[key]) for line in lines if line["kind"] == "train" and key in line]


def panel(x, y, title, series, low, high):
    """One chart: `series` is (name, colour, points)."""
    last = max((step for _, _, points in series for step, _ in points), default=1)
    across = lambda step: x + MARGIN + (WIDTH - 2 * MARGIN) * step / max(last, 1)
    up = lambda value: y + HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low)
    parts = [f'<text x="{x + MARGIN}" y="{y + 24}" font-weight="600">{title}</text>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        parts.append(f'<line x1="{across(0):.1f}" x2="{across(last):.1f}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x + MARGIN - 6}" y="{up(value) + 4:.1f}" text-anchor="end" fill="#666">{value:.3g}</text>')
    for step in (0, last // 2, last):
        parts.append(f'<text x="{across(step):.1f}" y="{y + HEIGHT - MARGIN + 18}" text-anchor="middle" fill="#666">{step}</text>')
    for index, (name, colour, points) in enumerate(series):
        inside = [(step, min(max(value, low), high)) for step, value in points]
        path = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in inside)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{x + WIDTH - MARGIN + 4}" y="{y + MARGIN + 14 * index}" fill="{colour}">{name}</text>')
    return parts


def main():
    target, runs = sys.argv[1], sys.argv[2:]
    if not runs:
        sys.exit(__doc__)
    measured = {Path(run).name: evaluations(run) for run in runs}
    perplexities = [
        (name, COLOURS[index % len(COLOURS)], [(line["step"], line["perplexity"]) for line in lines])
        for index, (name, lines) in enumerate(measured.items())
    ]
    # A window that was not yet trained with stands far above everything: the first point of a run may lie outside.
    values = [value for _, _, points in perplexities for step, value in points if step > 0]
    low, high = min(values) * 0.995, max(values) * 1.005
    panels = panel(0, 0, "held-out perplexity by step", perplexities, low, high)
    count = 1
    for run in runs:
        layers = steps_of(run, "layer_keep")
        if not layers:
            continue
        series = [
            (f"layer {layer}", COLOURS[layer % len(COLOURS)], [(step, keep[layer]) for step, keep in layers])
            for layer in range(len(layers[0][1]))
        ]
        panels += panel(count * (WIDTH + 40), 0, f"{Path(run).name}: keep ratio of each layer", series, 0.0, 1.0)
        count += 1
    width = count * (WIDTH + 40)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" font-size="12">'
    Path(target).write_text("\n".join([head, f'<rect width="{width}" height="{HEIGHT}" fill="white"/>', *panels, "</svg>"]) + "\n")


main()
