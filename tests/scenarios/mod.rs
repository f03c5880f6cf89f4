//! What clients see, whatever the rows are in. Each binary that has these modules says what that is, by what it calls `backend`.

mod clients;
mod commands;
mod documents;
mod limits;
mod resume;
mod resuming;
mod rows;
mod states;
