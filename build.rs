//! Generates the messages of `protobuf/` with a protobuf compiler in Rust: no `protoc` is needed.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=protobuf");
    let descriptors = protox::compile([Path::new("protobuf/starbelly.proto")], [Path::new("protobuf")])
        .unwrap_or_else(|error| panic!("protobuf/starbelly.proto does not compile: {error}"));
    prost_build::Config::new()
        .bytes(["."])
        // These carry secrets; `src/proto.rs` gives them a `Debug` that shows none.
        .skip_debug([
            "CaptchaSolverAntigate",
            "DomainLoginUser",
            "PolicyProxyRule",
            "RequestImportRows",
            "ResponseExportRows",
            "CrawlResponse",
            "SyncItem",
            "TableEvent",
        ])
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("no code can be generated from protobuf/starbelly.proto: {error}"));
}
