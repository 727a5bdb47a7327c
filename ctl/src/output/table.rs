//! Tables with borders: titles in capitals and centred, cells at the right, columns as wide as their
//! widest cell.

/// Left end, crossing and right end of a border.
type Border = [char; 3];

const TOP: Border = ['\u{250c}', '\u{252c}', '\u{2510}'];
const MIDDLE: Border = ['\u{251c}', '\u{253c}', '\u{2524}'];
const BOTTOM: Border = ['\u{2514}', '\u{2534}', '\u{2518}'];
const LINE: &str = "\u{2500}";
const BAR: char = '\u{2502}';

/// The table, its last line ended. Widths are counted in characters.
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = titles
        .iter()
        .map(|title| title.replace('_', " ").to_uppercase())
        .collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .chain([&titles[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let border = |[left, cross, right]: Border| {
        let lines: Vec<String> = widths.iter().map(|width| LINE.repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(&cross.to_string()))
    };
    let line = |cells: Vec<String>| format!("{BAR}{}{BAR}\n", cells.join(&BAR.to_string()));
    let mut out = border(TOP);
    out.push_str(&line(
        titles
            .iter()
            .zip(&widths)
            .map(|(title, width)| format!(" {title:^width$} "))
            .collect(),
    ));
    out.push_str(&border(MIDDLE));
    for row in rows {
        out.push_str(&line(
            row.iter()
                .zip(&widths)
                .map(|(cell, width)| format!(" {cell:>width$} "))
                .collect(),
        ));
    }
    out.push_str(&border(BOTTOM));
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn cells_stand_at_the_right_under_centred_titles() {
        let rows = [vec!["http://127.0.0.1:41373".to_owned(), "true".to_owned()]];
        let drawn = table(&["endpoint", "health"], &rows);
        let plain: String = drawn
            .chars()
            .map(|c| if c.is_ascii() { c } else { '+' })
            .collect();
        let expected = "\
++++++++++++++++++++++++++++++++++++
+        ENDPOINT        + HEALTH +
++++++++++++++++++++++++++++++++++++
+ http://127.0.0.1:41373 +   true +
++++++++++++++++++++++++++++++++++++
";
        let same = |line: &str| line.trim_start_matches('+').is_empty();
        for (drawn, expected) in plain.lines().zip(expected.lines()) {
            assert!(
                drawn == expected || (same(drawn) && same(expected)),
                "{drawn}"
            );
        }
        assert_eq!(plain.lines().count(), expected.lines().count());
    }
}
