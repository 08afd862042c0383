# Installs the Debian packages named as arguments; runs as root. Debian starts a service when it
# installs it: a policy says no as long as this shell lives. A policy of the machine's own stays.
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    # Should this shell be killed outright, what is left behind says yes to everything.
    printf '#!/bin/sh\n[ ! -d /proc/%s ] || exit 101\n' "$$" >"$policy"
    chmod 755 "$policy"
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
