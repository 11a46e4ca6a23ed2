# Writers report on the console what is durable until the machine is ended without warning; on the next boot it must be
# there. $cycle says which boot this is, $last whether it is the last; /t/reports has what the boot before printed.
must modprobe -a virtio_pci virtio_blk ext4 xfs
for medium in ext4-dax xfs-dax ext4; do
	mkdir -p /mnt/$medium
	[ $medium = ext4 ] && dev=/dev/vda options=rw || { nvdimm fsdax; options=dax=always; }
	type=${medium%-dax}
	if [ -z "$again" ]; then
		[ $type = xfs ] && must mkfs.xfs -q -f -m reflink=0 $dev || must mkfs.ext4 -q -F -b 4096 $dev
	fi
	must mount -t $type -o $options $dev /mnt/$medium
done
nvdimm devdax
before=$((cycle - 1))
if [ $cycle -gt 0 ]; then
	for medium in ext4-dax xfs-dax ext4; do
		if grep -q "^$medium " /t/reports; then
			check "boot $cycle: all that was reported on $medium is there" \
				/t/power check /mnt/$medium/$before /t/reports $medium 1000000
		fi
	done
	if grep -q "^devdax " /t/reports; then
		check "boot $cycle: all that was reported on devdax is there" \
			/t/record check $dev /t/reports devdax $((before * 2097152))
	fi
fi
[ $last = 0 ] || finish 0
mkdir /tmp/reported
for medium in ext4-dax xfs-dax ext4; do
	rm -rf /mnt/$medium/*
	mkdir /mnt/$medium/$cycle
	/t/power write library /mnt/$medium/$cycle /dev/ttyS0 $medium $cycle 1000000 &
done
/t/record write $dev /dev/ttyS0 devdax $((cycle * 2097152)) &
for medium in ext4-dax xfs-dax ext4 devdax; do
	appears /tmp/reported/$medium
done
echo START
sleep 100
