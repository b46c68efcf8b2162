# Serves `rvisor run`: mounts the disk, then becomes its init, or runs one command that the host sends.
# The book describes the protocol in "The guest protocol".

# Nobody looks at a machine that idles beside a hundred others: its kernel needn't wake up twice a second to see whether
# memory is in pieces, nor look for processors that hang, which are those that the host gave to others. The root file
# system's own settings come later.
setting() {
    [ ! -e "/proc/sys/$1" ] || echo "$2" >"/proc/sys/$1"
}
setting vm/compaction_proactiveness 0
setting vm/stat_interval 30
setting kernel/watchdog 0

root_argument=$(argument root)
target=
trouble=

if [ -n "$root_argument" ]; then
    target=/target
    case $root_argument in
    /dev/*) wait_for "$root_argument" && device=$root_argument ;;
    *)
        wait_for /dev/vda
        device=$(findfs "$root_argument")
        ;;
    esac
    mount -t ext4 -o noatime "$device" $target || trouble="can't mount the root file system $root_argument"
fi

# The port called $1, when the host has given the machine one.
port() {
    for entry in /sys/class/virtio-ports/*; do
        [ -e "$entry/name" ] || continue
        read -r name <"$entry/name"
        [ "$name" != "$1" ] || echo "/dev/${entry##*/}"
    done
}

wait_for_port() {
    tries=0
    while path=$(port "$1") && [ -z "$path" ]; do
        tries=$((tries + 1))
        [ $tries -le 200 ] || return 1
        sleep 0.05
    done
    wait_for "$path"
    echo "$path"
}

# Starts the program that runs commands for the host: $1 says who ends the machine. A host that gives it no port
# gets none.
agent() {
    [ -n "$(argument rvisor.agent)" ] && [ -e /rvisor/agent ] || return
    path=$(wait_for_port org.rvisor.agent) && /rvisor/agent "$path" "$target" "$1"
}

has_shares() {
    grep -q 0x0009 /sys/bus/virtio/devices/*/device 2>/dev/null
}

# Loads the modules for shared directories: those of the RAM disk, or those of the root file system.
share_modules() {
    if [ -e /rvisor/modules/shares ]; then
        while read -r module; do
            insmod "$module"
        done </rvisor/modules/shares
    elif mountpoint -q "$target/proc"; then
        chroot "${target:-/}" modprobe -a 9p 9pnet_virtio
    else
        # modprobe looks into both.
        mount --bind /proc $target/proc
        mount --bind /sys $target/sys
        chroot $target modprobe -a 9p 9pnet_virtio
        umount $target/sys $target/proc
    fi 2>/dev/null
    grep -q 9p /proc/filesystems
}

# Puts the directories that the host shares in their places, if it shares any.
shares() {
    has_shares || return 0
    share_modules || {
        trouble="the image has no modules for shared directories; get a newer one with rvisor pull --force"
        return
    }
    mkdir -p /rvisor/shares
    mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap,msize=512000 rvisor /rvisor/shares || {
        trouble="can't mount the shared directories"
        return
    }
    while IFS=' ' read -r name mode path; do
        share "/rvisor/shares/$name" $mode "$path" || trouble="can't put a shared directory at $path"
    done </rvisor/shares/places
    umount /rvisor/shares
}

share() {
    if [ -d "$1" ]; then
        chroot "${target:-/}" mkdir -p "$3"
    else
        chroot "${target:-/}" mkdir -p "${3%/*}/" && chroot "${target:-/}" touch "$3"
    fi || return
    # Links on the way are the guest's, so its root is theirs.
    place=$target$(chroot "${target:-/}" readlink -f "$3")
    mount --bind "$1" "$place" && { [ $2 = rw ] || mount -o remount,bind,ro "$place"; }
}

end() {
    sync
    [ -z "$target" ] || mount -o remount,ro $target 2>/dev/null
    poweroff -f
}

network() {
    hostname=$(argument rvisor.hostname)
    [ -n "$hostname" ] || hostname=$(cat $target/etc/hostname 2>/dev/null)
    hostname "${hostname:-rvisor}"
    ip link set lo up
    if [ -e /sys/class/net/eth0 ]; then
        ip link set eth0 up
        RVISOR_ROOT=$target udhcpc -i eth0 -n -q -f -t 3 -T 1 -s /rvisor/udhcpc >/dev/null 2>&1
    fi
}

refuse() {
    echo "failed $trouble" >&3
    end
}

run_command() {
    control=$(wait_for_port org.rvisor.control) || {
        echo "rvisor: the host has given no port org.rvisor.control" >&2
        end
    }
    exec 3<>"$control"
    [ -z "$trouble" ] || refuse
    if [ -n "$target" ]; then
        for directory in proc sys dev; do
            mount --bind /$directory $target/$directory
        done
        mount -t tmpfs -o mode=755,nosuid,nodev run $target/run
        mount -t tmpfs -o mode=1777,nosuid,nodev tmp $target/tmp
        # By it free memory goes back to the host. RAM disks of images that were made earlier don't have it.
        [ -e /sys/bus/virtio/drivers/virtio_balloon ] || chroot $target modprobe virtio_balloon 2>/dev/null
    fi
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
    if [ -n "$target" ]; then
        mount --bind /dev/pts $target/dev/pts
        mount --bind /dev/shm $target/dev/shm
    fi
    shares
    [ -z "$trouble" ] || refuse
    agent script &
    network
    # From here on it only waits: a machine that is saved now serves as any command's.
    echo ready >&3

    # The host may still be connecting: an empty read isn't the end yet.
    tries=0
    until read -r verb length <&3 && [ "$verb" = run ]; do
        tries=$((tries + 1))
        [ $tries -le 500 ] || { echo "failed no command came" >&3; end; }
        sleep 0.02
    done
    dd bs="$length" count=1 iflag=fullblock <&3 >/rvisor/words 2>/dev/null
    eval "set -- $(cat /rvisor/words)"
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    while [ "$1" != -- ]; do
        export "$1"
        shift
    done
    shift

    export stdin=$(wait_for_port org.rvisor.stdin)
    export stdout=$(wait_for_port org.rvisor.stdout)
    export stderr=$(wait_for_port org.rvisor.stderr)
    # A shell of its own opens the ports, so that what this one says of a killed command doesn't get into them.
    sh -c '
        exec <"${stdin:-/dev/null}" >"${stdout:-/dev/console}" 2>"${stderr:-/dev/console}"
        unset stdin stdout stderr
        exec chroot "$@"' sh "${target:-/}" \
        /bin/sh -c 'cd "$HOME" 2>/dev/null; unset OLDPWD; exec "$@"' sh "$@" 3>&- 2>/dev/null
    code=$?
    kill -9 -1 2>/dev/null
    sync
    echo "exit $code" >&3
    end
}

if [ "$(argument rvisor.mode)" = command ]; then
    run_command
elif [ -n "$trouble" ]; then
    echo "rvisor: $trouble" >&2
    end
elif [ -n "$target" ]; then
    # Shares may lie where the system would mount these later.
    ! has_shares || {
        mount -t tmpfs -o mode=755,nosuid,nodev run $target/run
        mount -t tmpfs -o mode=1777,nosuid,nodev tmp $target/tmp
    }
    shares
    [ -z "$trouble" ] || echo "rvisor: $trouble" >&2
    agent system
    for directory in proc sys dev; do
        mount --move /$directory $target/$directory
    done
    exec switch_root $target /sbin/init
else
    mkdir -p /dev/pts
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    shares
    [ -z "$trouble" ] || echo "rvisor: $trouble" >&2
    agent script &
    network
    cd "$HOME"
    # The shell is not process 1: its exit ends the machine.
    setsid cttyhack sh -l
    end
fi
