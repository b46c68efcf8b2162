#!/usr/bin/env python3
"""Measures shared directories of Rvisor beside QEMU's 9p (`-fsdev local`): the same kernel and initial RAM disk (the image
busybox), one after the other in turns. Prints medians as lines of a table.

    cargo build --release && rvisor pull busybox && measurements/shares/measure.py [ROUNDS]
"""

import pathlib
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from guest import Guest, compare

MEGABYTES = 128
FILES = 500
LOOKS = 5000
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3


def measure(who):
    with tempfile.TemporaryDirectory() as directory:
        rvisor = ["--share", f"{directory}:shared"]
        qemu = ["-fsdev", f"local,id=share,path={directory},security_model=none",
                "-device", "virtio-9p-device,fsdev=share,mount_tag=shared"]
        pathlib.Path(directory, "large").write_bytes(bytes(MEGABYTES << 20))
        tree = pathlib.Path(directory, "tree")
        for number in range(FILES):
            place = tree / f"{number // 50}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.c").write_bytes(bytes(3000))
        guest = Guest(who, rvisor, qemu)
        # The initial RAM disk has loaded the modules: it has seen a share, though none of its own.
        guest.run("mkdir -p /m && mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap,msize=512000 shared /m")
        fresh = "umount /m && mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap,msize=512000 shared /m"
        cost = lambda script: guest.cost(lambda: guest.run(script))
        read = cost("dd if=/m/large of=/dev/null bs=1M 2>/dev/null")
        write = cost(f"dd if=/dev/zero of=/m/new bs=1M count={MEGABYTES} conv=fsync 2>/dev/null")
        guest.run(fresh)
        walk = cost("find /m/tree -type f -size +1 >/dev/null")
        guest.run(fresh)
        guest.run("find /m/tree -type f >/tmp/names")
        every = cost("xargs cat </tmp/names >/dev/null")
        guest.run("cp -r /m/tree /tmp/tree")
        create = cost("cp -r /tmp/tree /m/copy")
        remove = cost("rm -r /m/copy")
        look = cost(f"i=0; while [ $i -lt {LOOKS} ]; do [ -e /m/nothing ]; i=$((i + 1)); done")
        guest.end()
    amounts = MEGABYTES, MEGABYTES, FILES, FILES, FILES, FILES, LOOKS
    costs = read, write, walk, every, create, remove, look
    return [[amount / one for one in both] for amount, both in zip(amounts, costs)]


compare(ROUNDS, measure, (
    "MiB of a large file read",
    "MiB of a large file written and synced",
    "files found with their sizes",
    "files of 3 kB read",
    "files of 3 kB made",
    "files removed",
    "names looked up that aren't there",
))
