# Granularity, MAP_SYNC, device DAX and deep flush on emulated persistent memory: three NVDIMMs and a disk.
g=1
[ $persistence = cpu ] && g=0
must modprobe -a virtio_pci virtio_blk ext4 xfs
mkdir /mnt/ext4 /mnt/xfs /mnt/page
nvdimm fsdax
must mkfs.ext4 -q -F -b 4096 $dev
must mount -t ext4 -o dax=always $dev /mnt/ext4
nvdimm fsdax
must mkfs.xfs -q -f -m reflink=0 $dev
must mount -t xfs -o dax=always $dev /mnt/xfs
nvdimm devdax
must mkfs.ext4 -q -F /dev/vda
must mount -t ext4 /dev/vda /mnt/page

tests /t/fsdax "$case, ext4-dax" /mnt/ext4 $g /mnt/page 2
tests /t/fsdax "$case, xfs-dax" /mnt/xfs $g /mnt/ext4 $g
tests /t/fsdax "$case, ext4 on a disk" /mnt/page 2
tests /t/devdax "$case, devdax" $dev $g /mnt/ext4
tests /t/pmem2dax "$case, libpmem2 objects" $dev $g /mnt/ext4

# The control of the regions is read-only here, since the emulated platform has nothing to flush.
dd if=/dev/zero of=/mnt/ext4/deep bs=64k count=1 2>/dev/null
chmod 777 /mnt/ext4
chmod 666 $dev /mnt/ext4/deep
# A file is synced then; a device has nothing else.
syncs=1
for medium in /mnt/ext4/deep $dev; do
	check "deep flush of $medium" /t/deep $medium $g 0 $syncs
	check "deep flush of $medium without privilege" /t/deep $medium $g 0 $syncs 65534
	syncs=0
done
[ "$(cat /sys/bus/nd/devices/region0/deep_flush)" ] || bad "the regions have no deep_flush"
# Something else in its place: a file that shows what is written there, and one that cannot be written.
for r in 0 1 2; do
	: >/tmp/control$r
	must mount --bind /tmp/control$r /sys/bus/nd/devices/region$r/deep_flush
done
# written REGION: exactly that control has been written
written() {
	for r in 0 1 2; do
		if [ $r = $1 ]; then
			[ "$(tr -d '\n' </tmp/control$r | tr -d 1)" = "" ] && [ -s /tmp/control$r ] || bad "region$r: $(cat /tmp/control$r)"
		else
			[ -s /tmp/control$r ] && bad "region$r was written, too"
		fi
		: >/tmp/control$r
	done
}
check "deep flush of a file writes its region's control" /t/deep /mnt/ext4/deep $g 0 0
written 0
check "deep flush of a device writes its region's control" /t/deep $dev $g 0 0
written 2
chmod 600 /tmp/control0
check "deep flush is no failure where the control is root's" /t/deep /mnt/ext4/deep $g 0 1 65534
[ -s /tmp/control0 ] && bad "written by nobody"
must mount --bind /dev/full /sys/bus/nd/devices/region0/deep_flush
must mount --bind /dev/full /sys/bus/nd/devices/region2/deep_flush
check "a control that refuses is a failure, file" /t/deep /mnt/ext4/deep $g -200018 0
check "a control that refuses is a failure, device" /t/deep $dev $g -200018 0
# Regions of other kinds beside this one say nothing of it.
other=cpu_cache
[ $g = 1 ] || other=memory_controller
echo $other >/tmp/domain
for r in 1 2; do
	must mount --bind /tmp/domain /sys/bus/nd/devices/region$r/persistence_domain
done
must umount /sys/bus/nd/devices/region0/deep_flush
chmod 644 /tmp/control0
dd if=/dev/zero of=/mnt/xfs/deep bs=64k count=1 2>/dev/null
check "granularity of a file beside other memory" /t/deep /mnt/ext4/deep $g 0 0
check "granularity of a file in other memory" /t/deep /mnt/xfs/deep $((1 - g)) 0 0
