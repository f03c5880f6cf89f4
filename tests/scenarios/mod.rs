//! What clients see, whatever the rows are in. Each binary that has these modules says what that is, by what it calls `backend`.

mod captcha_solvers;
mod clients;
mod commands;
mod documents;
mod invalid_rows;
mod job_items;
mod job_status;
mod job_sync;
mod jobs;
mod limits;
mod lists;
mod monitors;
mod pages;
mod passed_on;
mod rate_limits;
mod resume;
mod resuming;
mod rows;
mod states;
mod upstream_bugs;
