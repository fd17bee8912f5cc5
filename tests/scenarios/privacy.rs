//! Personal data: who sees it, and the erasure of a person, which leaves nothing of them that anybody can read.

mod byte_scan;
mod restored_backups;
mod visibility;
