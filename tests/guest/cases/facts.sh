# The kernel's facts about persistent memory, and what the interface of 1.12 makes of them: shutdown state, bad blocks, reading
# and writing without mapping. Two NVDIMMs with file systems, one as device DAX, and a disk.
must modprobe -a virtio_pci virtio_blk ext4 xfs
mkdir /mnt/ext4 /mnt/xfs /mnt/page
nvdimm fsdax
ext4=${dev##*/}
must mkfs.ext4 -q -F -b 4096 $dev
must mount -t ext4 -o dax=always $dev /mnt/ext4
nvdimm fsdax
xfs=${dev##*/}
must mkfs.xfs -q -f -m reflink=0 $dev
must mount -t xfs -o dax=always $dev /mnt/xfs
nvdimm devdax
must mkfs.ext4 -q -F /dev/vda
must mount -t ext4 /dev/vda /mnt/page

for dir in /mnt/ext4 /mnt/xfs /mnt/page; do
	dd if=/dev/zero of=$dir/file bs=64k count=4 2>/dev/null
done
# identity REGION: what the region's only DIMM says of itself; the emulated platform counts unsafe shutdowns or does not.
identity() {
	dimm=$(cut -d, -f1 /sys/bus/nd/devices/region$1/mapping0)
	id=$(cat /sys/bus/nd/devices/$dimm/nfit/id) usc=-
	[ ! -e /sys/bus/nd/devices/$dimm/nfit/dirty_shutdown ] || usc=$(cat /sys/bus/nd/devices/$dimm/nfit/dirty_shutdown)
	[ "$usc" != - ] || id=-
}
identity 0
/t/facts "$case, ext4-dax" sds /mnt/ext4/file "$id" "$usc"
identity 1
/t/facts "$case, xfs-dax" sds /mnt/xfs/file "$id" "$usc"
identity 2
/t/facts "$case, devdax" sds $dev "$id" "$usc"
/t/facts "$case, ext4 on a disk" sds /mnt/page/file - -
# Where there is no count, one is put there.
for n in 0 1 2; do
	dimm=/sys/bus/nd/devices/$(cut -d, -f1 /sys/bus/nd/devices/region$n/mapping0)
	real=$(cat $dimm/nfit/id)
	mkdir /tmp/nfit$n
	echo "$real" >/tmp/nfit$n/id
	echo 1$n >/tmp/nfit$n/dirty_shutdown
	must mount --bind /tmp/nfit$n $dimm/nfit
done
identity 0
/t/facts "$case, ext4-dax, a count of ours" sds /mnt/ext4/file "$id" 10
identity 1
/t/facts "$case, xfs-dax, a count of ours" sds /mnt/xfs/file "$id" 11
identity 2
/t/facts "$case, devdax, a count of ours" sds $dev "$id" 12

for medium in /mnt/ext4/file /mnt/xfs/file /mnt/page/file $dev; do
	/t/facts "$case, ${medium%/file}" good $medium
done
/t/facts "$case, ext4-dax" bad /mnt/ext4/bad /sys/block/$ext4/badblocks
/t/facts "$case, xfs-dax" bad /mnt/xfs/bad /sys/block/$xfs/badblocks
