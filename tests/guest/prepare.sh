#!/bin/bash
# Fills the cache that run.sh boots from: qemu, a stock Debian kernel (vmlinux) and the initramfs that all guests share
# (base.cpio). Debian packages are downloaded and unpacked there; nothing is installed. Prints the cache's path.
# Exit status 77, and one line why, where that cannot be done.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cannot() { echo "guest tests cannot run: $*" >&2; exit 77; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/libpmemset/guest
echo "$cache"
[ "$(uname -m)" = x86_64 ] || cannot "they need an x86-64 host"

tools="busybox ndctl mkfs.ext4 e2fsck mkfs.xfs mkfs.btrfs mkfs.f2fs mkfs.nilfs2 mkfs.jfs fsck.jfs mkreiserfs mkfs.exfat mkudffs
	mkfs.minix fuse2fs bindfs dmsetup"
packages="qemu-system-x86 qemu-system-common qemu-system-data seabios busybox-static ndctl e2fsprogs xfsprogs btrfs-progs
	f2fs-tools nilfs-tools jfsutils reiserfsprogs exfatprogs udftools util-linux fuse2fs bindfs libfuse2 dmsetup"
modules="nfit nd_pmem device_dax dax_pmem virtio_pci virtio_blk ext4 xfs btrfs crc32_generic crc32c_generic xxhash_generic f2fs nilfs2 jfs
	reiserfs vfat exfat udf minix overlay fuse ecryptfs ecb nls_ascii nls_utf8 nls_cp437 nls_iso8859-1
	dm_mod dm_log_writes dm_flakey dm_delay dm_snapshot brd"
tools+=" bindfs" packages+=" bindfs libfuse2" modules+=" fuse loop"

# What was made by this very script from these lists is still good.
stamp=$(cksum <"$here/prepare.sh")
[ "$(cat "$cache/stamp" 2>/dev/null)" = "$stamp" ] && exit
for tool in apt-get apt-cache dpkg xz flock ldd; do
	command -v $tool >/dev/null || cannot "$tool is missing (the packages come from Debian)"
done
mkdir -p "$cache" || cannot "no cache directory"
exec 9>"$cache/lock"
flock 9
[ "$(cat "$cache/stamp" 2>/dev/null)" = "$stamp" ] && exit
new=$cache/new
rm -rf "$new" "$cache/stamp"
mkdir -p "$new/deb" "$new/host" "$new/kernel" "$new/tree"
echo "guest: downloading qemu, a kernel and tools to $cache" >&2
kernel() { apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1; }
if [ -z "$(kernel)" ] || ! apt-cache show qemu-system-x86 >/dev/null 2>&1; then
	apt-get -qq update >&2 || cannot "apt-get update failed"
fi
image=$(kernel)
[ -n "$image" ] || cannot "apt knows no Debian kernel for x86-64"
release=${image#linux-image-}
# shellcheck disable=SC2086
needed=$(LC_ALL=C apt-get -s install --no-install-recommends $packages | sed -n 's/^Inst \([^ ]*\).*/\1/p')
# shellcheck disable=SC2086
(cd "$new/deb" && apt-get -qq -o APT::Sandbox::User=root download $(printf '%s\n' $packages $needed "$image" | sort -u)) >&2 ||
	cannot "apt-get download failed"
for deb in "$new"/deb/*.deb; do
	into=$new/host
	[[ $deb == */linux-image-* ]] && into=$new/kernel
	dpkg -x "$deb" "$into" || cannot "$deb does not unpack"
done

# An uncompressed kernel starts sooner under emulation: it is the xz stream inside the packed one.
packed=$new/kernel/boot/vmlinuz-$release
cp "$packed" "$new/vmlinux"
for at in $(LC_ALL=C grep -aobP '\xfd7zXZ\x00' "$packed" | cut -d: -f1); do
	tail -c "+$((at + 1))" "$packed" | xz -dcq --single-stream >"$new/elf" 2>/dev/null || true
	if [ "$(head -c 4 "$new/elf" | tail -c 3)" = ELF ]; then
		mv "$new/elf" "$new/vmlinux"
		break
	fi
done

# The tree of the guest: tools and the libraries they need, kernel modules and those they need.
tree=$new/tree
lib=$tree/lib/modules/$release
mkdir -p "$tree"/{dev,proc,sys,tmp,mnt,run,etc,t,bin,lib64} "$lib"
ln -s bin "$tree/sbin"
PATH=$new/host/bin:$new/host/sbin:$new/host/usr/bin:$new/host/usr/sbin:$PATH:/usr/sbin:/sbin
export LD_LIBRARY_PATH=$new/host/usr/lib/x86_64-linux-gnu:$new/host/lib/x86_64-linux-gnu
for tool in $tools; do
	file=$(command -v "$tool") || cannot "the packages lack $tool"
	cp -L "$file" "$tree/bin/$tool"
done
for tool in $(busybox --list); do
	[ -e "$tree/bin/$tool" ] || ln -s busybox "$tree/bin/$tool"
done
"$here/libs.sh" "$tree" || cannot "a library of the tools is missing"
unset LD_LIBRARY_PATH
modtree=$new/kernel/lib/modules/$release
busybox depmod -b "$new/kernel" "$release"
for module in $modules; do
	grep "/$(sed 's/[-_]/[-_]/g' <<<"$module")\.ko:" "$modtree/modules.dep" || cannot "the kernel has no module $module"
done | tr -d : | tr ' ' '\n' | sort -u | (cd "$modtree" && xargs cp --parents -t "$lib")
busybox depmod -b "$tree" "$release"
(cd "$tree" && find . | busybox cpio -o -H newc) >"$new/base.cpio" 2>/dev/null
rm -rf "$new/deb" "$new/kernel" "$tree" "$cache/host" "$cache/vmlinux" "$cache/base.cpio"
mv "$new/host" "$new/vmlinux" "$new/base.cpio" "$cache/"
rm -rf "$new"
echo "$stamp" >"$cache/stamp"
