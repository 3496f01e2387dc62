#!/bin/sh
# Install Chromium and what drives it in tests, where Debian's packages can be had without asking.
set -eu
command -v chromium > /dev/null && command -v chromedriver > /dev/null && exit 0
test "$(id -u)" = 0
command -v apt-get > /dev/null
echo "Installing Chromium for the tests of pages (a minute) ..."
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium chromium-driver > /dev/null
