#!/usr/bin/env bash
# Builds every fuzz target and runs each for SECONDS_EACH seconds (default 6), from the committed seeds. Arguments restrict
# it to those targets. What it finds lies in fuzz/artifacts/TARGET. SEED other than 0 makes the choices repeat.
#
# Needs cargo-fuzz, which it installs into target/tools if it is missing. Where a nightly toolchain is installed the address
# sanitizer is on; otherwise the stable one builds without it.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${SECONDS_EACH:-6}

export PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root target/tools cargo-fuzz

toolchain=() sanitizer=(--sanitizer none)
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then toolchain=(+nightly) sanitizer=(); fi
echo "fuzz: toolchain ${toolchain[*]:-the default}, ${sanitizer[*]:-with the address sanitizer}"

mapfile -t all < <(cargo fuzz list)
((${#all[@]})) || { echo "fuzz: no targets"; exit 1; }
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")

# one build for all of them
start=$SECONDS
cargo "${toolchain[@]}" fuzz build "${sanitizer[@]}"
echo "fuzz: built in $((SECONDS - start)) s"
built=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_odr_violation=0}

failed=0
for target in "${targets[@]}"; do
  # the corpus grows and is not committed; seeds are only read
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target" "fuzz/artifacts/$target"
  log=fuzz/artifacts/$target.log
  if "$built/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -artifact_prefix="fuzz/artifacts/$target/" -seed="${SEED:-0}" \
      -max_total_time="$each" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_funcs=0 -print_final_stats=1 >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz: $target: $runs runs, $(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1)"
  else
    tail -60 "$log"
    echo "fuzz: $target FAILED"
    failed=$((failed + 1))
  fi
done
echo "fuzz: ${#targets[@]} targets, $failed failed, $((SECONDS - start)) s"
((failed == 0))
