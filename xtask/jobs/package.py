"""Makes the tree of a Debian package of a thousand small files, always the same."""

import pathlib
import random
import sys

CONTROL = """Package: rvisor-sample
Version: 1
Architecture: all
Maintainer: Rvisor <root@localhost>
Description: files to unpack
"""

root = pathlib.Path(sys.argv[1])
(root / "DEBIAN").mkdir(parents=True)
(root / "DEBIAN" / "control").write_text(CONTROL)
random.seed(1)
words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(3000)]
for number in range(1000):
    directory = root / "usr" / "share" / "rvisor-sample" / f"{number % 40:02}"
    directory.mkdir(parents=True, exist_ok=True)
    text = " ".join(random.choices(words, k=random.randint(100, 2000)))
    (directory / f"{number:03}").write_text(text)
