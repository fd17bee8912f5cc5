//! Reads a new password from a file, from standard input or from a terminal. An argument is not possible, because every
//! user of the machine can see it.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use gateway::auth::Password;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use store::Causes;

use crate::failure::Failure;
use crate::signals;
use terminal::Exit;

/// Maximum bytes that are read; passwords are shorter.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// The source of the password.
#[derive(Debug, Args)]
pub struct PasswordSource {
    /// The file that holds the password, `-` for standard input [default: ask at the terminal]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    /// Refuses a source when the argument that needs it is missing.
    pub fn reject_without(&self, missing: &str) -> Result<(), Failure> {
        match self.password_file {
            Some(_) => Err(Failure::usage(anyhow::anyhow!("--password-file goes with {missing}"))),
            None => Ok(()),
        }
    }

    /// Reads the password and checks the rule for new ones.
    ///
    /// # Errors
    /// Exit code 6 for a password that breaks the rule, 2 for a source that cannot be read.
    pub async fn read(&self) -> Result<Password, Failure> {
        let text = match self.password_file.as_deref() {
            Some(path) if path == Path::new("-") => one_line(io::stdin().lock(), "standard input")?,
            Some(path) => {
                let name = path.display().to_string();
                let file = std::fs::File::open(path).map_err(|error| unreadable(&name, &error))?;
                one_line(io::BufReader::new(file), &name)?
            }
            None => return prompt_twice().await,
        };
        check_password(&text)
    }
}

fn check_password(text: &str) -> Result<Password, Failure> {
    let rejected = |problem| Failure::new(Exit::Rejected, anyhow::anyhow!("the password {problem}"));
    Password::parse(text).map_err(rejected)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::usage(anyhow::anyhow!("the password cannot be read from {name}: {error}"))
}

/// The only line, without its line break.
fn one_line(source: impl BufRead, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    source
        .take(PASSWORD_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(name, &error))?;
    let line = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.contains(['\n', '\r']) {
        return Err(unreadable(name, &io::Error::other("it holds more than one line")));
    }
    Ok(line.to_owned())
}

/// Asks twice at the terminal, without echo.
async fn prompt_twice() -> Result<Password, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(anyhow::anyhow!(
            "there is no terminal to ask for the password; name a file with --password-file, or - for standard input"
        )));
    }
    let mut stop = signals::StopSignal::listen()?;
    let hidden = EchoOff::start()?;
    let asked = tokio::task::spawn_blocking(|| {
        let first = prompt("Password: ")?;
        let password = check_password(&first)?;
        if prompt("The same again: ")? == first {
            return Ok(password);
        }
        Err(Failure::usage(anyhow::anyhow!("the two passwords differ")))
    });
    let answer = tokio::select! {
        asked = asked => asked.map_err(anyhow::Error::from)?,
        () = stop.requested() => Err(Failure::new(Exit::Failed, anyhow::anyhow!("interrupted; nothing was changed"))),
    };
    drop(hidden);
    answer
}

fn prompt(question: &str) -> Result<String, Failure> {
    let mut errors = io::stderr().lock();
    write!(errors, "{question}")?;
    errors.flush()?;
    let mut line = String::new();
    io::stdin().lock().take(PASSWORD_BYTES_MAX).read_line(&mut line)?;
    if line.is_empty() {
        return Err(Failure::usage(anyhow::anyhow!("no password was given")));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal without echo. The old mode is restored when this is dropped.
struct EchoOff(Termios);

impl EchoOff {
    fn start() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        hidden.local_flags.insert(LocalFlags::ECHONL);
        // Discard input that was typed before the question.
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0) {
            tracing::warn!(error = %Causes(&error), "the terminal does not show what is typed; `stty echo` repairs it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_line_whose_end_is_no_part_of_the_password() {
        let read = |text: &str| one_line(text.as_bytes(), "a test");
        for text in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            assert_eq!(read(text).expect("one line"), "correct horse");
        }
        assert_eq!(read(" spaces stay \n").expect("one line"), " spaces stay ");
        for text in ["two\nlines", "two\n\n", "a\rb"] {
            assert_eq!(read(text).expect_err("more than a line").exit, Exit::Usage, "{text:?}");
        }
    }

    #[test]
    fn a_password_that_breaks_the_rule_is_rejected() {
        assert_eq!(check_password("short").expect_err("too short").exit, Exit::Rejected);
        assert_eq!(
            check_password(&"x".repeat(PASSWORD_BYTES_MAX as usize + 1)).expect_err("too long").exit,
            Exit::Rejected
        );
        assert!(check_password("correct horse battery").is_ok());
    }
}
