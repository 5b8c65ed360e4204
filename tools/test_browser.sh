#!/usr/bin/env bash
# Uses the web page of a server in a real Chromium: installs Debian's if there is none.
#
#   make test-browser
#
# Needs the .venv of `make test`, and root and apt-get where Chromium is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

if ! type -P chromium > /dev/null; then
  [[ $(id -u) == 0 ]] || die 'Chromium is not installed, and installing it needs root'
  type -P apt-get > /dev/null || die 'Chromium is not installed, and there is no apt-get here'
  apt_install chromium > /dev/null || die 'apt-get could not install chromium'
fi
# From here on all talk is within this machine.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
.venv/bin/python -m pytest -q -m browser tests/serving/browser
