#!/bin/sh
# Boot a throw-away copy of this machine with systemd as process 1, and run one command in it:
#   unshare -m sh boot.sh DIRECTORY COMMAND…
# DIRECTORY/given is /given in there, and what is written there comes back; so does
# DIRECTORY/console. Nothing else leaves it: / is an overlay on a tmpfs, the network is its own.
set -eu
directory=$1
shift
mount --make-rprivate /
mkdir -p "$directory/mnt"
mount -t tmpfs tmpfs "$directory/mnt"
cd "$directory/mnt"
mkdir up work root
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
cp -R "$directory/given" root/given
system=root/etc/systemd/system
# Nothing of what this machine would start: the base alone, then the command, then the end.
cat > $system/given.target <<EOF
[Unit]
Requires=basic.target given.service
After=basic.target
EOF
cat > $system/given.service <<EOF
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=$*
ExecStopPost=-/bin/sh -c 'journalctl --no-pager -n 300 > /given/journal; systemctl poweroff --force --force'
StandardOutput=append:/given/said
StandardError=append:/given/said
TimeoutStartSec=infinity
EOF
ln -sf given.target $system/default.target
rm -f root/etc/machine-id
: > root/etc/machine-id
timeout -k 5 "${SECONDS_AT_MOST:-300}" systemd-nspawn --quiet --register=no --keep-unit \
    --private-network --directory root --boot < /dev/null > "$directory/console" 2>&1 || true
cp -R root/given/. "$directory/given"
