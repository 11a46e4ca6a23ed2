#!/bin/bash
# The library as distributions and other people build it: with their flags, for another processor,
# installed by somebody else into a place with a space in its name. Prints one line for each test,
# "ok NAME" or "FAIL NAME"; tools/check.sh counts them. Every build is a real one, in a target
# directory of its own.
#     run.sh [PART...]    flags cross install; all of them if none is given
set -uo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
mkdir -p "$target"
# On disk rather than in /tmp, which may be in memory.
work=$(mktemp -d -p "$target")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
warn="-Wall -Wextra -Werror"
status=0
export LC_ALL=C
unset LD_PRELOAD LD_LIBRARY_PATH PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR MAKEFLAGS MAKELEVEL MFLAGS PREFIX \
	LIBDIR INCLUDEDIR MANDIR DESTDIR CFLAGS CPPFLAGS LDFLAGS LD AR NM OBJCOPY RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
cc=${CC:-cc}
unset CC

ok() { echo "ok build: $1"; }
bad() { echo "FAIL build: $1"; sed 's/^/    /' "$work/log" 2>/dev/null | head -20; status=1; }
does() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then ok "$name"; else bad "$name"; fi; }
doesnt() { local name=$1; shift; if "$@" >"$work/log" 2>&1; then bad "$name"; else ok "$name"; fi; }
skip() { echo "skip build: $1"; }

out=$work/target
sed -n 's/^\t\t\(pmemset_[a-z0-9_]*\);$/\1/p' "$root/libpmemset.map" | sort >"$work/names"
# make, as called from a place where nothing of the project's own tests is set.
make_() { env CARGO_TARGET_DIR="$out" make --no-print-directory -C "$root" "$@"; }

exports() {
	nm -D --defined-only "$1" | awk '$2 != "A" { print $2, $3 }' | sort >"$work/exported"
	sed 's/.*/T &@@LIBPMEMSET_1.0/' "$work/names" | sort | diff - "$work/exported"
}
archived() { nm -g --defined-only "$1" | awk 'NF == 3 { print $3 }' | sort | diff "$work/names" -; }
needs() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | diff "${2:-"$work/libc"}" -; }
echo libc.so.6 >"$work/libc"
places() { [ ! -s "$1" ] || strings -a "$1" | grep -F -e "$root/" -e "${CARGO_HOME:-$HOME/.cargo}/" -e "${RUSTUP_HOME:-$HOME/.rustup}/" -e "$work"; }
machine_code() { [ -s "$1" ] && ! readelf -SW "$1" | grep -F .gnu.lto_; }
runs() { # runs PROGRAM
	rm -rf "$work/run"
	(mkdir "$work/run" && cd "$work/run" && timeout 60 "$1" >out 2>err; rc=$?; cat out err; [ $rc = 0 ] && grep -q '34 functions' out)
}

# right NAME: what is in $out/lib is the library, whatever the flags were.
right() {
	local so=$out/lib/libpmemset.so.1.0.0 archive=$out/lib/libpmemset.a how
	does "$1: exports" exports "$so"
	does "$1: the archive's names" archived "$archive"
	does "$1: the archive is machine code" machine_code "$archive"
	does "$1: needs libc and nothing else" needs "$so"
	doesnt "$1: names no place of this machine" eval 'places "$so" || places "$archive"'
	does "$1: a program links" $cc -std=gnu99 $warn -I"$root/include" -o "$work/shared" ../link/program.c -L"$out/lib" -lpmemset \
		-Wl,-rpath,"$out/lib"
	does "$1: it runs" runs "$work/shared"
	for how in "" -static; do
		does "$1: a program links the archive${how:+ with $how}" $cc $how -std=gnu99 $warn -I"$root/include" -o "$work/archive" \
			../link/program.c "$archive" -lpthread -ldl
		does "$1: it runs${how:+ with $how}" runs "$work/archive"
	done
}

# says NAME PATTERN COMMAND...: the command fails and says why in one line, before what make says of
# itself.
says() {
	local name=$1 pattern=$2
	shift 2
	if "$@" >"$work/log" 2>&1; then
		bad "$name"
	elif grep -q -- "$pattern" "$work/log" && [ "$(grep -cvE '^linking |^make: \*\*\* (\[|Deleting)|^compilation terminated' "$work/log")" = 1 ]; then
		ok "$name"
	else
		bad "$name"
	fi
}
# refused NAME PATTERN VARIABLE=...: so does make, and it leaves no shared object.
refused() {
	rm -f "$out"/lib/libpmemset.so*
	says "$1" "$2" make_ -s shared "${@:3}"
	doesnt "$1, and there is none" test -e "$out/lib/libpmemset.so.1.0.0"
}
taken() { printf 'int empty;\n' | $cc "$@" -shared -fPIC -x c -o "$work/empty.so" - >/dev/null 2>&1; }

part_flags() {
	local more="" pack=""
	taken -flto=auto && more="$more -flto=auto"
	taken -fcf-protection && more="$more -fcf-protection"
	taken -Wl,-z,pack-relative-relocs && pack=-Wl,-z,pack-relative-relocs
	does "make with$more -fvisibility=hidden $pack" make_ CFLAGS="-O2 -g -fvisibility=hidden$more" LDFLAGS="-O2$more $pack"
	right "lto"
	if [ -n "$pack" ]; then
		does "its relocations are packed" eval "readelf -dW '$out/lib/libpmemset.so.1.0.0' | grep RELR"
	fi
	more=${more/-flto=auto/}

	# Debian's set with everything turned on, as it is from dpkg-buildflags; the flags for position
	# independent programs are those of the time before its specs files.
	does "make -j with Debian's flags" make_ -j2 RUSTFLAGS=-Cdebuginfo=1 CPPFLAGS="-Wdate-time -D_FORTIFY_SOURCE=2" \
		CFLAGS="-g -O2 -ffile-prefix-map=$root=. -fPIE -fstack-protector-strong -Wformat -Werror=format-security" \
		LDFLAGS="-fPIE -pie -Wl,-z,relro -Wl,-z,now -Wl,-Bsymbolic-functions"
	right "Debian"
	does "it is fortified" eval "nm -D '$out/lib/libpmemset.so.1.0.0' | grep '__[a-z]*printf_chk'"

	does "RUSTFLAGS arrive" eval "readelf --debug-dump=info '$out/ship/release/libpmemset.a' 2>/dev/null |
		grep -F ' src/lib.rs/@/pmemset' >/dev/null"
	doesnt "what rustc does not take is an error" make_ RUSTFLAGS=-Cno-such-option

	# Fedora's: the specs files are like its own.
	printf '*cc1_options:\n+ %%{!r:%%{!fpie:%%{!fPIE:%%{!fpic:%%{!fPIC:%%{!fno-pic:-fPIE}}}}}}\n' >"$work/cc1"
	printf '*self_spec:\n+ %%{!static:%%{!shared:%%{!r:-pie}}}\n\n*link:\n+ -z now\n' >"$work/ld"
	local fedora="-O2 -flto=auto -ffat-lto-objects -fexceptions -g -grecord-gcc-switches -pipe -Wall -Werror=format-security"
	fedora="$fedora -Wp,-U_FORTIFY_SOURCE,-D_FORTIFY_SOURCE=3 -Wp,-D_GLIBCXX_ASSERTIONS -fstack-protector-strong"
	fedora="$fedora -fasynchronous-unwind-tables -fstack-clash-protection -fno-omit-frame-pointer"
	if taken $fedora -specs="$work/cc1"; then
		does "make with Fedora's flags" make_ CFLAGS="$fedora $more -specs=$work/cc1" \
			LDFLAGS="-Wl,-z,relro -Wl,--as-needed $pack -Wl,-z,now -specs=$work/ld -Wl,--build-id=sha1"
		right "Fedora"
	else
		skip "Fedora's flags: the compiler does not take them"
	fi

	if command -v clang >/dev/null; then
		does "make with clang and its lto" make_ CC=clang CFLAGS="-O2 -flto=thin -fvisibility=hidden" LDFLAGS="-flto=thin"
		right "clang"
	else
		skip "clang: there is none"
	fi

	refused "an option for static programs is refused" 'LDFLAGS: .* -static' LDFLAGS="-Wl,-O1 -static"
	does "a name and a kind of others' are not taken" make_ -s shared LDFLAGS="-Wl,-soname,libother.so.2 -pie" CC="$cc"
	does "it has its own" eval "readelf -dW '$out/lib/libpmemset.so.1.0.0' | grep -F '[libpmemset.so.1]'"
	refused "an option that the compiler does not know is refused" 'no-such-option' CFLAGS="-O2 --no-such-option"
	refused "specs that are not there are refused" 'no/such/specs' CFLAGS="-specs=/no/such/specs"
	refused "a compiler that is not there is refused" 'no-such-cc' CC=no-such-cc
	refused "flags that hide the interface are refused" interface LDFLAGS="-Wl,--exclude-libs,ALL"
}

# For a processor that nothing here runs on, with the stable toolchain: all that says so is
# CARGO_BUILD_TARGET and CC.
part_cross() {
	local triple=aarch64-unknown-linux-gnu gcc=aarch64-linux-gnu-gcc emulator api how need=()
	local so=$out/lib/libpmemset.so.1.0.0 archive=$out/lib/libpmemset.a
	if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ] && ! { command -v rustup >/dev/null &&
		timeout 600 rustup target add $triple >"$work/log" 2>&1 </dev/null; }; then
		skip "aarch64: Rust's standard library for $triple is not installed"
		return
	fi
	command -v $gcc >/dev/null || need+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	command -v qemu-aarch64 >/dev/null || need+=(qemu-user)
	if [ ${#need[@]} -gt 0 ] && ! { [ "$(id -u)" = 0 ] && command -v apt-get && apt-get update -q &&
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"; } </dev/null >"$work/log" 2>&1; then
		skip "aarch64: please install ${need[*]}"
		return
	fi
	# Its emulation of a later processor announces an instruction that it does not have.
	emulator="qemu-aarch64 -cpu cortex-a72 -L /usr/aarch64-linux-gnu"

	does "aarch64: make" make_ CARGO_BUILD_TARGET=$triple CC=$gcc CFLAGS="-O2 -flto=auto -mbranch-protection=standard"
	does "aarch64: a shared object for it" eval "readelf -h '$so' | grep AArch64"
	does "aarch64: an archive for it" eval "readelf -h '$archive' | grep AArch64"
	does "aarch64: exports" exports "$so"
	does "aarch64: the archive's names" archived "$archive"
	does "aarch64: the archive is machine code" machine_code "$archive"
	# Where a function that guards its stack finds the value is the loader's there.
	printf '%s\n' libc.so.6 ld-linux-aarch64.so.1 >"$work/loader"
	does "aarch64: needs libc, and at most the loader" eval 'needs "$so" || needs "$so" "$work/loader"'
	for api in 111 112; do
		does "aarch64: the header, api $api" $gcc -std=c99 -pedantic $warn -DPMEMSET_API_VERSION=$api -I"$root/include" \
			-o "$work/header" ../header/contract.c "$archive" -lpthread -ldl
		does "aarch64: it is the contract's, api $api" $emulator "$work/header"
	done
	does "aarch64: a program links" $gcc -std=gnu99 $warn -I"$root/include" -o "$work/shared" ../link/program.c -L"$out/lib" \
		-lpmemset
	printf '#!/bin/sh\nexec %s -E LD_LIBRARY_PATH=%s "%s"\n' "$emulator" "$out/lib" "$work/shared" >"$work/emulated"
	chmod +x "$work/emulated"
	does "aarch64: it runs" runs "$work/emulated"
	for how in "" -static; do
		does "aarch64: a program links the archive${how:+ with $how}" $gcc $how -std=gnu99 $warn -I"$root/include" \
			-o "$work/archive" ../link/program.c "$archive" -lpthread -ldl
		printf '#!/bin/sh\nexec %s "%s"\n' "$emulator" "$work/archive" >"$work/emulated"
		does "aarch64: it runs${how:+ with $how}" runs "$work/emulated"
	done
	# The same directory, for this machine again: nothing of the other is left.
	does "make for this machine after that" make_ shared
	does "it is for this machine" eval "readelf -h '$so' | grep 'Machine:' | diff - <(readelf -h /proc/self/exe | grep 'Machine:')"
}

listing() { (cd "$1" && find . | sort); }

part_install() {
	local prefix="$work/a prefix" dest="$work/a stage" flags
	mkdir -p "$prefix/share" "$dest" "$work/nobuild"
	: >"$prefix/share/of another"
	listing "$prefix" >"$work/before"

	# A root who has no tools to build with: each of them would tell.
	local tool
	for tool in cargo rustc rustup cc gcc c++ clang ld ar objcopy nm "$cc"; do
		printf '#!/bin/sh\necho "$0 was called" >>"%s"\nexit 9\n' "$work/called" >"$work/nobuild/$(basename "$tool")"
		chmod +x "$work/nobuild/$(basename "$tool")"
	done
	as_root() { env PATH="$work/nobuild:$PATH" CARGO_TARGET_DIR="$out" make --no-print-directory -C "$root" "$@"; }
	rm -rf "$out/lib"
	says "make install with nothing built" 'make install: nothing is built in' as_root install PREFIX="$prefix"
	does "it makes nothing" eval 'listing "$prefix" | diff "$work/before" - && [ ! -e "$out/lib" ]'

	does "make -j all install, into a place with a space" make_ -j4 all install PREFIX="$prefix"
	does "uninstall" as_root uninstall PREFIX="$prefix"
	does "it leaves nothing, and what others have" eval 'listing "$prefix" | diff "$work/before" -'
	(cd "$out" && find . -printf '%p %T@ %C@\n' | sort) >"$work/built"
	does "make install by a root without tools" as_root install PREFIX="$prefix"
	cp "$work/log" "$work/said"
	doesnt "no tool was called" cat "$work/called"
	does "nothing was written where it was built" eval "(cd '$out' && find . -printf '%p %T@ %C@\n' | sort) | diff '$work/built' -"
	told() {
		local path
		for path in lib/libpmemset.so.1.0.0 lib/libpmemset.a include/libpmemset.h lib/pkgconfig/libpmemset.pc share/man/man3; do
			grep -F "  $prefix/$path" "$work/said" || return 1
		done
	}
	does "it says what went where" told

	flags=$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config --cflags --libs libpmemset)
	does "a program links with pkg-config's flags" eval "$cc -std=gnu99 $warn -o '$work/shared' ../link/program.c $flags -Wl,-rpath,'$prefix/lib'"
	does "it runs" runs "$work/shared"
	does "the directories are those" test "$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config --variable=libdir libpmemset)" = "$prefix/lib"
	does "uninstall after that" as_root uninstall PREFIX="$prefix"
	does "it leaves nothing, and what others have" eval 'listing "$prefix" | diff "$work/before" -'

	does "make install into a stage with a space" as_root install DESTDIR="$dest" PREFIX=/usr LIBDIR="/usr/lib 64"
	cp "$work/log" "$work/said.stage"
	does "everything is below it" eval '[ -e "$dest/usr/lib 64/libpmemset.so.1" ] && [ -e "$dest/usr/include/libpmemset.h" ]'
	does "the pkg-config file does not know the stage" eval '! grep -F "$work" "$dest/usr/lib 64/pkgconfig/libpmemset.pc"'
	doesnt "a stage has no loader to speak of" grep -i -e loader -e ldconfig "$work/said.stage"
	does "uninstall from the stage" as_root uninstall DESTDIR="$dest" PREFIX=/usr LIBDIR="/usr/lib 64"
	does "it leaves an empty stage" test -z "$(ls -A "$dest")"

	says "a place that pkg-config cannot name" 'PREFIX has a character' as_root install PREFIX="$work/a \"place\""
	says "a build directory with a space" 'CARGO_TARGET_DIR: .* a space' make CARGO_TARGET_DIR="$work/a space" -C "$root" \
		--no-print-directory

	# What the loader of this machine knows is told by a ldconfig of the test's own.
	ldconfig_() {
		printf '#!/bin/sh\ncase "$*" in *-p*) echo "%s" ;; *) echo "%s" ;; esac\n' "$1" "$2" >"$work/nobuild/ldconfig"
		chmod +x "$work/nobuild/ldconfig"
	}
	hinted() { as_root install PREFIX="$prefix" | tail -1 | grep -- "$1"; }
	ldconfig_ "" "$prefix/lib: (from /etc/ld.so.conf:1)"
	does "a place that the loader knows wants ldconfig" hinted '^Now run ldconfig'
	ldconfig_ "" "/usr/lib: (from <builtin>:0)"
	does "one that it does not know wants more" hinted '^The loader does not look into .*/a prefix/lib'
	ldconfig_ "	libpmemset.so.1 (libc6,x86-64) => $prefix/lib/libpmemset.so.1" "$prefix/lib: (from /etc/ld.so.conf:1)"
	does "one where it has found it before wants nothing" hinted 'man3, man7: '
	as_root uninstall PREFIX="$prefix" >/dev/null
}

for part in ${*:-flags cross install}; do
	case $part in
	flags) part_flags ;;
	cross) part_cross ;;
	install) part_install ;;
	*) bad "there is no part $part" ;;
	esac
done
exit $status
