//! The hunt for bugs planted on purpose: what has been seen to catch which, and how fast.
//!
//! Every bug of [`agora_planted::CATALOGUE`] is planted in turn and looked for in its own order of [`places`]: seeds of the
//! simulation, campaigns against real processes, tests. Each look is a child process, so a bug that aborts or hangs a
//! node costs one look and not the hunt. A bug counts as caught only by a checker that is silent without it: the same look
//! is repeated with nothing planted. And it counts only if the wrong code ran; where that cannot be heard (nodes under attack
//! write logs of their own, a test keeps its words), the table says so. What no look catches is an open defect of the tests.
//!
//! [`table`] writes what was found into the README, and as JSON beside it, so that one bug can be hunted again alone.

mod look;
mod places;
mod simulated;
mod table;

use std::{path::PathBuf, time::Instant};

use agora_planted::{CATALOGUE, Plant};

pub use self::{
    look::{By, Found, Look, Report, Seen, Tools},
    places::{Place, places},
    table::{Caught, Row, publish, read, write},
};

/// What to hunt, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of bugs; all of them if there is none.
    pub only: Vec<String>,
    /// Looks at places of this kind only, if given.
    pub kind: Option<String>,
    /// Most looks per place; the places' own bounds if 0.
    pub looks_max: u32,
    /// Where the table is kept as JSON.
    pub json: PathBuf,
    /// The file with the markers between which the table goes.
    pub readme: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Options {
            only: Vec::new(),
            kind: None,
            looks_max: 0,
            json: here.join("planted/table.json"),
            readme: here.join("README.md"),
        }
    }
}

/// What a child of the hunt does: `planted-look SEED SCENARIO`.
///
/// # Errors
/// Arguments that make no sense.
pub fn child(args: &[String]) -> Result<(), String> {
    let [seed, scenario] = args else { return Err("planted-look SEED SCENARIO".to_owned()) };
    simulated::look(seed.parse().map_err(|error| format!("{seed:?}: {error}"))?, scenario).print();
    Ok(())
}

/// Hunts and writes the table after every bug. Returns the names of those that got away.
///
/// # Errors
/// A name that no bug has, a child that cannot be started, a file that cannot be written.
pub fn hunt(options: &Options, tools: &Tools) -> Result<Vec<String>, String> {
    for name in &options.only {
        Plant::named(name).ok_or_else(|| format!("no planted bug is called {name:?}"))?;
    }
    let mut escaped = Vec::new();
    for plant in CATALOGUE {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == plant.name) {
            continue;
        }
        let row = hunt_one(plant, options, tools)?;
        match &row.caught {
            Some(caught) => println!(
                "{}: caught by {} in {}, {} looks, {:.1} s",
                plant.name, caught.by, caught.place, caught.looks, caught.seconds
            ),
            None => {
                println!("{}: NOT CAUGHT, {} looks, {:.1} s", plant.name, row.looks, row.seconds);
                escaped.push(plant.name.to_owned());
            }
        }
        // Read again: another hunt may have written meanwhile.
        let mut rows = read(&options.json)?;
        rows.insert(plant.name.to_owned(), row);
        write(&options.json, &rows)?;
        publish(&options.readme, &rows)?;
    }
    Ok(escaped)
}

fn hunt_one(plant: &Plant, options: &Options, tools: &Tools) -> Result<Row, String> {
    let begun = Instant::now();
    let mut row = Row::default();
    for place in places(plant.bug) {
        if options.kind.as_ref().is_some_and(|kind| kind != place.kind()) {
            continue;
        }
        let most = if options.looks_max > 0 { options.looks_max.min(place.looks_max()) } else { place.looks_max() };
        for number in 0..most {
            let look = place.look(number);
            let seen = tools.take(&look, Some(plant.name))?;
            row.looks += 1;
            row.seconds = begun.elapsed().as_secs_f64();
            row.reached |= seen.reached;
            println!("  {}: {}: {}", plant.name, look.name, seen.brief());
            if seen.findings.is_empty() {
                continue;
            }
            let alarmed = tools.alarmed(&look)?;
            let Some(finding) = seen.findings.iter().find(|finding| !alarmed.contains(&finding.by)) else { continue };
            if !seen.counts(look.by) {
                println!("  {}: found something, but nobody came to where the bug is planted", plant.name);
                continue;
            }
            row.caught = Some(Caught {
                by: finding.by.clone(),
                what: finding.what.clone(),
                place: place.name(),
                reproduce: look.reproduce(plant.name),
                looks: number + 1,
                seconds: row.seconds,
                reached: seen.reached,
            });
            return Ok(row);
        }
    }
    Ok(row)
}
