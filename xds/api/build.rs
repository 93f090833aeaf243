//! Turns the checked-in descriptor set into Rust types and into the static tables that the reader, the checker and the
//! writer work from: no protoc, no network.

#[path = "build/source.rs"]
mod source;
#[path = "build/tables.rs"]
mod tables;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Sets of descriptors; one after the other they are one set.
const DESCRIPTORS: [&str; 2] = ["descriptors/envoy-1.40.binpb", "descriptors/istio.binpb"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    let mut bytes = Vec::new();
    for descriptors in DESCRIPTORS {
        println!("cargo:rerun-if-changed={descriptors}");
        bytes.extend(std::fs::read(descriptors)?);
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let packed = tables::pack(&source::read(&bytes)?)?;
    std::fs::write(out.join("tables.bin"), packed.blob)?;
    std::fs::write(out.join("tables.rs"), packed.layout)?;
    types(&bytes)
}

/// The prost types.
fn types(bytes: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let mut set = FileDescriptorSet::decode(bytes)?;
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
