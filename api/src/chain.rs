//! Errors for the log.

use std::error::Error;

/// An error and all its causes in one line. A cause that its effect has told already is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("can't read the map")]
        Read { source: io::Error },
        #[error("can't go on: {0}")]
        Told(#[source] io::Error),
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = || io::Error::other("it is gone");
        assert_eq!(chain(&Failed::Read { source: cause() }), "can't read the map: it is gone");
        assert_eq!(chain(&Failed::Told(cause())), "can't go on: it is gone");
    }
}
