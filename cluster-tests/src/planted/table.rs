//! The table of planted bugs, as JSON and between two markers of the README.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use agora_planted::CATALOGUE;
use serde::{Deserialize, Serialize};

const BEGIN: &str = "<!-- planted bugs: begin (made by `agora-cluster-tests planted`) -->";
const END: &str = "<!-- planted bugs: end -->";

/// What is known of one bug.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How it was caught; `None` for one that got away.
    pub caught: Option<Caught>,
    /// All looks taken.
    pub looks: u32,
    /// Real time they took.
    pub seconds: f64,
    /// Whether the wrong code ever ran.
    pub reached: bool,
}

/// How a bug was caught.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caught {
    /// The checker, safety check or bound.
    pub by: String,
    /// Its words.
    pub what: String,
    /// The scenario.
    pub place: String,
    /// One line to see it again.
    pub reproduce: String,
    /// Seeds or runs of that scenario until then.
    pub looks: u32,
    /// Real time from the first look.
    pub seconds: f64,
    /// The wrong code was heard to run in the look that caught it.
    #[serde(default)]
    pub reached: bool,
}

/// Rows by name of the bug.
pub type Rows = BTreeMap<String, Row>;

/// Reads the table; nothing if it was never written.
///
/// # Errors
/// A file that cannot be read, or is no table.
pub fn read(path: &Path) -> Result<Rows, String> {
    if !path.exists() {
        return Ok(Rows::new());
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes the table as JSON.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, rows: &Rows) -> Result<(), String> {
    let text = serde_json::to_string_pretty(rows).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

/// Puts the table between the markers of a file, if it has them.
///
/// # Errors
/// A file that cannot be read or written.
pub fn publish(path: &Path, rows: &Rows) -> Result<(), String> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else { return Ok(()) };
    let text = format!("{}{BEGIN}\n\n{}\n{}", &text[..begin], markdown(rows), &text[end..]);
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The table as people read it.
pub fn markdown(rows: &Rows) -> String {
    let known: Vec<_> = CATALOGUE.iter().filter_map(|plant| Some((plant, rows.get(plant.name)?))).collect();
    let caught = known.iter().filter(|(_, row)| row.caught.is_some()).count();
    let mut text = format!("{caught} of {} planted bugs were caught.\n\n", CATALOGUE.len());
    text += "*safety* is looked at in every step of a simulation; *attack* is a fault that had not the effect it must have, or had \
             one it must not have; *quiet*: the nodes do not come to stand alike in the end; *contradiction*: they say different \
             things of one index. A look is one seed, one run \
             or one test; *not heard*: nobody could tell that the wrong code ran; times are real, on the machine that made the table.\n\n";
    text += "| planted bug | what it does wrong | caught by | in | after |\n|---|---|---|---|---|\n";
    for (plant, row) in known {
        let (by, place, after) = match &row.caught {
            Some(caught) => (
                caught.by.clone(),
                // Tables of before this was kept know it of all looks together.
                if caught.reached || row.reached {
                    caught.place.clone()
                } else {
                    format!("{} (not heard)", caught.place)
                },
                format!("{} look{}, {:.0} s", caught.looks, if caught.looks == 1 { "" } else { "s" }, caught.seconds),
            ),
            None => ("**nothing**".to_owned(), String::new(), format!("{} looks, {:.0} s", row.looks, row.seconds)),
        };
        let breaks = plant.breaks.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {breaks} | {by} | {place} | {after} |", plant.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_between_the_markers_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("README.md");
        fs::write(&path, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).expect("a file");
        let row = Row { caught: Some(Caught { by: "C1".to_owned(), looks: 3, ..Caught::default() }), ..Row::default() };
        let rows = Rows::from([(CATALOGUE[0].name.to_owned(), row), (CATALOGUE[1].name.to_owned(), Row::default())]);
        publish(&path, &rows).expect("published");
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old"), "{text}");
        assert!(text.contains("| C1 |") && text.contains("**nothing**") && text.contains("3 looks"), "{text}");
        let json = dir.path().join("table.json");
        write(&json, &rows).expect("written");
        assert_eq!(read(&json).expect("read"), rows);
    }
}
