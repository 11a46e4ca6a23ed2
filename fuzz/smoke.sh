#!/bin/bash
# A short run of random calls, on the toolchain that the library is built with: FUZZ_SECONDS (12), FUZZ_SEED (1).
# Long runs, with coverage to guide them: cargo install cargo-fuzz, then cargo +nightly fuzz run calls.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

export CARGO_TARGET_DIR=$target/fuzz
cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --bin smoke --bin calls || exit 1
dir=$(mktemp -d -p "$target/fuzz") || exit 1
trap 'rm -rf "$dir"' EXIT
TMPDIR=$dir timeout -k 5 120 "$target/fuzz/release/smoke" "${FUZZ_SECONDS:-12}" "${FUZZ_SEED:-1}"
rc=$?
[ $rc -eq 0 ] && echo "ok fuzz" || echo "FAIL fuzz (exit status $rc)"
exit $rc
