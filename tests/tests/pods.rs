//! Pods: order of start, shared volumes, probes, limits.

use bowline_tests::harness::{TESTKIT_IMAGE, TestCluster, eventually, eventually_some};

#[test]
fn a_pod_waits_for_a_service_by_name_then_starts_in_order_with_its_sidecar() {
    let cluster = TestCluster::get("pod-order");
    let kubectl = cluster.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: ordered}}\nspec:\n\
         \x20 terminationGracePeriodSeconds: 1\n\
         \x20 initContainers:\n\
         \x20 - name: wait\n    image: {TESTKIT_IMAGE}\n\
         \x20   command: [sh, -c, 'until nslookup late.$NS.svc.cluster.local; do sleep 0.2; done; echo waited > /shared/log']\n\
         \x20   env: [{{name: NS, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}]\n\
         \x20   volumeMounts: [{{name: shared, mountPath: /shared}}]\n\
         \x20 - name: sidecar\n    image: {TESTKIT_IMAGE}\n    restartPolicy: Always\n\
         \x20   command: [sh, -c, 'sleep 1; echo sidecar >> /shared/log; exec testkit serve --port=9090']\n\
         \x20   startupProbe: {{tcpSocket: {{port: 9090}}, periodSeconds: 1}}\n\
         \x20   volumeMounts: [{{name: shared, mountPath: /shared}}]\n\
         \x20 containers:\n\
         \x20 - name: main\n    image: {TESTKIT_IMAGE}\n\
         \x20   command: [sh, -c, 'echo main >> /shared/log; sleep 1; echo serves >> /shared/log; exec testkit serve']\n\
         \x20   readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}\n\
         \x20   livenessProbe: {{exec: {{command: [cat, /shared/log]}}, periodSeconds: 1, failureThreshold: 1}}\n\
         \x20   resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{cpu: 500m, memory: 64Mi}}}}\n\
         \x20   volumeMounts: [{{name: shared, mountPath: /shared}}]\n\
         \x20 volumes: [{{name: shared, emptyDir: {{}}}}]\n"
    ));
    eventually("the init container runs and waits", 30, || {
        let state =
            kubectl.jsonpath(&["pod", "ordered"], "{.status.initContainerStatuses[0].state}");
        if state.contains("running") { Ok(()) } else { Err(state) }
    });
    let phase = kubectl.jsonpath(&["pod", "ordered"], "{.status.phase}");
    assert_eq!(phase, "Pending", "no container may start before the service exists");
    kubectl.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {ports: [{port: 80}]}\n",
    );
    kubectl.run(&["wait", "pod", "ordered", "--for=condition=Ready", "--timeout=60s"]);
    let log = kubectl.run(&["exec", "ordered", "-c", "main", "--", "cat", "/shared/log"]);
    assert_eq!(log, "waited\nsidecar\nmain\nserves\n", "each waits for the one before it");
    // The liveness probe's file goes: the container is restarted.
    kubectl.run(&["exec", "ordered", "-c", "main", "--", "rm", "/shared/log"]);
    eventually("liveness failed and the container was restarted", 60, || {
        let restarts =
            kubectl.jsonpath(&["pod", "ordered"], "{.status.containerStatuses[0].restartCount}");
        if restarts.parse::<u32>().unwrap_or(0) >= 1 { Ok(()) } else { Err(restarts) }
    });
}

#[test]
fn a_container_over_its_memory_limit_ends_oomkilled_and_restarts_with_backoff() {
    let cluster = TestCluster::get("oom");
    let kubectl = cluster.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hungry}}\nspec:\n\
         \x20 terminationGracePeriodSeconds: 0\n  containers:\n  - name: hungry\n\
         \x20   image: {TESTKIT_IMAGE}\n    command: [sh, -c, 'exec tail /dev/zero']\n\
         \x20   resources: {{limits: {{memory: 24Mi}}}}\n"
    ));
    let status = "{.status.containerStatuses[0]}";
    eventually("it was killed for its memory", 60, || {
        let text = kubectl.jsonpath(&["pod", "hungry"], status);
        if text.contains("OOMKilled") && text.contains("137") { Ok(()) } else { Err(text) }
    });
    for pause in ["back-off 10s", "back-off 20s"] {
        eventually("it is restarted, with a growing pause", 60, || {
            let text = kubectl.jsonpath(&["pod", "hungry"], status);
            let waits = text.contains("CrashLoopBackOff") && text.contains(pause);
            if waits { Ok(()) } else { Err(format!("{pause}: {text}")) }
        });
    }
}

#[test]
fn configuration_reaches_a_pod_in_every_way_and_updates_follow() {
    let cluster = TestCluster::get("volumes");
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "configmap", "settings", "--from-literal=colour=blue"]);
    kubectl.run(&["create", "secret", "generic", "key", "--from-literal=password=s3cret"]);
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: configured, labels: {{x: 'y'}}}}\nspec:\n\
         \x20 terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n\
         \x20   image: {TESTKIT_IMAGE}\n    command: [sleep, infinity]\n\
         \x20   envFrom: [{{configMapRef: {{name: settings}}}}]\n    env:\n\
         \x20   - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: key, key: password}}}}}}\n\
         \x20   - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}\n\
         \x20   - {{name: JOINED, value: '$(NODE)-$(colour)'}}\n\
         \x20   volumeMounts:\n\
         \x20   - {{name: settings, mountPath: /settings}}\n    - {{name: key, mountPath: /key}}\n\
         \x20   - {{name: pod, mountPath: /pod}}\n    - {{name: host, mountPath: /host, readOnly: true}}\n\
         \x20 volumes:\n  - {{name: settings, configMap: {{name: settings}}}}\n\
         \x20 - {{name: key, secret: {{secretName: key, defaultMode: 0400}}}}\n\
         \x20 - {{name: pod, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}\n\
         \x20 - {{name: host, hostPath: {{path: /etc, type: Directory}}}}\n"
    ));
    kubectl.run(&["wait", "pod", "configured", "--for=condition=Ready", "--timeout=60s"]);
    let sh = |script: &str| kubectl.exec("configured", &["sh", "-c", script]);
    let node = kubectl.jsonpath(&["pod", "configured"], "{.spec.nodeName}");
    assert_eq!(sh("echo $colour $PASSWORD $JOINED"), format!("blue s3cret {node}-blue\n"));
    assert_eq!(sh("cat /settings/colour /key/password"), "blues3cret");
    assert_eq!(sh("stat -L -c %a /key/password"), "400\n");
    assert_eq!(sh("cat /pod/labels"), "x=\"y\"");
    assert_eq!(sh("test -e /host/hostname && echo there"), "there\n");
    // Nothing of how the agent runs itself reaches its containers.
    assert_eq!(sh("grep THP_enabled /proc/self/status"), "THP_enabled:\t1\n");
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(sh(&format!("ls {account}")), "ca.crt\nnamespace\ntoken\n");
    assert_eq!(sh(&format!("cat {account}/namespace")), cluster.namespace());
    kubectl.run(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#]);
    eventually_some("the changed configuration reaches the pod", 90, || {
        let text = kubectl.try_run(&["exec", "configured", "--", "cat", "/settings/colour"])?;
        Ok((text == "red").then_some(()))
    });
}

#[test]
fn a_pod_reaches_outside_the_cluster_and_its_own_service() {
    let cluster = TestCluster::get("egress");
    let clients = cluster.client_pods();
    // A server on the host, outside the cluster: it sees the node's address, not the pod's.
    let gateway = cluster.cluster().plan().gateway.to_string();
    let server =
        std::net::TcpListener::bind((gateway.as_str(), 0)).expect("the host is the gateway");
    let port = server.local_addr().expect("it is bound").port();
    let seen = std::thread::spawn(move || {
        let (stream, peer) = server.accept().expect("a client comes");
        drop(stream);
        peer.ip().to_string()
    });
    // The server says nothing: only that it is reached counts.
    let _unanswered = cluster.kubectl().output(&[
        "exec",
        &clients[0],
        "--",
        "testkit",
        "load",
        &format!("{gateway}:{port}"),
        "--requests=1",
    ]);
    let peer = seen.join().expect("the server got its connection");
    assert!(cluster.node_addresses().contains(&peer), "pods leave as their node, not as {peer}");
    // Hairpin: a pod that is the only backend reaches itself through its service.
    cluster.servers("self", 1, "", "");
    let pod = cluster.kubectl().jsonpath(&["pods", "-l", "app=self"], "{.items[0].metadata.name}");
    let report = cluster.testkit(&pod, &["load", "self:80", "--requests=20"]);
    assert_eq!((report.ok, report.failed), (20, 0), "{report:?}");
}
