#!/usr/bin/env bash
# Runs every fuzz target (or those named) for some seconds each, starting from the committed seeds.
#   fuzz/run.sh [SECONDS] [TARGET...]
# Needs: `cargo install cargo-fuzz` and a nightly toolchain (`rustup toolchain install nightly`) for the address sanitizer.
# Finds (crashing inputs) are left in fuzz/artifacts/TARGET; repeat one with `cargo +nightly fuzz run TARGET FILE`.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 2; }
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
  echo "== $target: $seconds s"
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
  # What is found interesting goes to corpus (not committed); seeds are only read.
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1
done
