//! Servers and clients that do everything wrong at once, and the promises that hold all the same.

mod found;
mod mixups;
mod oracle;
mod run;
