#!/bin/sh
# Run in the directory of the jobs' sources, in the guest and on the host: compiles those that are new, and makes
# the package for the job `dpkg`. PREBUILT names a directory where this has been done before.
set -e
PREBUILT=${PREBUILT:-/opt/rvisor-bench}
for source in *.c; do
    program=${source%.c}
    if [ "$PWD" != "$PREBUILT" ] && cmp -s "$source" "$PREBUILT/$source" && [ -x "$PREBUILT/$program" ]; then
        cp "$PREBUILT/$program" "$program"
    else
        gcc -O2 -o "$program" "$source" -lm
    fi
done

if [ "$PWD" != "$PREBUILT" ] && cmp -s package.py "$PREBUILT/package.py" && [ -e "$PREBUILT/sample.deb" ]; then
    cp "$PREBUILT/sample.deb" sample.deb
else
    rm -rf sample
    python3 package.py sample
    dpkg-deb --root-owner-group -Zxz -z1 --build sample sample.deb >/dev/null
    rm -rf sample
fi
