//! What leaves the process, as protobuf: the envelope between nodes.

/// What nodes of one cluster say to each other: `souk/node.proto`.
#[expect(missing_docs, reason = "generated; the .proto file says what each means")]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/souk.node.v1.rs"));
}
