//! What a run came to, for people and for programs: a summary that runs are added to, a table, and a page.
//!
//! A [`Summary`] holds everything the table and the page show, so either can be made again from its JSON.

mod html;
mod summary;
mod table;

pub use html::page;
pub use summary::{Bar, CheckerRow, NemesisRow, Quantiles, Second, Summary};
pub use table::{render, table};
