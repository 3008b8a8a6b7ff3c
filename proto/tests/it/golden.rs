//! `proto/golden`: records as they were once written. What is in these files is on somebody's topic: it is never changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use souk_proto::json_schemas;
use souk_proto::shop::{Step, StepStatus};
use souk_proto::topic::Topic;

use crate::samples;

/// Set, files that are not there are written; what is there is only ever compared.
const WRITE: &str = "SOUK_GOLDEN_WRITE";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn golden(file: &str, today: &[u8]) -> Vec<u8> {
    let path = folder().join(file);
    if std::env::var_os(WRITE).is_some() && !path.exists() {
        fs::write(&path, today).expect("the folder can be written to");
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}; with {WRITE}=1 it is written"))
}

#[test]
fn golden_files_are_read_for_ever_and_written_so_today() {
    let mut files = BTreeSet::new();
    for sample in samples::all() {
        let name = format!("{}.json", sample.name);
        let written = format!("{}\n", sample.json);
        let file = String::from_utf8(golden(&name, written.as_bytes())).expect("JSON is UTF-8");
        assert!(sample.is_json(&file).expect(&name), "{name} is read as something else");
        assert_eq!(written, file, "{name}");
        files.insert(name);

        let name = format!("{}.bin", sample.name);
        let file = golden(&name, &sample.bytes);
        assert!(sample.is_bytes(&file).expect(&name), "{name} is read as something else");
        assert_eq!(sample.bytes, file, "{name}");
        files.insert(name);
    }
    let there = fs::read_dir(folder()).expect("a folder").map(|entry| entry.expect("a file").file_name());
    let there: BTreeSet<_> = there.map(|name| name.into_string().expect("UTF-8")).collect();
    assert_eq!(there, files, "each file has a sample");
}

#[test]
fn every_topic_and_every_kind_of_answer_has_its_golden_files() {
    let names: BTreeSet<_> = samples::all().iter().map(|sample| sample.name.to_owned()).collect();
    let schemas = json_schemas("#/");
    for message in Topic::ALL.into_iter().filter_map(Topic::message) {
        match schemas[message]["oneOf"].as_array() {
            Some(choice) => {
                for kind in choice {
                    let kind = kind["required"][0].as_str().expect("a field");
                    assert!(names.contains(&format!("{message}.{kind}")), "{message}: {kind}");
                }
            }
            None => assert!(names.contains(message), "{message}"),
        }
    }
}

#[test]
fn every_field_is_in_a_golden_file() {
    let mut written = BTreeSet::new();
    for sample in samples::all() {
        written.extend(places(&json_of(&sample.json)).into_iter().filter_map(|place| field(&place)));
    }
    for (message, schema) in json_schemas("#/") {
        for field in schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name) {
            assert!(written.contains(field), "{field} of {message}");
        }
    }
}

#[test]
fn golden_bodies_are_what_the_schemas_say() {
    for sample in samples::all() {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [{"$ref": format!("#/definitions/{}", sample.message())}],
            "definitions": json_schemas("#/definitions/"),
        });
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let body = json_of(&sample.json);
        let errors = |body: &Value| validator.iter_errors(body).map(|error| error.to_string()).next();
        assert_eq!(errors(&body), None, "{}", sample.name);
        for place in places(&body) {
            let mut wrong = body.clone();
            *at(&mut wrong, &place) = Value::Bool(true);
            assert!(errors(&wrong).is_some(), "{}: {place} may be true", sample.name);
        }
    }
}

#[test]
fn steps_and_statuses_keep_their_names_and_numbers() {
    let steps = (1..).map_while(|number| Step::try_from(number).ok()).map(|step| step.as_str_name());
    let steps: Vec<_> = steps.collect();
    assert_eq!(steps, ["UPDATE_PRODUCT_INVENTORY", "CREATE_ORDER", "CREATE_PAYMENT"]);
    let statuses = (1..).map_while(|number| StepStatus::try_from(number).ok());
    let statuses: Vec<_> = statuses.map(|status| status.as_str_name()).collect();
    assert_eq!(statuses, ["EXECUTE", "SUCCESS", "FAILED", "ROLLBACK", "ROLLBACK_FAILED"]);
}

#[test]
fn what_nobody_knows_is_refused_wherever_it_is() {
    for sample in samples::all() {
        let body = json_of(&sample.json);
        let objects = places(&body).into_iter().chain([String::new()]);
        for place in objects.filter(|place| body.pointer(place).is_some_and(Value::is_object)) {
            let mut wrong = body.clone();
            at(&mut wrong, &place)["surprise"] = 1.into();
            let error = sample.is_json(&wrong.to_string()).expect_err(&place).to_string();
            assert!(error.contains("surprise"), "{}: {place}: {error}", sample.name);
        }
        for place in places(&body) {
            let mut wrong = body.clone();
            *at(&mut wrong, &place) = Value::Bool(true);
            assert!(sample.is_json(&wrong.to_string()).is_err(), "{}: {place} may be true", sample.name);
        }
    }
}

#[test]
fn a_step_or_status_that_nobody_knows_is_refused() {
    for (name, field) in [("PurchaseResult", "step"), ("PurchaseResult", "status"), ("Reply.refused", "step")]
    {
        let sample = named(name);
        for unknown in [json!("SHIP_IT"), json!("create_payment"), json!(99)] {
            let mut body = json_of(&sample.json);
            body[field] = unknown;
            assert!(sample.is_json(&body.to_string()).is_err(), "{name}: {body}");
        }
    }
}

#[test]
fn integers_of_64_bits_are_read_as_strings_and_as_numbers() {
    let sample = named("CreatePayment");
    let with = |amount: &str| sample.json.replace(r#""9007199254740993""#, amount);
    for right in [r#""9007199254740993""#, "9007199254740993"] {
        assert!(sample.is_json(&with(right)).expect(right), "{right}");
    }
    for wrong in [r#""much""#, r#""""#, "1.5", "9223372036854775808", r#""9223372036854775808""#] {
        assert!(sample.is_json(&with(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn two_answers_at_once_are_none() {
    let sample = named("Reply.refused");
    let mut body = json_of(&sample.json);
    body["rolled_back"] = json!({});
    assert!(sample.is_json(&body.to_string()).is_err(), "{body}");
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    let sample = named("PurchaseResult");
    let mut body = json_of(&sample.json);
    body.as_object_mut().expect("an object").remove("detail");
    assert!(!sample.is_json(&body.to_string()).expect("it is read"), "and is not what it was");
}

fn named(name: &str) -> samples::Sample {
    samples::all().into_iter().find(|sample| sample.name == name).expect("there is one")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// JSON pointers to all that is in it, but not to itself.
fn places(value: &Value) -> Vec<String> {
    let parts: Vec<_> = match value {
        Value::Object(members) => members.iter().map(|(name, part)| (name.clone(), part)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, part)| (i.to_string(), part)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    let within = |(name, part): (String, &Value)| {
        let inner: Vec<_> = places(part).into_iter().map(|place| format!("/{name}{place}")).collect();
        [vec![format!("/{name}")], inner].concat()
    };
    parts.into_iter().flat_map(within).collect()
}

/// The last name of a pointer.
fn field(place: &str) -> Option<String> {
    place.rsplit('/').next().map(str::to_owned)
}

fn at<'a>(value: &'a mut Value, place: &str) -> &'a mut Value {
    value.pointer_mut(place).expect("it is there")
}
