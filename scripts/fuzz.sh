#!/usr/bin/env bash
# Builds every fuzz target and runs each for SECONDS_EACH seconds (default 6), from the committed seeds. Arguments restrict
# it to those targets. What it finds lies in fuzz/artifacts/TARGET. SEED other than 0 makes the choices repeat.
#
# Needs cargo-fuzz, which it installs into target/tools if it is missing. Where a nightly toolchain is installed the address
# sanitizer is on; otherwise the stable one builds without it.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${SECONDS_EACH:-6}

[[ -f fuzz/Cargo.toml ]] || { echo "no fuzz targets here"; exit 3; }
export PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root target/tools cargo-fuzz

toolchain=() sanitizer=(--sanitizer none)
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then toolchain=(+nightly) sanitizer=(); fi
echo "fuzz: toolchain ${toolchain[*]:-the default}, ${sanitizer[*]:-with the address sanitizer}"

targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list)
((${#targets[@]})) || { echo "fuzz: no targets"; exit 1; }
failed=0
for target in "${targets[@]}"; do
  echo "fuzz: $target for $each s"
  # the corpus grows and is not committed; seeds are only read
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
  if ! cargo "${toolchain[@]}" fuzz run "${sanitizer[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
      -seed="${SEED:-0}" -max_total_time="$each" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1; then
    echo "fuzz: $target FAILED"
    failed=$((failed + 1))
  fi
done
echo "fuzz: ${#targets[@]} targets, $failed failed"
((failed == 0))
