//! Newtype ids. Dense ids (`ServerId`, `EndpointId`, `ItemId`, `TaskId`) belong to one snapshot and never leave it:
//! caches, records and handles carry names or hashes.

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// As an index into the table this id numbers.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }

            /// The id of row `index`.
            ///
            /// # Panics
            /// When the table has outgrown the id; `limits` keeps every table far below that.
            #[must_use]
            pub fn from_index(index: usize) -> Self {
                Self(<$inner>::try_from(index).expect("tables are bounded by limits"))
            }
        }
    )*};
}

ids! {
    /// One shard: a pinned thread with its own ring.
    ShardId(u16);
    /// A configured MCP server.
    ServerId(u16);
    /// A path that clients connect to.
    EndpointId(u16);
    /// A task of `policy.tasks`.
    TaskId(u16);
    /// A tool or prompt of the catalogue, dense over all servers.
    ItemId(u32);
    /// A policy rule, in the order of the file.
    RuleId(u32);
}
