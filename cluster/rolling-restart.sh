#!/usr/bin/env bash
# Restarts every node of the cluster that cluster/play.sh runs, one after the other, without a purchase lost: the
# pattern for any other way of running nodes. Shards are held where they are meanwhile, so that each moves once away
# and once back, at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

souk=${SOUK:-target/release/souk}
data=${DATA:-data/cluster}
SOUK__DATABASE__URL=$(cat "$data/url")
export SOUK__DATABASE__URL

state_of() {
    "$souk" cluster status | tr -d ' \n' | grep -o "\"name\":\"$1\",[^}]*\"state\":\"[a-z_]*\"" | sed 's/.*"\([a-z_]*\)"$/\1/' | tail -1
}

"$souk" cluster hold --for 3600 >/dev/null
trap '"$souk" cluster resume >/dev/null' EXIT
for pid in "$data"/node-*.pid; do
    name=$(basename "$pid" .pid)
    kill -0 "$(cat "$pid")" 2>/dev/null || continue
    echo "$name: drain"
    "$souk" cluster drain "$name" >/dev/null
    echo "$name: stop"
    kill "$(cat "$pid")"
    while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done
    echo "$name: start"
    cluster/play.sh node "${name#node-}" >/dev/null
    until [ "$(state_of "$name")" = live ]; do sleep 0.2; done
done
echo "every node was restarted; shards go back now"
