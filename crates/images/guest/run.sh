# Serves `rvisor run`: mounts the disk, then becomes its init, or runs one command that the host sends.
# The book describes the protocol in "The guest protocol".

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

run_command() {
    control=$(wait_for_port org.rvisor.control) || {
        echo "rvisor: the host has given no port org.rvisor.control" >&2
        end
    }
    exec 3<>"$control"
    if [ -n "$trouble" ]; then
        echo "failed $trouble" >&3
        end
    fi
    if [ -n "$target" ]; then
        for directory in proc sys dev; do
            mount --bind /$directory $target/$directory
        done
        mount -t tmpfs -o mode=755,nosuid,nodev run $target/run
        mount -t tmpfs -o mode=1777,nosuid,nodev tmp $target/tmp
    fi
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
    if [ -n "$target" ]; then
        mount --bind /dev/pts $target/dev/pts
        mount --bind /dev/shm $target/dev/shm
    fi
    agent script &
    network

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
    agent system
    for directory in proc sys dev; do
        mount --move /$directory $target/$directory
    done
    exec switch_root $target /sbin/init
else
    mkdir -p /dev/pts
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    agent script &
    network
    cd "$HOME"
    # The shell is not process 1: its exit ends the machine.
    setsid cttyhack sh -l
    end
fi
