#!/usr/bin/env bash
# Runs in a guest whose process 1 is systemd: installs Bowline as docs/install.md says, and shows who
# restarts what. BIN, PROJECT and IMAGES are replaced by the folders of the binaries under test, of the
# project and of the packed images.
set -uo pipefail
bin=@BIN@ project=@PROJECT@ images=@IMAGES@
address=192.0.2.10
fail() {
  echo "FAILED: $*"
  journalctl --no-pager -u bowline-server -u bowline-agent | tail -n 60
  tail -n 10 /var/lib/bowline/agent/containerd.log
  kubectl get pods,events -A -o wide
  kubectl logs -n kube-system -l app.kubernetes.io/name=bowline-proxy --tail 60
  exit 1
}
say() { printf '[%s] %s\n' "$(cut -d. -f1 /proc/uptime)" "$*"; }
# until_true SECONDS COMMAND...: whether it succeeds in time.
until_true() {
  local end=$(($(date +%s) + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$(date +%s)" -lt "$end" ] || return 1; sleep 0.5; done
}
main_pid() { systemctl show -p MainPID --value "$1"; }
restarted() { local pid; pid=$(main_pid "$1"); [ "$pid" != 0 ] && [ "$pid" != "$2" ]; }

touch /run/began
# The host's network: a card, by which it would reach others.
ip link add eth0 type dummy
ip address add $address/24 dev eth0 && ip link set eth0 up && ip link set lo up
ip route add default via 192.0.2.1

say "systemd $(cat /proc/1/comm), kernel $(uname -r)"
install -m 755 "$bin"/bowline{,-proxy,-cni,-dns} /usr/local/bin/
install -m 644 "$project"/deploy/systemd/*.service /etc/systemd/system/
systemctl daemon-reload
export KUBECONFIG=/var/lib/bowline/server/kubeconfig
systemctl enable --now bowline-server 2>&1 || fail "the server's unit does not start"
until_true 30 test -s /var/lib/bowline/server/token || fail "no token"
install -d -m 700 /etc/bowline
bowline token >/etc/bowline/token || fail "bowline token"
echo "BOWLINE_AGENT_FLAGS=--server=https://$address:6443 --token-file=/etc/bowline/token --node-name=n1 --images=$images" >/etc/default/bowline
systemctl enable --now bowline-agent 2>&1 || fail "the agent's unit does not start"
until_true 60 [ -e /etc/cni/net.d/10-bowline.conflist ] || fail "no CNI configuration"
until_true 20 kubectl wait --for=condition=Ready node/n1 --timeout=20s || fail "the node is not Ready"
say "node Ready"
kubectl apply -f "$project/deploy/demo.yaml" || fail "the demo is not taken"
kubectl rollout status deployment/demo --timeout=60s || fail "the demo's pods don't run"
say "the demo runs"
pod=$(kubectl get pods -l app=demo -o 'jsonpath={.items[0].metadata.name}')
kubectl exec "$pod" -- timeout 20 wget -qO- http://demo/ | grep Hello || fail "the service does not answer by its name"
node_port() { curl -sS --max-time 10 "http://$address:30080/"; }
node_port | grep Hello || fail "the node port does not answer"

# What must not notice: the demo's containers (their processes) and the host's own clients.
containers() { pgrep -x httpd | sort | tr '\n' ' '; }
before=$(containers)
[ "$(wc -w <<<"$before")" = 2 ] || fail "two web servers expected: $before"
(while [ ! -e /run/stop ]; do if node_port >/dev/null; then echo ok; else echo lost; fi; sleep 0.1; done) >/run/load 2>&1 &
load=$!
whole() {
  [ "$(containers)" = "$before" ] || fail "containers did not survive $1: $before -> $(containers)"
  kubectl get node n1 | grep -w Ready >/dev/null || fail "the node is not Ready after $1"
}

containerd=$(pgrep -xf 'containerd --config .*') || fail "no containerd"
agent=$(main_pid bowline-agent)
say "kill -9 the agent ($agent)"
kill -9 "$agent"
until_true 10 restarted bowline-agent "$agent" || fail "systemd does not restart the agent"
until_true 30 kubectl exec "$pod" -- true || fail "the kubelet does not answer again"
[ "$(pgrep -xf 'containerd --config .*')" = "$containerd" ] || fail "the agent's death took containerd along"
whole "the agent's death"
say "systemd restarted the agent ($(main_pid bowline-agent)); containerd ($containerd) stayed"

say "kill -9 containerd ($containerd)"
kill -9 "$containerd"
until_true 20 sh -c "pgrep -xf 'containerd --config .*' | grep -vx $containerd" || fail "the agent does not restart containerd"
until_true 30 kubectl exec "$pod" -- true || fail "containerd does not run commands again"
whole "containerd's death"
now=$(pgrep -xf 'containerd --config .*')
[ "$(ps -o ppid= -p "$now" | tr -d ' ')" = "$(main_pid bowline-agent)" ] || fail "containerd is not the agent's child"
say "the agent restarted containerd ($now)"

server=$(main_pid bowline-server)
say "kill -9 the server ($server)"
kill -9 "$server"
until_true 10 restarted bowline-server "$server" || fail "systemd does not restart the server"
until_true 30 kubectl get --raw /readyz || fail "the server does not come back"
whole "the server's death"
# A pod that begins after all that: everything works together again.
until_true 20 kubectl run probe --image=bowline/busybox:0.1.0 --image-pull-policy=IfNotPresent --restart=Never \
  -- sh -c "timeout 20 wget -qO- http://demo/" || fail "no pod can be made"
until_true 40 sh -c "kubectl logs probe | grep Hello" || fail "a new pod does not run and reach the service"
say "systemd restarted the server ($(main_pid bowline-server))"

systemctl stop bowline-agent || fail "the agent does not stop"
[ "$(containers)" = "$before" ] || fail "stopping the agent stopped containers"
systemctl start bowline-agent || fail "the agent does not start"
until_true 30 kubectl exec "$pod" -- true || fail "the kubelet does not answer again"
whole "a stop and start of the agent"

touch /run/stop; wait $load
say "requests meanwhile: $(sort /run/load | uniq -c | tr '\n' ' ')"
grep -qv ok /run/load && fail "requests failed"
[ "$(systemctl show -p NRestarts --value bowline-server)" = 1 ] || fail "the server restarted more often than it was killed"

"$project"/deploy/remove.sh || fail "remove.sh"
traces() {
  for name in bowline containerd runc pause httpd; do pgrep -a "$name"; done
  find /etc /opt /run /usr/local/bin /var/lib /var/log -name '*bowline*' -newer /run/began -not -path /var/lib/bowline
  find /var/lib/bowline -mindepth 1
  grep -E 'bowline|kubelet/' /proc/self/mountinfo | cut -d' ' -f5 | grep -vx /var/lib/bowline
  ls /sys/fs/bpf; nft list tables; ip route show type unreachable; ip -o link | grep -v 'lo:\|eth0:'
  tc filter show dev eth0 ingress; ls -d /sys/fs/cgroup/kubepods 2>/dev/null
}
left=$(traces)
[ -z "$left" ] || { echo "$left"; fail "remove.sh leaves traces"; }
say "removed without a trace"
echo "HOSTS HOLD"
