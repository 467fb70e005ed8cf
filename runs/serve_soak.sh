#!/usr/bin/env bash
# `dropcap serve` with the carried model under ten thousand sockets, then for a million tokens with clients that go at random:
# nothing may be held or lost afterwards, nor the server have grown. Environment: TOKENS, SOCKETS, CLIENTS, DROPCAP (a binary that
# is built already), FLAGS (more flags of `dropcap serve`). Wants `ulimit -n` above SOCKETS.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -z ${DROPCAP:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap) >&2
    DROPCAP=../target/release/dropcap
fi
sockets=${SOCKETS:-10000}
ulimit -n "$(ulimit -Hn)"
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
"$DROPCAP" serve --port 0 --prefix-cache 0 --no-access-log --max-connections 4096 ${FLAGS:-} 2> "$work/log" &
server=$!
until url=$(sed -n 's/^ready: //p' "$work/log") && [[ -n $url ]]; do
    kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
python3 serve/sockets.py "$url" "$server" "$sockets" 4096
python3 serve/soak.py "$url" "$server" "${TOKENS:-1e6}" "${CLIENTS:-24}"
kill "$server"
wait "$server"
echo "the server drained and ended well"
