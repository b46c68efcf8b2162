# The builder VM: makes the root file system of an image out of the payload that the host has laid out.
#
# It finds three disks: the target, which has a partition table; the payload, a tar of the whole system with every
# package unpacked but not configured; and a blank one for what goes back to the host, a tar too.
# /rvisor/build.conf says: FILES, PACKAGES (how many), UUID, KERNEL (its version).
# The host reads lines `RVISOR-PROGRESS n/m phase detail`, and `RVISOR-DONE` or `RVISOR-FAILED reason` at the end.

. /rvisor/build.conf

fail() {
    echo "RVISOR-FAILED $*"
    sync
    poweroff -f
    sleep 60
}

find_disks() {
    for disk in vda vdb vdc; do
        wait_for /dev/$disk || fail "disk $disk is missing"
        if [ -e /dev/${disk}1 ]; then
            target=/dev/${disk}1
        elif [ "$(dd if=/dev/$disk bs=1 skip=257 count=5 2>/dev/null)" = ustar ]; then
            payload=/dev/$disk
        else
            output=/dev/$disk
        fi
    done
    [ -n "$target" ] && [ -n "$payload" ] && [ -n "$output" ] || fail "a disk is missing"
}

# Runs a command in the new system.
inside() {
    chroot /target /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        LC_ALL=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true INITRD=No \
        DPKG_FORCE=unsafe-io,confold "$@"
}

make_file_system() {
    echo "RVISOR-PROGRESS 0/1 formatting the disk"
    /rvisor/mke2fs -q -F -t ext4 -L root -U "$UUID" -m 1 -J size=32 -O ^metadata_csum_seed,^orphan_file \
        -E lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard "$target" || fail "can't format the disk"
    mount -t ext4 -o noatime,nobarrier,data=writeback,commit=300 "$target" /target || fail "can't mount the disk"
}

unpack() {
    umask 0
    { tar -xpvf "$payload" -C /target || echo "RVISOR-FAILED-TAR"; } 2>&1 | awk -v total="$FILES" '
        /RVISOR-FAILED-TAR/ { exit 1 }
        NR % 200 == 0 { print "RVISOR-PROGRESS " NR "/" total " unpacking files"; fflush() }' ||
        fail "can't unpack the packages"
    umask 022
}

mount_inside() {
    for directory in proc sys dev; do
        mount --bind /$directory /target/$directory || fail "can't mount $directory"
    done
    mkdir -p /dev/pts
    mount -t devpts -o gid=5,mode=620 devpts /dev/pts
    mount --bind /dev/pts /target/dev/pts
    mount -t tmpfs -o mode=755 run /target/run
    mount -t tmpfs -o mode=1777 tmp /target/tmp
}

# Reads dpkg's output: one step of progress for each package that is set up, everything else as it is.
show_progress() {
    awk -v total="$PACKAGES" '
        BEGIN { n = '"${1:-0}"' }
        /^Setting up / { n++; print "RVISOR-PROGRESS " n "/" total " configuring " $3; fflush(); next }
        { print; fflush() }'
}

run_preinst_scripts() {
    while read -r name script; do
        DPKG_MAINTSCRIPT_PACKAGE=$name
        inside DPKG_MAINTSCRIPT_PACKAGE="$name" DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=riscv64 \
            DPKG_ADMINDIR=/var/lib/dpkg DPKG_RUNNING_VERSION=1.22.0 \
            "/var/lib/dpkg/info/$script" install || fail "the preinst script of $name failed"
    done </rvisor/preinst
}

configure() {
    printf '#!/bin/sh\nexit 101\n' >/target/usr/sbin/policy-rc.d
    chmod 755 /target/usr/sbin/policy-rc.d
    run_preinst_scripts
    # Maintainer scripts take these for granted.
    { inside dpkg --force-depends --configure base-passwd base-files libc6 perl-base mawk debconf ||
        echo "RVISOR-FAILED-DPKG"; } 2>&1 | tee /first | show_progress 0
    { inside dpkg --configure -a || echo "RVISOR-FAILED-DPKG"; } 2>&1 | tee /second |
        show_progress "$(grep -c '^Setting up ' /first)"
    if grep -q RVISOR-FAILED-DPKG /first /second; then
        fail "the packages can't be configured"
    fi
    rm /target/usr/sbin/policy-rc.d
}

run_commands() {
    for script in /rvisor/commands/*; do
        [ -e "$script" ] || continue
        number=${script##*/}
        echo "RVISOR-PROGRESS $number/$COMMANDS running the recipe's commands"
        cp "$script" /target/tmp/command
        inside /bin/sh -e /tmp/command 2>&1 || fail "command $number of the recipe failed"
    done
}

make_initrd() {
    echo "RVISOR-PROGRESS 0/1 making the initial RAM disk"
    inside update-initramfs -c -k "$KERNEL" 2>&1 || fail "can't make the initial RAM disk"
    [ -e "/target/boot/initrd.img-$KERNEL" ] || fail "there is no initial RAM disk"
    # Boot menus name these; Debian's own hooks make them only where a boot loader is installed.
    ln -sf "boot/vmlinux-$KERNEL" /target/vmlinuz
    ln -sf "boot/initrd.img-$KERNEL" /target/initrd.img
}

clean() {
    rm -rf /target/var/cache/apt/*.bin /target/var/cache/debconf/*-old /target/var/lib/dpkg/*-old \
        /target/var/log/*.log /target/var/log/apt/* /target/etc/machine-id
    # Filled in at the first boot of each machine.
    : >/target/etc/machine-id
}

finish() {
    echo "RVISOR-PROGRESS 0/1 writing the image"
    tar -cf "$output" -C /target/boot "initrd.img-$KERNEL" || fail "can't write the initial RAM disk back"
    for directory in dev/pts proc sys dev run tmp; do
        umount /target/$directory || fail "can't unmount $directory"
    done
    fstrim /target 2>/dev/null
    umount /target || fail "can't unmount the disk"
    sync
    echo "RVISOR-DONE"
    poweroff -f
    sleep 60
}

find_disks
make_file_system
unpack
mount_inside
configure
run_commands
make_initrd
clean
finish
