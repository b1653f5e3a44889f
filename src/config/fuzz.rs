//! What must be true of any text that comes as a configuration. See `base::fuzz` for how these are run.

use std::io;
use std::path::Path;

use crate::base::glob::Glob;
use crate::config::{Fault, Source, Weight, load, policy_of};

/// A configuration: read or refused, never half; every fault has a place in the text and words that keep secrets.
///
/// # Panics
/// When one of these is not true.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let faults = match load(text, Path::new("/etc/gate"), &House) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|fault| fault.weight == Weight::Warning));
            let settings = loaded.settings;
            assert!(!settings.listen.is_empty() && !settings.servers.is_empty() && !settings.endpoints.is_empty());
            assert!(settings.anonymous || !settings.issuers.is_empty(), "somebody could call");
            loaded.warnings
        }
        Err(faults) => {
            assert!(faults.iter().any(|fault| fault.weight == Weight::Error), "refused without an error");
            faults
        }
    };
    for fault in &faults {
        assert_placed(text, fault);
    }
    // As a policy of its own it is another file, with faults of its own.
    let alone = policy_of(text, Path::new("/etc/gate"), &House, &["servers", "auth"]);
    for fault in alone.map_or_else(|faults| faults, |file| file.warnings) {
        assert_placed(text, &fault);
    }
}

fn assert_placed(read: &str, fault: &Fault) {
    let text = fault.file.as_ref().map_or(read, |file| &file.text);
    assert!(fault.line >= 1 && fault.column >= 1, "{fault:?}");
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let line = lines.split('\n').nth(fault.line - 1);
    let width = line.map_or(0, |line| line.chars().count());
    assert!(line.is_some() && fault.column <= width + 1, "{fault:?} is nowhere in the text");
    assert!(!fault.message.is_empty() && fault.hint.as_ref().is_none_or(|hint| !hint.is_empty()));
    let shown = fault.render("gate.yaml", read);
    assert!(shown.ends_with('\n') && !shown.contains('\u{1b}'), "{shown:?}");
    if !read.contains(SECRET) {
        let told = [&shown, &fault.to_string()].into_iter().any(|words| words.contains(SECRET));
        assert!(!told, "a secret is quoted: {shown}");
    }
}

/// Variables and files that a configuration may name.
struct House;

impl Source for House {
    fn var(&self, name: &str) -> Option<String> {
        match name {
            "ADDRESS" => Some("127.0.0.1:7000".to_owned()),
            "COUNT" => Some("3".to_owned()),
            "SECRET" => Some(SECRET.to_owned()),
            _ => None,
        }
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("/etc/gate/jwks.json") => Ok(KEY_SET.to_owned()),
            Some("/etc/gate/secret") => Ok(format!("{SECRET}\n")),
            Some("/etc/gate/teams/a.yaml") => Ok(RULES.to_owned()),
            Some("/etc/gate/teams/b.yaml") => Ok(RULES.replace("==", "= =")),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, folder: &Path, names: &Glob) -> io::Result<Vec<String>> {
        if folder != Path::new("/etc/gate/teams") {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(["a.yaml", "b.yaml"].into_iter().filter(|name| names.matches(name)).map(str::to_owned).collect())
    }
}

const RULES: &str = "tasks: { t: T. }\nrules: [{ id: a, permit: ['*/*'], tasks: [t], when: args.a == 1 }]\n";
const SECRET: &str = "hunter2-correct-horse";
const KEY_SET: &str = concat!(
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","kid":"k","#,
    r#""x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fuzz::hold;

    #[test]
    fn the_key_set_can_be_used() {
        let text = "auth: { issuers: [{ issuer: https://i.example, jwks: { file: ./jwks.json } }] }\n\
                    servers: { a: { url: http://127.0.0.1:1/mcp } }\npolicy: { rules: [{ id: a, permit: ['*/*'] }] }\n";
        assert!(load(text, Path::new("/etc/gate"), &House).is_ok());
    }

    #[test]
    fn configurations_hold() {
        hold("config_load", configuration);
    }
}
