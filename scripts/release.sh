#!/usr/bin/env bash
# Builds target/shipped/outrigger, as it is measured and shipped: with link-time optimisation, guided by a profile.
#
# Three builds: one that counts what runs, the program that sends it traffic (small requests over HTTP/1, HTTP/2 and TCP, with
# filters, headers, a log and mutual TLS, and handshakes: the rows of `make instructions`), and the one that takes the counts into account. The builds of the
# profile have folders of their own in target/profile, so that nothing else is built anew because of them, and what is shipped has its
# own, so that it is not taken for what `cargo build --release` leaves in target/release.
#
#   PROFILE=0    one build, without a profile
#
# A profile is read by the LLVM tool of the compiler's own major version: from the toolchain (rustup component llvm-tools), or from
# the distribution. Where neither has it, the build is one without a profile, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
say() { printf 'release: %s\n' "$*" >&2; }
revision=$(scripts/revision.sh)
eval "$revision"
# a file of its own: what cargo left may share its content with what it keeps
ship() {
  mkdir -p target/shipped
  cp --remove-destination "$1" target/shipped/outrigger
  say "$(target/shipped/outrigger --version)"
}
plain() {
  "$cargo" build --profile bench --locked -p proxy --bin outrigger --target-dir target/profile/plain
  ship target/profile/plain/release/outrigger
}

version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
host=$(rustc -vV | sed -n 's/^host: //p')
profdata() {
  local found
  for found in "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "$(command -v "llvm-profdata-$version" || true)"; do
    [[ -x $found ]] && { echo "$found"; return; }
  done
  return 1
}

if [[ ${PROFILE:-1} = 0 ]]; then
  plain
  exit
fi
tool=$(profdata) || { scripts/apt.sh "llvm-$version" && tool=$(profdata); } || {
  say "no llvm-profdata of version $version to be had: building without a profile"
  plain
  exit
}

# what one of the two builds is made with, and where
build() {
  RUSTFLAGS="${RUSTFLAGS:-} $1" "$cargo" build --profile bench --locked -p proxy --bin outrigger --target "$host" --target-dir "$2"
}
folder=$PWD/target/profile
mkdir -p "$folder"
say "1 of 3: the build that counts"
build "-Cprofile-generate=$folder/raw" "$folder/count"
say "2 of 3: the traffic"
"$cargo" build --release --workspace --locked --bin instructions
rm -rf "$folder/raw"
target/release/instructions --train 20000 --outrigger "$folder/count/$host/release/outrigger"
"$tool" merge -o "$folder/outrigger.profdata" "$folder/raw"
say "3 of 3: the build that knows"
build "-Cprofile-use=$folder/outrigger.profdata" "$folder/use"
ship "$folder/use/$host/release/outrigger"
