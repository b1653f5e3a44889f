//! The command line: what each verb says, prints, and leaves with.

mod approvals;
mod check;
mod help;
mod pins;
mod policy;
mod verbs;
