#!/bin/bash
# Makes include/libpmemset.h; with --check, only says whether the committed one is what would be made.
#
# cbindgen reads one file with the modules of the C interface in a fixed order, so that the order of the
# header does not depend on file names, and constants elsewhere in the crate stay out of it. What
# cbindgen cannot say is mended afterwards: parentheses around negative numbers, comments on one line, and
# the union inside struct pmemset_event_context, which has no name of its own in C. A second dialect of
# the interface is a second call of `body` with a configuration of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

out=include/libpmemset.h
modules="config set source part part_map persist mem error"
cbindgen=$(tools/cbindgen.sh)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# gather FILE: the sources of the interface as one file.
gather() {
	{
		echo "mod codes {"; cat src/codes.rs; echo "}"
		echo "mod types {"; cat src/capi/types.rs; echo "}"
		for m in $modules; do
			echo "mod $m {"; cat "src/capi/$m.rs"; echo "}"
		done
	} >"$1"
	# A function in a file that is not listed above would silently be missing.
	local stray
	stray=$(grep -rlE '^#\[unsafe\(no_mangle\)\]' src | sort)
	for m in $modules; do
		stray=$(grep -vx "src/capi/$m.rs" <<<"$stray" || true)
	done
	if [ -n "$stray" ]; then
		echo "header.sh: exported functions outside the listed modules: $stray" >&2
		return 1
	fi
}

# body CONFIG SOURCE: the header that cbindgen makes of it, mended.
body() {
	"$cbindgen" --quiet --lang c --config "$1" "$2" >"$tmp/raw.h"
	awk '
		# cbindgen writes a comment of one line as three.
		/^ *\/\*$/ { open = $0; next }
		open != "" && text == "" { text = $0; sub(/^ +/, "", text); next }
		open != "" && /^ *\*\/$/ {
			gsub(/[][`]/, "", text)
			held = open " " text " */"; open = text = ""
			if (union) { member[++n] = held; held = "" }
			next
		}
		/^union pmemset_event_context_data \{/ { union = 1; held = ""; next }
		union && /^\};/ { union = 0; swallow = 1; next }
		union { member[++n] = $0; next }
		swallow { swallow = 0; if ($0 == "") next }
		held != "" { print held; held = "" }
		/^ *union pmemset_event_context_data data;$/ {
			print "    union {"
			for (i = 1; i <= n; i++) print "    " member[i]
			print "    } data;"
			next
		}
		{ print }
	' "$tmp/raw.h" | sed -E \
		-e 's/^(#define PMEMSET_[A-Z0-9_]+) (-?[0-9]+)$/\1 (\2)/' \
		-e '/^ *\/?\*/!s/\* ([a-z])/*\1/g' \
		-e 's,^(#endif|\}) +// .*,\1,' \
		-e 's/[ \t]+$//' | cat -s
}

gather "$tmp/interface.rs"
body cbindgen.toml "$tmp/interface.rs" >"$tmp/libpmemset.h"
foreign=$(grep -E '^#define ' "$tmp/libpmemset.h" | grep -vE '^#define (LIBPMEMSET_H 1|PMEMSET_[A-Z0-9_]+ )' || true)
if [ -n "$foreign" ]; then
	echo "header.sh: a constant that is not the interface's: $foreign" >&2
	exit 1
fi
# Only the first line of a Rust doc comment gets here.
cut=$(grep -nE '^ */\* .*[^.] \*/$' "$tmp/libpmemset.h" | grep -v SPDX || true)
if [ -n "$cut" ]; then
	echo "header.sh: the first line of a doc comment is to be a whole sentence: $cut" >&2
	exit 1
fi

case ${1-} in
--check)
	if ! diff -u "$out" "$tmp/libpmemset.h"; then
		echo "header.sh: $out is stale: run make header and commit it" >&2
		exit 2
	fi
	;;
'')
	mkdir -p "$(dirname "$out")"
	if ! cmp -s "$tmp/libpmemset.h" "$out"; then
		cat "$tmp/libpmemset.h" >"$out"
	fi
	;;
*)
	echo "usage: $0 [--check]" >&2
	exit 1
	;;
esac
