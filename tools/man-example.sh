#!/bin/sh
# Compile and run the program in the EXAMPLES section of a man page, exactly as the page prints it.
#
#     tools/man-example.sh [PAGE]      default: man/pmemset_part_map.3
#
# The library is found through pkg-config, so PKG_CONFIG_PATH chooses which; CC and CFLAGS are obeyed.
# The program gets the names of two files that do not exist and must leave its text across both of them.
set -u

page=${1:-$(dirname "$0")/../man/pmemset_part_map.3}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $page: $1" >&2
    exit 1
}

# Between .EX and .EE of EXAMPLES, with roff's escapes undone. An escape that is not known here is an error,
# lest the program that is tested differ from the one that is read.
awk '/^\.SH/ { inside = ($2 == "EXAMPLES") } /^\.EE/ { code = 0 } inside && code { print } /^\.EX/ { code = 1 }' "$page" |
    sed -e 's/^\\&//' -e 's/\\-/-/g' -e "s/\\\\(aq/'/g" -e 's/\\e/\\/g' >"$work/example.c" || fail "cannot be read"
grep -q 'main(' "$work/example.c" || fail "no program in its EXAMPLES"
awk '/^\.EX/ { code = 1 } /^\.EE/ { code = 0 } code' "$page" | sed -e 's/\\e//g' -e 's/\\-//g' -e 's/\\(aq//g' -e 's/^\\&//' |
    grep -q '\\' && fail "an escape in its EXAMPLES that this test does not know"

flags=$(pkg-config --cflags --libs libpmemset) || fail "pkg-config does not know libpmemset"
# shellcheck disable=SC2086
${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror ${CFLAGS:-} -o "$work/example" "$work/example.c" $flags ||
    fail "its example does not compile"

# A library outside the loader's own directories is found where the linker found it.
for flag in $(pkg-config --libs-only-L libpmemset); do
    LD_LIBRARY_PATH=${flag#-L}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"

(cd "$work" && ./example one two >out) || fail "its example does not run"
cat "$work/out"
[ -s "$work/out" ] || fail "its example prints nothing"
cat "$work/one" "$work/two" | tr -d '\000' | grep -q 'over the boundary' ||
    fail "its example did not write what it says"
[ -s "$work/one" ] && [ -s "$work/two" ] || fail "its example left a file empty"
echo "pass: the example of $page compiles and runs"
