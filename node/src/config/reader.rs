//! Takes values out of a parsed file by the table of keys, and notes everything that is wrong on the way.

use super::keys::{self, Key, Rule};

/// Problems listed at most; a file with more is not a configuration.
const PROBLEMS_MAX: usize = 100;

/// A file being read. Values that are wrong are noted and come back as `None`.
pub struct Reader<'a> {
    table: &'a toml::Table,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Nothing read yet.
    pub fn new(table: &'a toml::Table) -> Reader<'a> {
        Reader { table, problems: Vec::new() }
    }

    /// Notes a problem.
    pub fn problem(&mut self, problem: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem.into());
        }
    }

    /// Problems noted so far.
    pub fn problem_count(&self) -> usize {
        self.problems.len()
    }

    /// All problems, in the order of reading.
    pub fn into_problems(self) -> Vec<String> {
        self.problems
    }

    /// A number, or its default.
    pub fn number(&mut self, section: &str, name: &str) -> Option<u64> {
        let value = self.value(section, name);
        self.check_number(known(section, name), &format!("{section}.{name}"), value)
    }

    /// A number that counts things in memory.
    pub fn size(&mut self, section: &str, name: &str) -> Option<usize> {
        self.number(section, name).and_then(|value| usize::try_from(value).ok())
    }

    /// Text, or its default.
    pub fn text(&mut self, section: &str, name: &str) -> Option<String> {
        let value = self.value(section, name);
        self.check_text(known(section, name), &format!("{section}.{name}"), value)
    }

    /// Checks the form of a value that is given elsewhere and so may be absent here.
    pub fn skip(&mut self, section: &str, name: &str) {
        if let Some(value) = self.value(section, name) {
            self.check_text(known(section, name), &format!("{section}.{name}"), Some(value));
        }
    }

    /// The tables of `[[cluster.members]]`.
    pub fn members(&mut self) -> Option<Vec<&'a toml::Table>> {
        let Some(value) = self.value("cluster", "members") else {
            self.problem(
                "cluster.members is missing: list the nodes the cluster begins with, one [[cluster.members]] each",
            );
            return None;
        };
        let tables: Option<Vec<_>> = value.as_array().map(|all| all.iter().filter_map(toml::Value::as_table).collect());
        let Some(tables) = tables.filter(|tables| value.as_array().is_some_and(|all| all.len() == tables.len())) else {
            self.problem("cluster.members is no list of tables: write one [[cluster.members]] for each node");
            return None;
        };
        Some(tables)
    }

    /// A number of the member at `at`.
    pub fn member_number(&mut self, at: usize, name: &str) -> Option<u64> {
        let value = self.member_value(at, name);
        self.check_number(known("cluster.members", name), &format!("cluster.members[{at}].{name}"), value)
    }

    /// Text of the member at `at`.
    pub fn member_text(&mut self, at: usize, name: &str) -> Option<String> {
        let value = self.member_value(at, name);
        self.check_text(known("cluster.members", name), &format!("cluster.members[{at}].{name}"), value)
    }

    /// Notes every key and section the table of keys does not know.
    pub fn refuse_unknown(&mut self) {
        for (section, value) in self.table {
            if !keys::SECTIONS.iter().any(|(known, _)| known == section) {
                let sections = keys::SECTIONS.iter().map(|(name, _)| *name).filter(|name| !name.contains('.'));
                self.problem(unknown("section", &format!("[{section}]"), section, sections, |name| {
                    format!("[{name}]")
                }));
                continue;
            }
            match value.as_table() {
                Some(table) => self.refuse_unknown_in(section, section, table),
                None => self.problem(format!("{section} is no section: write [{section}] and its keys below it")),
            }
        }
    }

    fn refuse_unknown_in(&mut self, section: &str, shown: &str, table: &toml::Table) {
        for (name, value) in table {
            if section == "cluster" && name == "members" {
                for (at, member) in value.as_array().into_iter().flatten().enumerate() {
                    if let Some(member) = member.as_table() {
                        self.refuse_unknown_in("cluster.members", &format!("cluster.members[{at}]"), member);
                    }
                }
            } else if keys::find(section, name).is_none() {
                let text = unknown("key", &format!("{shown}.{name}"), name, keys::names(section), |name| {
                    format!("{shown}.{name}")
                });
                self.problem(text);
            }
        }
    }

    fn value(&self, section: &str, name: &str) -> Option<&'a toml::Value> {
        self.table.get(section)?.as_table()?.get(name)
    }

    fn member_value(&self, at: usize, name: &str) -> Option<&'a toml::Value> {
        self.value("cluster", "members")?.as_array()?.get(at)?.as_table()?.get(name)
    }

    fn check_number(&mut self, key: &Key, shown: &str, value: Option<&toml::Value>) -> Option<u64> {
        let (default, min, max) = match key.rule {
            Rule::Number { default, min, max } => (Some(default), min, max),
            Rule::NumberGiven { max } => (None, 1, max),
            _ => unreachable!("{shown} is read as a number"),
        };
        let Some(value) = value else {
            if default.is_none() {
                self.missing(key, shown);
            }
            return default;
        };
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        if let Some(number) = number.filter(|number| (min..=max).contains(number)) {
            return Some(number);
        }
        let unit = if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) };
        self.problem(format!("{shown} is {value}: give a whole number from {min} to {max}{unit}"));
        None
    }

    fn check_text(&mut self, key: &Key, shown: &str, value: Option<&toml::Value>) -> Option<String> {
        let default = match key.rule {
            Rule::Choice { default, .. } | Rule::Text { default } => Some(default),
            Rule::TextGiven | Rule::Secret => None,
            _ => unreachable!("{shown} is read as text"),
        };
        let Some(value) = value else {
            if default.is_none() {
                self.missing(key, shown);
            }
            return default.map(str::to_owned);
        };
        let Some(text) = value.as_str() else {
            let got = if key.rule == Rule::Secret { "no text" } else { &value.to_string() };
            self.problem(format!("{shown} is {got}: give text in quotes"));
            return None;
        };
        match key.rule {
            Rule::Choice { allowed, .. } if !allowed.contains(&text) => {
                self.problem(format!("{shown} is {text:?}: give one of {}", allowed.join(", ")));
                None
            }
            Rule::TextGiven | Rule::Secret if text.trim().is_empty() => {
                self.problem(format!("{shown} is empty: {}", lower_first(key.about)));
                None
            }
            _ => Some(text.to_owned()),
        }
    }

    fn missing(&mut self, key: &Key, shown: &str) {
        self.problem(format!("{shown} is missing: {}", lower_first(key.about)));
    }
}

fn known(section: &str, name: &str) -> &'static Key {
    keys::find(section, name).unwrap_or_else(|| unreachable!("{section}.{name} is not in the table of keys"))
}

/// The sentence of a comment as the tail of a message: no capital, no full stop.
fn lower_first(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let mut chars = sentence.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// "unknown key http.lisen: did you mean http.listen?", or the known names when none resembles it.
fn unknown<'n>(
    what: &str,
    shown: &str,
    name: &str,
    names: impl Iterator<Item = &'n str> + Clone,
    show: impl Fn(&str) -> String,
) -> String {
    let nearest = names.clone().map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= (known.len() / 2).max(2) => {
            format!("unknown {what} {shown}: did you mean {}", show(known))
        }
        _ => format!("unknown {what} {shown}: known are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

/// Levenshtein's distance: letters to insert, remove or change.
fn distance(a: &str, b: &str) -> usize {
    // A row of the table is as long as a known name, so a huge unknown one costs time but no memory.
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(256).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("lisen", "listen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
