//! What leaves the process, as protobuf: the envelope between nodes, and the shop's records on Kafka.

mod asyncapi;
mod schema;
mod timestamp;
pub mod topic;

pub use asyncapi::asyncapi;
pub use schema::json_schemas;
pub use timestamp::Timestamp;

/// What nodes of one cluster say to each other: `souk/node.proto`.
#[expect(missing_docs, reason = "generated; the .proto file says what each means")]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/souk.node.v1.rs"));
}

/// What is said on Kafka: `souk/shop.proto`. Serialized with serde it is canonical ProtoJSON.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated; the .proto file says what each means")]
pub mod shop {
    include!(concat!(env!("OUT_DIR"), "/souk.shop.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/souk.shop.v1.serde.rs"));
}
