//! Turns the checked-in descriptor set into Rust types: no protoc, no network.

use prost::Message;
use prost_types::FileDescriptorSet;

const DESCRIPTORS: &str = "descriptors/envoy-1.40.binpb";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={DESCRIPTORS}");
    println!("cargo:rerun-if-changed=build.rs");
    let mut set = FileDescriptorSet::decode(std::fs::read(DESCRIPTORS)?.as_slice())?;
    // (google.protobuf is mapped to prost-types by prost-build itself.) The C++-only internals of the Envoy binary serve nobody here.
    set.file.retain(|file| {
        let package = file.package();
        !["grpc.channelz.v2", "tcmalloc"].contains(&package)
            && !file.name().starts_with("src/proto/")
            && !file.name().starts_with("source/")
    });
    prost_build::Config::new().enable_type_names().include_file("api.rs").compile_fds(set)?;
    Ok(())
}
