#!/bin/sh
# Makes the secrets that docker-compose.yml reads, each once: one that is there stays.
#
#   config/compose-secrets.sh [FOLDER]    default: secrets, beside docker-compose.yml
#
# Only their owner gets into the folder. The files in it are readable because the engine binds them into containers
# as they are, whose users are other ones: with mode 0600 a container that is not root's could not read them.
set -eu
folder=${1:-$(dirname "$0")/../secrets}
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"

# Keeps what it reads as a secret of that name, whole or not at all.
keep() {
    if [ -e "$folder/$1" ]; then
        echo "$1 is there already" >&2
        return
    fi
    cat >"$folder/.new"
    chmod 0444 "$folder/.new"
    mv -n "$folder/.new" "$folder/$1"
    echo "made $1" >&2
}

# 32 bytes in hexadecimal digits.
random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

random | keep cluster_cookie
random | keep token_key
random | keep postgres_password
printf 'postgres://souk:%s@postgres:5432/postgres' "$(cat "$folder/postgres_password")" | keep database_url
