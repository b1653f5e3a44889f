//! The oracle itself: it notices when a promise is broken.
