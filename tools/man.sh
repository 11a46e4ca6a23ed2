#!/bin/bash
# man.sh install|uninstall|names: the man pages under DESTDIR and MANDIR, with a link for every further name
# that a page's NAME section gives. `names` prints "page link..." for each page.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob

# The names before the dash in NAME, in man(7) or mdoc(7).
names() {
	awk '
		/^\.S[Hh] "?NAME"?$/ { on = 1; next }
		on && /^\.S[Hh]/ { exit }
		!on { next }
		/^\.Nd/ { exit }
		/^\.Nm/ { sub(/^\.Nm +/, ""); gsub(/[ ,]+/, "\n"); print; next }
		/^\./ && !/^\.(BR?|I|RB|BI) / { next }
		{
			stop = sub(/ *\\-.*| +- .*| *\\\(e[nm].*/, "")
			gsub(/\\f.|^\.[BIR]+ |"/, ""); gsub(/[ ,]+/, "\n"); print
			if (stop) exit
		}
	' "$1" | grep -E '^[A-Za-z_][A-Za-z0-9_]*$' || true
}

for page in man/*.[37]; do
	sec=${page##*.}
	main=$(basename "$page" ".$sec")
	dir=${DESTDIR-}${MANDIR-}/man$sec
	mapfile -t alias < <(names "$page" | grep -vx "$main" || true)
	case $1 in
	install)
		install -d "$dir"
		install -m 644 "$page" "$dir/$main.$sec"
		for a in ${alias[@]+"${alias[@]}"}; do
			# A page of its own wins over a link.
			[ -e "man/$a.$sec" ] || ln -sf "$main.$sec" "$dir/$a.$sec"
		done
		;;
	uninstall)
		rm -f "$dir/$main.$sec"
		for a in ${alias[@]+"${alias[@]}"}; do
			rm -f "$dir/$a.$sec"
		done
		;;
	names)
		echo "$main.$sec ${alias[*]-}"
		;;
	*)
		echo "usage: $0 install|uninstall|names" >&2
		exit 1
		;;
	esac
done
