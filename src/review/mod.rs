//! review: a policy looked at from outside, by people: why an answer is as it is, what a table of cases comes to, what
//! another policy would change.
//! Colour: pure. Owns: tables that run, differences between policies, what they say.
//! Not here: files, clocks, sockets, the calls themselves: what is told here was decided in `policy`.
//! Start at `world::World`.
//! Spec: none.

pub mod answer;
pub mod ask;
mod count;
pub mod diff;
pub mod live;
mod operand;
pub mod replay;
pub mod run;
mod targets;
mod words;
pub mod world;
