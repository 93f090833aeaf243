#!/usr/bin/env bash
# Installs Debian packages, as root or through sudo: scripts/apt.sh PACKAGE...
set -euo pipefail
command -v apt-get >/dev/null || { echo "no apt-get here; install by hand: $*" >&2; exit 1; }
as_root() { if [[ $(id -u) = 0 ]]; then "$@"; else sudo -n "$@"; fi; }
echo "installing $*" >&2
as_root apt-get update -qq >&2
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
