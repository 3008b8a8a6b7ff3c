//! Who is believed: whoever signs with a key that the settings name for what it says, or anybody on a topic that they
//! declare trusted.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use souk_config::Kafka;
use souk_persistence::kafka::Incoming;
use souk_proto::shop::{Reply, Step};
use souk_proto::topic::Topic;

use super::dead_letters::Cause;
use super::purchase::decoded;

/// The header of a signature: `v1=` and 64 lower-case hexadecimal digits, HMAC-SHA256 (RFC 2104) of the topic's name as it
/// is on the brokers, a line feed, `ce_source`, a line feed, `ce_id`, a line feed, and the body. With the topic's prefix,
/// so that what was signed for one shop says nothing to another.
pub const SIGNATURE: &str = "souk-signature";
/// The codes of records whose writer is not believed.
pub const DISBELIEVED: [&str; 4] = [UNSIGNED, UNKNOWN_SOURCE, BAD_SIGNATURE, NOT_ITS_STEP];
const UNSIGNED: &str = "unsigned";
const UNKNOWN_SOURCE: &str = "unknown_source";
const BAD_SIGNATURE: &str = "bad_signature";
const NOT_ITS_STEP: &str = "not_its_step";
const SOURCE_MAX: usize = 100;
const ID_MAX: usize = 200;

/// What a source may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// It buys.
    Purchase,
    /// It answers for stock.
    Inventory,
    /// It answers for money.
    Payment,
}

impl Right {
    const ALL: [Self; 3] = [Self::Purchase, Self::Inventory, Self::Payment];

    /// To answer for a step; `None`: that is Souk's own.
    pub fn to_answer(step: Step) -> Option<Self> {
        match step {
            Step::UpdateProductInventory => Some(Self::Inventory),
            Step::CreatePayment => Some(Self::Payment),
            Step::CreateOrder | Step::Unspecified => None,
        }
    }

    /// To say this on a topic; `None`: nobody can.
    pub fn to_say(topic: Topic, body: &[u8]) -> Option<Self> {
        match topic {
            Topic::Purchase => Some(Self::Purchase),
            Topic::Reply => Self::to_answer(decoded::<Reply>(body).ok()?.step()),
            Topic::PurchaseResult
            | Topic::UpdateProductInventory
            | Topic::RollbackProductInventory
            | Topic::CreateOrder
            | Topic::RollbackOrder
            | Topic::CreatePayment
            | Topic::RollbackPayment
            | Topic::SendRegisterEmail
            | Topic::DeadLetterQueue => None,
        }
    }

    fn topic(self) -> Topic {
        match self {
            Self::Purchase => Topic::Purchase,
            Self::Inventory | Self::Payment => Topic::Reply,
        }
    }
}

/// Whom to believe.
#[derive(Clone)]
pub struct Trust {
    prefix: String,
    trusted: Vec<Topic>,
    /// Who may say what, with which key. A source may have several rights, each with a key of its own.
    keys: Vec<(Right, String, Vec<u8>)>,
}

/// Who wrote a record, what they call it, and what else they may say on its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author<'a> {
    /// `ce_source`.
    pub source: &'a str,
    /// `ce_id`: one of its source, for ever.
    pub id: &'a str,
    rights: Vec<Right>,
}

impl Author<'_> {
    /// It may answer for this step, or why it is not believed.
    pub fn must_answer_for(&self, step: Step) -> Result<(), Cause> {
        let is_allowed = Right::to_answer(step).is_none_or(|right| self.rights.contains(&right));
        is_allowed.then_some(()).ok_or_else(|| {
            let detail = format!("{:?} must not answer for {}", self.source, step.as_str_name());
            Cause::new(NOT_ITS_STEP, detail)
        })
    }
}

impl Trust {
    /// As the settings say.
    pub fn new(settings: &Kafka) -> Self {
        let keys = Right::ALL.into_iter().flat_map(|right| {
            let signers = match right {
                Right::Purchase => &settings.purchase_signers,
                Right::Inventory => &settings.inventory_signers,
                Right::Payment => &settings.payment_signers,
            };
            signers.iter().map(move |(source, key)| (right, source.clone(), key.reveal().as_bytes().to_vec()))
        });
        Self {
            prefix: settings.prefix.clone(),
            trusted: settings.trusted_topics().filter_map(Topic::named).collect(),
            keys: keys.collect(),
        }
    }

    /// Who wrote it, if that is to be believed.
    pub fn judge<'a>(&self, topic: Topic, record: &'a Incoming) -> Result<Author<'a>, Cause> {
        let source = named(record, "ce_source", SOURCE_MAX)?;
        let id = named(record, "ce_id", ID_MAX)?;
        if self.trusted.contains(&topic) {
            return Ok(Author { source, id, rights: Right::ALL.into() });
        }
        let Some(signature) = record.header(SIGNATURE) else {
            let detail = format!("the topic is not trusted and the record has no header {SIGNATURE}");
            return Err(Cause::new(UNSIGNED, detail));
        };
        let on_topic = self.keys.iter().filter(|(right, of, _)| right.topic() == topic && of == source);
        let keys: Vec<_> = on_topic.collect();
        if keys.is_empty() {
            let detail = format!("no key is known of the source {source:?} for {}", topic.name());
            return Err(Cause::new(UNKNOWN_SOURCE, detail));
        }
        let given = signature.strip_prefix("v1=").and_then(unhex).unwrap_or_default();
        let fits = |(right, _, key): &(Right, String, Vec<u8>)| {
            let mac = self.mac(*right, key, (source, id), &record.body)?;
            mac.verify_slice(&given).is_ok().then_some(*right)
        };
        let rights: Vec<_> = keys.into_iter().filter_map(fits).collect();
        match rights.is_empty() {
            false => Ok(Author { source, id, rights }),
            true => {
                let detail = format!("it is not signed by the key of {source:?}");
                Err(Cause::new(BAD_SIGNATURE, detail))
            }
        }
    }

    /// As a source would sign that says something by this right; `None`: no key of it is known, or it could mean something
    /// else too: a line feed in a name is where the next part begins.
    pub fn sign(&self, right: Right, source: &str, id: &str, body: &[u8]) -> Option<String> {
        if !is_name(source, SOURCE_MAX) || !is_name(id, ID_MAX) {
            return None;
        }
        let (_, _, key) = self.keys.iter().find(|(known, of, _)| *known == right && of == source)?;
        let mac = self.mac(right, key, (source, id), body)?.finalize().into_bytes();
        let digits: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("v1={digits}"))
    }

    fn mac(&self, right: Right, key: &[u8], (source, id): (&str, &str), body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        for name in [self.prefix.as_str(), right.topic().name(), "\n", source, "\n", id, "\n"] {
            mac.update(name.as_bytes());
        }
        mac.update(body);
        Some(mac)
    }
}

/// Printable, and not too long.
fn is_name(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// A header that names something.
fn named<'a>(record: &'a Incoming, header: &'static str, max: usize) -> Result<&'a str, Cause> {
    record.header(header).filter(|value| is_name(value, max)).ok_or_else(|| {
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
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn trust(trusted: &str) -> Trust {
        let signer = |source: &str, key: &str| [(source.to_owned(), key.to_owned().into())].into();
        Trust::new(&Kafka {
            prefix: "shop.".to_owned(),
            trusted: trusted.to_owned(),
            purchase_signers: signer("shopfront", KEY),
            inventory_signers: signer("warehouse", KEY),
            payment_signers: signer("payments", OTHER),
            ..Kafka::default()
        })
    }

    fn record(headers: &[(&str, &str)]) -> Incoming {
        let headers = headers.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Incoming { headers: headers.collect(), body: b"{}".to_vec(), ..Incoming::default() }
    }

    #[test]
    fn nothing_is_signed_that_could_mean_something_else() {
        let sign = |id: &str, body: &str| trust("").sign(Right::Purchase, "shopfront", id, body.as_bytes());
        assert!(sign("42", "{\"a\":1}").is_some());
        assert_eq!(sign("42\n{\"a\":", "1}"), None, "it would be signed as the one before");
        assert_eq!((sign("", "{}"), sign(&"x".repeat(201), "{}")), (None, None));
    }

    fn code(trust: &Trust, headers: &[(&str, &str)]) -> &'static str {
        trust.judge(Topic::Purchase, &record(headers)).expect_err("is refused").code
    }

    #[test]
    fn whoever_signs_with_the_key_of_the_source_is_believed() {
        // printf 'shop.purchase\nshopfront\n42\n{}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let signature = "v1=43c339fa5ba479df1210a8ad6d8ee7f987d96fb65e681e2e5ce96b434d39d612";
        let signed = trust("").sign(Right::Purchase, "shopfront", "42", b"{}");
        assert_eq!(signed.as_deref(), Some(signature));
        let headers = [("ce_source", "shopfront"), ("ce_id", "42"), (SIGNATURE, signature)];
        let record = record(&headers);
        let author = trust("").judge(Topic::Purchase, &record).expect("is believed");
        assert_eq!((author.source, author.id), ("shopfront", "42"));
    }

    #[test]
    fn whoever_does_not_is_not() {
        let trust = trust("reply");
        let named = [("ce_source", "shopfront"), ("ce_id", "42")];
        assert_eq!(code(&trust, &named), "unsigned");
        let other = trust.sign(Right::Purchase, "shopfront", "43", b"{}").expect("is signed");
        assert_eq!(code(&trust, &[named[0], named[1], (SIGNATURE, &other)]), "bad_signature");
        assert_eq!(code(&trust, &[named[0], named[1], (SIGNATURE, "v1=é")]), "bad_signature");
        let stranger = ("ce_source", "stranger");
        assert_eq!(code(&trust, &[stranger, named[1], (SIGNATURE, &other)]), "unknown_source");
        assert_eq!(code(&trust, &[named[0]]), "invalid_header");
        assert_eq!(code(&trust, &[named[0], ("ce_id", "a\nb")]), "invalid_header");
    }

    #[test]
    fn each_says_only_what_it_may() {
        let trust = trust("");
        let signed = |right, source| {
            let signature = trust.sign(right, source, "1", b"{}").expect("is signed");
            record(&[("ce_source", source), ("ce_id", "1"), (SIGNATURE, &signature)])
        };
        let payments = signed(Right::Payment, "payments");
        let author = trust.judge(Topic::Reply, &payments).expect("is believed");
        assert_eq!(author.must_answer_for(Step::CreatePayment), Ok(()));
        let refused = author.must_answer_for(Step::UpdateProductInventory).expect_err("is refused");
        assert_eq!(refused.code, "not_its_step");
        let refused = |topic, record: &Incoming| trust.judge(topic, record).expect_err("is refused").code;
        assert_eq!(refused(Topic::Purchase, &payments), "unknown_source");
        assert_eq!(refused(Topic::Reply, &signed(Right::Purchase, "shopfront")), "unknown_source");
        assert_eq!(trust.sign(Right::Purchase, "payments", "1", b"{}"), None);
    }

    #[test]
    fn what_was_signed_for_one_topic_or_shop_says_nothing_on_another() {
        let signer: std::collections::BTreeMap<_, _> = [("both".to_owned(), KEY.to_owned().into())].into();
        let settings =
            Kafka { purchase_signers: signer.clone(), payment_signers: signer, ..Kafka::default() };
        let here = Trust::new(&settings);
        let there = Trust::new(&Kafka { prefix: "shop.".to_owned(), ..settings });
        let signature = here.sign(Right::Purchase, "both", "1", b"{}").expect("is signed");
        let record = record(&[("ce_source", "both"), ("ce_id", "1"), (SIGNATURE, &signature)]);
        assert!(here.judge(Topic::Purchase, &record).is_ok());
        assert_eq!(here.judge(Topic::Reply, &record).expect_err("is refused").code, "bad_signature");
        assert_eq!(there.judge(Topic::Purchase, &record).expect_err("is refused").code, "bad_signature");
    }

    #[test]
    fn a_trusted_topic_believes_everybody_and_only_it() {
        let trust = trust("reply");
        let record = record(&[("ce_source", "anybody"), ("ce_id", "1")]);
        let author = trust.judge(Topic::Reply, &record).expect("is believed");
        assert_eq!(author.must_answer_for(Step::UpdateProductInventory), Ok(()));
        assert!(trust.judge(Topic::Purchase, &record).is_err());
    }
}
