#!/bin/bash
# Adds to a tree the shared libraries that the programs and libraries in its bin and t need. All go to one directory, with
# the loader where programs expect it.
set -euo pipefail
tree=$1
mkdir -p "$tree/lib64"
{ find "$tree/bin" "$tree/t" -type f -perm -u+x 2>/dev/null || true; } | while read -r file; do
	ldd "$file" 2>/dev/null || true
done | sort -u | while read -r name arrow path _; do
	case $name in
	libpmemset.so.1) continue ;;
	/*) path=$name ;;
	*) [ "$arrow" = '=>' ] || continue ;;
	esac
	[ "$path" != not ] || { echo "guest: there is no $name" >&2; exit 1; }
	[ -e "$tree/lib64/${path##*/}" ] || cp -L "$path" "$tree/lib64/"
done
