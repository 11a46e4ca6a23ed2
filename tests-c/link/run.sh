#!/bin/bash
# The built library as the loader, the linker, pkg-config and the file system see it.
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
cxx=${CXX:-c++}
warn="-Wall -Wextra -Werror"
so=$target/lib/libpmemset.so.1.0.0
archive=$target/lib/libpmemset.a
status=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR MAKEFLAGS MAKELEVEL PREFIX \
	LIBDIR INCLUDEDIR MANDIR DATADIR DESTDIR

ok() { echo "ok link: $1"; }
bad() { echo "FAIL link: $1"; sed 's/^/    /' "$work/log" 2>/dev/null | head -20; status=1; }
does() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
doesnt() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then bad "$name"; else ok "$name"; fi; }

sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/\1/p' "$root/libpmemset.map" | sort >"$work/names"

# --- the files by themselves

exports() {
	nm -D --defined-only "$1" | awk '$2 != "A" { print $2, $3 }' | sort >"$work/exported"
	sed 's/.*/T &@@LIBPMEMSET_1.0/' "$work/names" | sort | diff - "$work/exported"
}
does "exports the names at LIBPMEMSET_1.0 and nothing else" exports "$so"
does "there are 34 of release 1.11 and 12 of 1.12" test "$(wc -l <"$work/names")" = 46

archive_names() { nm -g --defined-only "$archive" | awk 'NF == 3 { print $3 }' | sort | diff "$work/names" -; }
does "the archive defines the names and nothing else" archive_names
does "the archive holds one object" test "$(ar t "$archive" | wc -l)" = 1

needed() {
	readelf -d "$so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | tee /dev/stderr |
		diff - <(echo libc.so.6)
}
does "needs libc and nothing else" needed
dynamic() { readelf -dW "$so" | grep -E "$1"; }
does "its SONAME is libpmemset.so.1" dynamic '\(SONAME\).*\[libpmemset\.so\.1\]'
does "is never unloaded" dynamic 'FLAGS_1.*NODELETE'
does "binds at once" dynamic 'FLAGS_1.*NOW'
doesnt "has no text relocations" dynamic 'TEXTREL'
segment() { readelf -lW "$so" | grep -E "$1"; }
does "relocations are read-only" segment 'GNU_RELRO'
doesnt "has no executable stack" segment 'GNU_STACK.*E '
doesnt "has no segment both writable and executable" segment 'LOAD.*RWE'
places() { strings -a "$1" | grep -F -e "$root" -e "${CARGO_HOME:-$HOME/.cargo}" -e "${RUSTUP_HOME:-$HOME/.rustup}" -e "$target"; }
doesnt "the shared object names no place of this machine" places "$so"
doesnt "the archive names no place of this machine" places "$archive"
does "links: libpmemset.so" test "$(readlink "$target/lib/libpmemset.so")" = libpmemset.so.1
does "links: libpmemset.so.1" test "$(readlink "$target/lib/libpmemset.so.1")" = libpmemset.so.1.0.0
sizes="$(stat -c %s "$so") and $(stat -c %s "$archive")"
does "the shared object is below 1.5 MB, the archive below 3 MB (bytes: $sizes)" \
	test "$(stat -c %s "$so")" -lt 1500000 -a "$(stat -c %s "$archive")" -lt 3000000

# --- install and uninstall

dest=$work/dest
staged() { make -s -C "$root" "$1" DESTDIR="$dest" PREFIX=/opt/pm LIBDIR=/opt/pm/lib/arch INCLUDEDIR=/opt/pm/inc MANDIR=/opt/pm/man DATADIR=/opt/pm/data; }
listing() { (cd "$dest" && find . ! -type d | sort | while read -r f; do
	if [ -L "$f" ]; then echo "$f -> $(readlink "$f")"; else stat -c '%n %a' "$f"; fi; done) | sed 's,^\./,,'; }
expected() {
	echo "opt/pm/inc/libpmemset.h 644"
	echo "opt/pm/lib/arch/libpmemset.a 644"
	echo "opt/pm/lib/arch/libpmemset.so -> libpmemset.so.1"
	echo "opt/pm/lib/arch/libpmemset.so.1 -> libpmemset.so.1.0.0"
	echo "opt/pm/lib/arch/libpmemset.so.1.0.0 755"
	echo "opt/pm/lib/arch/pkgconfig/libpmemset.pc 644"
	for file in "$root"/tools/suppressions/*.supp; do
		echo "opt/pm/data/libpmemset/$(basename "$file") 644"
	done
	for page in "$root"/man/*.[37]; do
		[ -e "$page" ] || continue
		sec=${page##*.}
		echo "opt/pm/man/man$sec/$(basename "$page") 644"
	done
}
does "make install into a place of its own" staged install
compare() { listing | grep -v -- '/man/.* -> ' | diff <(expected | sort) -; }
does "installs just that, with these modes" compare
aliases() {
	# Every function that has a page, alone or in a family, is found by its name.
	local page names n missing=0
	while read -r page names; do
		for n in $names; do
			[ -e "$dest/opt/pm/man/man${page##*.}/$n.${page##*.}" ] || { echo "$n"; missing=1; }
		done
	done < <("$root/tools/man.sh" names)
	return $missing
}
does "every name of a man page leads to it" aliases
listing >"$work/once"
does "make install again" staged install
again() { listing | diff "$work/once" -; }
does "changes nothing" again
pc() { PKG_CONFIG_PATH=$dest/opt/pm/lib/arch/pkgconfig pkg-config "$@" libpmemset; }
does "the .pc file knows the directories" test \
	"$(pc --variable=libdir) $(pc --variable=includedir)" = "/opt/pm/lib/arch /opt/pm/inc"
# What programs of either release ask for before they are built.
for version in 1.11 1.11.0 1.12 1.12.1; do
	does "the .pc file is good for version $version" env PKG_CONFIG_PATH="$dest/opt/pm/lib/arch/pkgconfig" \
		pkg-config --exists --print-errors "libpmemset >= $version"
done
doesnt "the .pc file is not good for what does not exist" pc --atleast-version=1.13
does "the .pc file says the version of the package" grep -qx "version = \"$(pc --modversion)\"" "$root/Cargo.toml"
relocated() { [ "$(pc --define-variable=prefix=/moved --variable=libdir)" = /moved/lib/arch ]; }
does "the .pc file follows its prefix" relocated
# What others put there stays.
: >"$dest/opt/pm/lib/arch/another"
does "make uninstall" staged uninstall
gone() { find "$dest" ! -type d | tee /dev/stderr | diff - <(echo "$dest/opt/pm/lib/arch/another"); }
does "leaves nothing of ours and takes nothing of others" gone
does "make uninstall again" staged uninstall

# --- programs through pkg-config

stage=$work/stage
does "make install below a prefix" make -s -C "$root" install PREFIX="$stage"
export PKG_CONFIG_PATH=$stage/lib/pkgconfig
lib=$stage/lib
run() { # run NAME PROGRAM [ENV=VALUE...]: in a directory of its own; only what pmemset_perror prints may go to stderr
	local name=$1 program=$2
	shift 2
	(
		mkdir "$work/run" && cd "$work/run" || exit 1
		env "$@" timeout 60 "$program" >out 2>err
		rc=$?
		cat out err
		[ $rc = 0 ] && grep -q '34 functions' out && grep -q '^looked for it at 1: .' err && [ "$(wc -l <err)" = 1 ]
	) >"$work/log" 2>&1 && ok "$name" || bad "$name"
	rm -rf "$work/run"
}
loads() { env "${@:2}" LD_TRACE_LOADED_OBJECTS=1 "$1" | tee /dev/stderr | grep -F "libpmemset.so.1 => $lib/libpmemset.so.1 "; }

# shellcheck disable=SC2046
does "a C program links through pkg-config" $cc -std=gnu99 $warn -o "$work/shared" program.c $(pkg-config --cflags --libs libpmemset)
does "the C program loads the installed library" loads "$work/shared" LD_LIBRARY_PATH="$lib"
run "the C program runs" "$work/shared" LD_LIBRARY_PATH="$lib"
# shellcheck disable=SC2046
does "a C++ program links through pkg-config" $cxx -x c++ -std=c++11 $warn -o "$work/cxx" program.c -x none $(pkg-config --cflags --libs libpmemset)
run "the C++ program runs" "$work/cxx" LD_LIBRARY_PATH="$lib"

mkdir "$work/only"
cp "$lib/libpmemset.a" "$work/only"
# shellcheck disable=SC2046
does "a program links the archive" $cc -std=gnu99 $warn -o "$work/archive" program.c $(pkg-config --cflags libpmemset) \
	"$work/only/libpmemset.a"
doesnt "it needs no shared object of ours" sh -c "readelf -d '$work/archive' | grep libpmemset"
run "the program with the archive runs" "$work/archive"
# The shared object is beside the archive here, and -static may be said twice.
for also in "" -static; do
	# shellcheck disable=SC2046
	does "a program links with pkg-config --static${also:+ and $also}" $cc $also -std=gnu99 $warn -o "$work/static" program.c \
		$(pkg-config --static --cflags --libs libpmemset)
	doesnt "it needs no shared object at all" sh -c "readelf -d '$work/static' | grep NEEDED"
	run "the static program runs" "$work/static"
done
# In a shared object of somebody else's, which shows none of it.
echo '{ global: program; local: *; };' >"$work/plugin.map"
does "a shared object takes the archive in" $cc -std=gnu99 $warn -I"$root/include" -shared -fPIC -Dmain=program -o "$work/plugin.so" \
	program.c "$work/only/libpmemset.a" -Wl,-z,defs,-z,nodelete,--version-script="$work/plugin.map"
printf 'int program(void);\nint main(void) { return program(); }\n' >"$work/host.c"
does "a program links that" $cc -std=gnu99 $warn -o "$work/host" "$work/host.c" "$work/plugin.so"
run "the program with the shared object runs" "$work/host"
doesnt "the shared object shows nothing of it" sh -c "nm -D --defined-only '$work/plugin.so' | grep -v ' program$'"
# The program brings no library of its own into the list either.
self_contained() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | tee /dev/stderr | diff - <(echo libc.so.6); }
does "a program with the archive needs libc and nothing else" self_contained "$work/archive"

# --- the archive in one program with another Rust library, in either order, away from the shared
# object

rustc=${RUSTC:-rustc}
# As release builds are, with the standard library in objects of its own; merged into one object with
# it; and as debug builds are.
while read -r kind flags; do
	other=$work/libother-$kind.a
	# shellcheck disable=SC2086
	does "another Rust library ($kind)" $rustc --edition 2024 $flags -o "$other" other.rs
	for link in "" -static -static-pie; do
		for order in "$work/only/libpmemset.a $other" "$other $work/only/libpmemset.a"; do
			name="$(basename "${order% *}") before $(basename "${order#* }")${link:+ with $link}"
			# shellcheck disable=SC2086
			does "links $name" $cc -std=gnu99 $warn -I"$root/include" $link -o "$work/other" other.c $order -lpthread -ldl -lm
			both() { (mkdir -p "$work/run" && cd "$work/run" && env -i timeout 60 "$work/other"); }
			does "runs $name" both
			rm -rf "$work/run" "$work/other"
		done
	done
done <<-'END'
	unwinding -Copt-level=2
	merged -Copt-level=2 -Clto -Ccodegen-units=1
	plain -Copt-level=0 -Cdebuginfo=1
END

# --- in a container of nothing but the C library

# bare NAME DIR PROGRAM: PROGRAM runs with DIR as its root, where it finds what has been put there
# and nothing else.
bare() {
	local name=$1 dir=$2 program=$3 rc
	(cd "$dir" && env -i PATH="$PATH" LD_LIBRARY_PATH=/lib timeout 60 chroot "$dir" "$program" >"$work/out" 2>"$work/err")
	rc=$?
	cat "$work/out" "$work/err" >"$work/log"
	if [ $rc = 0 ] && grep -q '34 functions' "$work/out"; then ok "$name"; else echo "exit $rc" >>"$work/log"; bad "$name"; fi
}
if [ "$(id -u)" != 0 ] || ! chroot / true 2>/dev/null; then
	echo "skip link: a container of nothing but the C library: only root may chroot"
else
	box=$work/box
	mkdir -p "$box/lib"
	loader=$(readelf -lW "$work/shared" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
	mkdir -p "$box/$(dirname "$loader")"
	cp "$loader" "$box/$loader"
	cp "$(ldd "$work/shared" | sed -n 's/.*libc\.so\.6 => \(\/[^ ]*\).*/\1/p')" "$box/lib/libc.so.6"
	cp "$work/archive" "$work/static" "$box"
	bare "the program with the archive runs where there is nothing but libc" "$box" /archive
	cp "$lib/libpmemset.so.1" "$box/lib"
	cp "$work/shared" "$box"
	bare "the C program runs where there is nothing but libc, neither /proc nor /dev nor /tmp" "$box" /shared
	mkdir "$box/proc" "$box/dev" "$box/tmp"
	bare "the C program runs where /proc, /dev and /tmp are empty" "$box" /shared
	rm -r "$box/lib" "${box:?}/$(echo "$loader" | cut -d/ -f2)"
	bare "the static program runs where there is nothing at all" "$box" /static
	rm -rf "$box"
fi

# --- a program that was linked against another library of the same name and version

stub=$work/stub
mkdir "$stub"
{
	echo '#include <unistd.h>'
	sed 's/.*/int &(void); int &(void) { _exit(77); }/' "$work/names"
} >"$stub/stub.c"
does "a stub of the same version" $cc -shared -fPIC -o "$stub/libpmemset.so.1" "$stub/stub.c" -Wl,-soname,libpmemset.so.1 \
	-Wl,--version-script="$root/libpmemset.map"
does "a program linked against the stub" $cc -std=gnu99 $warn -I"$stage/include" -Wl,-z,now -o "$work/stubbed" program.c "$stub/libpmemset.so.1"
versions() { [ "$(readelf --dyn-syms -W "$1" | grep -c ' UND pmemset_.*@LIBPMEMSET_1\.0')" = 34 ]; }
does "it asks for all 34 of 1.11 at LIBPMEMSET_1.0" versions "$work/stubbed"
(cd "$work" && LD_LIBRARY_PATH=$stub ./stubbed >/dev/null 2>&1)
does "it does nothing with the stub itself" test $? = 77
run "the stub-linked program runs on ours by LD_LIBRARY_PATH" "$work/stubbed" LD_LIBRARY_PATH="$lib"
mv "$stub" "$work/away"
doesnt "it does not start without any" "$work/stubbed"
run "the stub-linked program runs on ours by LD_PRELOAD" "$work/stubbed" LD_PRELOAD="$lib/libpmemset.so.1"
run "the stub-linked program runs on ours by LD_PRELOAD before the stub" "$work/stubbed" LD_PRELOAD="$lib/libpmemset.so.1" LD_LIBRARY_PATH="$work/away"
# Version names are checked: the loader would warn of a library without them.
does "a library without versions" $cc -shared -fPIC -o "$work/libpmemset.so.1" "$work/away/stub.c" -Wl,-soname,libpmemset.so.1
unversioned() { (LD_LIBRARY_PATH=$work "$work/stubbed" 2>&1 || true) | grep 'no version information'; }
does "the loader says so where versions are missing" unversioned

# --- small things

# shellcheck disable=SC2046
does "perror test links" $cc -std=gnu99 $warn -o "$work/perror" perror.c $(pkg-config --cflags --libs libpmemset)
does "pmemset_perror prints, in one write, and keeps errno" env LD_LIBRARY_PATH="$lib" timeout 60 "$work/perror"
does "unload test links" $cc -std=gnu99 $warn -o "$work/unload" unload.c -ldl -lpthread
does "a thread outlives dlclose" timeout 60 "$work/unload" "$lib/libpmemset.so.1"
does "look-up test links" $cc -std=gnu99 $warn -I"$root/include" -o "$work/first_lookup" first_lookup.c -ldl -lpthread
does "a thread's first look-up allocates nothing" timeout 60 "$work/first_lookup" "$lib/libpmemset.so.1" "$work/file"
does "copies test links" $cc -std=gnu99 $warn -o "$work/copies" copies.c -ldl
does "three copies by dlmopen work, and a fourth is refused with a reason" timeout 60 "$work/copies" "$lib/libpmemset.so.1" 3
does "glibc makes room for more when it is told to" env GLIBC_TUNABLES=glibc.rtld.optional_static_tls=4096 timeout 60 \
	"$work/copies" "$lib/libpmemset.so.1" 6
# glibc has 1664 bytes of it for all libraries that are opened at run time and have theirs where ours is.
small_tls() { [ "$(($(readelf -lW "$1" | awk '$1 == "TLS" { print $6 }')))" -le 400 ]; }
does "there is room for others' thread-local memory" small_tls "$lib/libpmemset.so.1"
exit $status
