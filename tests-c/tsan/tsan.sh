#!/bin/bash
# ThreadSanitizer over the library and a C program with several threads. Needs the nightly toolchain with rust-src and
# gcc's runtime, and says so where they are missing (exit status 77).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
work=$target/check/tsan
seconds=${TSAN_SECONDS:-4}
failed=0
ok() { echo "ok $1"; }
bad() { failed=1; echo "FAIL $1"; }
missing() { echo "tsan: not run: $1"; exit 77; }

cargo +nightly --version >/dev/null 2>&1 || missing "there is no nightly toolchain"
[ -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.toml" ] || missing "nightly has no rust-src"
mkdir -p "$work" || exit 1
printf 'int main(void) { return 0; }\n' >"$work/empty.c"
gcc -fsanitize=thread -o "$work/empty" "$work/empty.c" 2>/dev/null || missing "gcc has no ThreadSanitizer"
"$work/empty" >/dev/null 2>&1 || missing "ThreadSanitizer does not start here"

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
# opt-level: the sanitizer sees what the shipped library does, without inlining across what it watches.
if ! CARGO_TARGET_DIR=$target/tsan RUSTFLAGS="-Zsanitizer=thread --cfg pmemset_instrumented" CARGO_PROFILE_RELEASE_LTO=false \
	CARGO_PROFILE_RELEASE_DEBUG=1 cargo +nightly rustc --quiet --locked --release --lib --crate-type staticlib \
	--target "$host" -Zbuild-std=std,panic_abort >"$work/build" 2>&1; then
	cat "$work/build"
	bad "tsan: build"
	exit 1
fi
lib=$target/tsan/$host/release/libpmemset.a
# Rust's own runtime in the archive would take the place of gcc's, and report nothing.
if ! gcc -std=gnu11 -O1 -g -Wall -Wextra -Werror -fsanitize=thread -Iinclude -o "$work/stress" tests-c/tsan/stress.c \
	-x c tests-c/tsan/glue.c -x none "$lib" -lpthread -ldl -lm >"$work/link" 2>&1; then
	cat "$work/link"
	bad "tsan: link"
	exit 1
fi
calls=$(nm "$lib" 2>/dev/null | grep -c 'U __tsan_func_entry')
if [ "$calls" -gt 10 ] && [ -n "$(nm "$work/stress" | grep '__tsan_init')" ]; then
	ok "tsan: the library is instrumented"
else
	bad "tsan: the library is not instrumented"
fi

# run NAME DIRECTORY ARGUMENT: the exit status; what was reported is in $work/NAME.
run() {
	TSAN_OPTIONS="exitcode=66 halt_on_error=0 history_size=4" \
		timeout 120 "$work/stress" "$seconds" "$2" "$3" >"$work/$1" 2>&1
}
disk=$(mktemp -d -p "$work") || exit 1
trap 'rm -rf "$disk" ${memory:+"$memory"}' EXIT
memory=$(mktemp -d -p /dev/shm 2>/dev/null) || memory=
for dir in "$disk" $memory; do
	name="tsan: no race, $([ "$dir" = "$disk" ] && echo on disk || echo in memory)"
	if run quiet "$dir" ""; then
		ok "$name ($(tail -1 "$work/quiet"))"
	else
		bad "$name (exit status $?)"
		head -120 "$work/quiet"
	fi
done
seconds=1
run race "$disk" race
if [ $? -eq 66 ] && grep -q "data race" "$work/race" && grep -q "'planted'" "$work/race"; then
	ok "tsan: a planted race is reported"
else
	bad "tsan: a planted race is not reported"
	head -40 "$work/race"
fi
exit $failed
