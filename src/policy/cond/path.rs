//! Paths of files, as text: nothing is looked up, links are the server's affair.

/// Whether `path` is `root`, or below it: by whole segments, `.`, `..` and `//` resolved (POSIX 4.16; above the root is
/// the root). `None` where one of them cannot be told: relative, with a backslash, a NUL, or an escape (RFC 3986, 2.1) of
/// `.`, `/` or `\`.
#[must_use]
pub fn under(path: &str, root: &str) -> Option<bool> {
    if !is_plain(path) || !is_plain(root) {
        return None;
    }
    let (length, root_length) = (segments(path).count(), segments(root).count());
    let Some(below) = length.checked_sub(root_length) else {
        return Some(false);
    };
    Some(segments(path).skip(below).eq(segments(root)))
}

/// Whether it says the same to every server.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let escapes = |at: usize| {
        let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
        ["2e", "2f", "5c"].iter().any(|escape| digits.eq_ignore_ascii_case(escape.as_bytes()))
    };
    bytes.first() == Some(&b'/')
        && memchr::memchr2(b'\\', 0, bytes).is_none()
        && !memchr::memchr_iter(b'%', bytes).any(escapes)
}

/// The segments that are left, the last one first: so that each `..` is known before what it takes away.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut gone = 0_usize;
    path.rsplit('/').filter(move |&segment| match segment {
        "" | "." => false,
        ".." => {
            gone += 1;
            false
        }
        _ if gone > 0 => {
            gone -= 1;
            false
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, root: &str, want: Option<bool>) {
        assert_eq!(under(path, root), want, "{path:?} under {root:?}");
    }

    #[test]
    fn whole_segments_count() {
        for path in
            ["/data", "/data/", "/data/x", "/data//x/y", "//data/x", "/./data/./x", "/tmp/../data/x", "/../data/x"]
        {
            check(path, "/data", Some(true));
            check(path, "//data/./", Some(true));
            check(path, "/", Some(true));
        }
        for path in ["/", "/dat", "/data2", "/data2/x", "/data/..", "/data/../etc", "/data/x/../../etc", "/etc/data"] {
            check(path, "/data", Some(false));
        }
        check("/data/a/b/../../c", "/data/c", Some(true));
        check("/data/x/..", "/data/x", Some(false));
        check("/a/b/c/../../d/..", "/a", Some(true));
        check("/daté/x", "/daté", Some(true));
        check("/dat\u{65}\u{301}/x", "/daté", Some(false));
        check("/DATA/x", "/data", Some(false));
        check("/data/...", "/data", Some(true));
        check("/data/..x/.y", "/data", Some(true));
        check("/data/ ..", "/data", Some(true));
        check("/data/%41%20%", "/data", Some(true));
        check("/data/%2", "/data", Some(true));
    }

    #[test]
    fn what_servers_read_differently_is_unknown() {
        let paths = [
            "",
            "data/x",
            "./data",
            "../data",
            "~/data",
            "C:/data",
            "C:\\data",
            "/data\\..\\x",
            "/data/x\0",
            "\0/data",
            "/data/%2e%2e/x",
            "/data/%2E./x",
            "/data%2fx",
            "/data/%2Fx",
            "/data/%5cx",
            "/data/%5C..",
            " /data",
        ];
        for path in paths {
            check(path, "/data", None);
            check("/data", path, None);
        }
    }

    #[test]
    fn long_paths_are_no_trouble() {
        let deep = format!("/data{}{}/x", "/y".repeat(100_000), "/..".repeat(100_000));
        check(&deep, "/data/x", Some(true));
        check(&format!("{deep}/../.."), "/data", Some(false));
    }
}
