#!/usr/bin/env bash
# Plays the README's first purchase against a running shop: every command as it stands there, with its answer.
# Usage: tests/demo.sh [URL]
set -euo pipefail

export SOUK="${1:-http://127.0.0.1:8080}"
readme="$(dirname "$0")/../README.md"
script="$(mktemp)"
trap 'rm -f "$script"' EXIT

# The sh blocks between the two marks, without the line that names the shop: it is named here.
sed -n '/<!-- first purchase -->/,/<!-- end of first purchase -->/p' "$readme" |
    awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0; next } on && !/^export SOUK=/' >"$script"
[ -s "$script" ] || { echo "the README has no first purchase" >&2; exit 1; }

# An address can be registered once: each run is somebody new.
sed -i "s/deptrai@example.com/deptrai-$(date +%s)-$$@example.com/" "$script"

# Every answer ends its line. bash -v shows each command as it stands in the README.
curl() {
    command curl "$@"
    echo
}
export -f curl
bash -ev "$script" 2>&1
