#!/bin/bash
# Every test. A failure does not stop the others; the last line is "N passed, N failed".
#
# Found by convention: Rust tests; tests-c/*/run.sh, which print "ok NAME" and "FAIL NAME"; tests-c/contract/*.c, one
# program each, run in every way that a program comes to this library; the pages in man/; fuzz/smoke.sh.
#     tests-c/contract/valgrind.list   programs that also run under valgrind, one name (without .c) on a line
#     tests-c/contract/once.list       programs that are too slow to run more than once
#     tests-c/contract/NAME.libs       further linker flags of NAME.c
# CHECK="fmt clippy rust ..." picks some of the steps listed at the end.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
work=$target/check
stage=$work/prefix
warn="-Wall -Wextra -Werror"
cc=${CC:-cc}
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH MAKEFLAGS MAKELEVEL MFLAGS PREFIX LIBDIR INCLUDEDIR MANDIR DATADIR DESTDIR
# The tests say themselves what they want of these.
unset PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE PMEM_NO_CLWB PMEM_NO_CLFLUSHOPT \
	PMEM_NO_MOVNT PMEM_MOVNT_THRESHOLD

rm -rf "$work"
mkdir -p "$work" || exit 1
passed=0
failed=0
failures=()

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); failures+=("$1"); echo "FAIL $1"; }
title() { echo; echo "== $1 (at ${SECONDS} s)"; }
# try NAME COMMAND...: quiet when it passes.
try() {
	local name=$1
	shift
	if "$@" >"$work/log" 2>&1 </dev/null; then
		pass
		echo "ok $name"
	else
		local rc=$?
		fail "$name (exit status $rc)"
		tail -40 "$work/log" | sed 's/^/    /'
	fi
}
# Lines "ok ..." and "FAIL ..." of a script, counted; a script that dies otherwise is a failure of its own. Exit status 77:
# it cannot run here, and its last line says why.
script() {
	local name=$1 rc line bad=0
	shift
	"$@" >"$work/script" 2>&1 </dev/null
	rc=$?
	while IFS= read -r line; do
		case $line in
		"ok "*) pass ;;
		"FAIL "*) failed=$((failed + 1)); failures+=("${line#FAIL }"); bad=$((bad + 1)) ;;
		esac
	done <"$work/script"
	if [ $rc -eq 77 ] && [ $bad -eq 0 ]; then
		echo "skip $name: $(tail -1 "$work/script")"
	elif [ $bad -gt 0 ] || [ $rc -ne 0 ]; then
		cat "$work/script"
		[ $bad -gt 0 ] || fail "$name (exit status $rc)"
	else
		echo "ok $name ($(grep -c '^ok ' "$work/script") tests)"
	fi
}

step_fmt() { try "rustfmt" cargo fmt --check; }

step_clippy() {
	try "clippy" cargo clippy --locked --quiet --all-targets -- -D warnings
	try "rustdoc" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps
}

step_rust() {
	local rc p f
	cargo test --locked --quiet --no-fail-fast >"$work/rust" 2>&1 </dev/null
	rc=$?
	p=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$work/rust" | awk '{ n += $1 } END { print n + 0 }')
	f=$(sed -n 's/^test result: .*; \([0-9]*\) failed; .*/\1/p' "$work/rust" | awk '{ n += $1 } END { print n + 0 }')
	passed=$((passed + p))
	if [ $rc -ne 0 ]; then
		tail -80 "$work/rust" | sed 's/^/    /'
		while IFS= read -r line; do
			failures+=("rust: $line")
			echo "FAIL rust: $line"
		done < <(sed -n 's/^    \([a-z_:0-9A-Z]*\)$/\1/p' "$work/rust" | sort -u)
		failed=$((failed + f))
		# A test that does not compile, or that kills its process, is in no count.
		[ "$f" -gt 0 ] || fail "cargo test (exit status $rc)"
	else
		echo "ok rust ($p tests)"
	fi
}

step_build() {
	try "make" make --no-print-directory
	try "make install" make --no-print-directory install PREFIX="$stage"
}

step_header() {
	try "header drift" tools/header.sh --check
	script "header" tests-c/header/run.sh
}

step_scripts() {
	local s
	for s in tests-c/*/run.sh; do
		[ "$s" = tests-c/header/run.sh ] || script "$s" "$s"
	done
}

# Every exported name has a page or a link to one.
documented() {
	tools/man.sh names | tr ' ' '\n' | sed 's/\.[37]$//' | sort >"$work/documented"
	sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/\1/p' libpmemset.map | sort | comm -23 - "$work/documented" | tee "$work/undocumented"
	[ ! -s "$work/undocumented" ]
}

step_man() {
	local page
	try "every function has a man page" documented
	for page in man/*.[37]; do
		[ -e "$page" ] || continue
		try "mandoc -Tlint $page" mandoc -Tlint -W warning "$page"
		# Every page that shows a program has it compiled and run.
		if grep -q 'main(' "$page"; then
			try "the example of $page" env PKG_CONFIG_PATH="$stage/lib/pkgconfig" tools/man-example.sh "$page"
		fi
	done
}

step_examples() {
	local f name
	for f in examples/*.c; do
		[ -e "$f" ] || continue
		name=$(basename "$f" .c)
		try "$f compiles" $cc -std=c99 -pedantic $warn -I"$stage/include" -o "$work/$name" "$f" -L"$stage/lib" -lpmemset
		[ "$name" = demo ] && continue
		mkdir -p "$work/run"
		try "$f runs" sh -c "cd '$work/run' && LD_LIBRARY_PATH='$stage/lib' timeout 60 '$work/$name'"
		rm -rf "$work/run"
	done
	try "make demo" make --no-print-directory demo
}

# contract NAME HOW COMMAND...: one run in an empty directory on disk. The loader has nothing to say.
contract() {
	local name=$1 how=$2 dir
	shift 2
	dir=$(mktemp -d -p "$work")
	try "contract: $name $how" sh -c 'cd "$1" && shift && "$@" 2>err; rc=$?; cat err
		if grep -E "no version information|symbol lookup error|cannot be preloaded" err; then exit 99; fi
		exit $rc' sh "$dir" env "$@"
	grep '^skip' "$work/log"
	# Tests leave files that nobody may write.
	chmod -R u+rwX "$dir" 2>/dev/null
	rm -rf "$dir"
}

listed() { grep -qx "$1" "tests-c/contract/$2" 2>/dev/null; }

step_contract() {
	local f name libs stub=$work/stub
	mkdir -p "$stub" "$work/bin"
	sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/int \1(void); int \1(void) { __builtin_trap(); }/p' libpmemset.map >"$stub/stub.c"
	try "stub" $cc -shared -fPIC -o "$stub/libpmemset.so.1" "$stub/stub.c" -Wl,-soname,libpmemset.so.1 \
		-Wl,--version-script=libpmemset.map
	for f in tests-c/contract/*.c; do
		[ -e "$f" ] || continue
		name=$(basename "$f" .c)
		libs="$(cat "tests-c/contract/$name.libs" 2>/dev/null) -lpthread"
		# shellcheck disable=SC2086
		try "contract: $name compiles" $cc -std=gnu11 -D_GNU_SOURCE -O1 -g $warn -I"$stage/include" -Itests-c/contract \
			-o "$work/bin/$name" "$f" -L"$stage/lib" -lpmemset $libs
		[ -x "$work/bin/$name" ] || continue
		contract "$name" "linked" LD_LIBRARY_PATH="$stage/lib" timeout 300 "$work/bin/$name"
		listed "$name" once.list && continue
		# As an existing binary: linked against something else of this name and version, which is gone.
		# shellcheck disable=SC2086
		try "contract: $name compiles for the stub" $cc -std=gnu11 -D_GNU_SOURCE -O1 -g $warn -I"$stage/include" -Itests-c/contract \
			-o "$work/bin/$name.stub" "$f" "$stub/libpmemset.so.1" $libs
		[ -x "$work/bin/$name.stub" ] || continue
		mv "$stub/libpmemset.so.1" "$stub/away"
		contract "$name" "preloaded" timeout 300 env LD_PRELOAD="$stage/lib/libpmemset.so.1" "$work/bin/$name.stub"
		contract "$name" "found in place of the stub" LD_LIBRARY_PATH="$stage/lib" timeout 300 "$work/bin/$name.stub"
		mv "$stub/away" "$stub/libpmemset.so.1"
	done
}

step_valgrind() {
	local name
	[ -e tests-c/contract/valgrind.list ] || return
	while read -r name; do
		case $name in '' | '#'*) continue ;; esac
		if [ ! -x "$work/bin/$name" ]; then
			fail "valgrind: there is no program $name"
			continue
		fi
		contract "$name" "under valgrind" LD_LIBRARY_PATH="$stage/lib" T_VALGRIND=1 timeout 600 valgrind -q \
			--error-exitcode=98 --leak-check=full --errors-for-leak-kinds=definite --trace-children=no "$work/bin/$name"
	done <tests-c/contract/valgrind.list
}

step_loom() { script "loom" tests/loom.sh; }

step_miri() { script "miri" tests/miri.sh; }

step_tsan() { script "tsan" tests-c/tsan/tsan.sh; }

step_sanitize() { script "sanitize" tests-c/sanitize/sanitize.sh; }

step_cross() { script "cross" tests/cross.sh; }

step_guest() { script "guest" tests/guest/check.sh; }

step_fuzz() {
	[ -x fuzz/smoke.sh ] || return
	try "fuzz" fuzz/smoke.sh
}

title setup
if .ci/setup; then
	echo "ok setup"
	for step in ${CHECK:-fmt clippy rust build header scripts man examples contract valgrind fuzz loom miri tsan sanitize cross guest}; do
		title "$step"
		"step_$step"
	done
else
	fail "setup"
fi

echo
if [ $failed -gt 0 ]; then
	echo "== failures"
	printf '%s\n' "${failures[@]}"
	echo
fi
echo "$passed passed, $failed failed" | tee "$work/count"
[ $failed -eq 0 ]
