//! What `bowline local` shows while it works: one line a step, with the time since the start.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bowline_local::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// On a terminal a spinner with the current step, and a line for each step that ended; elsewhere
/// plain lines.
pub struct Console {
    started: Instant,
    spinner: ProgressBar,
    current: Mutex<Option<String>>,
}

impl Default for Console {
    fn default() -> Self {
        let spinner = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self { started: Instant::now(), spinner, current: Mutex::new(None) }
    }
}

impl Console {
    /// Seconds since the start, for the closing line.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the last step.
    pub fn finish(&self) {
        self.end_step();
        self.spinner.finish_and_clear();
    }

    fn end_step(&self) {
        let last = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(last) = last {
            self.line(&format!("✓ {last}"));
        }
    }

    fn line(&self, text: &str) {
        let line = format!("{:6.1}s {text}", self.started.elapsed().as_secs_f64());
        if self.spinner.is_hidden() { eprintln!("{line}") } else { self.spinner.println(line) }
    }
}

impl Progress for Console {
    fn step(&self, step: &str) {
        self.end_step();
        self.spinner.set_message(step.to_owned());
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(step.to_owned());
    }

    fn note(&self, note: &str) {
        self.line(&format!("! {note}"));
    }
}
