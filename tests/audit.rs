//! Merkle logs, proofs and exports: the sealer on a real database, attacks by the database's administrator, and the
//! auditor's way from a token to a verified file.

mod activity;
mod auditor;
mod cut_off;
mod operators;
mod replaced;
mod replay;
mod sealing;
mod tampering;
mod tokens;
