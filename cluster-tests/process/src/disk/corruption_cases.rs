//! What is spoiled: every kind of file of a node, by field where its format is known.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use agora_scenario::cluster::Part;

use super::corrupt::{
    Change, SECTOR_BYTES, change, copy_tree, files_below, files_of, generations, journal_batches, log_header,
    pages_with, read_used, second_slot_is_current, used_bytes,
};

/// A node that is down, and what may take the place of its files.
pub struct Site {
    /// Its data directory.
    pub data: PathBuf,
    /// A copy of it from an earlier time of its life, where the case asked for one.
    pub older: PathBuf,
    /// The directory of another node that is down, where the case asked for one.
    pub other: PathBuf,
}

type Deed = Arc<dyn Fn(&Site) -> Result<String, String> + Send + Sync>;

/// Which nodes are spoiled, and what they must have before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One node.
    One,
    /// One node, of which an earlier copy is wanted.
    OneWithOlder,
    /// One node, of which a snapshot file is wanted.
    OneWithSnapshot,
    /// One node, and another one's directory is wanted.
    OneWithOther,
    /// All nodes, which were killed at once.
    All,
}

/// One way to spoil a node.
#[derive(Clone)]
pub struct Case {
    /// The kind of file.
    pub file: &'static str,
    /// What of it, and how.
    pub name: String,
    /// Which nodes.
    pub scope: Scope,
    /// Does it, and says what was done.
    pub deed: Deed,
}

impl Case {
    /// As it is named on the command line and in reports.
    pub fn title(&self) -> String {
        format!("{}: {}", self.file, self.name)
    }

    /// Whether the log is spoiled: what the node promised may be in no other place.
    pub fn is_of_log(&self) -> bool {
        self.file == "log"
    }
}

fn case(
    file: &'static str,
    name: impl Into<String>,
    scope: Scope,
    deed: impl Fn(&Site) -> Result<String, String> + Send + Sync + 'static,
) -> Case {
    Case { file, name: name.into(), scope, deed: Arc::new(deed) }
}

fn done(path: &Path, what: Change) -> Result<String, String> {
    change(path, what)?;
    Ok(format!("{}: {what:?}", path.display()))
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [log_cases(), journal_cases(), table_cases(), version_cases(), snapshot_cases(), directory_cases(), all_cases()]
        .concat()
}

fn log_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let header = |name: &'static str, bit: u8| {
        case("log", format!("header, {name}, bit {bit}"), Scope::One, move |site| {
            let path = site.data.join("log.redb");
            let second = second_slot_is_current(&path)?;
            // `current` and `other` are slot 0 and 1, whichever it is.
            let name = name.replace("current", if second { "slot 1" } else { "slot 0" });
            let name = name.replace("other", if second { "slot 0" } else { "slot 1" });
            let fields = log_header();
            let field = fields.iter().find(|field| field.name == name).ok_or_else(|| format!("no field {name}"))?;
            done(&path, Change::Flip { at: field.at + u64::from(bit / 8), bit: bit % 8 })
        })
    };
    for (name, bit) in [
        ("magic", 0),
        ("flags", 0),
        ("flags", 1),
        ("flags", 2),
        ("flags", 7),
        ("page size", 12),
        ("region header pages", 0),
        ("region data pages", 9),
        ("full regions", 1),
        ("pages of the last region", 2),
        ("current version", 0),
        ("current has roots", 0),
        ("current root page", 3),
        ("current root checksum", 5),
        ("current root length", 1),
        ("current system root", 66),
        ("current transaction", 0),
        ("current transaction", 17),
        ("current checksum", 100),
        ("other version", 1),
        ("other root page", 2),
        ("other transaction", 1),
        ("other transaction", 33),
        ("other checksum", 9),
    ] {
        cases.push(header(name, bit));
    }
    for key in ["identity", "vote", "purge"] {
        cases.push(case("log", format!("value of {key}, all copies, a bit"), Scope::One, move |site| {
            let path = site.data.join("log.redb");
            let places = state_values(&path, key)?;
            for at in &places {
                change(&path, Change::Flip { at: *at, bit: 2 })?;
            }
            Ok(format!("{}: {} copies of {key}", path.display(), places.len()))
        }));
    }
    cases.push(case("log", "newest copy of an entry page, a bit", Scope::One, |site| {
        let path = site.data.join("log.redb");
        let (start, _) = newest_entry_page(&path)?;
        done(&path, Change::Flip { at: start + 2_000, bit: 4 })
    }));
    for at in [120_000, 350_000, 550_000, 800_000, 990_000] {
        cases.push(case("log", format!("a bit, at {at} of a million"), Scope::One, move |site| {
            spoil(&site.data, Part::Log, agora_scenario::cluster::Damage::FlipBit { at, bit: 5 })
        }));
        cases.push(case("log", format!("a sector zeroed, at {at} of a million"), Scope::One, move |site| {
            spoil(&site.data, Part::Log, agora_scenario::cluster::Damage::ZeroSector { at })
        }));
    }
    let cut = |name: &str, to: fn(u64) -> u64| {
        case("log", name, Scope::One, move |site| {
            let path = site.data.join("log.redb");
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            done(&path, Change::Truncate { at: to(length) })
        })
    };
    cases.extend([
        cut("cut to nothing", |_| 0),
        cut("cut to its header", |_| 320),
        cut("cut in half", |length| length / 2),
        cut("last sector cut off", |length| length - SECTOR_BYTES),
        case("log", "removed", Scope::One, |site| removed(&site.data.join("log.redb"))),
        case("log", "an older copy under newer rows", Scope::OneWithOlder, |site| {
            swapped(&site.older.join("log.redb"), &site.data.join("log.redb"))
        }),
        case("log", "another node's", Scope::OneWithOther, |site| {
            swapped(&site.other.join("log.redb"), &site.data.join("log.redb"))
        }),
    ]);
    cases
}

fn spoil(data: &Path, part: Part, damage: agora_scenario::cluster::Damage) -> Result<String, String> {
    super::corrupt::corrupt(data, part, damage)
}

/// The journal of the current rows that holds most.
fn journal(data: &Path) -> Result<PathBuf, String> {
    let files = files_of(data, Part::RowsJournal)?;
    let used = |path: &PathBuf| used_bytes(path).unwrap_or(0);
    files.into_iter().max_by_key(used).ok_or_else(|| format!("no journal in {}", data.display()))
}

const JOURNAL_FIELDS: [&str; 15] = [
    "start tag",
    "items",
    "sequence number",
    "item tag",
    "value type",
    "compression",
    "keyspace",
    "key length",
    "value length",
    "stored length",
    "key",
    "value",
    "end tag",
    "checksum",
    "trailer",
];

/// A batch by how far into the journal it is.
fn batch_at(path: &Path, late: bool) -> Result<super::corrupt::JournalBatch, String> {
    let bytes = read_used(path).map_err(|error| error.to_string())?;
    let mut batches = journal_batches(&bytes);
    let count = batches.len();
    let at = if late { count.saturating_sub(4) } else { count / 5 };
    (at < count).then(|| batches.swap_remove(at)).ok_or_else(|| format!("{} holds no batch", path.display()))
}

fn journal_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for late in [false, true] {
        let place = if late { "late" } else { "early" };
        for name in JOURNAL_FIELDS {
            cases.push(case("journal", format!("{name}, {place}, a bit"), Scope::One, move |site| {
                let path = journal(&site.data)?;
                let batch = batch_at(&path, late)?;
                let field = batch.fields.iter().find(|field| field.name == name && field.bytes > 0);
                let field = field.ok_or_else(|| format!("the batch at {} has no {name}", batch.at))?;
                done(&path, Change::Flip { at: field.at + (field.bytes - 1) / 2, bit: 1 })
            }));
        }
        cases.push(case("journal", format!("sector zeroed, {place}"), Scope::One, move |site| hole(&site.data, late)));
        cases.push(case("journal", format!("cut within a batch, {place}"), Scope::One, move |site| {
            cut(&site.data, late)
        }));
        cases.push(case("journal", format!("a batch left out, {place}"), Scope::One, move |site| {
            let path = journal(&site.data)?;
            let batch = batch_at(&path, late)?;
            let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
            bytes.drain(batch.at as usize..batch.end as usize);
            fs::write(&path, bytes).map_err(|error| error.to_string())?;
            Ok(format!("{}: batch at {} left out", path.display(), batch.at))
        }));
    }
    cases.extend([
        case("journal", "garbage after its end", Scope::One, |site| {
            let path = journal(&site.data)?;
            let at = used_bytes(&path).map_err(|error| error.to_string())?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            if at + 64 > length {
                let file = fs::OpenOptions::new().write(true).open(&path).map_err(|error| error.to_string())?;
                file.set_len(at + 64).map_err(|error| error.to_string())?;
            }
            done(&path, Change::Write { at, byte: 0x5a, bytes: 64 })
        }),
        case("journal", "emptied", Scope::One, |site| done(&journal(&site.data)?, Change::Truncate { at: 0 })),
        case("journal", "removed", Scope::One, |site| removed(&journal(&site.data)?)),
    ]);
    cases
}

fn hole(data: &Path, late: bool) -> Result<String, String> {
    let path = journal(data)?;
    done(&path, Change::Zero { at: batch_at(&path, late)?.at, bytes: SECTOR_BYTES })
}

fn cut(data: &Path, late: bool) -> Result<String, String> {
    let path = journal(data)?;
    let batch = batch_at(&path, late)?;
    done(&path, Change::Truncate { at: (batch.at + batch.end) / 2 })
}

/// The largest table.
fn table(data: &Path) -> Result<PathBuf, String> {
    let files = files_of(data, Part::RowsTable)?;
    let used = |path: &PathBuf| used_bytes(path).unwrap_or(0);
    files.into_iter().max_by_key(used).ok_or_else(|| format!("no table in {}", data.display()))
}

fn table_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for share in [0, 100, 250, 500, 750, 900, 970, 999] {
        cases.push(case("table", format!("a bit, at {share} of a thousand"), Scope::One, move |site| {
            let path = table(&site.data)?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            done(&path, Change::Flip { at: (length * share / 1_000).min(length - 1), bit: 3 })
        }));
    }
    for share in [0, 400, 990] {
        cases.push(case("table", format!("a sector zeroed, at {share} of a thousand"), Scope::One, move |site| {
            let path = table(&site.data)?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            let at = length * share / 1_000 / SECTOR_BYTES * SECTOR_BYTES;
            done(&path, Change::Zero { at, bytes: SECTOR_BYTES })
        }));
    }
    cases.extend([
        case("table", "cut in half", Scope::One, |site| {
            let path = table(&site.data)?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            done(&path, Change::Truncate { at: length / 2 })
        }),
        case("table", "emptied", Scope::One, |site| done(&table(&site.data)?, Change::Truncate { at: 0 })),
        case("table", "removed", Scope::One, |site| removed(&table(&site.data)?)),
        case("table", "a bit in each", Scope::One, |site| {
            let files = files_of(&site.data, Part::RowsTable)?;
            for path in &files {
                let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
                change(path, Change::Flip { at: length / 3, bit: 6 })?;
            }
            Ok(format!("{} tables", files.len()))
        }),
    ]);
    cases
}

/// A file of the current rows by its name, the newest of that name.
fn rows_file(data: &Path, fits: fn(&str) -> bool) -> Result<PathBuf, String> {
    let mut found = Vec::new();
    for dir in generations(data)? {
        found.extend(files_below(&dir).map_err(|error| error.to_string())?);
    }
    found.retain(|path| path.file_name().is_some_and(|name| fits(&name.to_string_lossy())));
    found.pop().ok_or_else(|| format!("no such file in {}", data.display()))
}

fn is_version_file(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn version_cases() -> Vec<Case> {
    type Kind = (&'static str, fn(&str) -> bool);
    let kinds: [Kind; 3] = [
        ("version", |name| name == "version"),
        ("keyspace's current version", |name| name == "current"),
        ("keyspace's version file", is_version_file),
    ];
    let mut cases = Vec::new();
    for (what, fits) in kinds {
        cases.extend([
            case("version", format!("{what}, a bit"), Scope::One, move |site| {
                let path = rows_file(&site.data, fits)?;
                let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
                done(&path, Change::Flip { at: length / 2, bit: 0 })
            }),
            case("version", format!("{what}, its first bit"), Scope::One, move |site| {
                done(&rows_file(&site.data, fits)?, Change::Flip { at: 0, bit: 0 })
            }),
            case("version", format!("{what}, emptied"), Scope::One, move |site| {
                done(&rows_file(&site.data, fits)?, Change::Truncate { at: 0 })
            }),
            case("version", format!("{what}, removed"), Scope::One, move |site| removed(&rows_file(&site.data, fits)?)),
        ]);
    }
    cases
}

fn snapshot_cases() -> Vec<Case> {
    let newest =
        |data: &Path| files_of(data, Part::Snapshot)?.pop().ok_or_else(|| format!("no snapshot in {}", data.display()));
    let mut cases = Vec::new();
    for (what, share) in [("magic", 0), ("header", 10), ("a block", 500), ("the end", 999)] {
        cases.push(case("snapshot", format!("{what}, a bit"), Scope::OneWithSnapshot, move |site| {
            let path = newest(&site.data)?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            done(&path, Change::Flip { at: (length * share / 1_000).min(length - 1), bit: 1 })
        }));
    }
    cases.push(case("snapshot", "cut in half", Scope::OneWithSnapshot, move |site| {
        let path = newest(&site.data)?;
        let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        done(&path, Change::Truncate { at: length / 2 })
    }));
    cases
}

fn directory_cases() -> Vec<Case> {
    vec![
        case("directory", "wiped", Scope::One, |site| {
            fs::remove_dir_all(&site.data).map_err(|error| error.to_string())?;
            Ok("all files removed".to_owned())
        }),
        case("directory", "rolled back", Scope::OneWithOlder, |site| {
            copy_tree(&site.older, &site.data)?;
            Ok("an earlier copy in its place".to_owned())
        }),
        case("directory", "another node's", Scope::OneWithOther, |site| {
            copy_tree(&site.other, &site.data)?;
            Ok("another node's in its place".to_owned())
        }),
        case("directory", "rows removed", Scope::One, |site| {
            for dir in generations(&site.data)? {
                fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
            }
            Ok("no rows".to_owned())
        }),
        case("directory", "rows rolled back", Scope::OneWithOlder, |site| {
            for dir in generations(&site.data)? {
                fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
            }
            for dir in generations(&site.older)? {
                let name = dir.file_name().ok_or("a generation without a name")?.to_owned();
                copy_tree(&dir, &site.data.join(name))?;
            }
            Ok("rows of an earlier time under a newer log".to_owned())
        }),
        case("directory", "snapshots removed", Scope::OneWithSnapshot, |site| {
            fs::remove_dir_all(site.data.join("snapshots")).map_err(|error| error.to_string())?;
            Ok("no snapshots".to_owned())
        }),
        case("directory", "leftovers of a crash", Scope::One, |site| {
            let write = |name: &str| fs::write(site.data.join(name), b"half").map_err(|error| error.to_string());
            write("log.redb.new")?;
            fs::create_dir_all(site.data.join("rows-9999/keyspaces")).map_err(|error| error.to_string())?;
            write("rows-9999/0.jnl")?;
            write("snapshots/snapshot-00000000000000000009-0000000001.new")?;
            Ok("half a log, half a generation, half a snapshot".to_owned())
        }),
        case("directory", "lock removed", Scope::One, |site| removed(&site.data.join("lock"))),
    ]
}

fn all_cases() -> Vec<Case> {
    vec![
        case("journal", "sector zeroed on all nodes at once, late", Scope::All, |site| hole(&site.data, true)),
        case("journal", "cut on all nodes at once, late", Scope::All, |site| cut(&site.data, true)),
        case("journal", "sector zeroed on all nodes at once, early", Scope::All, |site| hole(&site.data, false)),
        case("table", "a bit on all nodes at once", Scope::All, |site| {
            let path = table(&site.data)?;
            let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
            done(&path, Change::Flip { at: length / 2, bit: 3 })
        }),
        case("directory", "rows removed on all nodes at once", Scope::All, |site| {
            for dir in generations(&site.data)? {
                fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
            }
            Ok("no rows".to_owned())
        }),
    ]
}

fn removed(path: &Path) -> Result<String, String> {
    fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(format!("{} removed", path.display()))
}

fn swapped(from: &Path, to: &Path) -> Result<String, String> {
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(format!("{} in place of {}", from.display(), to.display()))
}

/// Places in the values kept under a name in the log's table of states, in all copies there are of its page: a leaf of redb
/// is `01 ‖ 00 ‖ entries u16 ‖ ends of keys, u32 each ‖ ends of values, u32 each ‖ keys ‖ values`.
fn state_values(path: &Path, key: &str) -> Result<Vec<u64>, String> {
    let bytes = read_used(path).map_err(|error| error.to_string())?;
    let mut places = Vec::new();
    for (start, _) in pages_with(path, key.as_bytes()).map_err(|error| error.to_string())? {
        let page = &bytes[start as usize..(start as usize + SECTOR_BYTES as usize).min(bytes.len())];
        places.extend(leaf_value(page, key.as_bytes()).map(|at| start + at));
    }
    if places.is_empty() {
        return Err(format!("{} holds no {key}", path.display()));
    }
    Ok(places)
}

/// The middle of the value under a key in a leaf page.
fn leaf_value(page: &[u8], key: &[u8]) -> Option<u64> {
    let number =
        |at: usize| page.get(at..at + 4).map(|slice| u32::from_le_bytes(slice.try_into().expect("four bytes")));
    if page.first() != Some(&1) {
        return None;
    }
    let count = usize::from(u16::from_le_bytes([*page.get(2)?, *page.get(3)?]));
    let mut key_from = 4 + 8 * count;
    for entry in 0..count {
        let key_to = number(4 + 4 * entry)? as usize;
        if page.get(key_from..key_to) == Some(key) {
            let ends = 4 + 4 * count;
            let from = if entry == 0 { number(4 + 4 * (count - 1))? } else { number(ends + 4 * (entry - 1))? };
            let to = number(ends + 4 * entry)?;
            return (from < to && (to as usize) <= page.len()).then(|| u64::from((from + to) / 2));
        }
        key_from = key_to;
    }
    None
}

/// The leaf of entries that holds the highest index: it is of the newest commit, or of one of the last.
fn newest_entry_page(path: &Path) -> Result<(u64, u64), String> {
    let bytes = read_used(path).map_err(|error| error.to_string())?;
    let mut newest = None;
    for (number, page) in bytes.chunks_exact(SECTOR_BYTES as usize).enumerate() {
        // Keys of eight bytes have no ends: `01 ‖ 00 ‖ entries u16 ‖ ends of values, u32 each ‖ keys, u64 each ‖ values`.
        let count = usize::from(u16::from_le_bytes([page[2], page[3]]));
        let last_key = 4 + 4 * count + 8 * count.saturating_sub(1);
        if page[0] != 1 || page[1] != 0 || count == 0 || last_key + 8 > page.len() {
            continue;
        }
        let first_key = 4 + 4 * count;
        let index = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"));
        let (first, last) = (index(first_key), index(last_key));
        let rises = last >= first && last - first == count as u64 - 1 && last < 1 << 40 && first > 0;
        if rises && newest.is_none_or(|(_, known)| last > known) {
            newest = Some((number as u64 * SECTOR_BYTES, last));
        }
    }
    newest.ok_or_else(|| format!("{} holds no page of entries", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_file_has_its_cases_and_no_two_are_alike() {
        let cases = cases();
        assert!(cases.len() >= 100, "{}", cases.len());
        let mut titles: Vec<String> = cases.iter().map(Case::title).collect();
        titles.sort();
        titles.dedup();
        assert_eq!(titles.len(), cases.len());
        for file in ["log", "journal", "table", "version", "snapshot", "directory"] {
            assert!(cases.iter().filter(|case| case.file == file).count() >= 5, "{file}");
        }
    }

    #[test]
    fn a_value_is_found_in_its_leaf() {
        let mut page = vec![1, 0, 2, 0];
        for end in [28_u32, 32, 37, 44] {
            page.extend(end.to_le_bytes());
        }
        page.extend(b"identityvote");
        page.extend(b"who I...");
        page.resize(4_096, 0);
        assert_eq!(leaf_value(&page, b"identity"), Some((32 + 37) / 2));
        assert_eq!(leaf_value(&page, b"vote"), Some((37 + 44) / 2));
        assert_eq!(leaf_value(&page, b"purge"), None);
        page[0] = 2;
        assert_eq!(leaf_value(&page, b"vote"), None);
    }

    #[test]
    fn journal_fields_are_named_as_the_reader_names_them() {
        let mut bytes = vec![1, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, b'k', b'v']);
        bytes.extend([3, 8, 8, 8, 8, 8, 8, 8, 8, b'F', b'J', b'L', 3]);
        let batch = journal_batches(&bytes).remove(0);
        for name in JOURNAL_FIELDS {
            assert!(batch.fields.iter().any(|field| field.name == name), "{name}");
        }
    }
}
