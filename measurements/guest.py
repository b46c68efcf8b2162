"""A guest of Rvisor or of QEMU to measure with: the same kernel and initial RAM disk, those of the image busybox. What
measures imports it."""

import atexit
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

HOME = pathlib.Path(os.environ.get("RVISOR_HOME", pathlib.Path.home() / ".local/share/rvisor"))
BLOBS = HOME / "blobs/sha256"
PROGRAM = os.environ.get("RVISOR", pathlib.Path(__file__).parents[1] / "target/release/rvisor")
ENGINES = ("rvisor", "qemu")


def command(who, rvisor_options, qemu_options):
    image = json.loads((HOME / "images/busybox/latest.json").read_text())
    kernel, initrd = (str(BLOBS / image[name]["sha256"]) for name in ("kernel", "run_initrd"))
    pieces = {"kernel": kernel, "initrd": initrd, "append": image["append"] + " quiet"}
    dashes, program, options = {
        "rvisor": ("--", [PROGRAM, "boot", "--memory", "512M"], rvisor_options),
        "qemu": ("-", ["qemu-system-riscv64", "-nographic", "-M", "virt", "-m", "512M"], qemu_options),
    }[who]
    return [*program, *options, *(word for name, value in pieces.items() for word in (dashes + name, value))]


class Guest:
    def __init__(self, who, rvisor_options, qemu_options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command(who, rvisor_options, qemu_options), **pipes)
        # However the measurement ends.
        atexit.register(self.end)
        self.unread, self.count = b"", 0
        # The shell asks where the cursor is.
        self.expect(rb"[#$] (\x1b\[6n)?$", 300)

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

    def processor(self):
        """Seconds of processors that it has used; on a busy host they say more than the clock."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cost(self, work):
        """Does some work; returns the seconds that it took by the clock, and of processors."""
        before = self.processor()
        seconds = work()
        return seconds, max(self.processor() - before, 0.01)

    def end(self):
        self.process.kill()
        self.process.wait()



def compare(rounds, measure, lines):
    """Measures both in turns; prints the medians as lines of a table, of rates: per second by the clock, for Rvisor, for QEMU,
    and how many times more; and the same per second of a processor."""
    results = {who: [] for who in ENGINES}
    for _ in range(rounds):
        for who, runs in results.items():
            runs.append(measure(who))
            print(who, runs[-1], file=sys.stderr)
    for index, what in enumerate(lines):
        columns = []
        for kind in (0, 1):
            rvisor, qemu = (statistics.median(run[index][kind] for run in results[who]) for who in ENGINES)
            columns.append(f"{rvisor:.4g} | {qemu:.4g} | {rvisor / qemu:.1f}")
        print(f"| {what} | {' | '.join(columns)} |")
