#!/usr/bin/env python3
"""Measures what idle Debian machines cost, of the host's processors and of its memory, beside some of QEMU's with the same
kernel, initial RAM disk and disk. Machines of Rvisor are copies of a ready guest; each of QEMU's has to boot.

    cargo build --release && rvisor pull debian && measurements/idle/measure.py [MACHINES [QEMUS]]
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from guest import BLOBS, HOME, PROGRAM

MACHINES, QEMUS = [int(word) for word in sys.argv[1:]] + [100, 4][len(sys.argv) - 1:]
# Until everything has settled, and for how long is measured, in seconds.
SETTLE, TIME = 40, 60


def rvisor(*words):
    return subprocess.run([PROGRAM, *words], check=True, capture_output=True, text=True).stdout


def tasks(processes, file):
    for process in processes:
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            yield (task / file).read_text()


def field(text, name):
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def used(processes):
    """Seconds of processor time, and how often a thread was woken."""
    seconds = sum(int(text.split()[0]) for text in tasks(processes, "schedstat")) / 1e9
    return seconds, sum(field(text, "voluntary_ctxt_switches") for text in tasks(processes, "status"))


def tell(who, processes):
    time.sleep(SETTLE)
    (before, asleep), _ = used(processes), time.sleep(TIME)
    after, awake = used(processes)
    count = len(processes)
    memory = [pathlib.Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    share = sum(field(text, "Pss:") for text in memory) / count / 1024
    percent = (after - before) / TIME * 100
    print(f"| {count} of {who}'s | {percent:.1f} % | {percent / count:.3f} % | {(awake - asleep) / TIME / count:.1f} | "
          f"{share:.0f} MiB |", flush=True)


print("| | of one processor | each | woken, a second | memory of each |\n|---|---|---|---|---|")
names = [f"idle-{os.getpid()}-{number}" for number in range(MACHINES)]
try:
    for name in names:
        rvisor("run", "-d", "--name", name, "debian")
    live = [json.loads(rvisor("inspect", name))[0]["live"] for name in names]
    tell("Rvisor", [machine["pid"] for machine in live])
finally:
    subprocess.run([PROGRAM, "rm", "--force", *names], capture_output=True)

if QEMUS == 0:
    sys.exit()
image = json.loads((HOME / "images/debian/latest.json").read_text())
blob = lambda what: BLOBS / image[what]["sha256"]
running = []
with tempfile.TemporaryDirectory() as directory:
    try:
        consoles = [pathlib.Path(directory, f"{number}") for number in range(QEMUS)]
        for console in consoles:
            running.append(subprocess.Popen([
                "qemu-system-riscv64", "-M", "virt", "-smp", "1", "-m", "1G", "-display", "none", "-monitor", "none",
                "-serial", f"file:{console}", "-kernel", blob("kernel"), "-initrd", blob("initrd"),
                "-append", f"{image['append']} quiet",
                "-drive", f"file={blob('disk')},format=raw,if=none,id=disk,snapshot=on",
                "-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device",
                "-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net",
            ], stdin=subprocess.DEVNULL))
        while not all(console.exists() and b"root@" in console.read_bytes() for console in consoles):
            time.sleep(1)
        tell("QEMU", [process.pid for process in running])
    finally:
        for process in running:
            process.kill()
            process.wait()
