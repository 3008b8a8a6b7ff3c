//! The contract as JSON Schema: what ProtoJSON makes of each message, read off the compiled `.proto` file.

use std::collections::HashMap;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

const PACKAGE: &str = ".souk.shop.v1.";
/// Numbers of fields in `descriptor.proto`: by these a comment says what it is about.
const FILE_MESSAGES: i32 = 4;
const FILE_ENUMS: i32 = 5;
const MESSAGE_FIELDS: i32 = 2;

/// Every message and enum of `souk/shop.proto` by its name; they refer to each other as `{root}{name}`.
pub fn json_schemas(root: &str) -> Map<String, Value> {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/shop.bin"));
    let files = FileDescriptorSet::decode(&descriptors[..]).map(|set| set.file).unwrap_or_default();
    let mut schemas = Map::new();
    for file in files.iter().filter(|file| format!(".{}.", file.package()) == PACKAGE) {
        let comments = comments(file);
        for (index, message) in (0..).zip(&file.message_type) {
            let schema = message_schema(message, &[FILE_MESSAGES, index], &comments, root);
            schemas.insert(message.name().to_owned(), schema);
        }
        for (index, one) in (0..).zip(&file.enum_type) {
            let names: Vec<_> = one.value.iter().map(|value| value.name()).skip(1).collect();
            let mut schema = json!({"type": "string", "enum": names});
            describe(&mut schema, comments.get(&vec![FILE_ENUMS, index]));
            schemas.insert(one.name().to_owned(), schema);
        }
    }
    schemas
}

type Comments = HashMap<Vec<i32>, String>;

fn comments(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter_map(|location| {
            let words: Vec<_> = location.leading_comments.as_ref()?.split_whitespace().collect();
            Some((location.path.clone(), words.join(" ")))
        })
        .collect()
}

fn describe(schema: &mut Value, comment: Option<&String>) {
    let Some(comment) = comment else { return };
    if schema.get("$ref").is_some() {
        // AsyncAPI's schemas are those of draft 7, which ignores what stands beside a reference.
        *schema = json!({"allOf": [schema.take()]});
    }
    schema["description"] = comment.clone().into();
}

fn message_schema(message: &DescriptorProto, path: &[i32], comments: &Comments, root: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (index, field) in (0..).zip(&message.field) {
        let mut schema = field_schema(field, root);
        describe(&mut schema, comments.get(&[path, &[MESSAGE_FIELDS, index]].concat()));
        properties.insert(field.name().to_owned(), schema);
        // One of several, `optional`, or what may be empty: none of them must be there.
        if field.oneof_index.is_none() && field.label() != Label::Repeated {
            required.push(field.name());
        }
    }
    let mut schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    });
    if let Some(choice) = choice(message) {
        schema["oneOf"] = choice;
    }
    describe(&mut schema, comments.get(path));
    schema
}

/// Exactly one of the fields of a `oneof` must be there; no message has two of these. `None`: it has none.
fn choice(message: &DescriptorProto) -> Option<Value> {
    let fields = message.field.iter().filter(|field| field.oneof_index.is_some() && !field.proto3_optional());
    let required: Vec<_> = fields.map(|field| json!({"required": [field.name()]})).collect();
    (!required.is_empty()).then(|| required.into())
}

fn field_schema(field: &FieldDescriptorProto, root: &str) -> Value {
    let one = match field.r#type() {
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 | Type::Uint32 | Type::Fixed32 => {
            json!({"type": "integer"})
        }
        // As ProtoJSON has it: not every reader of JSON keeps more than 53 bits.
        Type::Int64 | Type::Sint64 | Type::Sfixed64 | Type::Uint64 | Type::Fixed64 => {
            json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"})
        }
        Type::Float | Type::Double => json!({"type": "number"}),
        Type::Message | Type::Enum | Type::Group => match field.type_name().strip_prefix(PACKAGE) {
            Some(name) => json!({"$ref": format!("{root}{name}")}),
            // The only one from elsewhere: google.protobuf.Timestamp.
            None => json!({"type": "string", "format": "date-time"}),
        },
    };
    match field.label() {
        Label::Repeated => json!({"type": "array", "items": one}),
        Label::Optional | Label::Required => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    #[test]
    fn every_topic_has_a_message_that_is_described() {
        let schemas = json_schemas("#/");
        for topic in Topic::ALL {
            let Some(message) = topic.message() else { continue };
            let schema = &schemas[message];
            assert!(
                schema["description"].as_str().is_some_and(|text| text.contains(topic.name())),
                "{schema}"
            );
        }
    }

    #[test]
    fn a_message_is_described_as_protojson_writes_it() {
        let schemas = json_schemas("#/components/schemas/");
        let result = &schemas["PurchaseResult"];
        assert_eq!(result["properties"]["step"]["$ref"], "#/components/schemas/Step");
        assert_eq!(result["properties"]["created_at"]["format"], "date-time");
        assert_eq!(result["required"], json!(["purchase_id", "step", "status", "created_at"]));
        assert_eq!(schemas["CreatePayment"]["properties"]["amount"]["type"], "string");
        assert_eq!(schemas["UpdateProductInventory"]["properties"]["order_items"]["type"], "array");
        assert_eq!(schemas["Step"]["enum"][0], "UPDATE_PRODUCT_INVENTORY");
    }

    #[test]
    fn an_answer_is_exactly_one_of_its_kinds_and_each_is_described() {
        let schemas = json_schemas("#/");
        let reply = &schemas["Reply"];
        let kinds = ["reserved", "captured", "rolled_back", "refused", "rollback_refused"]
            .map(|kind| json!({"required": [kind]}));
        assert_eq!(reply["oneOf"], Value::from(kinds.to_vec()));
        assert_eq!(reply["required"], json!(["purchase_id", "step"]));
        assert_eq!(reply["properties"]["captured"]["allOf"], json!([{"$ref": "#/Captured"}]));
        assert_eq!(reply["properties"]["captured"]["description"], "To CreatePayment: the money is here.");
        assert!(schemas["PurchaseResult"].get("oneOf").is_none(), "`optional` is no choice");
    }
}
