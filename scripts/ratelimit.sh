#!/usr/bin/env bash
# Builds the rate limit service of github.com/envoyproxy/ratelimit and installs Redis, and prints where the service is as a line of
# `export RATELIMIT=path`, fit for `eval "$(scripts/ratelimit.sh)"`. Everything else goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/go.sh

command -v redis-server >/dev/null || scripts/apt.sh redis-server
sources=tests/interop/ratelimit
out=$PWD/target/interop/bin/ratelimit
go=$(go_for "$sources")
mkdir -p "$(dirname "$out")"
"$go" build -C "$sources" -o "$out" github.com/envoyproxy/ratelimit/src/service_cmd >&2
printf 'export RATELIMIT=%q\n' "$out"
