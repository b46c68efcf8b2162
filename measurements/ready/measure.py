#!/usr/bin/env python3
"""Measures how long `rvisor run debian -- true` takes from its start to its end, with and without `--rm`, with a shared
directory and on a terminal, by turns with cold boots; and with strace (Debian's package of that name), where the time of a copy goes.

    cargo build --release && rvisor pull debian && measurements/ready/measure.py [RUNS [COLD_RUNS]]
"""

import os
import pathlib
import pty
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from guest import PROGRAM

RUNS, COLD_RUNS = [int(word) for word in sys.argv[1:]] + [10, 3][len(sys.argv) - 1:]
COPY, KEPT, COLD = ["--rm"], [], ["--rm", "--cold"]
SHARE, TERMINAL = ["-v", f"{pathlib.Path(__file__).parent}:/src", "-w", "/src"], ["-it"]


def command(options):
    # Those without --rm need a name to be removed by.
    name = [] if options else ["--name", f"ready-{os.getpid()}"]
    return [PROGRAM, "run", *options, *name, "debian", "--", "true"]


def run(options):
    """Seconds by the clock, in user and in system mode."""
    start = time.monotonic()
    primary, replica = pty.openpty()
    process = subprocess.Popen(command(options), stdin=replica,
                               stderr=subprocess.DEVNULL if "-it" in options else None)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    os.close(primary), os.close(replica)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"it ends with {process.returncode}"
    if not options:
        subprocess.run([PROGRAM, "rm", command(options)[3]], check=True, stdout=subprocess.DEVNULL)
    return seconds, used.ru_utime, used.ru_stime


def tell(what, figures):
    clock, user, system = zip(*figures)
    print(f"| {what} | {statistics.median(clock):.3f} s ({min(clock):.2f} to {max(clock):.2f}) | "
          f"{statistics.median(user):.2f} s | {statistics.median(system):.2f} s |")


# The first system call of each part's end, in order.
PARTS = [
    ("command line, image, ready point looked up; directory made", r"mkdir\(.*/machines/\.new"),
    ("files opened, process confined to them", r"landlock_restrict_self"),
    ("machine made, state read", r"rmdir\(.*/resume"),
    ("streams, control socket, system calls confined", r"seccomp\(SECCOMP_SET_MODE_FILTER.*len=[0-9]{3}"),
    ("guest: identity, `sh`, `true`, output and code back", r"unlinkat\(.*\"log\""),
    ("directory removed", r"exit_group"),
    ("process gone: memory unmapped", r"\+\+\+ exited"),
]


def split():
    """Milliseconds from the start to the end of each part, of one run."""
    with tempfile.NamedTemporaryFile("r") as trace:
        calls = "execve,mkdir,rmdir,unlinkat,landlock_restrict_self,seccomp,exit_group"
        tracer = ["strace", "-f", "--seccomp-bpf", "-ttt", "-o", trace.name, "-e", "trace=" + calls]
        subprocess.run([*tracer, *command(COPY)], check=True)
        lines = [line.split(maxsplit=2)[1:] for line in trace]
    start, at, ends = float(lines[0][0]), 0, []
    for part, pattern in PARTS:
        found = [place for place in range(at, len(lines)) if re.search(pattern, lines[place][1])]
        assert found, f"no {pattern}"
        # A process is gone with its last thread.
        at = found[-1] if part.startswith("process gone") else found[0]
        ends.append((float(lines[at][0]) - start) * 1000)
    return ends


# What each row is called, its options, and how often it is run.
ROWS = [
    ("copy, `--rm`", COPY, RUNS),
    ("copy", KEPT, RUNS),
    ("copy, `--rm -v .:/src -w /src`", COPY + SHARE, RUNS),
    ("copy, `--rm -it`", COPY + TERMINAL, RUNS),
    ("`--rm --cold`", COLD, COLD_RUNS),
    ("`--rm --cold -v .:/src -w /src`", COLD + SHARE, COLD_RUNS),
]
figures = {what: [] for what, _, _ in ROWS}
for options in (COPY, COPY + SHARE):
    run(options)
for number in range(RUNS):
    for what, options, runs in ROWS:
        if number < runs:
            figures[what].append(run(options))
print("| `rvisor run debian -- true` | by the clock | user | system |\n|---|---|---|---|")
for what, found in figures.items():
    if found:
        tell(what, found)
if shutil.which("strace"):
    runs = zip(*(split() for _ in range(3)))
    print("\n| part | at the end of it, ms |\n|---|---|")
    for (part, _), ends in zip(PARTS, runs):
        print(f"| {part} | {statistics.median(ends):.0f} |")
else:
    print("\nNo strace here: the parts are left out.")
