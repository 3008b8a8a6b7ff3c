//! The AsyncAPI document is one, leads nowhere, and says what is so.

use serde_json::{Value, json};
use souk_proto::asyncapi;
use souk_proto::topic::{Direction, Topic};

fn document() -> Value {
    asyncapi("1.2.3", "shop.", 10)
}

fn violations(document: &Value) -> Vec<String> {
    let schema = include_str!("../asyncapi-spec/asyncapi-3.0.0.json");
    let schema = serde_json::from_str(schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn it_is_what_the_specification_says() {
    assert_eq!(violations(&document()), [] as [String; 0]);
}

#[test]
fn what_the_specification_does_not_know_is_noticed() {
    for (place, member, wrong) in [
        ("", "asyncapi", json!("2.6.0")),
        ("/info", "version", Value::Null),
        ("/operations/send-create-order", "action", json!("shout")),
        ("/operations/send-create-order", "chanel", json!({})),
        ("/channels/create-order", "messages", json!([])),
        ("/channels/create-order/bindings/kafka", "partitions", json!(0)),
        ("/components/schemas/CreateOrder", "required", json!("all")),
    ] {
        let mut document = document();
        document.pointer_mut(place).expect(place)[member] = wrong;
        assert!(!violations(&document).is_empty(), "{place}/{member}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 3 * Topic::ALL.len(), "{references:?}");
    for reference in references {
        let place = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(place).is_some_and(Value::is_object), "{reference}");
    }
}

fn collect_references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|part| collect_references(part, found));
        }
        Value::Array(items) => items.iter().for_each(|part| collect_references(part, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_topic_is_a_channel_with_one_operation_the_way_its_records_go() {
    let document = document();
    assert_eq!(document["info"]["version"], "1.2.3");
    let operations = document["operations"].as_object().expect("an object");
    assert_eq!(operations.len(), Topic::ALL.len());
    assert_eq!(document["channels"].as_object().expect("an object").len(), Topic::ALL.len());
    for topic in Topic::ALL {
        let channel = &document["channels"][topic.name()];
        assert_eq!(channel["address"], format!("shop.{}", topic.name()));
        assert_eq!(channel["bindings"]["kafka"]["partitions"], 10);
        let description = channel["description"].as_str().expect("is described");
        assert!(description.starts_with(&format!("Topic `{}`", topic.name())), "{description}");

        let reference = format!("#/channels/{}", topic.name());
        let mut its_own = operations.values().filter(|one| one["channel"]["$ref"] == reference);
        let (operation, others) = (its_own.next().expect("one"), its_own.count());
        let action = match topic.direction() {
            Direction::Out => "send",
            Direction::In => "receive",
        };
        assert_eq!((operation["action"].as_str(), others), (Some(action), 0), "{topic:?}");

        let Some(name) = topic.message() else { continue };
        let message = &document["components"]["messages"][name];
        assert_eq!(message["payload"]["$ref"], format!("#/components/schemas/{name}"));
        let messages = channel["messages"].as_object().expect("an object");
        assert_eq!(messages.keys().collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn who_writes_to_souk_learns_how_a_record_is_named_and_signed() {
    for name in ["StartPurchase", "Reply"] {
        let headers = &document()["components"]["messages"][name]["headers"];
        let validator = jsonschema::validator_for(headers).expect("a schema");
        let signature = format!("v1={}", "0a".repeat(32));
        let right = json!({"ce_id": "4711", "ce_source": "shopfront", "souk-signature": signature});
        assert!(validator.is_valid(&right), "{right}");
        for (header, wrong) in [
            ("ce_id", json!("")),
            ("ce_id", json!("47 11")),
            ("ce_id", json!("4".repeat(201))),
            ("ce_source", json!("")),
            ("ce_source", json!("s".repeat(101))),
            ("souk-signature", json!("0a".repeat(32))),
            ("souk-signature", json!(signature.to_uppercase())),
        ] {
            let mut headers = right.clone();
            headers[header] = wrong;
            assert!(!validator.is_valid(&headers), "{headers}");
        }
        assert!(!validator.is_valid(&json!({"ce_id": "4711"})), "nobody wrote it");
        assert!(
            validator.is_valid(&json!({"ce_id": "4711", "ce_source": "shopfront"})),
            "where it is trusted"
        );
    }
}

#[test]
fn a_dead_letter_says_where_it_was_and_why_it_is_here_and_a_mark_which_was_put_back() {
    let document = document();
    let messages = &document["components"]["messages"];
    let ours =
        |names: &[&str]| names.iter().map(|name| format!("souk-dead-letter-{name}")).collect::<Vec<_>>();
    let why = ours(&["at", "code", "detail", "offset", "partition", "topic"]);
    assert_eq!(messages["DeadLetter"]["headers"]["required"], json!(why));
    assert!(messages["DeadLetter"]["payload"].get("type").is_none(), "it may be anything");
    let which = ours(&["at", "replayed"]);
    assert_eq!(messages["DeadLetterReplayed"]["headers"]["required"], json!(which));
    let operation = &document["operations"]["send-dead-letter-queue"]["messages"];
    assert_eq!(operation.as_array().map(Vec::len), Some(2));
}
