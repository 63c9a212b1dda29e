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
"$bin/bowline" local down || fail "down"
echo "ALL ANSWERED"
