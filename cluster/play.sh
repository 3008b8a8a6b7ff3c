#!/usr/bin/env bash
# A cluster to play with, on loopback: one PostgreSQL server, three nodes, HAProxy before them. Ctrl-C stops it all.
#
#   cluster/play.sh              starts it; PORT (8080) is the balancer's, the next ones are the nodes'
#   cluster/play.sh node NUMBER  starts one node of it: one that was killed, or a fourth
set -euo pipefail
cd "$(dirname "$0")/.."

souk=${SOUK:-target/release/souk}
data=${DATA:-data/cluster}
mkdir -p "$data"
# A node that is started alone is one of those that were started together.
port=${PORT:-$(cat "$data/port" 2>/dev/null || echo 8080)}

secret() {
    [ -s "$data/$1" ] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$data/$1")
    cat "$data/$1"
}

# Each process is a session of its own: Ctrl-C is this script's alone, which stops them in order.
#
# What a node needs: where the databases are, where it listens, what the others know it by. Nothing else.
node() {
    local number=$1 cookie token
    # Here, one after the other: in the background nodes would make one each.
    cookie=$(secret cookie)
    token=$(secret token)
    SOUK__DATABASE__URL=$(cat "$data/url") \
    SOUK__CLUSTER__LISTEN=127.0.0.1:$((port + 100 + number)) \
    SOUK__CLUSTER__COOKIE=$cookie \
    SOUK__CLUSTER__NAME=node-$number \
    SOUK__ADMIN__TOKEN=$token \
    SOUK__LOG__FORMAT=text \
        setsid "$souk" serve --listen "127.0.0.1:$((port + number))" --data "$data/node-$number" \
        >>"$data/node-$number.log" 2>&1 &
    echo $! >"$data/node-$number.pid"
}

if [ "${1:-}" = node ]; then
    node "${2:?which number?}"
    echo "node-$2 is starting: http://127.0.0.1:$((port + $2)), log in $data/node-$2.log"
    exit
fi

echo "$port" >"$data/port"

command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || { echo "haproxy is not installed" >&2; exit 1; }
haproxy=$(command -v haproxy || echo /usr/sbin/haproxy)

stop() {
    local code=$?
    trap - EXIT INT TERM
    # Whoever has ended already must not end this.
    set +e
    echo "stopping"
    # The nodes first: they hand over to each other, and the last one leaves its shards to the next start.
    for file in "$data"/balancer.pid "$data"/node-*.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null
    done
    for file in "$data"/node-*.pid; do
        # One that is stopped, as by SIGSTOP, would never end.
        [ -f "$file" ] && kill -CONT "$(cat "$file")" 2>/dev/null
        while [ -f "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null; do sleep 0.1; done
    done
    [ -f "$data/postgres.pid" ] && kill "$(cat "$data/postgres.pid")" 2>/dev/null
    wait
    rm -f "$data"/*.pid
    exit "$code"
}
trap stop EXIT INT TERM

rm -f "$data"/*.pid "$data/url"
(umask 077 && : >"$data/url")
setsid "$souk" postgres --data "$data/postgres" >"$data/url" 2>>"$data/postgres.log" &
echo $! >"$data/postgres.pid"
until grep -q postgres:// "$data/url"; do
    kill -0 "$(cat "$data/postgres.pid")" || { cat "$data/postgres.log" >&2; exit 1; }
    sleep 0.1
done

for number in 1 2 3; do node "$number"; done

printf 'listen souk\n    bind 127.0.0.1:%d\n' "$port" >"$data/haproxy.cfg"
for number in 1 2 3 4; do
    echo "    server node-$number 127.0.0.1:$((port + number))" >>"$data/haproxy.cfg"
done
setsid "$haproxy" -f config/haproxy.cfg -f "$data/haproxy.cfg" >>"$data/balancer.log" 2>&1 &
echo $! >"$data/balancer.pid"

until curl -fs "http://127.0.0.1:$port/readyz" >/dev/null 2>&1; do
    for number in 1 2 3; do
        kill -0 "$(cat "$data/node-$number.pid")" || { tail "$data/node-$number.log" >&2; exit 1; }
    done
    sleep 0.2
done

cat <<END
Three nodes are one shop at http://127.0.0.1:$port (HAProxy)

  nodes             http://127.0.0.1:$((port + 1))  http://127.0.0.1:$((port + 2))  http://127.0.0.1:$((port + 3))
  logs, data        $data

Play, in another terminal:

  make demo LISTEN=127.0.0.1:$port                          a first purchase, through the balancer
  export SOUK__DATABASE__URL=\$(cat $data/url)
  $souk cluster status                           nodes, and how many shards each has
  kill -9 \$(cat $data/node-2.pid)                  kill one; look again after ten seconds
  $souk verify                                   every law holds all the same
  cluster/play.sh node 2                                    start it again
  cluster/play.sh node 4                                    a fourth; shards move to it
  $souk cluster drain node-1                     its shards go elsewhere; undrain brings them back
  cluster/rolling-restart.sh                                restart all, one after the other

Ctrl-C stops everything.
END
while kill -0 "$(cat "$data/balancer.pid")" 2>/dev/null; do sleep 1; done
