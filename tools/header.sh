#!/bin/bash
# Makes include/libpmemset.h; with --check, only says whether the committed one is what would be made.
#
# cbindgen reads one file with the modules of the C interface in a fixed order, so that the order of the
# header does not depend on file names, and constants elsewhere in the crate stay out of it. What
# cbindgen cannot say is mended afterwards: parentheses around negative numbers, comments on one line, and
# the union inside struct pmemset_event_context, which has no name of its own in C. The two releases of the
# interface are two calls of `body`: lines of cbindgen.toml that end in the number of one are not read for the
# other, and neither is src/capi/types_NUMBER.rs. What cbindgen cannot make stands in tools/header.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

out=include/libpmemset.h
modules="config set source map_config part part_map badblock persist mem error"
cbindgen=$(tools/cbindgen.sh)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# gather RELEASE FILE: the sources of the interface as one file.
gather() {
	{
		echo "mod codes {"; cat src/codes.rs; echo "}"
		echo "mod types {"; cat src/capi/types.rs; echo "}"
		echo "mod types_release {"; cat "src/capi/types_$1.rs"; echo "}"
		for m in $modules; do
			echo "mod $m {"; cat "src/capi/$m.rs"; echo "}"
		done
	} >"$2"
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

# body RELEASE OTHER: what cbindgen makes of the interface of a release, mended.
body() {
	gather "$1" "$tmp/interface.rs"
	sed "/# $2\$/d" cbindgen.toml >"$tmp/config.toml"
	"$cbindgen" --quiet --lang c --config "$tmp/config.toml" "$tmp/interface.rs" >"$tmp/raw.h"
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

body 112 111 >"$tmp/112.h"
body 111 112 >"$tmp/111.h"
{
	cat tools/header/begin.h
	echo
	echo "#if PMEMSET_API_VERSION == 112"
	echo
	cat tools/header/112.h "$tmp/112.h"
	echo
	echo "#else /* PMEMSET_API_VERSION == 111 */"
	echo
	cat "$tmp/111.h"
	echo
	echo "#endif"
	echo
	cat tools/header/end.h
} | cat -s >"$tmp/libpmemset.h"
foreign=$(grep -E '^#define ' "$tmp/libpmemset.h" | grep -vE '^#define (LIBPMEMSET_H 1|PMEMSET_[A-Z0-9_]+(\([a-z]*\))? |FILE_CREATE_MODE_FROM_FLAG\()' || true)
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
