//! What must be true of any bytes that a child writes. See `base::fuzz` for how these are run.

use super::split::Splitter;
use crate::base::fuzz::cuts;

/// Lines: those that splitting at each newline gives, within their bound, however the bytes come; no more is held than one
/// of them.
///
/// # Panics
/// When one of these is not true.
pub fn lines(data: &[u8]) {
    let line_max = usize::from(data.first().copied().unwrap_or_default() % 64);
    let mut want: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    // Behind the last end there is no line.
    let rest = want.pop().unwrap_or_default();
    let want: Vec<&[u8]> = want.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let long = want.iter().filter(|line| line.len() > line_max).count() as u64;
    let want: Vec<&[u8]> = want.into_iter().filter(|line| (1..=line_max).contains(&line.len())).collect();
    let lines_of = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut splitter = Splitter::new(line_max);
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line.to_vec()));
            assert!(splitter.held() <= line_max + 1, "more is held than one line");
        }
        (lines, splitter.too_long())
    };
    let whole = lines_of(&mut std::iter::once(data));
    assert_eq!(whole.0, want);
    // One that is too long may be known to be so before its end.
    assert!(whole.1 == long || (whole.1 == long + 1 && rest.len() > line_max));
    assert_eq!(lines_of(&mut data.chunks(1)), whole, "byte by byte");
    for cut in cuts(data) {
        assert_eq!(lines_of(&mut [&data[..cut], &data[cut..]].into_iter()), whole, "cut at {cut}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn lines_hold() {
        hold("stdio_lines", lines);
    }
}
