#!/bin/bash
# The tests in small virtual machines: builds the programs against the library of this tree, boots the cases, prints
# "ok NAME" and "FAIL NAME". Exit status 77, and one line why, where nothing can run.
#     check.sh [CASE...]       one of those named at the end; all of them if none is given
# POWER_SEED, POWER_ROUNDS, POWER_POINTS, CRASH_BOOTS and ERRORS_SEED make other and longer tests of it, POWER_ALL=1 adds the
# file systems that few use; POWER_CONDITIONS and POWER_WAYS are for cases/power.sh.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root" || exit 1
unset LD_PRELOAD LD_LIBRARY_PATH PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE MAKEFLAGS \
	MAKELEVEL MFLAGS
"$here/prepare.sh" >/dev/null || exit $?
echo '#include <libpmem2.h>' | ${CC:-cc} -E - >/dev/null 2>&1 || .ci/setup >/dev/null || { echo "libpmem2.h is missing"; exit 77; }

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
	libs=-lpthread
	[[ $source != */pmem2* ]] || libs="-lpmem2 $libs"
	# shellcheck disable=SC2086
	if ! ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Iinclude -o "$program" "$source" \
		"$library" $libs >"$work/cc" 2>&1; then
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

# power NAME: the conditions (cases/power.sh) that bring out most, where the kernel may leave out the flush of the disk.
power() {
	local conditions=slow
	case ${1#power-} in
	ext4 | xfs | btrfs) ;;
	*) conditions="slow quick aged" ;;
	esac
	boot "$1" -m 1200 -t "${POWER_LIMIT:-600}" -e "seed=${POWER_SEED:-1}" -e "rounds=${POWER_ROUNDS:-3}" \
		-e "points=${POWER_POINTS:-4}" -e "ways='${POWER_WAYS:-}'" -e "conditions='${POWER_CONDITIONS:-$conditions}'"
}
case_dax() { boot dax -n 3 -d 64; }
case_dax-cpu() { boot dax-cpu -n 3 -d 64 -p cpu; }
case_facts() { boot facts -n 3 -d 64; }
case_errors() { boot errors -t 300 -e "seed=${ERRORS_SEED:-1}"; }

# Ended at a random moment and booted again, over and over.
case_crash() {
	local cycle boots=${CRASH_BOOTS:-2} out=$work/crash.out dir=$work/crash last=0 options
	mkdir -p "$dir"
	: >"$out"
	: >"$dir/reports"
	for ((cycle = 0; cycle <= boots; cycle++)); do
		options=(-k $((RANDOM % 1500)))
		[ $cycle -lt "$boots" ] || last=1 options=()
		"$here/run.sh" -c crash -b "$dir" -n 3 -d 128 -e cycle=$cycle -e last=$last "${options[@]}" "$here/cases/crash.sh" \
			"$work"/bin/* "$dir/reports" >"$dir/out" 2>&1
		[ $? = $((last ? 0 : 2)) ] || { cat "$dir/out"; echo "FAIL crash: boot $cycle went wrong"; } >>"$out"
		grep -E '^(ext4|xfs|devdax)[^ ]* [0-9]' "$dir/out" >"$dir/reports"
		grep -vE '^(ext4|xfs|devdax)[^ ]* [0-9]|^START|^END' "$dir/out" >>"$out"
	done
	for medium in ext4-dax xfs-dax ext4 devdax; do
		grep -q "^ok .* reported on $medium is there" "$out" || echo "FAIL crash: nothing was reported on $medium" >>"$out"
	done
	rm -rf "$dir"
}

# Emulation uses one processor for each machine.
cases=("$@")
if [ $# = 0 ]; then
	cases=(crash power-btrfs power-ext4 power-xfs power-ext4-nojournal power-overlay-nojournal power-ext4-data-journal power-f2fs
		power-vfat dax dax-cpu facts errors)
	# Without ecryptfs-nojournal: it writes all of a file between the change of the inode and the test for one, which leaves no
	# way to sync that always holds.
	[ "${POWER_ALL:-0}" = 0 ] ||
		for kind in ext2 ext3 ext4-data-writeback nilfs2 jfs reiserfs exfat udf minix overlay-ext4 \
			ecryptfs-ext4 bindfs-ext4 bindfs-nojournal fuse2fs; do
			cases+=("power-$kind")
		done
fi
for name in "${cases[@]}"; do
	case $name in
	power-*) power "$name" & ;;
	*) "case_$name" & ;;
	esac
	[ "$(jobs -rp | wc -l)" -lt "$(nproc)" ] || wait -n
done
wait
for name in "${cases[@]}"; do
	cat "$work/$name.out"
done | grep -v '^END 0' | tee "$work/out"
! grep -q '^FAIL ' "$work/out" && { [ "${POWER_WAYS:-}" ] || grep -q '^ok ' "$work/out"; }
