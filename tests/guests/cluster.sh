#!/usr/bin/env bash
# Runs in a guest: a one-node cluster comes up and answers by ClusterIP, node port and DNS.
# BIN and PROJECT are replaced by the folders of the binaries under test and of the project.
set -uo pipefail
bin=@BIN@ demo=@PROJECT@/deploy/demo.yaml
fail() {
  echo "FAILED: $*"
  "$bin/bowline" local status
  "$bin/bowline" local logs n1 server | tail -n 40
  "$bin/bowline" local logs n1 agent | tail -n 40
  kubectl --kubeconfig /run/kubeconfig get pods,events -A -o wide
  kubectl --kubeconfig /run/kubeconfig logs -n kube-system -l app.kubernetes.io/name=bowline-proxy --tail 40
  exit 1
}
echo "kernel $(uname -r), $(stat -fc %T /sys/fs/cgroup)"
"$bin/bowline" local up --kubeconfig /run/kubeconfig --demo "$demo" || fail "the cluster did not come up"
export KUBECONFIG=/run/kubeconfig
kubectl get nodes -o wide
address=$(kubectl get service demo -o 'jsonpath={.spec.clusterIP}')
node=$(kubectl get node n1 -o 'jsonpath={.status.addresses[0].address}')
pod=$(kubectl get pods -l app=demo -o 'jsonpath={.items[0].metadata.name}')

kubectl exec "$pod" -- timeout 20 wget -qO- "http://$address/" | grep Hello || fail "ClusterIP does not answer"
kubectl exec "$pod" -- timeout 20 wget -qO- "http://demo/" | grep Hello || fail "the name does not answer"
kubectl exec "$pod" -- nslookup kubernetes.default.svc.cluster.local | grep 10.96.0.1 || fail "DNS does not answer"
curl -sS --max-time 20 "http://$node:30080/" | grep Hello || fail "the node port does not answer"
kubectl logs -n kube-system -l app.kubernetes.io/name=bowline-proxy --tail 200 | grep -iE 'tcx|clsact' || fail "the proxy does not say how it attached"
# Limits under pure cgroup v2, as the container sees them, and as the kernel enforces them.
kubectl apply -f - <<'EOF' || fail "a pod with limits is not taken"
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: bowline/busybox:0.1.0
    command: [sh, -c, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; exec tail /dev/zero"]
    resources: {limits: {memory: 32Mi, cpu: 500m}}
EOF
reason='jsonpath={.status.containerStatuses[0].state.terminated.reason}'
for _ in $(seq 60); do [ "$(kubectl get pod limited -o "$reason")" = OOMKilled ] && break; sleep 0.5; done
[ "$(kubectl get pod limited -o "$reason")" = OOMKilled ] || fail "a container over its limit is not OOMKilled"
[ "$(kubectl logs limited | tr '\n' ' ')" = "33554432 50000 100000 " ] || fail "the limits are $(kubectl logs limited)"
echo "limits hold"
"$bin/bowline" local down || fail "down"
echo "ALL ANSWERED"
