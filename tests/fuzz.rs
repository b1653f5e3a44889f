//! That the fuzz crate in `tests/fuzz` is whole: it is built by cargo-fuzz alone, so nothing else would notice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each target is named in the manifest, calls a body that is there, is held by a unit test, and has seeds.
#[test]
fn every_target_has_a_body_a_test_and_seeds() {
    let manifest = fs::read_to_string("tests/fuzz/Cargo.toml").unwrap();
    let named: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"').map(str::to_owned))
        .collect();
    let targets: BTreeSet<String> = entries("tests/fuzz/targets").iter().map(|name| name.replace(".rs", "")).collect();
    assert!(targets.len() >= 14, "the targets were not found: {targets:?}");
    for target in &targets {
        assert!(named.contains(target), "{target} is not in the manifest");
        let call = fs::read_to_string(format!("tests/fuzz/targets/{target}.rs")).unwrap();
        let path = call.split("portcullis::").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
        let [room, "fuzz", body] = path.split("::").collect::<Vec<_>>()[..] else {
            panic!("{target} calls {path}, which is no body");
        };
        let bodies = fs::read_to_string(format!("src/{room}/fuzz.rs")).unwrap();
        assert!(bodies.contains(&format!("pub fn {body}(data: &[u8])")), "{path} is not there");
        assert!(bodies.contains(&format!("hold(\"{target}\", {body})")), "no test holds {target}");
        assert!(!entries(&format!("tests/fuzz/seeds/{target}")).is_empty(), "{target} has no seeds");
    }
    // The package itself is the one other name.
    assert_eq!(named.len(), targets.len() + 1, "the manifest names a target that is not there: {named:?}");
    for kind in ["seeds", "found"] {
        let strays: Vec<_> =
            entries(&format!("tests/fuzz/{kind}")).into_iter().filter(|it| !targets.contains(it)).collect();
        assert!(strays.is_empty(), "{kind} of no target: {strays:?}");
    }
}

fn entries(folder: &str) -> BTreeSet<String> {
    let listed = fs::read_dir(Path::new(folder)).into_iter().flatten().filter_map(Result::ok);
    listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
