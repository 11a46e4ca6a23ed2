# Power loss: file systems on a disk whose writes are logged; the disk as it may have been at many moments is mounted, and
# what drains had reported durable must be there. The case's name says which file system.
must modprobe -a dm_mod dm_log_writes dm_delay dm_snapshot
must modprobe brd rd_nr=4 rd_size=327680
sectors=655360
fs=${case#power-}
must modprobe $fs
# Only what is asked for is written: no writeback by age, no commits by age.
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
[ $fs != xfs ] || echo 720000 >/proc/sys/fs/xfs/xfssyncd_centisecs
options=commit=300
[ $fs = xfs ] && options=noatime
mkdir -p /mnt/live /mnt/then
# There is no udev to make the devices' names.
dm() { dmsetup --verifyudev "$@"; }

# The disk: a write takes a while, so that nothing is on it merely because it was begun.
must dm create slow --table "0 $sectors delay /dev/ram0 0 0 /dev/ram0 0 1"
first=1

# losses WAY SEED ROUNDS POINTS: how many moments there were, in $seen, and what was lost then, in /tmp/lost
losses() {
	dd if=/dev/zero of=/dev/ram1 bs=64k count=1 2>/dev/null
	must dm create live --table "0 $sectors log-writes /dev/mapper/slow /dev/ram1"
	if [ $first ]; then
		case $fs in
		ext4) must mkfs.ext4 -q -F -b 4096 -E nodiscard /dev/mapper/live ;;
		xfs) must mkfs.xfs -q -f -K /dev/mapper/live ;;
		btrfs) must mkfs.btrfs -q -f -K /dev/mapper/live ;;
		esac
	fi
	first=
	must mount -t $fs -o $options /dev/mapper/live /mnt/live
	mkdir /mnt/live/$1
	must /t/power write $1 /mnt/live/$1 /tmp/reports log $2 $3 live
	must umount /mnt/live
	must dm remove live
	must /t/powerlog points /dev/ram1 $4 $2
	mv /tmp/must /tmp/points
	at=0 seen=0
	: >/tmp/lost
	# The log goes onto ram2, whose content is that of the disk when the log began. A look at it is through a snapshot, which
	# the recovery of the file system may change.
	while read -r begin end round; do
		must /t/powerlog replay /dev/ram1 /dev/ram2 $at $begin
		at=$begin
		must dm create then --table "0 $sectors snapshot /dev/ram2 /dev/ram3 N 16"
		[ $end = $begin ] || must /t/powerlog replay /dev/ram1 /dev/mapper/then $begin $end $2
		[ $fs != btrfs ] || must /t/powerlog forget
		if mount -t $fs -o ro /dev/mapper/then /mnt/then; then
			/t/power check /mnt/then/$1 /tmp/reports log $round >/tmp/check || {
				echo "entries 0 to $begin, some to $end:"
				cat /tmp/check
			} >>/tmp/lost
			umount /mnt/then
		else
			echo "round $round, entry $begin: not mounted" >>/tmp/lost
		fi
		must dm remove then
		seen=$((seen + 1))
		[ $1 = library ] || [ ! -s /tmp/lost ] || break
	done </tmp/points
	must /t/powerlog replay /dev/ram1 /dev/ram2 $at 999999999
}

losses library $seed $rounds $points
if [ -s /tmp/lost ]; then
	bad "a drain's word does not hold at $seen moments"
	head -40 /tmp/lost
else
	ok "$seen moments of power loss, nothing lost that a drain had reported"
fi
losses lie 2 2 0
[ -s /tmp/lost ] && ok "a page that was never flushed is missed" || bad "a page that was never flushed is not missed"
losses written 3 1 0
[ -s /tmp/lost ] && ok "pages that were written but not synced are missed" || bad "pages that were not synced are not missed"
