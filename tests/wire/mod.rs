//! The gateway on the wire: what clients see, what servers see, and what the record says about both.

mod happy;
