#!/usr/bin/env python3
"""Measures the user-mode network of Rvisor beside QEMU's back end `user`: the same kernel and initial RAM disk (the image
busybox), one after the other in turns. Prints medians as lines of a table.

    cargo build --release && rvisor pull busybox && measurements/network/measure.py [ROUNDS]
"""

import http.client
import pathlib
import socket
import sys
import threading
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from guest import Guest, compare

MEGABYTES = {"rvisor": 96, "qemu": 32}
REQUESTS = {"rvisor": 1500, "qemu": 500}
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
PORT = 18080
RVISOR = ["-p", f"{PORT}:80"]
QEMU = ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{PORT}-:80", "-device", "virtio-net-device,netdev=net"]


def listen(serve):
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        connection, _ = server.accept()
        serve(connection)
        connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1]


def give(megabytes):
    def serve(connection):
        for _ in range(megabytes):
            connection.sendall(bytes(1 << 20))

    return serve


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
    guest = Guest(who, RVISOR, QEMU)
    guest.run("until ip addr show eth0 | grep -q 'inet 10'; do sleep 0.1; done")
    size = MEGABYTES[who]
    ports = listen(give(size)), listen(take)
    receive = f"nc 10.0.2.2 {ports[0]} </dev/null | wc -c >/tmp/count; grep -q {size << 20} /tmp/count"
    send = f"dd if=/dev/zero bs=64k count={size * 16} 2>/dev/null | nc 10.0.2.2 {ports[1]} >/dev/null"
    to_guest, from_guest = (guest.cost(lambda: guest.run(script)) for script in (receive, send))
    guest.run("mkdir -p /www; head -c 1000 /dev/zero >/www/file; busybox httpd -p 80 -h /www")
    ask(100)
    requests = guest.cost(lambda: ask(REQUESTS[who]))
    guest.end()
    amounts = size, size, REQUESTS[who]
    return [[amount / cost for cost in costs] for amount, costs in zip(amounts, (to_guest, from_guest, requests))]


compare(ROUNDS, measure, ("MiB to the guest", "MiB from the guest", "requests, each over a connection of its own"))
