#!/bin/sh
# Removes Bowline from this host: units, pods, containerd's data, kernel programs, files. Run as root;
# may be run again. With --keep-data the server's folder (database, certificates, token) stays.
# First take the node out of its cluster: kubectl drain NODE --ignore-daemonsets; kubectl delete node NODE
set -u
[ "$(id -u)" = 0 ] || { echo "remove.sh: run this as root" >&2; exit 1; }
bin=/usr/local/bin

systemctl disable --now bowline-agent bowline-server 2>/dev/null
# The pods outlive the agent: containerd and the shims are in its unit's cgroup, the containers in kubepods.
for group in /sys/fs/cgroup/system.slice/bowline-agent.service /sys/fs/cgroup/kubepods \
  /sys/fs/cgroup/*/system.slice/bowline-agent.service /sys/fs/cgroup/*/kubepods; do
  [ -d "$group" ] || continue
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086 # a list
    kill -KILL $pids 2>/dev/null
    sleep 0.1
  done
  find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
done

# What was mounted for containers, the last first. What is still mounted must not be deleted through.
mounts() { awk '$5 ~ "^/(run/bowline|var/lib/kubelet|var/lib/bowline/agent)/" {print $5}' /proc/self/mountinfo | tac; }
mounts | while read -r mount; do umount -l "$mount"; done
[ -z "$(mounts)" ] || { echo "remove.sh: still mounted, so nothing is deleted: $(mounts)" >&2; exit 1; }

[ ! -x $bin/bowline-proxy ] || $bin/bowline-proxy cleanup
# Ours stands in for the plugin `loopback` where no other was installed.
if grep -qs bowline-cni /opt/cni/bin/loopback; then rm /opt/cni/bin/loopback; fi
rm -f $bin/bowline $bin/bowline-proxy $bin/bowline-cni $bin/bowline-dns /etc/default/bowline \
  /etc/systemd/system/bowline-agent.service /etc/systemd/system/bowline-server.service \
  /etc/cni/net.d/10-bowline.conflist /opt/cni/bin/bowline-cni
# The runtime keeps what our plugin answered.
rm -f /var/lib/cni/results/bowline-*
rm -rf /etc/bowline /run/bowline /var/lib/bowline/agent /var/lib/cni/bowline /var/lib/kubelet \
  /var/log/pods /var/log/containers
[ "${1:-}" = --keep-data ] || rm -rf /var/lib/bowline
systemctl daemon-reload
systemctl reset-failed 'bowline-*' 2>/dev/null
echo "Bowline is removed from this host."
