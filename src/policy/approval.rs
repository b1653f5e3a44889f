//! That somebody said yes to one call.

/// A yes, used up: only the book of approvals makes one.
///
/// ```compile_fail,E0451
/// fn forge() -> portcullis::policy::approval::Granted {
///     portcullis::policy::approval::Granted { made: () }
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    made: (),
}

impl Granted {
    /// A yes that nobody said.
    #[cfg(test)]
    pub(crate) fn unasked() -> Self {
        Self { made: () }
    }
}
