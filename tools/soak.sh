#!/bin/bash
# The tests that grow with time, for hours instead of seconds: SOAK (10) is about the number of minutes that each takes.
# Not part of the gate.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
n=${SOAK:-10}
target=${CARGO_TARGET_DIR:-$(pwd)/target}
bad=0
run() {
	echo "== $*"
	env "$@" || { echo "FAIL $*"; bad=1; }
}

run PMEMSET_MODEL_CASES=$((n * 3000)) PMEMSET_MODEL_STEPS=120 cargo test --release --test model
run FUZZ_SECONDS=110 FUZZ_SEED=$RANDOM fuzz/smoke.sh
make --no-print-directory all install PREFIX="$target/soak/prefix" >/dev/null || exit 1
PKG_CONFIG_PATH=$target/soak/prefix/lib/pkgconfig
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -o "$target/soak/crash_kill" tests-c/contract/crash_kill.c \
	$(pkg-config --cflags --libs libpmemset) -lpthread || exit 1
(cd "$target/soak" && run LD_LIBRARY_PATH="$target/soak/prefix/lib" CRASH_TIMES=$((n * 5)) ./crash_kill; exit $bad) || bad=1
run POWER_SEED=$RANDOM POWER_ROUNDS=$((n + 2)) POWER_POINTS=$((n * 2)) CRASH_BOOTS=$n ERRORS_SEED=$RANDOM tests/guest/check.sh
run LOOM_MAX_PREEMPTIONS=3 LOOM_TIMEOUT=$((n * 600)) tests/loom.sh
exit $bad
