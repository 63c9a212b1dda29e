//! Load from pods and from outside the cluster, running beside what a test does.

use std::process::{Child, Command, Stdio};

use crate::kit::report::Report;

use super::{TESTKIT_IMAGE, TestCluster, bin_dir, eventually};

/// A load generator that runs; [`Running::end`] stops it and gives its report.
pub struct Running {
    what: String,
    child: Child,
    /// Set when the generator is in a pod: kubectl does not pass signals on.
    pod: Option<(super::Kubectl, String, String)>,
}

impl Running {
    /// Ends the load and returns what it saw.
    #[track_caller]
    pub fn end(mut self) -> Report {
        match &self.pod {
            Some((kubectl, pod, mark)) => {
                let kill = format!("kill -TERM $(pgrep -f '[t]estkit {mark}')");
                kubectl.exec(pod, &["sh", "-c", &kill]);
            }
            None => {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
                    .expect("the load generator still runs");
            }
        }
        self.wait()
    }

    /// Waits for the load's own end.
    #[track_caller]
    pub fn wait(&mut self) -> Report {
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut stdout, &mut text).expect("its output is text");
        }
        let _status = self.child.wait();
        serde_json::from_str(text.trim())
            .unwrap_or_else(|error| panic!("{} gave no report ({error}): {text}", self.what))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
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
    pub fn start_in_pod(&self, pod: &str, arguments: &[&str]) -> Running {
        let mut command = vec!["exec", pod, "--", "testkit"];
        command.extend(arguments);
        Running {
            what: format!("testkit {arguments:?} in {pod}"),
            child: self.kubectl().start(&command),
            pod: Some((self.kubectl().clone(), pod.to_owned(), arguments.join(" "))),
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
        Running { what: format!("testkit {arguments:?} outside"), child, pod: None }
    }

    /// The port of a service on every node.
    pub fn node_port(&self, service: &str) -> String {
        self.kubectl().jsonpath(&["service", service], "{.spec.ports[0].nodePort}")
    }
}
