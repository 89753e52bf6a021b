#!/usr/bin/env bash
# The first process of a node in its namespaces: node.sh NAME ADDRESS HOSTS COMMAND…
set -euo pipefail
name=$1 address=$2 hosts=$3
shift 3
hostname "$name"
mount -t tmpfs tmpfs /dev/shm
mount --bind "$hosts" /etc/hosts
echo ready
read -r _ # eth0 is connected to the switch
exec </dev/null >&2
ip -batch - <<END
link set lo up
address add $address dev eth0
link set eth0 up
END
"$@" &  # this shell stays, and takes in the children that jobs leave behind
wait $!
