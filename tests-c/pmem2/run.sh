#!/bin/bash
# The library beside the real libpmem2: linked with it, preloaded before it, under valgrind, with a libpmem2 that is
# loaded late for somebody alone, and with one that is linked in statically.
# Prints one line for each test, "ok NAME" or "FAIL NAME"; tools/check.sh counts them. The library in the cargo
# target directory must be up to date (`make`).
set -uo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
# On disk rather than in /tmp, which may be in memory.
mkdir -p "$target"
work=$(mktemp -d -p "$target")
trap 'rm -rf "$work"' EXIT
cc=${CC:-cc}
flags="-std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -I$root/include -I$root/tests-c/contract"
lib=$target/lib
status=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE

ok() { echo "ok pmem2: $1"; }
bad() { echo "FAIL pmem2: $1"; sed 's/^/    /' "$work/log" 2>/dev/null | tail -40; status=1; }
does() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
# run NAME COMMAND...: in an empty directory; the loader has nothing to say.
run() {
	local name=$1
	shift
	mkdir "$work/run"
	(
		cd "$work/run" || exit 1
		env "$@" >../log 2>&1
		rc=$?
		! grep -E 'no version information|symbol lookup error|cannot be preloaded' ../log && exit $rc
	) && ok "$name" || bad "$name"
	rm -rf "$work/run"
}

pmem2=$(printf 'int main(void) { return 0; }\n' | $cc -x c -o "$work/where" - -Wl,--no-as-needed -lpmem2 2>"$work/log" &&
	ldd "$work/where" | sed -n 's/.*libpmem2\.so\.1 => \([^ ]*\) .*/\1/p')
if [ -z "$pmem2" ]; then
	bad "there is a libpmem2 to test against"
	exit 1
fi

# A stand-in to link against, as existing binaries were linked with the original.
sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/int \1(void); int \1(void) { __builtin_trap(); }/p' "$root/libpmemset.map" >"$work/stub.c"
mkdir "$work/stub"
does "a stub" $cc -shared -fPIC -o "$work/stub/libpmemset.so.1" "$work/stub.c" -Wl,-soname,libpmemset.so.1 \
	-Wl,--version-script="$root/libpmemset.map"

for name in sources reservation threads direct; do
	# shellcheck disable=SC2086
	does "$name compiles" $cc $flags -o "$work/$name" $name.c -L"$lib" -lpmemset -lpmem2 -lpthread -ldl
	run "$name, linked" LD_LIBRARY_PATH="$lib" timeout 300 "$work/$name"
	run "$name, preloaded before libpmem2" LD_PRELOAD="$lib/libpmemset.so.1:$pmem2" timeout 300 "$work/$name"
	# shellcheck disable=SC2086
	does "$name compiles for the stub" $cc $flags -o "$work/$name.stub" $name.c "$work/stub/libpmemset.so.1" -lpmem2 -lpthread -ldl
	run "$name, linked with another and preloaded" LD_PRELOAD="$lib/libpmemset.so.1" timeout 300 "$work/$name.stub"
	run "$name, under valgrind" LD_LIBRARY_PATH="$lib" T_VALGRIND=1 timeout 600 valgrind -q --error-exitcode=98 \
		--leak-check=full --errors-for-leak-kinds=definite --trace-children=no "$work/$name"
done
# Removal that is told takes another way.
# shellcheck disable=SC2086
does "threads for 1.12 with observers compiles" $cc $flags -DPMEMSET_API_VERSION=112 -DT_OBSERVED -o "$work/told" threads.c -L"$lib" \
	-lpmemset -lpmem2 -lpthread -ldl
run "threads for 1.12 with observers" LD_LIBRARY_PATH="$lib" timeout 300 "$work/told"

# shellcheck disable=SC2086
does "local compiles" $cc $flags -o "$work/local" local.c -L"$lib" -lpmemset -ldl -lpthread
run "libpmem2 comes late, by its name" LD_LIBRARY_PATH="$lib" timeout 60 "$work/local" libpmem2.so.1
mkdir "$work/other"
cp "$pmem2" "$work/other/renamed.so"
run "libpmem2 comes late, as a file of another name" LD_LIBRARY_PATH="$lib" timeout 60 "$work/local" "$work/other/renamed.so"
sed 's/libpmem2\.so\.1/libother.so.1/g' "$pmem2" >"$work/other/libother.so.1"
run "libpmem2 comes late, under another SONAME" LD_LIBRARY_PATH="$lib" timeout 60 "$work/local" "$work/other/libother.so.1"
printf 'int plugin(void); int plugin(void) { return 0; }\n' >"$work/plugin.c"
does "a plugin that needs libpmem2" $cc -shared -fPIC -o "$work/plugin.so" "$work/plugin.c" -Wl,--no-as-needed -lpmem2
run "libpmem2 comes late, with a plugin" LD_LIBRARY_PATH="$lib" timeout 60 "$work/local" "$work/plugin.so"

# Both statically; what libpmem2 itself needs comes as shared objects.
needs=$(ldd "$pmem2" | sed -n 's/.* => \(.*lib\(ndctl\|daxctl\)[^ ]*\) .*/\1/p')
archive=${pmem2%/*}/libpmem2.a
if [ -e "$archive" ]; then
	for name in sources reservation; do
		# shellcheck disable=SC2086
		does "$name links both archives" $cc $flags -o "$work/$name.static" $name.c "$lib/libpmemset.a" "$archive" $needs \
			-lpthread -ldl -lm
		run "$name, both linked in" timeout 300 "$work/$name.static"
		# shellcheck disable=SC2086
		does "$name links the archive of libpmem2" $cc $flags -o "$work/$name.half" $name.c -L"$lib" -lpmemset "$archive" $needs \
			-lpthread -ldl -lm
		run "$name, libpmem2 linked in" LD_LIBRARY_PATH="$lib" timeout 300 "$work/$name.half"
	done
fi
exit $status
