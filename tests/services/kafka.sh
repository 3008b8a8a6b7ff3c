#!/usr/bin/env bash
# A real Apache Kafka on loopback, without containers: one broker, or three that replicate. All of it is in FOLDER.
#
#   kafka.sh FOLDER install                                     copies Kafka's jars from Maven Central, once
#   kafka.sh FOLDER start [1|3] [--secure] [KEY=VALUE ...]      prints the brokers' addresses when they are ready
#   kafka.sh FOLDER start-broker NUMBER [--wait]                starts one that was stopped or killed
#   kafka.sh FOLDER kill-broker NUMBER                          kill -9
#   kafka.sh FOLDER status                                      the addresses, and which brokers are up
#   kafka.sh FOLDER stop                                        stops them; their data and ports stay for the next start
#
# The first start says how many brokers there are, and whether they have a listener with TLS and SASL (SCRAM-SHA-512 or
# PLAIN, user souk): FOLDER/secure has its address, password and ca.pem. Every start writes server.properties anew, with
# its KEY=VALUE. The jars go to SOUK_SERVICES_CACHE (target/services).
#
# Ends with 2 where it is called wrongly, with 3 where Kafka cannot be had: no Java 17, no Maven, no Maven Central.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd -P)
version=$(sed -n '/<artifactId>kafka_/{n;s/.*<version>\(.*\)<.*/\1/p;}' "$here/pom.xml")
cache=${SOUK_SERVICES_CACHE:-$here/../../target/services}
ready_within=120
# Three of these beside Souk and PostgreSQL on two cores: a small heap, one thread that collects it, and no compiler
# that takes seconds of a core to gain what a test does not notice.
jvm=(-Xms128m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError)

say() { echo "$*" >&2; }
die() { say "${@:2}"; exit "$1"; }
usage() { sed -n '4,9s/^# *//p' "$0" >&2; exit 2; }

need_java() {
    local major
    command -v java >/dev/null 2>&1 || die 3 "Kafka needs Java 17 or newer: there is no java"
    java_version=$(java -version 2>&1) || true
    major=$(sed -n 's/.* version "\([0-9]*\).*/\1/p' <<<"$java_version")
    [ "${major:-0}" -ge 17 ] || die 3 "Kafka needs Java 17 or newer: this one is ${major:-unknown}"
}

# Complete or not there: made beside its place and renamed. Of two at once one makes it and the other waits.
install() {
    need_java
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd -P)
    kafka=$cache/kafka-$version
    # Of use to the very Java that made it.
    archive=$kafka/classes-$(cksum <<<"$java_version" | tr ' ' -)
    [ ! -e "$archive" ] || return 0
    [ -d "$kafka" ] || command -v mvn >/dev/null 2>&1 || die 3 "Kafka comes by Maven: there is no mvn"
    exec 8>"$cache/lock"
    flock 8
    if [ ! -d "$kafka" ]; then
        local new=$kafka.new
        rm -rf "$new"
        mkdir "$new"
        say "Copying Kafka $version from Maven Central to $kafka"
        timeout 600 mvn -q -B --strict-checksums -f "$here/pom.xml" dependency:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$new/lib" </dev/null >"$new/log" 2>&1 ||
            die 3 "Kafka cannot be copied from Maven Central: $(sed -n '/\[ERROR]/{s/.*\[ERROR] //p;q;}' "$new/log")"
        rm "$new/log"
        format "$new" "$new/lib"
        mv -T "$new" "$kafka"
    fi
    [ -e "$archive" ] || prime
    exec 8>&-
}

# Lets a broker run once, which keeps the classes that it has loaded, for the next ones to start sooner. Where that
# fails, as on a Java that knows no such thing, an empty file says that it was tried.
prime() {
    local folder=$kafka/prime
    signal -KILL 1
    rm -rf "$folder"
    mkdir "$folder"
    (
        trap 'signal -KILL 1' EXIT
        prepare 1
        launch 1 -XX:ArchiveClassesAtExit="$folder/classes"
        await 1
        signal -TERM 1
        for _ in {1..600}; do pid 1 >/dev/null || break; sleep 0.1; done
    ) || true
    [ ! -s "$folder/classes" ] || mv "$folder/classes" "$archive"
    [ -e "$archive" ] || : >"$archive"
    rm -rf "$folder"
}

# Kafka formats a folder by a file that says which features are on, the same for every broker of a version, and one
# that says whose it is. The first is made here, once, and copied: every formatting would be a JVM of its own.
format() {
    local to=$1 lib=$2
    shift 2
    cat >"$to/format.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:1
listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1
controller.listener.names=CONTROLLER
log.dirs=$to/format
END
    java "${jvm[@]}" -cp "$lib/*" kafka.tools.StorageTool format -t "$(uuid)" -c "$to/format.properties" "$@" \
        >"$to/format.log" 2>&1 || die 1 "Kafka does not format: $(tail -n1 "$to/format.log")"
    mv "$to/format/bootstrap.checkpoint" "$to/"
    rm -r "$to/format" "$to/format.properties" "$to/format.log"
}

# As Kafka writes one: 16 bytes in the base64 of URLs. None begins with a dash, which would read as an option.
uuid() { head -c 16 /dev/urandom | base64 | tr -d = | tr +/ ab; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nothing listens on and that no ephemeral one takes (those begin at 32768), kept in a file.
port() {
    local port
    until [ -s "$1" ]; do
        port=$((10000 + RANDOM % 22000))
        answers "$port" || grep -qsx "$port" "$folder"/*/*port || echo "$port" >"$1"
    done
    cat "$1"
}

numbers() { seq "$(cat "$folder/brokers" 2>/dev/null || echo 0)"; }

addresses() {
    local number line=""
    for number in $(numbers); do line=$line,127.0.0.1:$(cat "$folder/$number/$1"); done
    echo "${line#,}"
}

# The process of a broker, if it runs: its pid may be another's by now.
pid() {
    local pid
    pid=$(cat "$folder/$1/pid" 2>/dev/null) && [ -n "$pid" ] &&
        grep -szqxF kafka.Kafka "/proc/$pid/cmdline" &&
        grep -szqxF "$folder/$1/server.properties" "/proc/$pid/cmdline" && echo "$pid"
}

# The brokers that this one knows, itself among them once clients may come and it has caught up: a Metadata request,
# version 1, about all topics, and what its answer says. A client of Kafka's own would be a JVM.
known() (
    { exec 3<>"/dev/tcp/127.0.0.1/$(cat "$folder/$1/port")"; } 2>/dev/null || exit 0
    printf '\0\0\0\016\0\003\0\001\0\0\0\001\377\377\377\377\377\377' >&3
    length=$(timeout 2 head -c 4 <&3 | od -An -v -tu1 | awk '{ print (($1 * 256 + $2) * 256 + $3) * 256 + $4 }')
    [ -n "$length" ] || exit 0
    timeout 2 head -c "$length" <&3 | od -An -v -tu1 -w1 | awk -v self="$1" '
        function short() { at += 2; return byte[at - 1] * 256 + byte[at] }
        function long(high) { high = short(); return high * 65536 + short() }
        function skip(bytes) { at += bytes }
        function has_self(count, has) {
            for (count = long(); count > 0; count--) if (long() == self) has = 1
            return has
        }
        { byte[NR] = $1 }
        END {
            skip(4)
            for (brokers = long(); brokers > 0; brokers--) { known[long()]; skip(short()); skip(4 + 2) }
            skip(4)
            for (topics = long(); topics > 0; topics--) {
                skip(2); skip(short()); skip(1)
                for (partitions = long(); partitions > 0; partitions--) {
                    skip(2 + 4 + 4)
                    replica = has_self()
                    in_sync = has_self()
                    if (replica && !in_sync) delete known[self]
                }
            }
            for (broker in known) print broker
        }' | sort
)

# A password, and a certificate for loopback that an authority made for it has signed.
secure() {
    local dir=$folder/secure
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    [ -s "$dir/password" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$dir/password"
    if [ ! -s "$dir/server.pem" ]; then
        command -v openssl >/dev/null 2>&1 || die 3 "TLS needs openssl"
        {
            openssl req -x509 "${key[@]}" -days 3650 -subj "/CN=Kafka's authority" \
                -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$dir/ca.key" -out "$dir/ca.pem"
            openssl req "${key[@]}" -subj /CN=127.0.0.1 -keyout "$dir/server.key" -out "$dir/server.csr"
            printf '%s\n' subjectAltName=IP:127.0.0.1,DNS:localhost extendedKeyUsage=serverAuth >"$dir/server.ext"
            openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 3650 \
                -extfile "$dir/server.ext" -out "$dir/server.crt"
        } 2>"$dir/log" || die 1 "no certificate: $(tail -n1 "$dir/log")"
        cat "$dir/server.key" "$dir/server.crt" >"$dir/server.pem"
        rm "$dir"/server.{key,csr,ext,crt} "$dir"/ca.{key,srl} "$dir/log"
    fi
    # Users of SCRAM are in the metadata, which begins with what the formatting has put there.
    [ -s "$dir/bootstrap.checkpoint" ] ||
        format "$dir" "$kafka/lib" --add-scram "SCRAM-SHA-512=[name=souk,password=$(cat "$dir/password")]"
}

prepare() {
    local count=$1 number voters="" isr=1 checkpoint=$kafka/bootstrap.checkpoint
    local login=org.apache.kafka.common.security password
    shift
    echo "$count" >"$folder/brokers"
    [ "$count" -eq 1 ] || isr=2
    [ -s "$folder/id" ] || uuid >"$folder/id"
    for number in $(numbers); do
        mkdir -p "$folder/$number/data"
        voters=$voters,$number@127.0.0.1:$(port "$folder/$number/controller-port")
        port "$folder/$number/port" >/dev/null
        [ ! -d "$folder/secure" ] || port "$folder/$number/secure-port" >/dev/null
    done
    if [ -d "$folder/secure" ]; then
        secure
        checkpoint=$folder/secure/bootstrap.checkpoint
        addresses secure-port >"$folder/secure/address"
        password=$(cat "$folder/secure/password")
    fi
    for number in $(numbers); do
        local dir=$folder/$number listeners
        listeners=PLAINTEXT://127.0.0.1:$(cat "$dir/port")
        [ ! -s "$dir/secure-port" ] || listeners=$listeners,SECURE://127.0.0.1:$(cat "$dir/secure-port")
        cat >"$dir/server.properties" <<END
process.roles=broker,controller
node.id=$number
controller.quorum.voters=${voters#,}
listeners=$listeners,CONTROLLER://127.0.0.1:$(cat "$dir/controller-port")
advertised.listeners=$listeners
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
log.dirs=$dir/data
num.partitions=3
default.replication.factor=$count
min.insync.replicas=$isr
offsets.topic.replication.factor=$count
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=$count
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=$count
share.coordinator.state.topic.min.isr=$isr
share.coordinator.state.topic.num.partitions=10
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=8388608
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1000
controller.quorum.election.timeout.ms=500
controller.quorum.election.backoff.max.ms=250
controller.quorum.request.timeout.ms=1000
END
        [ ! -d "$folder/secure" ] || cat >>"$dir/server.properties" <<END
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=$folder/secure/server.pem
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.secure.scram-sha-512.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.secure.plain.sasl.jaas.config=$login.plain.PlainLoginModule required user_souk="$password";
END
        [ $# -eq 0 ] || printf '%s\n' "$@" >>"$dir/server.properties"
        if [ ! -s "$dir/data/meta.properties" ]; then
            cp "$checkpoint" "$dir/data/bootstrap.checkpoint"
            printf '%s\n' version=1 "cluster.id=$(cat "$folder/id")" "node.id=$number" "directory.id=$(uuid)" \
                >"$dir/meta.properties"
            mv "$dir/meta.properties" "$dir/data/"
        fi
    done
}

# A session of its own with nothing open of the caller's: a broker outlives this script, and whoever reads its output
# to the end, or waits for a lock, must not wait for the broker. Returns when its pid is known to be a broker's.
launch() {
    local dir=$folder/$1 options=("${jvm[@]}" "${@:2}") file
    for file in "$dir"/*port; do
        ! answers "$(cat "$file")" || die 1 "broker $1 cannot have its port: something listens on $(cat "$file")"
    done
    [ ! -s "$archive" ] || options+=(-XX:SharedArchiveFile="$archive")
    rm -f "$dir/pid"
    (
        cd "$dir"
        echo "$BASHPID" >pid
        exec </dev/null >>log 2>&1
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            [ "$fd" -le 2 ] || eval "exec $fd>&-"
        done
        exec setsid java "${options[@]}" -Dlog4j2.configurationFile="$here/log4j2.yaml" -cp "$kafka/lib/*" \
            kafka.Kafka "$dir/server.properties"
    ) &
    until pid "$1" >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
    disown
}

# Until each of these brokers knows all of these.
await() {
    local number deadline=$((SECONDS + ready_within)) all
    all=$(printf '%s\n' "$@")
    for number; do
        until [ "$(comm -12 <(echo "$all") <(known "$number"))" = "$all" ]; do
            pid "$number" >/dev/null || {
                # Without the stack traces.
                grep -v "^[[:space:]]" "$folder/$number/log" | tail -n 5 >&2
                die 1 "broker $number has ended: $folder/$number/log"
            }
            [ "$SECONDS" -lt "$deadline" ] ||
                die 1 "broker $number is not ready after $ready_within s: $folder/$number/log"
            sleep 0.1
        done
    done
}

signal() {
    local number pid
    for number in "${@:2}"; do
        ! pid=$(pid "$number") || kill "$1" "$pid" 2>/dev/null || true
    done
}

stop() {
    local number left busy up total deadline=$((SECONDS + 20))
    total=$(numbers | wc -l)
    signal -TERM "$@"
    # One that is stopped, as by SIGSTOP, would never end.
    signal -CONT "$@"
    while :; do
        left=() busy=""
        for number; do
            pid "$number" >/dev/null || continue
            left+=("$number")
            # Kafka's mark that all data is closed, which the next start takes away.
            [ -e "$folder/$number/data/.kafka_cleanshutdown" ] || busy=yes
        done
        [ ${#left[@]} -gt 0 ] || break
        # Without a majority there is no controller to take a broker's partitions, and nothing to wait long for.
        up=$(for number in $(numbers); do pid "$number" || true; done | wc -l)
        [ $((2 * up)) -gt "$total" ] || [ "$deadline" -le $((SECONDS + 2)) ] || deadline=$((SECONDS + 2))
        # With their data closed they only wait for a quorum to leave, the last one for five seconds and in vain.
        [ -n "$busy" ] && [ "$SECONDS" -lt "$deadline" ] || signal -KILL "${left[@]}"
        sleep 0.1
    done
    for number; do rm -f "$folder/$number/pid"; done
}

started=()
# What a start has begun and not ended, it takes back.
undo() {
    local code=$?
    [ "$code" -eq 0 ] || [ ${#started[@]} -eq 0 ] || stop "${started[@]}"
}

lock() { exec 9>"$folder/lock"; flock 9; }
unlock() { exec 9>&-; }

start() {
    local count="" extra=() number had secure=""
    while [ $# -gt 0 ]; do
        case $1 in
        1 | 3) count=$1 ;;
        --secure) secure=yes ;;
        *[!=]*=*) extra+=("$1") ;;
        *) usage ;;
        esac
        shift
    done
    install
    lock
    umask 077
    had=$(cat "$folder/brokers" 2>/dev/null || true)
    count=${count:-${had:-1}}
    [ "${had:-$count}" -eq "$count" ] || die 2 "$folder has $had brokers, not $count"
    if [ -n "$secure" ]; then
        [ -z "$had" ] || [ -d "$folder/secure" ] || die 2 "$folder was made without --secure"
        mkdir -p "$folder/secure"
    fi
    prepare "$count" "${extra[@]}"
    trap undo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    for number in $(numbers); do
        pid "$number" >/dev/null || { launch "$number"; started+=("$number"); }
    done
    unlock
    # shellcheck disable=SC2046 # numbers
    await $(numbers)
    addresses port
}

broker() {
    [[ ${1:-} =~ ^[0-9]+$ ]] || usage
    [ -s "$folder/$1/server.properties" ] || die 2 "$folder has no broker $1"
}

status() {
    local number all=0
    addresses port
    for number in $(numbers); do
        if ! pid "$number" >/dev/null; then
            echo "$number down"
            all=1
        elif known "$number" | grep -qx "$number"; then
            echo "$number up"
        else
            echo "$number starting"
            all=1
        fi
    done
    return $all
}

[ $# -ge 2 ] || usage
case $1 in *[,\\]*) die 2 "Kafka takes no folder with a comma or a backslash in its name: $1" ;; esac
command=$2
case $command in
install) install; exit ;;
start) mkdir -p "$1" ;;
stop) [ -s "$1/brokers" ] || exit 0 ;;
start-broker | kill-broker | status) [ -s "$1/brokers" ] || die 2 "there is no Kafka in $1" ;;
*) usage ;;
esac
folder=$(cd "$1" && pwd -P)
shift 2

case $command in
start) start "$@" ;;
start-broker)
    broker "$@"
    case ${2:-} in '' | --wait) ;; *) usage ;; esac
    install
    lock
    pid "$1" >/dev/null || launch "$1"
    unlock
    [ -z "${2:-}" ] || await "$1"
    ;;
kill-broker)
    broker "$@"
    lock
    pid=$(pid "$1") || die 1 "broker $1 does not run"
    kill -KILL "$pid"
    while pid "$1" >/dev/null; do sleep 0.05; done
    ;;
stop)
    lock
    # shellcheck disable=SC2046 # numbers
    stop $(numbers)
    ;;
status) status ;;
esac
