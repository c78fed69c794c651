//! What goes to the screen: data to standard output, talk to standard error, colour and widths as the terminal allows.

pub mod age;
pub mod blocked;
pub mod object;
pub mod table;
pub mod text;

use crate::error::Error;
use std::io::{IsTerminal, Write};

/// The two streams, and what the terminal behind them can do.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// Somebody can be asked: standard input and standard error are terminals.
    pub person: bool,
    /// Columns of standard output, if it is a terminal.
    pub columns: Option<usize>,
    /// Rows of standard output, if it is a terminal.
    pub rows: Option<usize>,
    /// Columns of standard error, if it is a terminal.
    pub talk_columns: Option<usize>,
    /// Abnormal cells on standard output may be coloured.
    pub colour: bool,
    /// Errors on standard error may be coloured.
    pub talk_colour: bool,
}

impl Screen {
    /// The streams of this process.
    pub fn of_process() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let talk_terminal = std::io::stderr().is_terminal();
        let size = terminal_size::terminal_size_of(std::io::stdout()).filter(|_| terminal);
        let talk_size = terminal_size::terminal_size_of(std::io::stderr()).filter(|_| talk_terminal);
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        Self {
            terminal,
            person: talk_terminal && std::io::stdin().is_terminal(),
            columns: size.map(|(width, _)| width.0.into()),
            rows: size.map(|(_, height)| height.0.into()),
            talk_columns: talk_size.map(|(width, _)| width.0.into()),
            colour: wanted && terminal,
            talk_colour: wanted && talk_terminal,
        }
    }

    /// Writes data to standard output.
    pub fn print(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
    }

    /// Writes a line of talk to standard error.
    pub fn say(&self, line: &str) {
        // Nobody is left to tell if standard error is closed.
        let _ = write!(std::io::stderr(), "{}", text::wrapped("", "    ", &text::clean(line), self.talk_columns));
    }

    /// Tells an error, in the shape that every error has.
    pub fn tell(&self, error: &Error) {
        if let Some(report) = error.report() {
            let _ = write!(std::io::stderr(), "{}", report.render(self.talk_columns, self.talk_colour));
        }
    }
}
