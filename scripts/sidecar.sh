#!/usr/bin/env bash
# Installs what the mesh of `tests/tests/sidecar` and `make sidecar-demo` consists of besides the proxy: the kernel's tools, and the
# unmodified clients and servers in the pods. Whatever cannot be had fails the tests that need it: none skips itself.
set -euo pipefail
export PATH=$PATH:/usr/sbin
missing=()
for pair in iptables:iptables nft:nftables ip:iproute2 sysctl:procps curl:curl nginx:nginx; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
/usr/bin/python3 -c 'import grpc' 2>/dev/null || missing+=(python3-grpcio)
((${#missing[@]} == 0)) || "$(dirname "$0")/apt.sh" "${missing[@]}"
