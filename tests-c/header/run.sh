#!/bin/bash
# The header in every dialect of C and C++ that it promises, with libpmem2.h and without it.
# Prints one line for each test, "ok NAME" or "FAIL NAME"; tools/check.sh counts them.
set -uo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc=${CC:-cc}
cxx=${CXX:-c++}
warn="-pedantic -Wall -Wextra -Werror"
status=0

ok() { echo "ok header: $1"; }
bad() { echo "FAIL header: $1"; sed 's/^/    /' "$work/log" 2>/dev/null | head -20; status=1; }
compiles() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
refused() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then bad "$name"; else ok "$name"; fi; }

# The system's headers as they are where libpmem2 is not installed.
without="-nostdinc"
mkdir "$work/system"
n=0
while read -r dir; do
	n=$((n + 1))
	mkdir "$work/system/$n"
	find "$dir" -mindepth 1 -maxdepth 1 ! -name 'libpmem2*' -exec ln -s -t "$work/system/$n" {} +
	without="$without -isystem $work/system/$n"
done < <($cc -E -v -x c /dev/null 2>&1 | sed -n '/^#include </,/^End/s/^ //p')
if printf '#include <libpmem2.h>\n' | $cc $without -fsyntax-only -x c - 2>/dev/null; then
	echo "libpmem2.h is still visible" >"$work/log"; bad "a place without libpmem2.h"
fi
if ! printf '#include <libpmem2.h>\n' | $cc -fsyntax-only -x c - 2>"$work/log"; then
	bad "a place with libpmem2.h"
fi

for place in with without; do
for api in 111 112; do
	inc="-I$root/include -DPMEMSET_API_VERSION=$api"
	[ $place = without ] && inc="$inc $without"
	for std in c99 c11 c17; do
		compiles "$std $place libpmem2.h, api $api" $cc -std=$std $warn $inc -fsyntax-only contract.c
	done
	compiles "alone $place libpmem2.h, api $api" $cc -std=c99 $warn -Wmissing-prototypes -Wshadow -Wundef -Wconversion $inc \
		-fsyntax-only alone.c
	for std in c++11 c++14 c++17 c++20; do
		cxxinc=$inc
		[ $place = without ] && cxxinc="$inc -nostdinc++"
		compiles "$std $place libpmem2.h, api $api" $cxx -std=$std $warn $cxxinc -fsyntax-only contract.cc
	done
done
done
compiles "a libpmem2.h of the program's own, first" $cc -std=c99 $warn -I"$root/include" $without -fsyntax-only pmem2_first.c
compiles "api version 111 by default" $cc -std=c99 $warn -I"$root/include" -fsyntax-only contract.c
compiles "api version 111 by default, C++" $cxx -std=c++20 $warn -I"$root/include" -fsyntax-only contract.cc
echo 'int (*f)(struct pmemset_part **) = pmemset_part_delete;' >"$work/111.c"
echo 'int (*f)(struct pmemset_source *, struct pmemset_sds *, enum pmemset_part_state *) = pmemset_source_set_sds;' >"$work/112.c"
for api in 111 112; do
	for names in 111 112; do
		check=compiles
		[ $api = $names ] || check=refused
		$check "api $api with a name of $names alone" $cc -DPMEMSET_API_VERSION=$api -Werror -I"$root/include" -include libpmemset.h \
			-fsyntax-only "$work/$names.c"
	done
done
refused "an api version that does not exist" $cc -DPMEMSET_API_VERSION=113 -std=c99 -I"$root/include" -fsyntax-only contract.c
refused "a wrong argument of pmemset_perror" $cc -std=c99 -Wall -Werror -I"$root/include" -fsyntax-only format.c

# Functions declared: those of the version script and no other.
grep -oE '\bpmemset_[a-z0-9_]+\(' "$root/include/libpmemset.h" | tr -d '(' | grep -v '^pmemset_event_callback$' | sort -u >"$work/declared"
# Names in comments count only if they exist; a declaration starts with a type at the start of a line.
grep -E '^(int|void|const char|struct pmemset_part_descriptor) ' "$root/include/libpmemset.h" |
	grep -oE 'pmemset_[a-z0-9_]+\(' | tr -d '(' | sort -u >"$work/prototypes"
sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/\1/p' "$root/libpmemset.map" | sort >"$work/map"
compiles "declares what the version script exports" diff "$work/prototypes" "$work/map"
compiles "mentions no function that does not exist" diff "$work/declared" "$work/map"

# The test itself can fail: a header with one wrong value, one wrong type, one missing function.
mkdir "$work/wrong"
for edit in 's/(-200017)/(-200018)/' 's/size_t len, unsigned int flags/size_t len, int flags/' '/^int pmemset_drain/d' \
	's/char _data\[.*\]/char _data[72]/'; do
	sed "$edit" "$root/include/libpmemset.h" >"$work/wrong/libpmemset.h"
	if cmp -s "$work/wrong/libpmemset.h" "$root/include/libpmemset.h"; then
		echo "the edit changes nothing" >"$work/log"; bad "notices $edit"
		continue
	fi
	for api in 111 112; do
		refused "notices $edit in C, api $api" $cc -DPMEMSET_API_VERSION=$api -std=c99 $warn -I"$work/wrong" -fsyntax-only contract.c
		refused "notices $edit in C++, api $api" $cxx -DPMEMSET_API_VERSION=$api -std=c++11 $warn -I"$work/wrong" -fsyntax-only contract.cc
	done
done
exit $status
