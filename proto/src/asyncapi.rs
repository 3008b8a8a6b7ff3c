//! The contract as an AsyncAPI document: which topics there are, which way their records go, how they are marked and what
//! is in them.

use serde_json::{Map, Value, json};

use crate::json_schemas;
use crate::topic::{Direction, Topic};

/// The version of the Kafka bindings.
const BINDING: &str = "0.5.0";
/// What names something, without white space.
const NAME: &str = r"^\S+$";
const TRACE: &str = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$";

/// The contract as AsyncAPI 3.0, of this version of Souk, for topics with this prefix and so many partitions.
pub fn asyncapi(version: &str, prefix: &str, partitions: i32) -> Value {
    let schemas = json_schemas("#/components/schemas/");
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for topic in Topic::ALL {
        let name = topic.name();
        let (description, on_it) = match topic.message() {
            Some(title) => (schemas[title]["description"].clone(), vec![message(topic, title)]),
            None => (DEAD_LETTERS.into(), vec![dead_letter(), replayed()]),
        };
        let action = match topic.direction() {
            Direction::Out => "send",
            Direction::In => "receive",
        };
        let (mut in_channel, mut in_operation) = (Map::new(), Vec::new());
        for (title, message) in on_it {
            in_channel.insert(title.to_owned(), json!({"$ref": format!("#/components/messages/{title}")}));
            in_operation.push(json!({"$ref": format!("#/channels/{name}/messages/{title}")}));
            messages.insert(title.to_owned(), message);
        }
        operations.insert(
            format!("{action}-{name}"),
            json!({
                "action": action, "channel": {"$ref": format!("#/channels/{name}")}, "messages": in_operation,
            }),
        );
        channels.insert(
            name.to_owned(),
            json!({
                "address": format!("{prefix}{name}"),
                "description": description,
                "messages": in_channel,
                "bindings": {"kafka": {"partitions": partitions, "bindingVersion": BINDING}},
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Souk",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    })
}

const ABOUT: &str = "What the shop says on Kafka, and what may be said to it. Records are CloudEvents 1.0 by the Kafka \
    protocol binding in binary mode: attributes are headers, the body is the data, as canonical ProtoJSON. Souk writes \
    each record at least once, and one that comes again may come after later ones: whoever has seen a ce_id of a \
    ce_source has seen its record. Records of one key stay in one partition.";

const DEAD_LETTERS: &str = "Topic `dead-letter-queue`: records that could not be processed and why, and marks that one \
    was put back on its topic.";

/// A message by its name.
type Named<'a> = (&'a str, Value);

/// A record of this topic, with this message of `souk/shop.proto` in it.
fn message(topic: Topic, title: &str) -> Named<'_> {
    let headers = match topic.direction() {
        Direction::Out => written_headers(topic, title),
        Direction::In => expected_headers(topic),
    };
    let message = json!({
        "name": title,
        "contentType": "application/json",
        "headers": headers,
        "payload": {"$ref": format!("#/components/schemas/{title}")},
        "bindings": {"kafka": {"key": key(topic), "bindingVersion": BINDING}},
    });
    (title, message)
}

fn key(topic: Topic) -> Value {
    let description = match topic {
        // Its purchase has no id yet.
        Topic::Purchase => {
            return json!({"type": "string", "description": "Of the writer's choice."});
        }
        Topic::SendRegisterEmail => "The account's id.",
        Topic::PurchaseResult
        | Topic::UpdateProductInventory
        | Topic::RollbackProductInventory
        | Topic::CreateOrder
        | Topic::RollbackOrder
        | Topic::CreatePayment
        | Topic::RollbackPayment
        | Topic::Reply
        | Topic::DeadLetterQueue => "The purchase's id.",
    };
    json!({"type": "string", "format": "uuid", "description": description})
}

/// What Souk writes beside a body.
fn written_headers(topic: Topic, title: &str) -> Value {
    let source = match topic {
        Topic::SendRegisterEmail => "/souk/account",
        Topic::Purchase
        | Topic::PurchaseResult
        | Topic::UpdateProductInventory
        | Topic::RollbackProductInventory
        | Topic::CreateOrder
        | Topic::RollbackOrder
        | Topic::CreatePayment
        | Topic::RollbackPayment
        | Topic::Reply
        | Topic::DeadLetterQueue => "/souk/order",
    };
    every_one_required(json!({
        "ce_specversion": {"const": "1.0"},
        "ce_id": {
            "type": "string",
            "description": "Names the record, the same however often it is written. Not to be taken apart.",
        },
        "ce_source": {"const": source},
        "ce_type": {"const": format!("souk.shop.v1.{title}")},
        "ce_subject": {"type": "string", "format": "uuid", "description": "As the key."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it happened."},
        "content-type": {"const": "application/json"},
        "traceparent": {
            "type": "string",
            "pattern": TRACE,
            "description": "W3C Trace Context: of the request that began it, or made from the key.",
        },
    }))
}

/// What a writer must put beside a body.
fn expected_headers(topic: Topic) -> Value {
    let signers = match topic {
        Topic::Purchase => "kafka.purchase_signers",
        _ => "kafka.inventory_signers or kafka.payment_signers, as the step is,",
    };
    let signature = format!(
        "`v1=` and HMAC-SHA256 as lower-case hexadecimal digits, of the topic's name with its prefix, a line feed, \
         ce_source, a line feed, ce_id, a line feed, and the body as it is sent, under the key that {signers} names for \
         this ce_source. It may be absent only where kafka.trusted names `{}`.",
        topic.name()
    );
    let mut properties = json!({
        "ce_id": {
            "type": "string", "pattern": NAME, "maxLength": 200,
            "description": "Names the record among those of its ce_source: 1 to 200 bytes, no white space.",
        },
        "ce_source": {
            "type": "string", "pattern": NAME, "maxLength": 100,
            "description": "Who wrote it: 1 to 100 bytes, no white space.",
        },
        "souk-signature": {"type": "string", "pattern": "^v1=[0-9a-f]{64}$", "description": signature},
    });
    if topic == Topic::Purchase {
        properties["traceparent"] = json!({
            "type": "string", "pattern": TRACE,
            "description": "W3C Trace Context: what is said of the purchase has it too.",
        });
    }
    json!({"type": "object", "properties": properties, "required": ["ce_id", "ce_source"]})
}

/// A record that could not be processed.
fn dead_letter() -> Named<'static> {
    let number = |description| json!({"type": "string", "pattern": "^[0-9]+$", "description": description});
    let headers = json!({
        "souk-dead-letter-topic": {"type": "string", "description": "Where it was, with the prefix."},
        "souk-dead-letter-partition": number("Its partition there."),
        "souk-dead-letter-offset": number("Its offset there."),
        "souk-dead-letter-code": {
            "type": "string", "description": "Why it could not be processed: a stable code.",
        },
        "souk-dead-letter-detail": {"type": "string", "description": "The same, for people."},
        "souk-dead-letter-at": {
            "type": "string", "format": "date-time", "description": "When it was put aside.",
        },
    });
    let mut headers = every_one_required(headers);
    headers["properties"]["souk-dead-letter-cut"] = json!({
        "type": "string", "pattern": "^(key|headers|body)( (headers|body))*$",
        "description": "What of the record was too large: a key is left out, headers too, of a body the beginning is here.",
    });
    headers["properties"]["souk-dead-letter-body-bytes"] =
        number("The length of the record's body, if any was cut.");
    headers["properties"]["souk-dead-letter-body-sha256"] = json!({
        "type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Of the record's body, if any was cut.",
    });
    let message = json!({
        "name": "DeadLetter",
        "description": "A record as it came: key, body, and behind its own headers those that say why it is here.",
        "contentType": "application/octet-stream",
        "headers": headers,
        "payload": {"description": "As it came, whatever it is."},
        "bindings": {"kafka": {"key": {"description": "As it came."}, "bindingVersion": BINDING}},
    });
    ("DeadLetter", message)
}

/// The mark that a record was put back.
fn replayed() -> Named<'static> {
    let headers = json!({
        "souk-dead-letter-replayed": {
            "type": "string", "pattern": "^[0-9]+/[0-9]+$",
            "description": "The letter's place in this queue: partition/offset.",
        },
        "souk-dead-letter-at": {"type": "string", "format": "date-time", "description": "When it was put back."},
    });
    let message = json!({
        "name": "DeadLetterReplayed",
        "description": "The record of a letter was put back on its topic.",
        "contentType": "application/octet-stream",
        "headers": every_one_required(headers),
        "payload": {"description": "Empty."},
        "bindings": {"kafka": {"key": {"description": "As the letter's."}, "bindingVersion": BINDING}},
    });
    ("DeadLetterReplayed", message)
}

/// An object that has all of these, and may have others.
fn every_one_required(properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    json!({"type": "object", "properties": properties, "required": required})
}
