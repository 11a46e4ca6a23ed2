#!/bin/bash
# Prints the path of the pinned cbindgen; installs it first if need be.
set -euo pipefail

version=0.29.2
if [ "$(cbindgen --version 2>/dev/null)" = "cbindgen $version" ]; then
	command -v cbindgen
	exit
fi
root=${XDG_CACHE_HOME:-$HOME/.cache}/libpmemset/cbindgen-$version
if [ ! -x "$root/bin/cbindgen" ]; then
	echo "installing cbindgen $version into $root" >&2
	# Its own target directory: the project's may be locked by the cargo that waits for us.
	build=$(mktemp -d)
	trap 'rm -rf "$build"' EXIT
	CARGO_TARGET_DIR=$build cargo install --quiet --locked --version "$version" --root "$root" cbindgen >&2
fi
echo "$root/bin/cbindgen"
