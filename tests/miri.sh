#!/bin/bash
# The calls of the C interface in Miri, which knows the rules of Rust about what may be borrowed while somebody else uses it,
# and sees every access that breaks one. It runs what needs no mapping of a file: configs, sets with nothing mapped, sources,
# events, errors. Needs a nightly toolchain, and adds its component miri if need be; exit status 77 where there is none.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
missing() { echo "miri: not run: $1"; exit 77; }

command -v rustup >/dev/null || missing "there is no rustup"
rustup toolchain list 2>/dev/null | grep -q '^nightly' || missing "there is no nightly toolchain"
mkdir -p "$target/miri" || exit 1
log=$target/miri/log
if ! cargo +nightly miri --version >/dev/null 2>&1 || ! [ -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
	rustup component add miri rust-src --toolchain nightly >"$log" 2>&1 </dev/null ||
		missing "nightly has no miri, and rustup cannot add it"
fi

# Addresses travel as numbers through the interface and the index; files are the machine's.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance"
miri() {
	CARGO_TARGET_DIR=$target/miri timeout "${MIRI_TIMEOUT:-900}" cargo +nightly miri test --locked --lib "$@" </dev/null 2>&1
}
miri -- capi:: mem:: set::part_map:: --skip planted >"$log"
rc=$?
sed -nE 's/^test ([a-z0-9_:]+) \.\.\. ok$/ok miri: \1/p; s/^test ([a-z0-9_:]+) \.\.\. FAILED.*/FAIL miri: \1/p' "$log"
passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$log")
if [ "$rc" -ne 0 ]; then
	tail -60 "$log"
	grep -q 'FAILED' "$log" || echo "FAIL miri (exit status $rc)"
	exit 1
fi
# A name that no test has any more would pass as well.
if [ "${passed:-0}" -lt 11 ]; then
	echo "FAIL miri: ${passed:-0} tests were run"
	exit 1
fi
if miri -- --ignored planted >"$log" || ! grep -q 'error: Undefined Behavior' "$log"; then
	tail -20 "$log"
	echo "FAIL miri: a planted borrow of what another thread uses is not found"
	exit 1
fi
echo "ok miri: a planted borrow of what another thread uses is found"
