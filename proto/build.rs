//! Compiles the contracts in pure Rust: no `protoc` is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=souk");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let node = protox::compile(["souk/node.proto"], ["."])?;
    prost_build::Config::new().bytes(["."]).compile_fds(node)?;

    let shop = protox::compile(["souk/shop.proto"], ["."])?;
    let descriptors = shop.encode_to_vec();
    std::fs::write(out.join("shop.bin"), &descriptors)?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_well_known_types()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .compile_fds(shop)?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .preserve_proto_field_names()
        .emit_fields()
        .build(&[".souk.shop.v1"])?;
    Ok(())
}
