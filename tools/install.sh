#!/bin/bash
# install.sh install|uninstall, called by make with the environment OUT (the directory of what is
# built), REAL, SONAME, PREFIX, LIBDIR, INCLUDEDIR, MANDIR, DATADIR, DESTDIR and INSTALL. Builds nothing and
# writes nothing beside what is installed: root may have neither cargo nor business in the build
# directory.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '%s\n' "$*"; }
die() { say "make $what: $*" >&2; exit 1; }
what=${1-}

for name in PREFIX LIBDIR INCLUDEDIR MANDIR DATADIR; do
	dir=${!name}
	case $dir in
	/*) ;;
	'') die "$name is empty" ;;
	*) [ -z "$DESTDIR" ] || die "$name is not absolute: $dir"; dir=$PWD/$dir ;;
	esac
	# They stand in the pkg-config file, where these mean something.
	case $dir in *[\"\$\#\\]* | *$'\n'*) die "$name has a character that pkg-config cannot take: $dir" ;; esac
	printf -v "$name" %s "$dir"
done
export DESTDIR MANDIR
lib=$DESTDIR$LIBDIR

# Where the archive, the header and the pkg-config file go; the shared object has links.
files=("$OUT/libpmemset.a|$LIBDIR" "include/libpmemset.h|$INCLUDEDIR")
for file in tools/suppressions/*.supp; do files+=("$file|$DATADIR/libpmemset"); done

# A directory in terms of prefix, where it is below it.
below() { case $1 in "$PREFIX"/*) say "\${prefix}${1#"$PREFIX"}" ;; *) say "$1" ;; esac; }

# What a program that is linked with the library needs to start.
hint() {
	local dirs
	[ -z "$DESTDIR" ] || return 0
	PATH=$PATH:/sbin:/usr/sbin
	if ldconfig -p 2>/dev/null | sed -n "s/^[[:space:]]*$SONAME .* => //p" | grep -xF "$LIBDIR/$SONAME" >/dev/null; then
		return 0
	fi
	dirs=$(ldconfig -v -N -X 2>/dev/null | sed -n 's,^\(/[^:]*\):.*,\1,p' | xargs -r -d '\n' realpath -m -- || true)
	if grep -xF "$(realpath -m -- "$LIBDIR")" <<<"$dirs" >/dev/null; then
		say "Now run ldconfig, as root: only then the loader finds $SONAME in $LIBDIR."
	else
		say "The loader does not look into $LIBDIR by itself: name it in /etc/ld.so.conf.d and run ldconfig, or set" \
			"LD_LIBRARY_PATH, or link programs with -Wl,-rpath."
	fi
}

install_() {
	local entry file dir pc version
	[ -e "$OUT/$REAL" ] && [ -e "$OUT/libpmemset.a" ] ||
		die "nothing is built in $OUT: run make first (and say CARGO_TARGET_DIR here too, if it was set there)"
	version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
	say "libpmemset $version${DESTDIR:+, below $DESTDIR}:"

	# INSTALL may have options of its own.
	# shellcheck disable=SC2086
	{
		$INSTALL -d "$lib/pkgconfig" "$DESTDIR$INCLUDEDIR" "$DESTDIR$DATADIR/libpmemset"
		$INSTALL -m 755 "$OUT/$REAL" "$lib/$REAL"
		ln -sf "$REAL" "$lib/$SONAME"
		ln -sf "$SONAME" "$lib/libpmemset.so"
		say "  $LIBDIR/$REAL, $SONAME, libpmemset.so"
		for entry in "${files[@]}"; do
			file=${entry%%|*} dir=${entry#*|}
			$INSTALL -m 644 "$file" "$DESTDIR$dir/${file##*/}"
			say "  $dir/${file##*/}"
		done
	}
	pc=$(cat libpmemset.pc.in)
	pc=${pc//@PREFIX@/"$PREFIX"}
	pc=${pc//@LIBDIR@/"$(below "$LIBDIR")"}
	pc=${pc//@INCLUDEDIR@/"$(below "$INCLUDEDIR")"}
	pc=${pc//@VERSION@/"$version"}
	say "$pc" >"$lib/pkgconfig/libpmemset.pc"
	chmod 644 "$lib/pkgconfig/libpmemset.pc"
	say "  $LIBDIR/pkgconfig/libpmemset.pc"
	tools/man.sh install
	say "  $MANDIR/man3, man7: $(tools/man.sh names | wc -l) pages, under $(tools/man.sh names | wc -w) names"
	hint
}

# prune DIR STOP: DIR and those above it, up to STOP and without it, as long as they are empty.
prune() {
	local dir=$1
	while [ "${dir#"$2"/}" != "$dir" ] && rmdir -- "$dir" 2>/dev/null; do
		dir=${dir%/*}
	done
}

uninstall_() {
	local entry file dir
	rm -f "$lib/$REAL" "$lib/$SONAME" "$lib/libpmemset.so" "$lib/pkgconfig/libpmemset.pc"
	for entry in "${files[@]}"; do
		file=${entry%%|*} dir=${entry#*|}
		rm -f "$DESTDIR$dir/${file##*/}"
	done
	tools/man.sh uninstall
	for dir in "$LIBDIR/pkgconfig" "$MANDIR/man3" "$MANDIR/man7" "$DATADIR/libpmemset"; do
		rmdir -- "$DESTDIR$dir" 2>/dev/null || true
	done
	# Who named a PREFIX keeps it, and systems have directories of their own in these two.
	for dir in "$LIBDIR" "$INCLUDEDIR" "$MANDIR" "$DATADIR"; do
		case $DESTDIR:$PREFIX in
		:/usr | :/usr/local) ;;
		:*) prune "$dir" "$PREFIX" ;;
		*) prune "$DESTDIR$dir" "${DESTDIR%/}" ;;
		esac
	done
	say "libpmemset is gone from $LIBDIR, $INCLUDEDIR and $MANDIR${DESTDIR:+, below $DESTDIR}."
}

case $what in
install) install_ ;;
uninstall) uninstall_ ;;
*) say "usage: $0 install|uninstall" >&2; exit 1 ;;
esac
