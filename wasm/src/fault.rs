//! A failure on demand, for tests of what a page does about one.

use crate::pool;
use std::hint::spin_loop;
use std::thread;

/// Prompts that end the instance: in the calling thread, or in a helper while the caller is in its part of the work.
const HERE: &str = "fail here";
const HELPER: &str = "fail in a helper";

/// Fails if that is what a prompt asks for.
pub fn provoke(prompt: &str) {
    let caller = thread::current().id();
    match prompt {
        HERE => panic!("a failure was asked for"),
        HELPER => pool().run(2, &|_, _| {
            assert_eq!(thread::current().id(), caller, "a failure was asked for");
            loop {
                spin_loop();
            }
        }),
        _ => {}
    }
}
