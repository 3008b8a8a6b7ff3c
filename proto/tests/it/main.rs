//! The contract: what is on Kafka is read for ever, and described as it is.

mod asyncapi;
mod golden;
mod samples;
