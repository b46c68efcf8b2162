# Behind common.sh of the image store's initial RAM disks: the first process of a Linux guest with neighbours. It fills its disk, pings
# its neighbours, and says what is typed, until that is `end`.
name=$(argument name)
say() { echo "$name: $*"; }

ip link set lo up
ip addr add "$(argument net)/24" dev eth0
ip link set eth0 up
say "harts: $(grep -c ^processor /proc/cpuinfo)"

sectors=$(cat /sys/block/vda/size)
dd if=/dev/urandom of=/content bs=512 count="$sectors" 2>/dev/null
dd if=/content of=/dev/vda bs=64k conv=fsync 2>/dev/null || say "FAILED: write"
# From the disk itself, not from memory.
echo 3 >/proc/sys/vm/drop_caches
if cmp /content /dev/vda; then
    say "disk has $(sha256sum </dev/vda)"
else
    say "FAILED: the disk has something else than was written"
fi

for peer in $(argument ping | tr , ' '); do
    tries=0
    until ping -c 3 -W 5 "$peer" >/dev/null; do
        tries=$((tries + 1))
        [ $tries -le 60 ] || { say "FAILED: $peer doesn't answer"; break; }
        sleep 1
    done
    say "$peer answers"
done

heard=
while read -r line; do
    heard="$heard $line"
    say "heard $line"
    [ "$line" != end ] || break
done
say "all heard:$heard"
# Waits until what was said has left the serial line.
stty sane
poweroff -f
