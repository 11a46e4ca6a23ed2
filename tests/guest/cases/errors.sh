# Failing disks: blocks of a device-mapper device are made to fail and to work again under a mounted ext4; a full disk.
must modprobe -a dm_mod ext4
must modprobe brd rd_nr=1 rd_size=32768
must dmsetup --verifyudev create failing --table "0 65536 linear /dev/ram0 0"
must mkfs.ext4 -q -F -b 4096 /dev/mapper/failing
mkdir /mnt/failing
must mount -t ext4 -o errors=continue /dev/mapper/failing /mnt/failing
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
tests /t/errors $case /mnt/failing failing /dev/ram0 65536 $seed
tests /t/lost $case /mnt/failing failing /dev/ram0 65536 $seed
tests /t/pmem2lost $case /mnt/failing failing /dev/ram0 65536 $seed
# A FUSE file system over a small disk, which is filled up.
must modprobe -a loop fuse
truncate -s 8M /tmp/small
must mkfs.ext4 -q -F -b 4096 /tmp/small
mkdir /mnt/small /mnt/fuse
must mount -t ext4 -o loop /tmp/small /mnt/small
mkdir /mnt/small/below
must bindfs /mnt/small/below /mnt/fuse
tests /t/fuse $case /mnt/fuse /mnt/small/below /mnt/small/filler
