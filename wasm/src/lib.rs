//! JavaScript in, library calls out.
