#!/bin/bash
# The interface of release 1.12, and both interfaces in one process. The library in the cargo target directory must be up to date
# (`make`). Prints one line for each test, "ok NAME" or "FAIL NAME"; tools/check.sh counts them.
#     *.c here             programs for 1.12; mixed.c calls both
#     same.list            programs of ../contract that run with 1.12's names and pmemset_map() as well, with an observer on
#                          every set and without
set -uo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
mkdir -p "$target"
work=$(mktemp -d -p "$target")
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
cc=${CC:-cc}
lib=$target/lib
status=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH

ok() { echo "ok dialect: $1"; }
bad() { echo "FAIL dialect: $1"; sed 's/^/    /' "$work/log" | tail -40; status=1; }
does() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
# run NAME COMMAND...: in an empty directory on disk that everybody may search.
run() {
	local name=$1 dir
	shift
	dir=$(mktemp -d -p "$work")
	chmod 755 "$dir"
	if (cd "$dir" && env "$@") >"$work/log" 2>&1 </dev/null && ! grep -qE 'no version information|symbol lookup error' "$work/log"
	then ok "$name"; else bad "$name"; fi
	grep '^skip' "$work/log"
	chmod -R u+rwX "$dir" 2>/dev/null
	rm -rf "$dir"
}
compile() { # compile OUT SOURCE FLAGS...
	local out=$1 source=$2
	shift 2
	$cc -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -I"$root/include" -I../contract "$@" -o "$out" "$source" "${with[@]}" \
		-lpthread
}
# Users that are nobody have to get at it.
chmod 755 "$work"

with=(-L"$lib" -lpmemset)
for source in *.c; do
	name=${source%.c}
	api=112
	[ "$name" = mixed ] && api=111
	does "$name compiles" compile "$work/$name" "$source" -DPMEMSET_API_VERSION=$api
	run "$name" LD_LIBRARY_PATH="$lib" timeout 300 "$work/$name"
done
while read -r name; do
	for how in "" -DT_OBSERVED; do
		does "$name for 1.12 compiles $how" compile "$work/$name" "../contract/$name.c" -DPMEMSET_API_VERSION=112 $how
		run "$name for 1.12 $how" LD_LIBRARY_PATH="$lib" timeout 300 "$work/$name"
	done
done <same.list

# As existing binaries of 1.12: linked against something else of this name and version, which is gone.
mkdir "$work/stub"
stubbed="map removal"
sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/int \1(void); int \1(void) { __builtin_trap(); }/p' "$root/libpmemset.map" |
	grep -vE 'pmemset_(part_new|part_delete|part_map)\(' >"$work/stub/stub.c"
grep -vE '	pmemset_(part_new|part_delete|part_map);' "$root/libpmemset.map" >"$work/stub/stub.map"
does "a stub of 1.12" $cc -shared -fPIC -o "$work/stub/libpmemset.so.1" "$work/stub/stub.c" -Wl,-soname,libpmemset.so.1 \
	-Wl,--version-script="$work/stub/stub.map"
with=("$work/stub/libpmemset.so.1")
for name in $stubbed; do
	does "$name compiles for the stub" compile "$work/$name.stub" $name.c -DPMEMSET_API_VERSION=112
done
rm "$work/stub/libpmemset.so.1"
for name in $stubbed; do
	run "$name, linked to the stub, preloaded" LD_PRELOAD="$lib/libpmemset.so.1" timeout 300 "$work/$name.stub"
	run "$name, linked to the stub, found in its place" LD_LIBRARY_PATH="$lib" timeout 300 "$work/$name.stub"
done

# Memory, too.
with=(-L"$lib" -lpmemset)
if command -v valgrind >/dev/null; then
	for name in $stubbed; do
		run "$name under valgrind" LD_LIBRARY_PATH="$lib" T_VALGRIND=1 timeout 600 valgrind -q --error-exitcode=98 --leak-check=full \
			--errors-for-leak-kinds=definite "$work/$name"
	done
fi
exit $status
