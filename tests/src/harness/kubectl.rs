//! kubectl as users run it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A kubectl program, a cluster and a namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// The one on the PATH.
    pub fn newest(kubeconfig: &Path) -> Self {
        Self { program: "kubectl".into(), kubeconfig: kubeconfig.to_owned(), namespace: None }
    }

    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// This one, and Debian's 1.20 where that is another: what it does must be the same.
    ///
    /// `BOWLINE_TEST_KUBECTLS` names more, separated by colons (the test command sets it).
    pub fn versions(&self) -> Vec<Self> {
        let more = std::env::var("BOWLINE_TEST_KUBECTLS").unwrap_or_default();
        let others = more.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut all = vec![self.clone()];
        all.extend(others.map(|program| Self { program, ..self.clone() }));
        all
    }

    /// The program's own version, for messages.
    pub fn version(&self) -> String {
        let output = self.command(&["version", "--client", "-o", "json"]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let version: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        version["clientVersion"]["gitVersion"].as_str().unwrap_or("unknown").to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        let own = || arguments.iter().take_while(|word| **word != "--");
        if let Some(namespace) = &self.namespace
            && !own().any(|word| *word == "-n" || *word == "-A")
        {
            command.args(["-n", namespace]);
        }
        command.args(arguments);
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("kubectl is installed")
    }

    /// Standard output of a command that succeeds; else what it said.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.output(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("kubectl {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        match self.try_run(arguments) {
            Ok(text) => text,
            Err(error) => panic!("{error}"),
        }
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded: {text}");
        text
    }

    /// Runs a command with text on its standard input.
    #[track_caller]
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> String {
        let output = self.output_with_input(arguments, input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    pub fn output_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("it was piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("kubectl ends");
        // A command that fails early does not read its input: its own message tells why.
        let _unread = writer.join();
        output
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.run_with_input(&["apply", "-f", "-"], manifest)
    }

    /// Starts a command that goes on; kill it when it has done its work.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed")
    }

    /// `kubectl exec POD -- COMMAND`.
    #[track_caller]
    pub fn exec(&self, pod: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", pod, "--"];
        arguments.extend(command);
        self.run(&arguments)
    }

    #[track_caller]
    pub fn jsonpath(&self, what: &[&str], path: &str) -> String {
        let path = format!("-o=jsonpath={path}");
        let mut arguments = vec!["get"];
        arguments.extend(what);
        arguments.push(&path);
        self.run(&arguments)
    }
}
