#!/bin/sh
# What tests/node needs beside Python: the CNI project's main plugins, ip and ping. Installed only where that takes no question:
# as root, with apt-get. Elsewhere nothing happens here, and the tests say what is missing.
set -u

missing=
[ -x /usr/lib/cni/ptp ] || [ -x /opt/cni/bin/ptp ] || missing="$missing containernetworking-plugins"
command -v ip >/dev/null || missing="$missing iproute2"
command -v ping >/dev/null || missing="$missing iputils-ping"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing for tests/node, once" >&2
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # words, on purpose
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; } >/dev/null ||
        echo "could not install$missing: the tests in network namespaces will not run" >&2
else
    echo "not here:$missing: the tests in network namespaces will not run" >&2
fi
