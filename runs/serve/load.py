"""Load on an OpenAI completions route: closed loop (so many clients, each waits for its answer) or open loop (arrivals of a
Poisson process, whatever is answered). Prints one JSON object: throughput, percentiles of the time to the first token (TTFT)
and of the time per further token (TPOT)."""

import argparse
import http.client
import json
import random
import threading
import time
from urllib.parse import urlparse


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def ask(host, body, results, lock):
    start = time.perf_counter()
    times = []
    connection = http.client.HTTPConnection(host, timeout=600)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"{response.status}: {response.read()[:200]}")
        tokens = 0
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            if chunk["choices"] and chunk["choices"][0].get("text"):
                times.append(time.perf_counter())
        with lock:
            results["tokens"] += tokens or len(times)
            if times:
                results["ttft"].append(times[0] - start)
                if (tokens or len(times)) > 1:
                    results["tpot"].append((times[-1] - times[0]) / ((tokens or len(times)) - 1))
    except (OSError, http.client.HTTPException) as error:
        with lock:
            results["errors"].append(str(error))
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--model", default="default")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, help="requests a second: open loop")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    host = urlparse(arguments.url).netloc
    words = ["the", "old", "man", "and", "a", "house", "was", "by", "sea", "of", "night", "she", "came", "to", "it"]

    def body(number):
        shuffled = random.Random(number)
        prompt = " ".join(shuffled.choice(words) for _ in range(arguments.prompt_words))
        return {
            "model": arguments.model, "prompt": prompt, "max_tokens": arguments.max_tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
        }

    results, lock = {"tokens": 0, "ttft": [], "tpot": [], "errors": []}, threading.Lock()
    ask(host, body(-1), {"tokens": 0, "ttft": [], "tpot": [], "errors": []}, lock)  # warm
    start = time.perf_counter()
    if arguments.rate:
        gaps, threads = random.Random(0), []
        for number in range(arguments.requests):
            time.sleep(gaps.expovariate(arguments.rate))
            thread = threading.Thread(target=ask, args=(host, body(number), results, lock))
            thread.start()
            threads.append(thread)
    else:
        numbers = iter(range(arguments.requests))

        def client():
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                ask(host, body(number), results, lock)

        threads = [threading.Thread(target=client) for _ in range(arguments.clients)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    milliseconds = lambda values: {f"p{int(100 * p)}": round(1e3 * percentile(values, p), 2) for p in (0.5, 0.9, 0.99)} if values else {}
    print(json.dumps({
        "requests": arguments.requests, "loop": f"open, {arguments.rate}/s" if arguments.rate else f"closed, {arguments.clients} clients",
        "seconds": round(seconds, 2), "tokens_per_second": round(results["tokens"] / seconds, 1),
        "ttft_ms": milliseconds(results["ttft"]), "tpot_ms": milliseconds(results["tpot"]), "errors": len(results["errors"]),
    }))


if __name__ == "__main__":
    main()
