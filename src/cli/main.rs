//! The command `mynah`.
fn main() {}
