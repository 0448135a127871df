//! Tables for people: aligned columns, two spaces apart, figures to the right.

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Its title.
    pub title: &'a str,
    /// Figures stand to the right.
    pub right: bool,
}

/// A column of words.
pub const fn words(title: &str) -> Column<'_> {
    Column { title, right: false }
}

/// A column of figures.
pub const fn figures(title: &str) -> Column<'_> {
    Column { title, right: true }
}

/// The table as text, a line per row, without spaces at the ends of lines.
///
/// # Panics
/// If a row has not as many cells as there are columns.
pub fn render(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.title.chars().count()).collect();
    for row in rows {
        assert_eq!(row.len(), columns.len(), "a row has {} cells for {} columns", row.len(), columns.len());
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            if column.right {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A whole number with a thin gap every three digits: `120 331`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_figures_right() {
        let columns = [words("NODE"), words("ROLE"), figures("LAG")];
        let rows = [
            vec!["n1".to_owned(), "leader".to_owned(), "0".to_owned()],
            vec!["n12345".to_owned(), "größer".to_owned(), "12 345".to_owned()],
        ];
        let expected = "\
NODE    ROLE       LAG
n1      leader       0
n12345  größer  12 345
";
        assert_eq!(render(&columns, &rows), expected);
    }

    #[test]
    fn empty_cells_at_the_end_leave_no_spaces() {
        assert_eq!(render(&[words("A"), words("B")], &[vec!["x".to_owned(), String::new()]]), "A  B\nx\n");
    }

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1 000"), (120_331, "120 331"), (1_234_567, "1 234 567")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
