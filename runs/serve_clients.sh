#!/usr/bin/env bash
# Other people's clients against `dropcap serve` with the carried model: the official openai package, schemathesis on our own
# OpenAPI description, lm-evaluation-harness through /v1/completions. DROPCAP names a binary that is built already; the
# clients are installed into runs/.venv-serve at the first run.
set -euo pipefail
cd "$(dirname "$0")"

venv=${VENV:-.venv-serve}
if ! cmp -s serve/requirements.txt "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r serve/requirements.txt
    cp serve/requirements.txt "$venv/installed.txt"
fi
if [[ -z ${DROPCAP:-} ]]; then
    (cd .. && cargo build --release --locked --bin dropcap) >&2
    DROPCAP=../target/release/dropcap
fi

work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
echo "a-key-for-this-run" > "$work/keys"
"$DROPCAP" serve --device cpu --port 0 --api-key-file "$work/keys" --no-access-log 2> "$work/log" &
server=$!
until url=$(sed -n 's/^ready: //p' "$work/log") && [[ -n $url ]]; do
    kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done

"$venv/bin/python" serve/openai_client.py "$url" "a-key-for-this-run"
"$venv/bin/schemathesis" run "${url%/v1}/openapi.json" --url "${url%/v1}" \
    --header "Authorization: Bearer a-key-for-this-run" \
    --checks not_a_server_error --max-examples "${EXAMPLES:-100}" --workers 4
"$venv/bin/python" serve/harness.py "$url" "a-key-for-this-run" "$DROPCAP" ../models/default dcp
kill "$server"
wait "$server"
echo "the server drained and ended well"
