//! The claim of an e-mail address: a stream named by the address, whose row holds only an account id.
//!
//! Uniqueness is the name. A claim left by a crash locks nobody out: whoever registers the address next
//! makes the account under the id that the claim names.

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::ids::Id;

/// The longest address, in bytes. Source: RFC 5321, 4.5.3.1.3 less the angle brackets.
pub const ADDRESS_MAX: usize = 254;

/// The claim of an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Email {
    account: Option<Id<Account>>,
}

/// An address in its one form: NFC, trimmed, ASCII lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Puts an address into its form. `None` if it is none: no `@` with something on both sides, white
    /// space or control characters within, or over 254 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let address: String = text.trim().nfc().collect::<String>().to_ascii_lowercase();
        let (local, domain) = address.rsplit_once('@')?;
        let is_plain =
            |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        let is_address = is_plain(local) && is_plain(domain) && !local.contains('@');
        (is_address && address.len() <= ADDRESS_MAX).then_some(Self(address))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The stream of its claim.
    pub fn id(&self) -> Id<Email> {
        Id::named("email", &[self.0.as_bytes()], None)
    }
}

/// What a claim can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Who has it? This account, if nobody has.
    Claim {
        /// The account that is to be made.
        account: Id<Account>,
    },
}

/// Whose address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The account that the claim names.
    pub account: Id<Account>,
}

/// A claim is never refused: whoever has the address is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

/// What happened to a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The address is this account's.
    Claimed {
        /// Whose.
        account: Id<Account>,
    },
}

/// What a claim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whose address it is.
    pub account: Option<Id<Account>>,
}

impl Aggregate for Email {
    const KIND: Kind = Kind::Email;
    const SNAPSHOT_EVERY: u32 = 1;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Never;
    type Event = Event;
    type Effect = std::convert::Infallible;
    type View = View;

    fn decide(&self, _at: Timestamp, command: &Command) -> Decision<Self> {
        match (command, self.account) {
            (Command::Claim { .. }, Some(account)) => Decision::answer(Answer { account }),
            (Command::Claim { account }, None) => {
                let account = *account;
                Decision::event(Event::Claimed { account }, Answer { account })
            }
        }
    }

    fn apply(&mut self, _at: Timestamp, event: &Event) {
        match event {
            Event::Claimed { account } => self.account = Some(*account),
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Self::Effect)> {
        Vec::new()
    }

    fn effect_name(effect: &Self::Effect) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> View {
        View { account: self.account }
    }

    fn owner(&self) -> Option<Uuid> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::given::{given, when};

    fn account(number: u128) -> Id<Account> {
        Id::from(Uuid::from_u128(number))
    }

    #[test]
    fn the_first_account_has_the_address_and_everybody_else_is_told_so() {
        let claimed = Event::Claimed { account: account(1) };
        let (events, answer) = when(&Email::default(), 1, Command::Claim { account: account(1) });
        assert_eq!((events, answer), (vec![claimed.clone()], Ok(Answer { account: account(1) })));

        let email: Email = given(&[(1, claimed)]);
        let (events, answer) = when(&email, 2, Command::Claim { account: account(2) });
        assert_eq!((events, answer), (vec![], Ok(Answer { account: account(1) })));
    }

    #[test]
    fn an_address_has_one_form() {
        let plain = Address::parse("  Jos\u{65}\u{301}@Example.COM ").expect("an address");
        assert_eq!(plain.as_str(), "jos\u{e9}@example.com");
        assert_eq!(Address::parse("jos\u{e9}@example.com").map(|a| a.id()), Some(plain.id()));
        for no_address in ["", "a", "@b", "a@", "a b@c", "a@b@c", "a\u{0}@b"] {
            assert_eq!(Address::parse(no_address), None, "{no_address:?}");
        }
        assert!(Address::parse(&format!("{}@b", "a".repeat(252))).is_some());
        assert!(Address::parse(&format!("{}@b", "a".repeat(253))).is_none());
    }
}
