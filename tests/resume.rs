//! Subscribers against the real server, over a way that loses, repeats and swaps what it carries, and over its end.

mod scenarios {
    mod resume;
}
mod support;

use support::embedded as backend;
