#!/bin/bash
# The library for other processors than this one, run by qemu's user emulation: the unit tests and some of the C programs.
# aarch64 has kernels of its own; riscv64 stands for those that have none and get the generic ones. Needs the nightly
# toolchain with rust-src (no standard library for them has to be installed), a cross compiler and qemu-user, which it
# installs where it can; exit status 77, and why in one line, where something is missing.
#     cross.sh [ARCHITECTURE...]
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
unset LD_PRELOAD LD_LIBRARY_PATH PMEM2_FORCE_GRANULARITY PMEMSET_EAGER_FLUSH PMEMSET_LOG_LEVEL PMEMSET_LOG_FILE
failed=0
ok() { echo "ok $1"; }
bad() { failed=1; echo "FAIL $1"; }
missing() { echo "cross: not run: $1"; exit 77; }
[ $# -gt 0 ] || set -- aarch64 riscv64

cargo +nightly --version >/dev/null 2>&1 || missing "there is no nightly toolchain"
[ -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.toml" ] || missing "nightly has no rust-src"
# Debian spells arm64 its own way.
declare -A debian=([aarch64]=arm64)
need=()
for arch; do
	command -v "$arch-linux-gnu-gcc" >/dev/null || need+=("gcc-$arch-linux-gnu" "libc6-dev-${debian[$arch]:-$arch}-cross")
	command -v "qemu-$arch" >/dev/null || need+=(qemu-user)
done
if [ ${#need[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || missing "please install ${need[*]}"
	{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"; } \
		</dev/null >/dev/null 2>&1 || missing "apt-get could not install ${need[*]}"
fi

# What can be told without real persistent memory, real threads' timing or this kernel's accounting of memory.
programs="persist mem_flags mem_atomic page_defer coalesce part_maps remove events"

for arch; do
	triple=$arch-unknown-linux-gnu
	[ "$arch" = riscv64 ] && triple=riscv64gc-unknown-linux-gnu
	work=$target/check/cross-$arch
	mkdir -p "$work" || exit 1
	emulator="qemu-$arch -L /usr/$arch-linux-gnu"
	# qemu 7.2 announces DC CVAP and does not know it in user emulation; this processor has DC CVAC only.
	[ "$arch" = aarch64 ] && emulator="$emulator -cpu cortex-a72"
	upper=$(echo "$triple" | tr 'a-z-' 'A-Z_')
	export "CARGO_TARGET_${upper}_LINKER=$arch-linux-gnu-gcc" "CARGO_TARGET_${upper}_RUNNER=$emulator"
	build=(--locked --quiet --lib --target "$triple" -Zbuild-std=std,test,panic_unwind
		--config profile.dev.opt-level=1 --config profile.dev.debug=0)

	# The emulator keeps notes of every page that is reserved, and one test reserves 20 TiB. It says that it clears memory in the
	# child of a fork (MADV_WIPEONFORK), and does not.
	if CARGO_TARGET_DIR=$target/cross timeout 900 cargo +nightly test "${build[@]}" -- --skip large_parts \
		--skip a_child_finds_it_free >"$work/test" 2>&1 </dev/null; then
		ok "cross: $arch: unit tests ($(sed -n 's/^test result: ok. \([0-9]*\) passed.*/\1/p' "$work/test"))"
	else
		bad "cross: $arch: unit tests"
		tail -60 "$work/test"
	fi
	if ! CARGO_TARGET_DIR=$target/cross cargo +nightly rustc "${build[@]}" --crate-type staticlib >"$work/build" 2>&1 </dev/null; then
		bad "cross: $arch: build"
		cat "$work/build"
		continue
	fi
	for name in $programs; do
		dir=$(mktemp -d -p "$work") || exit 1
		# shellcheck disable=SC2086
		if "$arch-linux-gnu-gcc" -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Iinclude -Itests-c/contract \
			-o "$work/$name" "tests-c/contract/$name.c" "$target/cross/$triple/debug/libpmemset.a" -lpthread -ldl -lm \
			>"$work/log" 2>&1 && (cd "$dir" && timeout 300 $emulator "$work/$name") >>"$work/log" 2>&1 </dev/null; then
			ok "cross: $arch: $name"
		else
			bad "cross: $arch: $name (exit status $?)"
			tail -30 "$work/log"
		fi
		rm -rf "$dir"
	done
done
exit $failed
