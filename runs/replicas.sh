#!/usr/bin/env bash
# Two replicas behind nginx with least-connections, under load; one is killed, and later comes back. Every request that was
# not in flight on the killed replica must be answered; a replica that drains loses none at all. Needs nginx and python3;
# DROPCAP names a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -z ${DROPCAP:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap) >&2
    DROPCAP=../target/release/dropcap
fi
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; nginx -p "$work" -c nginx.conf -s stop 2>/dev/null || true; rm -rf "$work"' EXIT

replica() { # number
    "$DROPCAP" serve --device cpu --threads 1 --port $((18080 + $1)) --no-access-log 2>> "$work/replica$1.log" &
    pids[$1]=$!
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$((18080 + $1))/health"; do sleep 0.1; done
}
replica 0
replica 1

# An open stream cannot be sent again; anything that a replica has not begun to answer is given to the other one.
cat > "$work/nginx.conf" <<'CONF'
worker_processes 1;
error_log error.log;
pid nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream dropcap {
        least_conn;
        server 127.0.0.1:18080 max_fails=1 fail_timeout=1s;
        server 127.0.0.1:18081 max_fails=1 fail_timeout=1s;
    }
    server {
        listen 127.0.0.1:18082;
        location / {
            proxy_pass http://dropcap;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
            client_max_body_size 8m;
            # A draining replica says 503 and has done nothing yet, so another may have the request.
            proxy_next_upstream error timeout http_503 non_idempotent;
        }
    }
}
CONF
nginx -p "$work" -c nginx.conf

python3 serve/replicas.py http://127.0.0.1:18082 "${CLIENTS:-16}" "${SECONDS_EACH:-6}" > "$work/report" &
load=$!
third=${SECONDS_EACH:-6}
sleep "$third"
kill -KILL "${pids[0]}"
echo "replica 0 was killed"
sleep "$third"
replica 0
# nginx tries a replica that failed again after a second.
sleep 2
echo "replica 0 is back"
kill -TERM "${pids[1]}"
echo "replica 1 drains"
wait "${pids[1]}" && echo "replica 1 has drained and ended well"
wait "$load" || { cat "$work/report"; exit 1; }
cat "$work/report"
