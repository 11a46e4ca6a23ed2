#!/bin/bash
# The model check of look-ups, references and removal: every order of what two or three threads do, with planted bugs that
# it must find. LOOM_MAX_PREEMPTIONS=3 goes deeper and takes much longer.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
mkdir -p "$target/loom" || exit 1
log=$target/loom/log

# Without link-time optimisation: it is of no use here, and takes longer than the check.
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" CARGO_TARGET_DIR=$target/loom CARGO_PROFILE_RELEASE_LTO=false \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 RUST_BACKTRACE=0 \
	timeout "${LOOM_TIMEOUT:-900}" cargo test --locked --release --lib loom >"$log" 2>&1 </dev/null
rc=$?
lines() { sed -n "s/^test .*::loom_\([a-z_]*\).* \.\.\. $1.*/$2 loom: \1/p" "$log" | tr _ ' '; }
lines ok ok
lines FAILED FAIL
passed=$(lines ok ok | wc -l)
if [ "$rc" -ne 0 ]; then
	tail -60 "$log"
	grep -q 'FAILED' "$log" || echo "FAIL loom (exit status $rc)"
	exit 1
fi
# A name that no test has any more would pass as well.
if [ "$passed" -lt 21 ]; then
	echo "FAIL loom: $passed tests were run"
	exit 1
fi
