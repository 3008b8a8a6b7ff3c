//! Who is believed: whoever signs with a key that the settings name, or anybody on a topic that they declare trusted.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use souk_config::Kafka;
use souk_persistence::kafka::Incoming;
use souk_proto::topic::Topic;

use super::dead_letters::Cause;

/// The header of a signature: `v1=` and 64 lower-case hexadecimal digits, HMAC-SHA256 (RFC 2104) of `ce_source`, a line
/// feed, `ce_id`, a line feed, and the body.
pub const SIGNATURE: &str = "souk-signature";
const SOURCE_MAX: usize = 100;
const ID_MAX: usize = 200;

/// Whom to believe.
#[derive(Clone)]
pub struct Trust {
    trusted: Vec<Topic>,
    keys: BTreeMap<String, Vec<u8>>,
}

/// Who wrote a record, and what they call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// `ce_source`.
    pub source: &'a str,
    /// `ce_id`: one of its source, for ever.
    pub id: &'a str,
}

impl Trust {
    /// As the settings say.
    pub fn new(settings: &Kafka) -> Self {
        let keys = settings.signers.iter();
        Self {
            trusted: settings.trusted_topics().filter_map(Topic::named).collect(),
            keys: keys.map(|(source, key)| (source.clone(), key.reveal().as_bytes().to_vec())).collect(),
        }
    }

    /// Who wrote it, if that is to be believed.
    pub fn judge<'a>(&self, topic: Topic, record: &'a Incoming) -> Result<Name<'a>, Cause> {
        let source = named(record, "ce_source", SOURCE_MAX)?;
        let id = named(record, "ce_id", ID_MAX)?;
        if self.trusted.contains(&topic) {
            return Ok(Name { source, id });
        }
        let Some(signature) = record.header(SIGNATURE) else {
            let detail = format!("the topic is not trusted and the record has no header {SIGNATURE}");
            return Err(Cause::new("unsigned", detail));
        };
        let Some(mac) = self.mac(source, id, &record.body) else {
            return Err(Cause::new("unknown_source", format!("no key is known of the source {source:?}")));
        };
        let given = signature.strip_prefix("v1=").and_then(unhex).unwrap_or_default();
        match mac.verify_slice(&given) {
            Ok(()) => Ok(Name { source, id }),
            Err(_) => Err(Cause::new("bad_signature", format!("it is not signed by the key of {source:?}"))),
        }
    }

    /// As a source would sign; `None`: no key of it is known.
    pub fn sign(&self, source: &str, id: &str, body: &[u8]) -> Option<String> {
        let mac = self.mac(source, id, body)?.finalize().into_bytes();
        let digits: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("v1={digits}"))
    }

    fn mac(&self, source: &str, id: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.keys.get(source)?).ok()?;
        for part in [source.as_bytes(), b"\n", id.as_bytes(), b"\n", body] {
            mac.update(part);
        }
        Some(mac)
    }
}

/// A header that names something: printable, and not too long.
fn named<'a>(record: &'a Incoming, header: &'static str, max: usize) -> Result<&'a str, Cause> {
    let value = record.header(header);
    let is_name = |value: &&str| {
        (1..=max).contains(&value.len()) && !value.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    value.filter(is_name).ok_or_else(|| {
        let detail = format!("the header {header} must be 1 to {max} bytes without white space");
        Cause::new("invalid_header", detail)
    })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let is_hex = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    is_hex.then(|| (0..64).step_by(2).map(byte).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn trust(trusted: &str) -> Trust {
        let signers = [("shopfront".to_owned(), KEY.to_owned().into())].into();
        Trust::new(&Kafka { trusted: trusted.to_owned(), signers, ..Kafka::default() })
    }

    fn record(headers: &[(&str, &str)]) -> Incoming {
        Incoming {
            topic: "purchase".to_owned(),
            partition: 0,
            offset: 0,
            key: None,
            headers: headers
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body: b"{}".to_vec(),
        }
    }

    fn code(trust: &Trust, headers: &[(&str, &str)]) -> &'static str {
        trust.judge(Topic::Purchase, &record(headers)).expect_err("is refused").code
    }

    #[test]
    fn whoever_signs_with_the_key_of_the_source_is_believed() {
        // printf 'shopfront\n42\n{}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let signature = "v1=ba9b7ff8bac926868012ce96f831f4a2181f936377058a91cdb585ae9757c7e2";
        assert_eq!(trust("").sign("shopfront", "42", b"{}").as_deref(), Some(signature));
        let headers = [("ce_source", "shopfront"), ("ce_id", "42"), (SIGNATURE, signature)];
        let record = record(&headers);
        let name = trust("").judge(Topic::Purchase, &record).expect("is believed");
        assert_eq!(name, Name { source: "shopfront", id: "42" });
    }

    #[test]
    fn whoever_does_not_is_not() {
        let trust = trust("reply");
        let named = [("ce_source", "shopfront"), ("ce_id", "42")];
        assert_eq!(code(&trust, &named), "unsigned");
        let other = trust.sign("shopfront", "43", b"{}").expect("is signed");
        assert_eq!(code(&trust, &[named[0], named[1], (SIGNATURE, &other)]), "bad_signature");
        assert_eq!(code(&trust, &[named[0], named[1], (SIGNATURE, "v1=é")]), "bad_signature");
        assert_eq!(
            code(&trust, &[("ce_source", "stranger"), named[1], (SIGNATURE, &other)]),
            "unknown_source"
        );
        assert_eq!(code(&trust, &[named[0]]), "invalid_header");
        assert_eq!(code(&trust, &[named[0], ("ce_id", "a\nb")]), "invalid_header");
    }

    #[test]
    fn a_trusted_topic_believes_everybody_and_only_it() {
        let trust = trust("reply");
        let record = record(&[("ce_source", "anybody"), ("ce_id", "1")]);
        assert!(trust.judge(Topic::Reply, &record).is_ok());
        assert!(trust.judge(Topic::Purchase, &record).is_err());
    }
}
