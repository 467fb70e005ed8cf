"""One table and one plot of what runs/quality.sh measured.

    python3 runs/quality.py OUT

Reads the summary.json of every directory in OUT; writes table.md and curve.svg there. Standard library only.
"""

import json
import math
import re
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 190, 40, 56
COLOURS = ["#c8553d", "#3b6fb6", "#4f8a4c", "#8a5fa8", "#c9971c", "#3f8f92", "#7a6a58", "#a84a78", "#5b5b5b", "#2e8b57"]
# What stands for a task in the table: its first measure of these.
FIRST = ["perplexity", "accuracy", "normalised accuracy", "right", "all right"]


def rows(out):
    for summary in sorted(Path(out).glob("*/summary.json")):
        for result in json.loads(summary.read_text())["results"]:
            yield summary.parent.name, result


def measure(result):
    named = {measure["name"]: measure for measure in result["measures"]}
    return next((named[name] for name in FIRST if name in named), result["measures"][0])


def table(out):
    lines = ["| part | task | method | keep | measure | value |", "|---|---|---|--:|---|--:|"]
    for part, result in rows(out):
        found = measure(result)
        error = f" ± {found['error']:.4f}" if found.get("error") else ""
        lines.append(f"| {part} | {result['task']} | {result['method']} | {result['keep']:.3f} | {found['name']} | {found['value']:.4f}{error} |")
    return "\n".join(lines) + "\n"


def plain(method):
    """A method without its budget and its arguments: ada(snapkv) of ada(snapkv)@0.2."""
    return re.sub(r"\([^()]*=[^()]*\)", "", method.rsplit("@", 1)[0])


def curve(out):
    """Loss beyond the dense run of the same weights' base, by keep ratio, for everything that was measured after 512 tokens."""
    series, base = {}, {}
    for part, result in rows(out):
        if part.startswith(("texts-after-512", "untrained-")):
            loss = math.log(measure(result)["value"])
            if part.endswith("-base") or (part.startswith("untrained-") and result["method"] == "none"):
                base[result["task"]] = loss
                continue
            elif part.endswith("-twin"):
                name = "dense, fine-tuned"
            elif part.endswith("-window"):
                name = "window, fine-tuned"
            elif result["method"] == "dcp":
                name = "learned (dcp)"
            elif result["method"] != "none":
                name = plain(result["method"])
            else:
                continue
            # One point for each part, the mean of its texts.
            series.setdefault(name, {}).setdefault(part, []).append((result["task"], result["keep"], loss))
    lines = {}
    for name, points in series.items():
        known = [[(keep, math.exp(loss - base[task])) for task, keep, loss in texts if task in base] for texts in points.values()]
        lines[name] = sorted((sum(k for k, _ in pairs) / len(pairs), sum(v for _, v in pairs) / len(pairs)) for pairs in known if pairs)
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return None
    # What lies above is drawn at the edge.
    low, high = min(values + [1.0]) * 0.98, min(max(values), 1.35) * 1.05
    across = lambda keep: LEFT + (WIDTH - LEFT - RIGHT) * keep
    up = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log(min(value, high) / low) / math.log(high / low))
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="14">Perplexity over that of the dense base model (both texts)</text>']
    for tick in [value for value in (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4) if low <= value <= high]:
        svg.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in (0.1, 0.2, 0.3, 0.4, 0.5, 1.0):
        svg.append(f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    svg.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 40}" text-anchor="middle">share of entries alive where it counts</text>')
    ordered = sorted(lines.items(), key=lambda item: min(value for _, value in item[1]))
    for index, (name, points) in enumerate(ordered):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(keep):.1f},{up(value):.1f}" for keep, value in points)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        svg += [f'<circle cx="{across(keep):.1f}" cy="{up(value):.1f}" r="3" fill="{colour}"/>' for keep, value in points]
        y = TOP + 16 * index
        svg.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{y}" width="10" height="10" fill="{colour}"/><text x="{WIDTH - RIGHT + 32}" y="{y + 9}">{name}</text>')
    return "\n".join(svg + ["</svg>"]) + "\n"


def main(out):
    text, picture = table(out), curve(out)
    (Path(out) / "table.md").write_text(text)
    if picture:
        (Path(out) / "curve.svg").write_text(picture)
    print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1])
