#!/usr/bin/env bash
# Builds every fuzz target and runs each for SECONDS_EACH seconds (default 10). Arguments restrict it to those targets.
#
# Needs cargo-fuzz, which it installs into target/tools if it is missing. With a nightly toolchain the address sanitizer
# is on; a stable one builds without.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${SECONDS_EACH:-10}

[[ -d fuzz ]] || { echo "fuzz: no fuzz targets here"; exit 3; }
export PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root target/tools cargo-fuzz

sanitizer=(--sanitizer none)
if rustc --version | grep -q nightly; then sanitizer=(); fi
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list)
failed=0
for target in "${targets[@]}"; do
  echo "fuzz: $target for $each s"
  # a short line length keeps the start quick; crashes, hangs over 10 s and 2 GiB of memory are failures
  if ! cargo fuzz run "${sanitizer[@]}" "$target" -- \
      -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1; then
    echo "fuzz: $target FAILED"
    failed=$((failed + 1))
  fi
done
echo "fuzz: ${#targets[@]} targets, $failed failed"
((failed == 0))
