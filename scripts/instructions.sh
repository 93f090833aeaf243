#!/usr/bin/env bash
# Counts instructions per request with callgrind and compares them with benches/instructions.tsv; more than 3 % worse fails.
# Arguments go to the program: see the head of benches/src/instructions/main.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || scripts/apt.sh valgrind
"${CARGO:-cargo}" build --release --workspace --locked --bin outrigger --bin instructions
exec target/release/instructions "$@"
