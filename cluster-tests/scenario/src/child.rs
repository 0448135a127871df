//! Programs that a harness runs beside itself, each with a deadline.
//!
//! What a program says is read while it runs, so that it never waits for a reader; of very much the end is kept.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often it is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of what a program says on either stream that are kept at most.
const SAID_MAX: usize = 16 * 1024 * 1024;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` for one that had to be killed.
    pub status: Option<ExitStatus>,
    /// What it said on standard output.
    pub out: String,
    /// What it said on standard error.
    pub err: String,
}

/// Runs a program to its end, or kills it. `mark` is a word that must not get lost however much is said.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command, deadline: Duration, mark: &'static str) -> Result<Ended, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let (out, err) = (listen(child.stdout.take(), mark), listen(child.stderr.take(), mark));
    let status = wait(&mut child, deadline);
    if status.is_none() {
        // Whoever it started may hold the other ends of the pipes for ever.
        return Ok(Ended { status, out: said(out), err: said(err) });
    }
    Ok(Ended { status, out: out.join().unwrap_or_default(), err: err.join().unwrap_or_default() })
}

/// How a child ended; `None` for one that had to be killed.
fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + deadline;
    // Most of what is run ends at once.
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(pause),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
        pause = (pause * 2).min(LOOK);
    }
}

/// What was said by a program that was killed, if its reader comes to an end soon.
fn said(listener: JoinHandle<String>) -> String {
    let until = Instant::now() + Duration::from_secs(1);
    while !listener.is_finished() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    if listener.is_finished() { listener.join().unwrap_or_default() } else { String::new() }
}

fn listen(stream: Option<impl Read + Send + 'static>, mark: &'static str) -> JoinHandle<String> {
    thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
        let Some(mut stream) = stream else { return String::new() };
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            all.extend_from_slice(&buffer[..read]);
            if all.len() > SAID_MAX {
                let is_marked = !mark.is_empty() && all.windows(mark.len()).any(|window| window == mark.as_bytes());
                all.drain(..all.len() - SAID_MAX / 2);
                if is_marked {
                    all.splice(..0, format!("{mark}\n").into_bytes());
                }
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Ended {
        run(Command::new("sh").args(["-c", script]), deadline, "mark").expect("a shell")
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        // The grandchild holds the pipes.
        let ended = shell("echo first; sleep 5 & sleep 60", Duration::from_millis(100));
        assert!(ended.status.is_none());
        let ended = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        assert_eq!(
            (ended.status.and_then(|status| status.code()), ended.out.trim(), ended.err.trim()),
            (Some(3), "out", "err")
        );
    }

    #[test]
    fn of_very_much_the_end_and_the_mark_are_kept() {
        let ended =
            shell("echo mark; head -c 40000000 /dev/zero | tr '\\0' x; echo; echo last", Duration::from_secs(60));
        assert!(ended.out.len() <= SAID_MAX + 65_536);
        assert!(ended.out.starts_with("mark\n") && ended.out.ends_with("last\n"));
    }
}
