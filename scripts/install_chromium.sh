#!/bin/sh
# Install Chromium, which opens pages in tests, where Debian's package can be had without asking.
set -eu
command -v chromium > /dev/null && exit 0
test "$(id -u)" = 0
command -v apt-get > /dev/null
echo "Installing Chromium for the tests of pages (a minute) ..."
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null
