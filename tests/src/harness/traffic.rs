//! Load from pods and from outside the cluster, running beside what a test does.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kit::report::Report;

use super::{Kubectl, TESTKIT_IMAGE, TestCluster, bin_dir, eventually, eventually_some};

/// A load generator that runs; [`Running::end`] stops it and gives its report.
pub struct Running {
    what: String,
    place: Place,
}

enum Place {
    /// The host.
    Outside(Child),
    /// A process of its own in a pod: it hangs on no stream of kubectl's, so it lives on while the
    /// apiserver, the kubelet or containerd are killed.
    Pod { kubectl: Kubectl, pod: String, pid: String, file: String },
}

impl Running {
    /// Ends the load and returns what it saw.
    #[track_caller]
    pub fn end(mut self) -> Report {
        match &self.place {
            Place::Pod { kubectl, pod, pid, .. } => {
                // It may have ended by itself just now.
                let _ended = kubectl.try_run(&["exec", pod, "--", "kill", "-TERM", pid]);
            }
            Place::Outside(child) => {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
                    .expect("the load generator is our child");
            }
        }
        self.wait()
    }

    /// Waits for the load's own end.
    #[track_caller]
    pub fn wait(&mut self) -> Report {
        let mut text = String::new();
        match &mut self.place {
            Place::Outside(child) => {
                if let Some(mut stdout) = child.stdout.take() {
                    std::io::Read::read_to_string(&mut stdout, &mut text).expect("it is text");
                }
                let _status = child.wait();
            }
            Place::Pod { kubectl, pod, file, .. } => {
                text = eventually_some(&format!("{} reports", self.what), 150, || {
                    let text = kubectl.try_run(&["exec", pod, "--", "cat", file])?;
                    Ok(text.ends_with('\n').then_some(text))
                });
            }
        }
        serde_json::from_str(text.trim())
            .unwrap_or_else(|error| panic!("{} gave no report ({error}): {text}", self.what))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Place::Outside(child) = &mut self.place {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// The reports of loads that end by themselves.
pub fn reports_of(loads: Vec<Running>) -> Vec<Report> {
    loads.into_iter().map(|mut load| load.wait()).collect()
}

impl TestCluster {
    /// A client pod on each node, named `client-n1` and so on, ready for `exec`.
    pub fn client_pods(&self) -> Vec<String> {
        let names: Vec<String> = self
            .cluster()
            .plan()
            .nodes
            .iter()
            .map(|node| format!("client-{}", node.name))
            .collect();
        for (pod, node) in names.iter().zip(&self.cluster().plan().nodes) {
            self.kubectl().apply(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, labels: {{role: client}}}}\n\
                 spec:\n  nodeName: {}\n  terminationGracePeriodSeconds: 0\n  containers:\n\
                 \x20 - name: client\n    image: {TESTKIT_IMAGE}\n\
                 \x20   command: [sleep, infinity]\n",
                node.name
            ));
        }
        self.kubectl().run(&[
            "wait",
            "pod",
            "-l",
            "role=client",
            "--for=condition=Ready",
            "--timeout=60s",
        ]);
        names
    }

    /// A Deployment of test servers and its Service of the same name; waits until all are available.
    pub fn servers(&self, name: &str, replicas: usize, service: &str, pod_spec: &str) {
        self.kubectl().apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n\
             \x20 replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n\
             \x20 template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n{pod_spec}\
             \x20     containers:\n      - name: server\n        image: {TESTKIT_IMAGE}\n\
             \x20       command: [testkit, serve]\n        ports: [{{containerPort: 8080}}]\n\
             \x20       readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n\
             \x20       lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n{service}\
             \x20 selector: {{app: {name}}}\n  ports:\n\
             \x20 - {{name: tcp, port: 80, targetPort: 8080, protocol: TCP}}\n\
             \x20 - {{name: udp, port: 80, targetPort: 8080, protocol: UDP}}\n"
        ));
        self.kubectl().run(&["rollout", "status", "deployment", name, "--timeout=90s"]);
        eventually("every server is an endpoint of the service", 10, || {
            let label = format!("kubernetes.io/service-name={name}");
            let ready = self.kubectl().try_run(&[
                "get",
                "endpointslices",
                "-l",
                &label,
                "-o",
                "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}x{end}",
            ])?;
            if ready.len() == replicas { Ok(()) } else { Err(format!("{} are", ready.len())) }
        });
    }

    /// Runs the test program in a pod to its end.
    #[track_caller]
    pub fn testkit(&self, pod: &str, arguments: &[&str]) -> Report {
        let mut command = vec!["testkit"];
        command.extend(arguments);
        let text = self.kubectl().exec(pod, &command);
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Starts the test program in a pod.
    #[track_caller]
    pub fn start_in_pod(&self, pod: &str, arguments: &[&str]) -> Running {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let file = format!("/tmp/report-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let words = arguments.join(" ");
        let script = format!("setsid testkit {words} >{file} 2>&1 </dev/null & echo $!");
        let pid = self.kubectl().exec(pod, &["sh", "-c", &script]).trim().to_owned();
        Running {
            what: format!("testkit {words} in {pod}"),
            place: Place::Pod { kubectl: self.kubectl().clone(), pod: pod.to_owned(), pid, file },
        }
    }

    /// Starts the test program on the host: the client outside the cluster.
    pub fn start_outside(&self, arguments: &[&str]) -> Running {
        let child = Command::new(bin_dir().join("bowline-testkit"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the test program was built with the tests");
        Running { what: format!("testkit {arguments:?} outside"), place: Place::Outside(child) }
    }

    /// The port of a service on every node.
    pub fn node_port(&self, service: &str) -> String {
        self.kubectl().jsonpath(&["service", service], "{.spec.ports[0].nodePort}")
    }
}
