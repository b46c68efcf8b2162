#!/bin/busybox sh
# What every initial RAM disk of Rvisor does first: see the kernel's file systems, load the board's drivers, and
# take the command line apart.
export PATH=/bin HOME=/root TERM=vt100
umask 022
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

# Prints what the command line says for a name: `argument root` is `/dev/vda1` for root=/dev/vda1.
argument() {
    read -r words </proc/cmdline
    for word in $words; do
        case $word in "$1="*) echo "${word#*=}" ;; esac
    done
}

# Waits up to ten seconds until a file is there.
wait_for() {
    tries=0
    while ! [ -e "$1" ]; do
        tries=$((tries + 1))
        [ $tries -le 200 ] || return 1
        sleep 0.05
    done
}

while read -r module; do
    insmod "$module" || echo "rvisor: can't load $module" >&2
done </rvisor/modules/order

