//! Files: mapped read-only, replaced atomically.
