"""Clients that never rest against a balancer whose replicas come and go: says what was lost, and in which way.

Streams that break after they have begun were in flight on a replica that was killed; a request that is refused or breaks
before it has begun is one that the balancer should have given to the other replica, and there must be none."""

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlparse


def client(url, until, counts, lock, number):
    host = urlparse(url).netloc
    body = {"prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": True, "stream": True, "seed": number}
    while time.monotonic() < until:
        begun, outcome = False, "refused"
        try:
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status == 200:
                begun = True
                text = response.read()
                outcome = "whole" if text.endswith(b"data: [DONE]\n\n") else "cut in flight"
        except (OSError, http.client.HTTPException):
            outcome = "cut in flight" if begun else "lost"
        finally:
            connection.close()
        with lock:
            counts[outcome] = counts.get(outcome, 0) + 1


def main(url, clients, seconds):
    counts, lock = {}, threading.Lock()
    until = time.monotonic() + 3 * float(seconds)
    threads = [
        threading.Thread(target=client, args=(url, until, counts, lock, number)) for number in range(int(clients))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(counts))
    lost = counts.get("lost", 0) + counts.get("refused", 0)
    # One in-flight request for each client is the most that one kill can cut.
    if lost or counts.get("cut in flight", 0) > int(clients) or not counts.get("whole"):
        sys.exit("requests were lost that were not in flight on the killed replica")


if __name__ == "__main__":
    main(*sys.argv[1:])
