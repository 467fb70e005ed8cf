"""Texts with random lengths, a third of which are given up at a random moment, until so many tokens have been generated. At the end
nothing is held, and the server's resident memory is what it was after the first tenth, within five in a hundred."""

import http.client
import json
import random
import sys
import threading
import time
from urllib.parse import urlparse

from sockets import metric, resident

GROWTH = 1.05
PROMPTS = 400


def client(host, number, until, lock, counts):
    chance = random.Random(number)
    while not until.is_set():
        body = {
            "prompt": [10 + chance.randrange(4000) for _ in range(1 + chance.randrange(PROMPTS))],
            "max_tokens": 1 + chance.randrange(100), "ignore_eos": True, "stream": True, "temperature": chance.choice([0, 1]),
        }
        connection = http.client.HTTPConnection(host, timeout=120)
        leaves, outcome = chance.random() < 1 / 3, "whole"
        patience = chance.random() ** 2
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            if leaves and chance.random() < 0.5:
                time.sleep(patience)
                outcome = "left before an answer"
            else:
                response = connection.getresponse()
                if response.status != 200:
                    outcome = f"status {response.status}"
                    response.read()
                elif leaves:
                    response.read(1 + int(2000 * patience))
                    outcome = "left in the midst"
                elif not response.read().endswith(b"data: [DONE]\n\n"):
                    outcome = "cut"
        except (OSError, http.client.HTTPException) as error:
            outcome = f"lost: {type(error).__name__}"
        finally:
            connection.close()
        with lock:
            counts[outcome] = counts.get(outcome, 0) + 1


def main(url, pid, tokens, clients):
    host, tokens = urlparse(url).netloc, int(float(tokens))
    until, lock, counts = threading.Event(), threading.Lock(), {}
    generated = lambda: metric(host, "vllm:generation_tokens_total")
    start, first = time.monotonic(), generated()
    threads = [
        threading.Thread(target=client, args=(host, number, until, lock, counts)) for number in range(int(clients))
    ]
    for thread in threads:
        thread.start()
    settled = None
    while (done := generated() - first) < tokens:
        if settled is None and done > tokens / 10:
            settled = resident(pid)
        time.sleep(0.5)
    until.set()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 60
    while metric(host, "vllm:num_requests_running") + metric(host, "vllm:num_requests_waiting") > 0:
        if time.monotonic() > deadline:
            sys.exit("texts run that nobody waits for")
        time.sleep(0.1)
    held, after = metric(host, "dropcap_kv_bytes_held"), resident(pid)
    print(
        f"{done:.0f} tokens in {time.monotonic() - start:.0f} s: {counts}; {held:.0f} bytes held; "
        f"{settled:.0f} MiB resident after a tenth, {after:.0f} at the end"
    )
    if held:
        sys.exit("the cache holds entries of texts that are over")
    if after > GROWTH * settled:
        sys.exit(f"the server has grown by {100 * (after / settled - 1):.1f} %")
    if any(outcome.startswith(("lost", "cut", "status")) for outcome in counts):
        sys.exit("texts were not answered that nobody had given up")


if __name__ == "__main__":
    main(*sys.argv[1:])
