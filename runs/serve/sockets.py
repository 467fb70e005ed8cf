"""Ten thousand sockets at once against a running server: some say nothing, some stop in the midst of a head or of a body, some
stream. Beside them requests are answered; connections beyond the server's bound are turned away; afterwards all room is back."""

import http.client
import json
import resource
import socket
import sys
import time
from urllib.parse import urlparse

BODY = json.dumps({"prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": True, "stream": True})
HEAD = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
BEGINNINGS = [b"", b"POST /v1/comp", HEAD[:-2].encode(), (HEAD + BODY[:20]).encode(), (HEAD + BODY).encode()]


def get(host, path):
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metric(host, name):
    _, text = get(host, "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def main(url, pid, count, bound):
    host, count, bound = urlparse(url).netloc, int(count), int(bound)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < count + 100:
        sys.exit(f"ulimit -n is {hard}: it must be {count + 100} for {count} sockets")
    address, before = (urlparse(url).hostname, urlparse(url).port), resident(pid)
    sockets, turned_away = [], 0
    start = time.monotonic()
    for number in range(count):
        one = socket.create_connection(address, timeout=60)
        try:
            one.sendall(BEGINNINGS[number % len(BEGINNINGS)])
        except OSError:
            turned_away += 1
        sockets.append(one)
    opened, most = time.monotonic() - start, resident(pid)
    # A place is free once a head has taken too long; a request then has its answer.
    deadline = time.monotonic() + 60
    while True:
        try:
            status, _ = get(host, "/health")
            if status == 200:
                break
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            sys.exit("no request is answered beside them")
        time.sleep(0.05)
    answered = time.monotonic() - start
    streams = 0
    for one in sockets:
        one.settimeout(0.01)
        try:
            streams += one.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            pass
        one.close()
    deadline = time.monotonic() + 60
    while metric(host, "dropcap_http_connections") > 1 or metric(host, "vllm:num_requests_running") > 0:
        if time.monotonic() > deadline:
            sys.exit("connections are open that nobody holds")
        time.sleep(0.2)
    held = metric(host, "dropcap_kv_bytes_held")
    print(
        f"{count} sockets in {opened:.1f} s, at most {bound} at once; another request answered after {answered:.1f} s; "
        f"{streams} streams had begun; {before:.0f} MiB before, {most:.0f} with all open, {resident(pid):.0f} after; "
        f"{held:.0f} bytes held by the cache"
    )
    if held:
        sys.exit("the cache holds entries of texts that are over")


if __name__ == "__main__":
    main(*sys.argv[1:])
