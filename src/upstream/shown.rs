//! What a server is shown beside a message: as whom the gateway comes, and for whom.

use crate::base::secret::Secret;
use crate::http::reply::{self, WriteFault};

/// Fields of a head that nobody else may see. Made once for a server and whom it is for, and written into every request
/// that is for them.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The field lines, as they are written.
    lines: Secret,
    mark: u64,
}

impl Shown {
    /// These fields. `mark`: a connection that has carried them carries nothing of another mark; 0 where they are
    /// nobody's in particular.
    ///
    /// # Errors
    /// When a name is no token, or a value is not one that a head may carry.
    pub fn new(fields: &[(&str, &[u8])], mark: u64) -> Result<Self, WriteFault> {
        // Of its full size from the start: what grows leaves copies behind.
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut lines = Vec::with_capacity(bytes);
        for (name, value) in fields {
            reply::write_field(&mut lines, name, value)?;
        }
        Ok(Self { lines: Secret::new(lines), mark })
    }

    /// The field lines, to be written into a head.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        self.lines.reveal()
    }

    /// See [`Shown::new`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_a_heads_own() {
        let shown = Shown::new(&[("authorization", b"Bearer x"), ("x-user", b"ana")], 7).unwrap();
        assert_eq!(shown.lines(), b"authorization: Bearer x\r\nx-user: ana\r\n");
        assert!(!format!("{shown:?}").contains("ana"));
        assert_eq!(Shown::new(&[("x", b"a\r\nb: c")], 0).unwrap_err(), WriteFault::Value);
        assert_eq!(Shown::new(&[("x y", b"a")], 0).unwrap_err(), WriteFault::Name);
    }
}
