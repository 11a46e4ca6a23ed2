#!/bin/sh
# Builds and runs the benchmarks of this directory; `make bench` calls it. Environment:
#     PEER       another libpmemset.so.1, timed in the same rounds; what it needs is searched beside it first
#     ROUNDS     rounds of each case (15)
#     BENCH      which programs (ops parts drains); scale and batches are two more, which print texts of their own
#     BENCH_DIR  a directory on the disk to measure (the benchmark's own); what needs memory only is in BENCH_SHM (/dev/shm)
#     STRICT     1: fail when a bar is missed
# The table is printed, and written to $BUILD/bench as table.txt, table.tsv and plot.svg.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-target}
case $build in /*) ;; *) build=$PWD/$build ;; esac
library=$build/lib/libpmemset.so.1
out=$build/bench
disk=${BENCH_DIR:-$out/disk}
shm=${BENCH_SHM:-/dev/shm}
rounds=${ROUNDS:-15}
programs=${BENCH:-ops parts drains}
peer=
export LC_ALL=C
unset PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE PMEM_NO_CLWB PMEM_NO_CLFLUSHOPT \
	PMEM_NO_MOVNT PMEM_MOVNT_THRESHOLD LD_PRELOAD LD_LIBRARY_PATH

die() { echo "bench: $*" >&2; exit 1; }

mkdir -p "$out" "$disk"
[ -e "$library" ] || die "$library is missing: run make first"
if [ -n "${PEER:-}" ]; then
	[ -f "$PEER" ] || die "PEER: there is no $PEER"
	peer=$(cd "$(dirname "$PEER")" && pwd)/$(basename "$PEER")
fi

for program in $programs; do
	[ -e "benches/$program.c" ] || die "there is no benches/$program.c"
	# shellcheck disable=SC2086
	${CC:-cc} -std=gnu11 -O2 -Wall -Wextra ${CPPFLAGS:-} ${CFLAGS:-} -Iinclude -o "$out/$program" "benches/$program.c" \
		${LDFLAGS:-} -ldl -lpthread -lm
done

# run PROGRAM DIR
run() {
	if [ -n "$peer" ]; then
		LD_LIBRARY_PATH=$(dirname "$peer") "$out/$1" -l "$library" -p "$peer" -r "$rounds" "$2"
	else
		"$out/$1" -l "$library" -r "$rounds" "$2"
	fi
}

fs() { df -PT "$1" | awk 'END { print $2 }'; }

facts() {
	echo "# $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *\([0-9]*\) /\1 x /' | head -n 1), Linux $(uname -r), $(date -u +%Y-%m-%d)"
	echo "# disk: $(fs "$disk"), memory: $(fs "$shm"), pages of $(getconf PAGESIZE), $rounds rounds, load $(cut -d ' ' -f 1 /proc/loadavg)"
	[ -z "$peer" ] || echo "# peer: $peer"
}

status=0
tables=
: >"$out/table.tsv"
facts >>"$out/table.tsv"
printf 'table\tcase\tunit\tlimit\tours\tpeer\tours/limit\tours/peer\tbar\tmet\n' >>"$out/table.tsv"
for program in $programs; do
	echo "bench: $program, $rounds rounds" >&2
	case $program in
	scale) "$out/scale" -l "$library" "$shm" | tee "$out/scale.txt"; continue ;;
	batches) "$out/batches" -r "$rounds" "$disk" | tee "$out/batches.txt"; continue ;;
	drains) dir=$disk ;;
	*) dir=$shm ;;
	esac
	tables=1
	# A pipe would lose the exit status.
	run "$program" "$dir" >"$out/rows" || { status=1; echo "bench: $program failed" >&2; }
	cat "$out/rows" >>"$out/table.tsv"
done
rm -f "$out/rows"
[ "$disk" != "$out/disk" ] || rmdir "$disk" 2>/dev/null || true
[ -n "$tables" ] || exit $status

awk -F '\t' -f benches/table.awk "$out/table.tsv" >"$out/table.txt"
awk -F '\t' -f benches/plot.awk "$out/table.tsv" >"$out/plot.svg"
cat "$out/table.txt"
echo "written to $out: table.txt, table.tsv, plot.svg"
if [ "${STRICT:-0}" = 1 ] && grep -q 'no$' "$out/table.tsv"; then
	exit 1
fi
exit $status
