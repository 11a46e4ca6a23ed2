#!/bin/bash
# The tests in small virtual machines: builds the programs against the library of this tree, boots the cases, prints
# "ok NAME" and "FAIL NAME". Exit status 77, and one line why, where nothing can run.
#     check.sh [CASE...]       CASE: dax dax-cpu power crash errors
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root" || exit 1
unset LD_PRELOAD LD_LIBRARY_PATH PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE MAKEFLAGS \
	MAKELEVEL MFLAGS
"$here/prepare.sh" >/dev/null || exit $?

target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
work=$target/check-guest
rm -rf "$work"
mkdir -p "$work/bin"
make --no-print-directory shared >"$work/make" 2>&1 || { cat "$work/make"; echo "FAIL guest: make"; exit 1; }
library=$target/lib/libpmemset.so.1.0.0
cp "$library" "$work/bin/libpmemset.so.1"
for source in "$here"/*.c; do
	program=$work/bin/$(basename "$source" .c)
	if ! ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Iinclude -o "$program" "$source" \
		"$library" -lpthread >"$work/cc" 2>&1; then
		cat "$work/cc"
		echo "FAIL guest: $(basename "$source") does not compile"
		exit 1
	fi
done

# boot NAME OPTIONS...: one machine, the case before the first dash; what it prints goes to NAME.out.
boot() {
	local name=$1
	shift
	"$here/run.sh" -c "$name" "$@" "$here/cases/${name%%-*}.sh" "$work"/bin/* >"$work/$name.out" 2>&1 ||
		echo "FAIL $name: the machine's exit status is $?" >>"$work/$name.out"
}

case_dax() { boot dax -n 3 -d 64; }
case_dax-cpu() { boot dax-cpu -n 3 -d 64 -p cpu; }

# Emulation uses one processor for each machine.
cases=("${@:-dax}")
[ $# -gt 0 ] || cases=(dax dax-cpu)
for name in "${cases[@]}"; do
	"case_$name" &
	[ "$(jobs -rp | wc -l)" -lt "$(nproc)" ] || wait -n
done
wait
for name in "${cases[@]}"; do
	cat "$work/$name.out"
done | grep -v '^END 0' | tee "$work/out"
! grep -q '^FAIL ' "$work/out" && grep -q '^ok ' "$work/out"
