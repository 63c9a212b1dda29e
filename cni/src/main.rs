//! `bowline-cni`: run by a container runtime for each act on a pod's network.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use bowline_cni::{
    config::version_of,
    error::{Code, Failure},
    plugin,
    request::Request,
};

/// A network configuration is a few hundred bytes; a previous result adds some more.
const STDIN_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        return usage();
    }
    let mut stdin = vec![];
    let outcome = match io::stdin().take(STDIN_MAX).read_to_end(&mut stdin) {
        Ok(_) => Request::from_env(|name| std::env::var_os(name)).and_then(|request| {
            plugin::run(&request, &stdin, &|text| eprintln!("bowline-cni: {text}"))
        }),
        Err(error) => {
            Err(Failure::new(Code::IoFailure, "can't read the network configuration")
                .details(error))
        }
    };
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(text)) => (text, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(&version_of(&stdin)), ExitCode::FAILURE),
    };
    // A runtime that is gone and can't read the answer will DEL, as after any failed ADD.
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a person sees who runs the program by hand: the specification's error on stdout as well.
fn usage() -> ExitCode {
    eprintln!(
        "bowline-cni {}: a CNI plugin (0.3.0 to 1.1.0), run by a container runtime.\n\
         It reads CNI_COMMAND and the other CNI_* variables, and the network configuration on \
         stdin.\nTry: CNI_COMMAND=VERSION bowline-cni </dev/null",
        env!("CARGO_PKG_VERSION")
    );
    let failure = Failure::new(Code::InvalidEnvironment, "CNI_COMMAND is not set");
    println!("{}", failure.to_json(&version_of(b"")));
    ExitCode::FAILURE
}
