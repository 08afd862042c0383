# Installs the Debian packages given as arguments; runs as root. Debian starts a service when it
# installs it; a policy file denies that while this shell runs. An existing policy file stays.
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    # If this shell is killed, the file that remains allows everything.
    printf '#!/bin/sh\n[ ! -d /proc/%s ] || exit 101\n' "$$" >"$policy"
    chmod 755 "$policy"
fi
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
