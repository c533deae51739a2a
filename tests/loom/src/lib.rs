//! The worker threads of the pool (`src/kernel/pool/threads.rs`) under loom: the tests run in every order of steps, and
//! with every value that an atomic may show to a thread.
#![cfg(test)]
#![allow(dead_code)]

mod error {
    pub type Result<T> = core::result::Result<T, Error>;

    #[derive(Debug)]
    pub struct Error;

    impl Error {
        pub fn limit(_: &str, _: u64, _: u64) -> Error {
            Error
        }
    }
}

mod bytes {
    pub fn room(_: &str, _: usize) -> crate::error::Result<()> {
        Ok(())
    }
}

mod kernel {
    pub fn prefetch(_: *const u8, _: bool) {}

    pub mod pool {
        pub mod sync;
        #[path = "../../../../../src/kernel/pool/threads.rs"]
        pub mod threads;

        #[derive(Default)]
        pub struct Scratch;

        pub type Work<'a> = dyn Fn(usize, &mut Scratch) + Sync + 'a;

        pub fn bind(_: usize) -> crate::error::Result<()> {
            Ok(())
        }

        mod tests;
    }
}
