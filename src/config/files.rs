//! The files that a configuration names: where they are, and whether they can be what they are named for.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::limits::PEM_BYTES_MAX;
use crate::config::expand::{self, Source};
use crate::config::fault::Faults;
use crate::config::raw::Node;
use crate::config::shape::quoted;

/// Where files come from, and where relative paths start.
#[derive(Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) source: &'a dyn Source,
}

/// What a PEM file (RFC 7468) must hold. Whether it holds good ones is for those who use them to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pem {
    Certificates,
    Key,
}

impl Files<'_> {
    /// The path that is written here.
    pub(crate) fn path(self, node: &Node, path: &str, faults: &mut Faults) -> Option<PathBuf> {
        let text = node.text()?;
        if text.is_empty() || text.contains('\0') {
            faults.error(&node.at, path, "is not a path", "");
            return None;
        }
        Some(expand::resolve(text, self.folder))
    }

    /// The path that is written here, and what is in the file.
    pub(crate) fn read(self, node: &Node, path: &str, faults: &mut Faults) -> Option<(PathBuf, String)> {
        let file = self.path(node, path, faults)?;
        match self.source.file(&file) {
            Ok(text) => Some((file, text)),
            Err(error) => {
                unreadable(node, path, &error, faults);
                None
            }
        }
    }

    /// The path of a PEM file that is there and holds what it should.
    pub(crate) fn pem(self, node: &Node, path: &str, what: Pem, faults: &mut Faults) -> Option<PathBuf> {
        let file = self.path(node, path, faults)?;
        let text = match self.source.file(&file) {
            Ok(text) => text,
            // The binary form (DER) is what a file that is no text most likely has.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(error) => {
                unreadable(node, path, &error, faults);
                return None;
            }
        };
        let Some((lacks, hint)) = what.lacking(&text) else {
            return Some(file);
        };
        faults.error(&node.at, path, format!("{}: {lacks}", quoted(node)), hint);
        None
    }
}

impl Pem {
    /// Why a file cannot be this, and what to do; nothing of the file itself, which may be a key.
    fn lacking(self, text: &str) -> Option<(String, &'static str)> {
        let certificate = text.contains("-----BEGIN CERTIFICATE-----");
        let key = text.contains("PRIVATE KEY-----");
        if text.len() > PEM_BYTES_MAX {
            return Some((format!("it is longer than {PEM_BYTES_MAX} bytes"), ""));
        }
        if !text.contains("-----BEGIN") {
            let hint = "write it in PEM form, the one with -----BEGIN …: openssl makes it of others";
            return Some(("it is not a PEM file".to_owned(), hint));
        }
        match self {
            Self::Certificates if certificate => None,
            Self::Certificates if key => Some(("it has a key, and no certificate".to_owned(), "name the certificate")),
            Self::Certificates => Some(("it has no certificate (-----BEGIN CERTIFICATE-----)".to_owned(), "")),
            Self::Key if text.contains("-----BEGIN ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED") => {
                let hint = "nobody is there to type its password: keep it as plain PEM that only the gateway may read";
                Some(("its key is encrypted".to_owned(), hint))
            }
            Self::Key if key => None,
            Self::Key if certificate => Some(("it has a certificate, and no key".to_owned(), "name the private key")),
            Self::Key => Some(("it has no private key (-----BEGIN PRIVATE KEY-----)".to_owned(), "")),
        }
    }
}

fn unreadable(node: &Node, path: &str, error: &io::Error, faults: &mut Faults) {
    let message = format!("{} cannot be read: {}", quoted(node), expand::why(error.kind()));
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "the user that the gateway runs as must be able to read it",
        _ => "relative paths start at the folder of the configuration",
    };
    faults.error(&node.at, path, message, hint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pem_file_lacks() {
        let check = |text: &str, certificates: Option<&str>, key: Option<&str>| {
            let lacks = |what: Pem| what.lacking(text).map(|(lacks, _)| lacks);
            assert_eq!(
                (lacks(Pem::Certificates).as_deref(), lacks(Pem::Key).as_deref()),
                (certificates, key),
                "{text}"
            );
        };
        let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
        let swapped = (Some("it has a key, and no certificate"), Some("it has a certificate, and no key"));
        check(certificate, None, swapped.1);
        check(key, swapped.0, None);
        check("-----BEGIN RSA PRIVATE KEY-----", swapped.0, None);
        check("-----BEGIN EC PRIVATE KEY-----", swapped.0, None);
        check(&format!("{key}{certificate}"), None, None);
        check(&format!("text before it\n{certificate}{certificate}"), None, swapped.1);
        check("", Some("it is not a PEM file"), Some("it is not a PEM file"));
        check("0\u{3}", Some("it is not a PEM file"), Some("it is not a PEM file"));
        check("-----BEGIN ENCRYPTED PRIVATE KEY-----", swapped.0, Some("its key is encrypted"));
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n";
        check(old, swapped.0, Some("its key is encrypted"));
        let request = "-----BEGIN CERTIFICATE REQUEST-----";
        let neither = (
            Some("it has no certificate (-----BEGIN CERTIFICATE-----)"),
            Some("it has no private key (-----BEGIN PRIVATE KEY-----)"),
        );
        check(request, neither.0, neither.1);
        let long = format!("{certificate}{}", " ".repeat(PEM_BYTES_MAX));
        assert!(Pem::Certificates.lacking(&long).is_some_and(|(lacks, _)| lacks.starts_with("it is longer than")));
    }
}
