//! Whether a program printed what the page shows.

/// `...` in a line is any text; a line of only `...` is any number of lines. Blanks at the end of lines and empty lines at the end
/// of the output do not count.
pub fn fits(shown: &[String], printed: &str) -> bool {
    let shown: Vec<&str> = shown.iter().map(|line| line.trim_end()).collect();
    let printed: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
    let end = shown
        .iter()
        .rposition(|line| !line.is_empty())
        .map_or(0, |at| at + 1);
    lines_fit(&shown[..end], &printed)
}

fn lines_fit(shown: &[&str], printed: &[&str]) -> bool {
    match shown {
        [] => printed.is_empty(),
        ["...", rest @ ..] => (0..=printed.len()).any(|from| lines_fit(rest, &printed[from..])),
        [line, rest @ ..] => match printed {
            [first, others @ ..] => line_fits(line, first) && lines_fit(rest, others),
            [] => false,
        },
    }
}

fn line_fits(shown: &str, printed: &str) -> bool {
    let Some((before, after)) = shown.split_once("...") else {
        return shown == printed;
    };
    let Some(rest) = printed.strip_prefix(before) else {
        return false;
    };
    // The rest may begin behind any character that the dots stand for.
    let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.into_iter().any(|at| line_fits(after, &rest[at..]))
}

#[test]
fn dots_stand_for_text_and_for_lines() {
    let fit = |shown: &[&str], printed: &str| {
        let shown: Vec<String> = shown.iter().map(|line| (*line).to_owned()).collect();
        fits(&shown, printed)
    };
    assert!(fit(&["a", "b"], "a  \nb\n\n"));
    assert!(!fit(&["a", "b"], "a\n"));
    assert!(!fit(&["a"], "a\nb\n"));
    assert!(!fit(&[], "a\n"));
    assert!(fit(&["took ... s, ... keys"], "took 0.1 s, 7 keys"));
    assert!(!fit(&["took ... s"], "took 0.1 min"));
    assert!(fit(&["...", "end"], "end"));
    assert!(fit(&["a", "...", "end"], "a\nb\nc\nend"));
    assert!(!fit(&["a", "...", "end"], "a\nb\n"));
}
