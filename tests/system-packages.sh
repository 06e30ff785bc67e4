#!/bin/sh
# Installs the Debian packages that are named here and missing; where it may not,
# says which they are.  It never fails: the tests that need one skip, and say so.

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    may_install=yes
    # One run at a time: apt-get update does not wait for another.
    exec 9</var/lib/dpkg && flock 9
else
    may_install=
fi

missing=
for package; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null |
        grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$may_install" ]; then
    echo "installing$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update 9<&-
    wanted=$missing missing=
    # One by one: one that is not to be had keeps no other away.
    for package in $wanted; do
        apt-get -qq -o DPkg::Lock::Timeout=600 install --no-install-recommends \
            "$package" >/dev/null 9<&- || missing="$missing $package"
    done
fi
[ -z "$missing" ] || echo "tests skip what needs these packages:$missing" >&2
