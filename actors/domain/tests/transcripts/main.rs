//! What entities answer, as transcripts that a person can read.
//!
//! A line is `what is asked => what comes of it`. A bare command is decided, journalled and applied at once. With a
//! name before it (`g1: reserve o1 1`) it is only decided, and `journal g1`, `drop g1` and `apply g1` say how its
//! transaction goes on. Behind `|` is the committed state. A transcript that no longer holds is printed as it reads
//! now.

mod money;
mod names;
mod orders;
mod stock;
mod words;

use std::collections::BTreeMap;

use agora_domain::{At, Decision, Live};
use words::Words;

/// Replays the left side of every line and compares the right side.
#[track_caller]
fn check<E: Words>(transcript: &str) {
    let lines = transcript.lines().map(str::trim).filter(|line| !line.is_empty());
    let expected: Vec<(&str, String)> = lines
        .map(|line| line.split_once("=>").unwrap_or((line, "")))
        .map(|(asked, comes)| (asked.trim(), comes.trim().to_owned()))
        .collect();
    let mut play = Play::<E>::new();
    let actual: Vec<(&str, String)> = expected.iter().map(|(asked, _)| (*asked, play.line(asked))).collect();
    assert!(actual == expected, "expected:\n{}\nbut it reads:\n{}", written(&expected), written(&actual));
}

fn written(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(asked, _)| asked.len()).max().unwrap_or(0);
    lines.iter().map(|(asked, comes)| format!("{asked:width$} => {comes}\n")).collect()
}

struct Play<E: Words> {
    live: Live<E>,
    granted: BTreeMap<String, (u64, Vec<E::Event>)>,
    index: u64,
}

impl<E: Words> Play<E> {
    fn new() -> Self {
        let mut state = None;
        let mut index = 0;
        for event in E::opening() {
            index += 1;
            E::evolve(&mut state, &event, at(index)).expect("an opening is honest");
        }
        Self { live: Live::new(state, index), granted: BTreeMap::new(), index }
    }

    fn line(&mut self, asked: &str) -> String {
        if let Some((name, command)) = asked.split_once(": ") {
            return self.ask(name, command);
        }
        match asked.split_once(' ') {
            Some(("journal", name)) => {
                self.live.journalled(self.granted[name].0);
                "in the journal".into()
            }
            Some(("drop", name)) => {
                let (grant, _) = self.granted.remove(name).expect("a name that was granted");
                self.live.dropped(grant);
                "given back".into()
            }
            Some(("apply", name)) => {
                self.apply(name);
                self.state()
            }
            _ => {
                let answer = self.ask("at once", asked);
                if self.granted.contains_key("at once") {
                    self.live.journalled(self.granted["at once"].0);
                    self.apply("at once");
                }
                format!("{answer} | {}", self.state())
            }
        }
    }

    fn ask(&mut self, name: &str, command: &str) -> String {
        self.granted.remove(name);
        let words: Vec<&str> = command.split_whitespace().collect();
        match self.live.ask(&E::command(&words)) {
            Decision::Granted { grant, events } => {
                let texts: Vec<String> = events.iter().map(E::event).collect();
                self.granted.insert(name.to_owned(), (grant, events));
                if texts.is_empty() { "already so".into() } else { texts.join(", ") }
            }
            Decision::Refused { refusal, .. } => format!("refused: {}", E::refusal(&refusal)),
            Decision::NotNow => "not now".into(),
        }
    }

    fn apply(&mut self, name: &str) {
        let (_, events) = &self.granted[name];
        self.index += 1;
        self.live.applied(events.iter(), at(self.index)).expect("honest events");
    }

    fn state(&self) -> String {
        self.live.committed().map_or_else(|| "nothing".into(), E::state)
    }
}

/// One entry a second.
fn at(index: u64) -> At {
    At { index, time_ms: i64::try_from(index).unwrap() * 1_000 }
}
