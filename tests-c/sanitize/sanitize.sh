#!/bin/bash
# The race detectors that users run over their programs, with the suppression files that `make install` installs: a
# program without a race is quiet, and races of a program's own are still reported. ThreadSanitizer of gcc and of clang,
# valgrind's helgrind and DRD. What is missing is installed where that is possible, else left out with the reason.
#
# Prints one line for each test, "ok NAME" or "FAIL NAME"; tools/check.sh counts them. SANITIZE="gcc clang helgrind drd" picks some.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
work=$target/check/sanitize
prefix=$work/prefix
failed=0
ran=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH TSAN_OPTIONS VALGRIND_OPTS PMEM2_FORCE_GRANULARITY MAKEFLAGS MAKELEVEL PREFIX LIBDIR INCLUDEDIR \
	MANDIR DATADIR DESTDIR

ok() { echo "ok sanitize: $1"; ran=1; }
bad() { echo "FAIL sanitize: $1"; sed 's/^/    /' "${2:-$work/log}" | head -60; failed=1; ran=1; }
leave_out() { echo "skip sanitize: $1: $2"; }
have() { command -v "$1" >/dev/null 2>&1; }

rm -rf "$work"
mkdir -p "$work/stripped" "$work/run" || exit 1
if ! make -s install PREFIX="$prefix" >"$work/log" 2>&1; then
	bad "make install"
	exit 1
fi
suppressions=$prefix/share/libpmemset
# As distributions ship it: names of what is not exported are gone.
strip -s -o "$work/stripped/libpmemset.so.1" "$prefix/lib/libpmemset.so.1" || exit 1

# compile CC OUT FLAGS...
compile() {
	local cc=$1 out=$2
	shift 2
	"$cc" -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -I"$prefix/include" -Itests-c/contract "$@" -o "$out" \
		tests-c/sanitize/threads.c -L"$prefix/lib" -lpmemset -lpthread
}

# watch LIBRARY-DIRECTORY WHAT COMMAND...: what was reported is in $work/log.
watch() {
	local lib=$1
	shift
	(cd "$work/run" && env LD_LIBRARY_PATH="$lib" timeout 250 "$@") >"$work/log" 2>&1 </dev/null
}

# judge NAME SIGN COMMAND...: a command that takes what the program is to do. SIGN is what its reports say.
judge() {
	local name=$1 sign=$2 lib what rc
	shift 2
	for lib in "$prefix/lib" "$work/stripped"; do
		what="$name: nothing of the library$([ "$lib" = "$prefix/lib" ] || echo ", stripped")"
		watch "$lib" "$@" quiet
		rc=$?
		if [ $rc -eq 0 ] && ! [ -s "$work/log" ]; then ok "$what"; else bad "$what (exit status $rc)"; fi
	done
	for what in own mapped callback found; do
		watch "$work/stripped" "$@" $what
		rc=$?
		if [ $rc -eq 66 ] && grep -q "$sign" "$work/log" && grep -q 'racing' "$work/log"; then
			ok "$name: a race of the program is reported ($what)"
		else
			bad "$name: a race of the program is not reported ($what; exit status $rc)"
		fi
	done
}

thread_sanitizer() {
	local cc=$1 program=$work/$1
	printf 'int main(void) { return 0; }\n' >"$work/empty.c"
	if ! "$cc" -fsanitize=thread -o "$work/empty" "$work/empty.c" 2>"$work/log"; then
		leave_out "$cc" "it has no ThreadSanitizer"
		return
	fi
	if ! "$work/empty" >"$work/log" 2>&1; then
		leave_out "$cc" "ThreadSanitizer does not start here ($(head -1 "$work/log"))"
		return
	fi
	if ! compile "$cc" "$program" -fsanitize=thread 2>"$work/log"; then
		bad "$cc: compile"
		return
	fi
	# What is quiet with the file must not be so without it.
	watch "$prefix/lib" env TSAN_OPTIONS="exitcode=66" "$program" quiet
	if grep -q 'libpmemset.so' "$work/log"; then
		ok "$cc: the suppressions are needed"
	else
		bad "$cc: nothing is reported without the suppressions"
	fi
	judge "$cc" 'ThreadSanitizer: data race' env TSAN_OPTIONS="exitcode=66 suppressions=$suppressions/tsan.supp" "$program"
}

valgrind_tool() {
	local tool=$1 sign=$2
	if ! valgrind -q "--tool=$tool" true >"$work/log" 2>&1; then
		leave_out "$tool" "valgrind does not start here"
		return
	fi
	if [ ! -x "$work/plain" ] && ! compile "${CC:-cc}" "$work/plain" 2>"$work/log"; then
		bad "$tool: compile"
		return
	fi
	judge "$tool" "$sign" env T_VALGRIND=1 PMEM2_FORCE_GRANULARITY=BYTE valgrind -q "--tool=$tool" --error-exitcode=66 \
		"--suppressions=$suppressions/valgrind.supp" "$work/plain"
	watch "$prefix/lib" env T_VALGRIND=1 PMEM2_FORCE_GRANULARITY=BYTE valgrind -q "--tool=$tool" "$work/plain" quiet
	if grep -q 'libpmemset.so' "$work/log"; then
		ok "$tool: the suppressions are needed"
	else
		bad "$tool: nothing is reported without the suppressions"
	fi
}

for detector in ${SANITIZE:-gcc clang helgrind drd}; do
	case $detector in
	gcc) if have gcc; then thread_sanitizer gcc; else leave_out gcc "it is not installed"; fi ;;
	clang)
		if ! have clang && [ "$(id -u)" = 0 ] && have apt-get; then
			# The sanitizers' libraries are recommended by clang, and named by its version.
			(export DEBIAN_FRONTEND=noninteractive
				apt-get update -q && apt-get install -q -y --no-install-recommends clang &&
					apt-get install -q -y --no-install-recommends "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev") \
				</dev/null >"$work/apt" 2>&1
		fi
		if have clang; then thread_sanitizer clang; else leave_out clang "it is not installed"; fi
		;;
	helgrind) valgrind_tool helgrind 'Possible data race' ;;
	drd) valgrind_tool drd 'Conflicting' ;;
	*) echo "$0: unknown: $detector" >&2; exit 1 ;;
	esac
done
[ $ran -eq 1 ] || exit 77
exit $failed
