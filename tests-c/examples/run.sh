#!/bin/bash
# Examples where they do not find what they want; tools/check.sh runs them where they do. The library in the cargo target
# directory must be up to date (`make`). Prints one line for each test, "ok NAME" or "FAIL NAME".
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
mkdir -p "$target"
work=$(mktemp -d -p "$target")
trap 'rm -rf "$work"' EXIT
status=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH PMEM2_FORCE_GRANULARITY

ok() { echo "ok examples: $1"; }
bad() { echo "FAIL examples: $1"; sed 's/^/    /' "$work/log" | head -20; status=1; }
# gives NAME STATUS TEXT COMMAND...: what the command exits with and prints
gives() {
	local name=$1 want=$2 text=$3 rc
	shift 3
	(cd "$work" && export LD_LIBRARY_PATH="$target/lib" && "$@") >"$work/log" 2>&1 </dev/null
	rc=$?
	if [ $rc -eq "$want" ] && grep -q -- "$text" "$work/log"; then ok "$name"; else bad "$name (exit status $rc)"; fi
}
limited() { (ulimit -f 64 && "$@"); }
# A tmpfs of 512 KiB, which goes with the process.
small_tmpfs() { unshare -m sh -c 'mkdir -p small && mount -t tmpfs -o size=512k none small && cd small && eval "$1"' sh "$1"; }

if ! ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -Iinclude -o "$work/reserve" examples/reserve.c -L"$target/lib" -lpmemset \
	>"$work/log" 2>&1; then
	bad "reserve.c compiles"
	exit 1
fi
gives "reserve: there is room" 0 "196608 bytes of here are written" ./reserve here 196608
gives "reserve: again" 0 "196608 bytes of here are written" ./reserve here 196608
gives "reserve: past the limit on file sizes" 3 "no room for there: File too large" limited ./reserve there 196608
if small_tmpfs true >"$work/log" 2>&1; then
	gives "reserve: more than the file system has" 3 "no room for a: No space left" small_tmpfs '../reserve a 1048576'
	gives "reserve: less, and nothing is left beside it" 0 "262144 bytes of b are written" \
		small_tmpfs '../reserve b 262144 >/dev/null && dd if=/dev/zero of=filler bs=4096 2>/dev/null; ../reserve b 262144'
else
	echo "skip examples: reserve on a small file system: nothing can be mounted here"
fi
exit $status
