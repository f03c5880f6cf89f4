//! What clients of the extensions see, over a real socket: every option of a subscription, and every refusal.

mod extensions {
    mod documents;
    mod limits;
    mod restored;
    mod resuming;
    mod states;
}
mod support;

use support::embedded as backend;
