//! The revisions of MCP this gateway speaks. No other room compares them.

/// A revision of the protocol, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05; over streamable HTTP only its feature set survives, in the framing of 2025-03-26.
    R2024_11_05,
    /// 2025-03-26: sessions over one endpoint.
    R2025_03_26,
    /// 2025-06-18: the version header, elicitation.
    R2025_06_18,
    /// 2025-11-25: the last with a handshake.
    R2025_11_25,
    /// 2026-07-28: every request stands alone.
    R2026_07_28,
}

/// How a side speaks: with a handshake and sessions, or with metadata on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

impl Revision {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] =
        [Self::R2024_11_05, Self::R2025_03_26, Self::R2025_06_18, Self::R2025_11_25, Self::R2026_07_28];
    /// The newest with a handshake: what `initialize` is answered with when the client asks for one we do not speak.
    pub const NEWEST_LEGACY: Self = Self::R2025_11_25;
    /// The newest of all.
    pub const NEWEST: Self = Self::R2026_07_28;

    /// Whether a server may ask a client for input from its user (2025-06-18 client/elicitation).
    #[must_use]
    pub fn has_elicitation(self) -> bool {
        self >= Self::R2025_06_18
    }
    /// What a request without a version header speaks, unless its session says otherwise (2025-06-18
    /// basic/transports, "Protocol Version Header").
    pub const UNSAID: Self = Self::R2025_03_26;
    /// Those where every request stands alone: what `supported` and `supportedVersions` list.
    pub const MODERN: [Self; 1] = [Self::R2026_07_28];

    /// The revision written exactly so; `None` for any other bytes.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str().as_bytes() == text)
    }

    /// As the wire writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::R2024_11_05 => "2024-11-05",
            Self::R2025_03_26 => "2025-03-26",
            Self::R2025_06_18 => "2025-06-18",
            Self::R2025_11_25 => "2025-11-25",
            Self::R2026_07_28 => "2026-07-28",
        }
    }

    /// Whether every request stands alone.
    #[must_use]
    pub fn is_modern(self) -> bool {
        self >= Self::R2026_07_28
    }

    /// Whether a stream begins with an event without data, by which its client can come back before it got any
    /// (2025-11-25 basic/transports): readers of earlier ones would take it for a broken message.
    #[must_use]
    pub fn primes_streams(self) -> bool {
        self == Self::R2025_11_25
    }

    /// Whether several messages may come in one array: one revision had that, and the next took it back (2025-03-26
    /// basic, "Batching").
    #[must_use]
    pub fn takes_batches(self) -> bool {
        self == Self::R2025_03_26
    }

    /// The era this revision belongs to.
    #[must_use]
    pub fn era(self) -> Era {
        if self.is_modern() { Era::Modern } else { Era::Legacy }
    }

    /// What `initialize` settles on when the client asks for `asked`: that, if it is a legacy revision we speak, else
    /// the newest legacy one (basic/lifecycle, "Version Negotiation").
    #[must_use]
    pub fn negotiate(asked: &[u8]) -> Self {
        Self::parse(asked).filter(|revision| !revision.is_modern()).unwrap_or(Self::NEWEST_LEGACY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_parsed_as_written() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str().as_bytes()), Some(revision));
            assert_eq!(revision.is_modern(), Revision::MODERN.contains(&revision));
            assert_eq!(revision.era() == Era::Modern, revision.is_modern());
            assert_eq!(revision.primes_streams(), revision == Revision::NEWEST_LEGACY);
        }
        for text in ["", "2026-07-28 ", "2026-7-28", "2024-10-07", "DRAFT-2026-v1", "1.0"] {
            assert_eq!(Revision::parse(text.as_bytes()), None, "{text}");
        }
        assert!(Revision::ALL.is_sorted());
        assert_eq!(Revision::ALL.map(Revision::takes_batches), [false, true, false, false, false]);
    }

    #[test]
    fn initialize_settles_on_a_legacy_revision() {
        for (asked, want) in [
            ("2024-11-05", Revision::R2024_11_05),
            ("2025-03-26", Revision::R2025_03_26),
            ("2025-06-18", Revision::R2025_06_18),
            ("2025-11-25", Revision::R2025_11_25),
            ("2026-07-28", Revision::R2025_11_25),
            ("1999-01-01", Revision::R2025_11_25),
            ("", Revision::R2025_11_25),
        ] {
            assert_eq!(Revision::negotiate(asked.as_bytes()), want, "{asked}");
        }
    }
}
