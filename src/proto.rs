//! The messages of the API, generated from `protobuf/starbelly.proto`; their documentation is there.

#![allow(missing_docs, clippy::allow_attributes, reason = "generated code; the .proto file carries the documentation")]
#![allow(clippy::all, reason = "generated code")]

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/_.rs"));

/// Messages that carry passwords, API keys or credentials in URLs show only their name, so that no log can have them.
macro_rules! opaque_debug {
    ($($message:ident),* $(,)?) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($message), "(..)"))
            }
        }
    )*};
}
opaque_debug!(
    CaptchaSolverAntigate,
    DomainLoginUser,
    PolicyProxyRule,
    RequestImportRows,
    ResponseExportRows,
    CrawlResponse,
    SyncItem,
    TableEvent,
);
