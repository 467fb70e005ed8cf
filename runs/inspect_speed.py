"""How quick a page of `dropcap inspect` is, in headless Chromium.

    python runs/inspect_speed.py DROPCAP [TOKENS LAYERS HEADS [PICTURE]]

Makes a trace of so many tokens, layers and KV heads with lifetimes of their own [10000 32 1], gives it to the command
DROPCAP, opens the page and acts as a reader does. Prints for each act the time until the next picture and the processor
time of the page's thread (which other work on the machine does not lengthen); PICTURE is a file for a screenshot.
Needs chromium, and python with aiohttp.
"""

import asyncio
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

PORT = 9333
ACTS = {
    "choose a token": "choose(Math.floor(lives.tokens / 2))",
    "choose another": "choose(Math.floor(lives.tokens * 0.9))",
    "arrow key": "strip.element.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))",
    "show a layer": "showLayer(1)",
    "show all layers": "showLayer(1)",
    "search": "by('search').value = 'an'; by('search').oninput()",
    "next hit": "search(true)",
    "clear the search": "by('search').value = ''; by('search').oninput()",
}


def write_trace(path, tokens, layers, heads):
    chance = random.Random(1)
    words = [" " + "".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 9))) for _ in range(3000)]
    ids = [min(int(chance.paretovariate(0.6)), 2999) for _ in range(tokens)]
    dead = {}
    for layer in range(layers):
        for head in range(heads):
            for position in range(4, tokens):
                end = position + 1 + int(chance.expovariate(1 / (20 + 30 * layer)))
                if end < tokens and chance.random() < 0.85:
                    dead.setdefault((end // 256, layer, head), []).append((position, end))
    kind = "kv_head" if heads > 1 else "layer"
    with open(path, "w") as file:
        line = lambda value: file.write(json.dumps(value, separators=(",", ":")) + "\n")
        bounds = {"layers": layers, "kv_heads": heads, "granularity": kind, "vocabulary": 3000}
        line({"header": {"version": 2, "model": "synthetic", "method": "synthetic", **bounds}})
        line({"sequence": {"id": 0, "prompt_tokens": max(1, tokens * 19 // 20)}})
        for begin in range(0, tokens, 256):
            new = ids[begin : begin + 256]
            line({"tokens": {"id": 0, "first_position": begin, "ids": new, "texts": [words[i] for i in new]}})
            for layer in range(layers):
                for head in range(heads):
                    if died := dead.get((begin // 256, layer, head)):
                        ends = [end for _, end in died]
                        lane = {"layer": layer, **({"head": head} if heads > 1 else {})}
                        line({"deaths": {"id": 0, **lane, "positions": [p for p, _ in died], "expires_at": ends, "killers": ends}})


async def act(page, picture, profile):
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    browser = subprocess.Popen(
        ["chromium", *flags, f"--remote-debugging-port={PORT}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                try:
                    targets = await (await session.get(f"http://127.0.0.1:{PORT}/json")).json()
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            target = next(t for t in targets if t["type"] == "page")
            socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
            events, calls = [], 0

            async def call(method, **params):
                nonlocal calls
                calls += 1
                await socket.send_json({"id": calls, "method": method, "params": params})
                while (answer := json.loads((await socket.receive()).data)).get("id") != calls:
                    events.append(answer)
                return answer["result"]

            async def thread_ms():
                metrics = (await call("Performance.getMetrics"))["metrics"]
                return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

            for domain in ("Page", "Runtime"):
                await call(f"{domain}.enable")
            await call("Performance.enable", timeDomain="threadTicks")
            await call("Emulation.setDeviceMetricsOverride", width=1280, height=1450, deviceScaleFactor=1, mobile=False)
            print("| act | until the next picture, ms | the page's thread, ms |\n|---|--:|--:|")
            begin = time.time()
            await call("Page.navigate", url=page.as_uri())
            while not any(event["method"] == "Page.loadEventFired" for event in events):
                events.append(json.loads((await socket.receive()).data))
            print(f"| open | {1000 * (time.time() - begin):.0f} | {await thread_ms():.0f} |")
            for name, code in ACTS.items():
                before = await thread_ms()
                painted = "document.body.offsetHeight; await new Promise(r => requestAnimationFrame(() => setTimeout(r)))"
                timed = f"(async () => {{ const t = performance.now(); {code}; {painted}; return performance.now() - t; }})()"
                answer = await call("Runtime.evaluate", expression=timed, awaitPromise=True, returnByValue=True)
                print(f"| {name} | {answer['result']['value']:.0f} | {await thread_ms() - before:.0f} |")
            if picture:
                await call("Runtime.evaluate", expression="scrollTo(0, 0)")
                Path(picture).write_bytes(base64.b64decode((await call("Page.captureScreenshot", format="png"))["data"]))
            failed = [event for event in events if event["method"] == "Runtime.exceptionThrown"]
            sys.exit(f"the page failed: {failed}" if failed else 0)
    finally:
        browser.terminate()
        browser.wait()


def main(dropcap, tokens="10000", layers="32", heads="1", picture=None):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trace, page = Path(folder) / "trace.jsonl", Path(folder) / "page.html"
        write_trace(trace, int(tokens), int(layers), int(heads))
        begin = time.time()
        subprocess.run([dropcap, "inspect", trace, "--out", page], check=True)
        took = time.time() - begin
        print(f"trace {trace.stat().st_size / 2**20:.1f} MiB, page {page.stat().st_size / 2**20:.1f} MiB, written in {took:.1f} s\n")
        asyncio.run(act(page, picture, f"{folder}/profile"))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
