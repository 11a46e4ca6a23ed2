# Power loss: file systems on a disk whose writes are logged; the disk as it may have been at many moments is mounted, and
# what drains had reported durable must be there. The case's name says which file system.
#
# With ways="WAY..." (power.c) it is no test, but says what becomes of what calls of the kernel have synced. Each is under each
# of conditions="CONDITION...":
#     slow    three threads, a disk on which a write takes a while
#     quick   one thread, a disk without delay: several syncs in a tick of the clock
#     serial  as slow, but one thread at a time syncs
#     aged    as serial, and before a sync the kernel has written by itself what was dirty
#     mixed   as slow, and the kernel writes what is dirty by itself all the time
fs=${case#power-}
must modprobe -a dm_mod dm_log_writes dm_delay dm_snapshot
must modprobe brd rd_nr=4 rd_size=327680
sectors=655360

# How each is made, mounted, and mounted again after the power loss. $type is what mount takes; $below, what a layer is upon.
# $unreadable: without a journal, ext4 may have written an inode that has its extents in a block that is not written yet; what
# had been durable cannot be read then, and that is no fault of a sync. $hopeless: never flushes its disk.
options=noatime makes='' type=$fs below='' after=: unreadable='' hopeless=''
case $fs in
ext4) options=commit=300 makes="mkfs.ext4 -q -F -b 4096 -E nodiscard" ;;
ext4-data-*) options=commit=300,data=${fs#ext4-data-} makes="mkfs.ext4 -q -F -b 4096 -E nodiscard" type=ext4 ;;
# Its recovery in Linux 6.1 damages files that it replays, so that this is only to look at.
ext4-fast-commit) options=commit=300 makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -O fast_commit" type=ext4 after="e2fsck -y" ;;
ext4-nojournal) makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -O ^has_journal" type=ext4 unreadable=-u ;;
# Inodes of 128 bytes have times in whole seconds.
ext2) makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -t ext2 -I 128" ;;
ext3) options=commit=300 makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -t ext3 -I 128" ;;
xfs) makes="mkfs.xfs -q -f -K" ;;
btrfs) options=commit=300 makes="mkfs.btrfs -q -f -K" ;;
f2fs) makes="mkfs.f2fs -q -f -t 0" ;;
nilfs2) makes="mkfs.nilfs2 -q -f -K" ;;
# Its log is replayed by a program.
jfs) makes="mkfs.jfs -q" after="fsck.jfs --replay_journal_only" hopeless=1 ;;
reiserfs) makes="mkreiserfs -q -f -f" ;;
vfat) makes=mkdosfs ;;
exfat) makes=mkfs.exfat ;;
udf) makes="mkudffs --media-type=hd --blocksize=4096" ;;
minix) makes="mkfs.minix -3" sectors=131072 ;;
overlay-* | ecryptfs-* | bindfs-*) type=${fs%%-*} below=${fs#*-} ;;
fuse2fs) makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -O ^has_journal" unreadable=-u ;;
*) die "no such file system" ;;
esac
case $below in
ext4) below_options=commit=300 makes="mkfs.ext4 -q -F -b 4096 -E nodiscard" ;;
nojournal) below_options=noatime makes="mkfs.ext4 -q -F -b 4096 -E nodiscard -O ^has_journal" unreadable=-u ;;
esac
case $type in
fuse2fs | bindfs) must modprobe fuse ext4 ;;
*) must modprobe -a $type ${below:+ext4} ;;
esac
mkdir -p /mnt/live /mnt/then /mnt/below
ln -s /proc/mounts /etc/mtab
# No commits by age.
[ $fs != xfs ] || echo 720000 >/proc/sys/fs/xfs/xfssyncd_centisecs

# layer DIR: what is upon /mnt/below
layer() {
	case $type in
	overlay)
		mkdir -p /tmp/lower /mnt/below/upper /mnt/below/work
		mount -t overlay -o lowerdir=/tmp/lower,upperdir=/mnt/below/upper,workdir=/mnt/below/work none $1
		;;
	ecryptfs)
		mkdir -p /mnt/below/lower
		mount -i -t ecryptfs -o ecryptfs_sig=$(/t/authtok),ecryptfs_cipher=aes,ecryptfs_key_bytes=16 /mnt/below/lower $1
		;;
	bindfs)
		mkdir -p /mnt/below/lower
		bindfs /mnt/below/lower $1
		;;
	esac
}
# mounted DEVICE DIR
mounted() {
	if [ "$below" ]; then
		mount -t ext4 -o $below_options $1 /mnt/below && layer $2
	elif [ $type = fuse2fs ]; then
		fuse2fs -o fakeroot $1 $2
	else
		mount -t $type -o $options $1 $2
	fi
}
# After a power loss a layer's files are where it keeps them, except that ecryptfs has them as ciphertext.
mounted_again() {
	$after $1 >/tmp/after 2>&1
	case $type in
	fuse2fs) mount -t ext4 -o ro $1 $2 ;;
	overlay) mount -t ext4 -o ro $1 /mnt/below && mount --bind /mnt/below/upper $2 ;;
	bindfs) mount -t ext4 -o ro $1 /mnt/below && mount --bind /mnt/below/lower $2 ;;
	ecryptfs) mount -t ext4 $1 /mnt/below && layer $2 ;;
	*) mount -t $type -o ro $1 $2 ;;
	esac
}
# soon COMMAND...: what a file system in a program holds is let go of when that ends, some time after it is unmounted
soon() {
	n=0
	until "$@"; do
		n=$((n + 1))
		[ $n -lt 100 ] || return 1
		usleep 20000
	done
}
unmounted() {
	umount $1 && if [ "$below" ]; then soon umount /mnt/below; fi
}
# There is no udev to make the devices' names.
dm() { dmsetup --verifyudev "$@"; }

# The disk: a write takes a while, so that nothing is on it merely because it was begun.
must dm create slow --table "0 $sectors delay /dev/ram0 0 0 /dev/ram0 0 1"
first=1

# condition NAME: sets the disk, the writer's options and how soon the kernel writes by itself: not at all
condition() {
	disk=/dev/mapper/slow writer='' centisecs=0
	case $1 in
	quick) disk=/dev/ram0 writer=-q ;;
	serial) writer=-1 ;;
	aged) writer=-a ;;
	mixed) centisecs=1 ;;
	esac
	echo $centisecs >/proc/sys/vm/dirty_writeback_centisecs
	echo $((centisecs ? 1 : 3000)) >/proc/sys/vm/dirty_expire_centisecs
}
condition slow

# losses WAY SEED ROUNDS POINTS: how many moments there were, in $seen; what was lost then, in /tmp/lost; at how many moments
# with all that the disk was bound to keep and no more, in $firm, and with a part of what was written later, in $partly
losses() {
	dd if=/dev/zero of=/dev/ram1 bs=64k count=1 2>/dev/null
	must dm create live --table "0 $sectors log-writes $disk /dev/ram1"
	[ ! $first ] || must $makes /dev/mapper/live
	first=
	must mounted /dev/mapper/live /mnt/live
	rm -rf /mnt/live/*
	mkdir /mnt/live/$1
	must /t/power write $writer $1 /mnt/live/$1 /tmp/reports log $2 $3 live
	cp /tmp/must /tmp/written
	must unmounted /mnt/live
	must soon dm remove live
	must /t/powerlog points /dev/ram1 $4 $2
	mv /tmp/must /tmp/points
	at=0 seen=0 firm=0 partly=0
	: >/tmp/lost
	# The log goes onto ram2, whose content is that of the disk when the log began. A look at it is through a snapshot, which
	# the recovery of the file system may change.
	while read -r begin end round; do
		must /t/powerlog replay /dev/ram1 /dev/ram2 $at $begin
		at=$begin
		must dm create then --table "0 $sectors snapshot /dev/ram2 /dev/ram3 N 16"
		[ $end = $begin ] || must /t/powerlog replay /dev/ram1 /dev/mapper/then $begin $end $2
		[ $fs != btrfs ] || must /t/powerlog forget
		if mounted_again /dev/mapper/then /mnt/then >/tmp/mount 2>&1; then
			/t/power check $unreadable /mnt/then/$1 /tmp/reports log $round >/tmp/check && rm /tmp/check
			unmounted /mnt/then
		else
			echo "  not mounted ($(cat /tmp/mount))" >/tmp/check
			[ ! "$below" ] || umount /mnt/below 2>/dev/null
		fi
		if [ -e /tmp/check ]; then
			[ $end = $begin ] && firm=$((firm + 1)) || partly=$((partly + 1))
			{
				echo "round $round, entries 0 to $begin, some to $end:"
				cat /tmp/check
				rm /tmp/check
			} >>/tmp/lost
		fi
		must dm remove then
		seen=$((seen + 1))
		[ "$ways" ] || [ $1 = library ] || [ ! -s /tmp/lost ] || break
	done </tmp/points
	must /t/powerlog replay /dev/ram1 /dev/ram2 $at 999999999
}

# in_condition WAY CONDITION
in_condition() {
	condition $2
	n=$rounds
	[ $2 != quick ] || n=$((3 * rounds))
	losses $1 $seed $n $points
}

if [ "$ways" ]; then
	unreadable=''
	for way in $ways; do
		for condition in $conditions; do
			in_condition $way $condition
			echo "$fs: $way, $condition: $((firm + partly)) of $seen moments with a loss ($firm firm):" \
				"$(grep -c 'No such' /tmp/lost) entries, $(grep -c 'too short' /tmp/lost) sizes," \
				"$(grep -c ' word ' /tmp/lost) contents, $(grep -c 'error\|not mounted' /tmp/lost) errors;" \
				"$(tail -1 /tmp/written)"
			[ ! "$verbose" ] || head -$verbose /tmp/lost
		done
	done
	finish 0
fi

sum=0 lost=''
for condition in $conditions; do
	in_condition library $condition
	sum=$((sum + seen))
	[ -s /tmp/lost ] || continue
	lost=1
	[ $hopeless ] || bad "a drain's word does not hold, $condition: at $((firm + partly)) of $seen moments ($firm firm)"
	[ $hopeless ] || head -40 /tmp/lost
done
if [ $hopeless ]; then
	[ $lost ] && ok "what is known of it: nothing can be made durable" || bad "$sum moments, and nothing lost: it does flush its disk"
else
	[ $lost ] || ok "$sum moments of power loss, nothing lost that a drain had reported"
fi
condition slow
losses lie 2 2 0
[ -s /tmp/lost ] && ok "a page that was never flushed is missed" || bad "a page that was never flushed is not missed"
losses written 3 1 0
[ -s /tmp/lost ] && ok "pages that were written but not synced are missed" || bad "pages that were not synced are not missed"
