#!/usr/bin/env python3
"""Measures the user-mode network of Rvisor beside QEMU's back end `user`: the same kernel and initial RAM disk (the image
busybox), one after the other in turns. Prints medians as lines of a table.

    cargo build --release && rvisor pull busybox && measurements/network/measure.py [ROUNDS]
"""

import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

MEGABYTES = 256
REQUESTS = 10_000
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
HOME = pathlib.Path(os.environ.get("RVISOR_HOME", pathlib.Path.home() / ".local/share/rvisor"))
IMAGE = json.loads((HOME / "images/busybox/latest.json").read_text())
BLOBS = HOME / "blobs/sha256"
PROGRAM = pathlib.Path(__file__).parents[2] / "target/release/rvisor"
PORT = 18080


def command(who):
    kernel, initrd = (str(BLOBS / IMAGE[name]["sha256"]) for name in ("kernel", "run_initrd"))
    pieces = ["-kernel", kernel, "-initrd", initrd, "-append", IMAGE["append"] + " quiet"]
    if who == "rvisor":
        pieces = ["-" + piece if piece in ("-kernel", "-initrd", "-append") else piece for piece in pieces]
        return [PROGRAM, "boot", "--memory", "512M", "-p", f"{PORT}:80", *pieces]
    net = f"user,id=net,hostfwd=tcp:127.0.0.1:{PORT}-:80"
    return ["qemu-system-riscv64", "-nographic", "-M", "virt", "-m", "512M", "-netdev", net,
            "-device", "virtio-net-device,netdev=net", *pieces]


class Guest:
    def __init__(self, who):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command(who), **pipes)
        self.unread, self.count = b"", 0
        self.expect(rb"[#$] $", 300)
        self.run("until ip addr show eth0 | grep -q 'inet 10'; do sleep 0.1; done")

    def expect(self, pattern, patience):
        deadline = time.monotonic() + patience
        os.set_blocking(self.process.stdout.fileno(), False)
        while not (found := re.search(pattern, self.unread)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"{pattern} didn't come: {self.unread[-2000:]}")
            self.unread += self.process.stdout.read() or b""
            time.sleep(0.001)
        self.unread = self.unread[found.end():]
        return found

    def run(self, script):
        """Runs a script and returns the seconds it took."""
        self.count += 1
        start = time.monotonic()
        # What is echoed isn't what is waited for.
        self.process.stdin.write(f"{script}; echo en''d-{self.count}-$?\n".encode())
        self.process.stdin.flush()
        found = self.expect(rf"end-{self.count}-(\d+)\r?\n".encode(), 900)
        assert found[1] == b"0", script
        return time.monotonic() - start

    def end(self):
        self.process.kill()
        self.process.wait()


def listen(serve):
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        connection, _ = server.accept()
        serve(connection)
        connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


def give(connection):
    block = bytes(1 << 20)
    for _ in range(MEGABYTES):
        connection.sendall(block)


def take(connection):
    while connection.recv(1 << 20):
        pass


def ask(count):
    """Makes requests, each over a connection of its own; returns the seconds."""
    start = time.monotonic()
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        connection.request("GET", "/file")
        answer = connection.getresponse()
        assert answer.status == 200 and len(answer.read()) == 1000
        connection.close()
    return time.monotonic() - start


def measure(who):
    guest = Guest(who)
    to_guest = guest.run(f"nc 10.0.2.2 {listen(give)} </dev/null | wc -c >/tmp/count; grep -q {MEGABYTES << 20} /tmp/count")
    from_guest = guest.run(f"dd if=/dev/zero bs=64k count={MEGABYTES * 16} 2>/dev/null | nc 10.0.2.2 {listen(take)} >/dev/null")
    guest.run("mkdir -p /www; head -c 1000 /dev/zero >/www/file; busybox httpd -p 80 -h /www")
    ask(100)
    requests = REQUESTS / ask(REQUESTS)
    guest.end()
    return MEGABYTES / to_guest, MEGABYTES / from_guest, requests


results = {who: [] for who in ("rvisor", "qemu")}
for _ in range(ROUNDS):
    for who, runs in results.items():
        runs.append(measure(who))
        print(who, runs[-1], file=sys.stderr)
for index, what in enumerate(("to the guest, MiB/s", "from the guest, MiB/s", "requests a second")):
    rvisor, qemu = (statistics.median(run[index] for run in results[who]) for who in ("rvisor", "qemu"))
    print(f"| {what} | {rvisor:.0f} | {qemu:.0f} | {rvisor / qemu:.2f} |")
