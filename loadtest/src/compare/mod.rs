pub(crate) fn command(_: &crate::cli::Compare, _: &std::sync::Arc<std::sync::atomic::AtomicBool>) -> anyhow::Result<bool> { Ok(true) }
