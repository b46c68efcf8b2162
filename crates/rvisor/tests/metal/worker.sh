# Behind common.sh of the image store's initial RAM disks: the first process of a Linux guest that works with its disk and its memory,
# and looks whether anything is other than it should be, until something is typed.
say() { echo "worker: $*"; }
fail() { errors=$((errors + 1)); say "FAILED: $*"; }
step() { steps=$((steps + 1)); say "step $steps"; }

parts=$(($(cat /sys/block/vda/size) / 2048))
dd if=/dev/urandom of=/memory bs=64k count=64 2>/dev/null
sum=$(sha256sum </memory)
rounds=0 errors=0 steps=0
(read -r _ && touch /end) </dev/console &
say begins
while ! [ -e /end ]; do
    cp /memory /copy
    [ "$(sha256sum </copy)" = "$sum" ] || fail memory
    step
    part=$((rounds % parts * 16))
    dd if=/dev/urandom of=/content bs=64k count=16 2>/dev/null
    dd if=/content of=/dev/vda bs=64k seek=$part conv=notrunc,fsync 2>/dev/null || fail write
    step
    # From the disk itself, not from memory.
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k skip=$part count=16 2>/dev/null | cmp - /content || fail disk
    step
    rounds=$((rounds + 1))
done
say "worked $rounds rounds, $errors errors"
# Waits until what was said has left the serial line.
stty sane
poweroff -f
