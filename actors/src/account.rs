//! An account: who somebody is, and the hash of their password.
//!
//! The hash never leaves through a view; [`Command::Credentials`] is how the door gets it. Past rows of
//! accounts are forgotten once a snapshot covers them, so that old secrets and personal data go.

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use uuid::Uuid;

use crate::aggregate::{Aggregate, Decision, Kind, Residence};

/// An account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    opened: Option<Opened>,
}

/// What an account consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// In its one form.
    pub email: String,
    /// A PHC string.
    pub password_hash: String,
    /// What else is known.
    pub personal: Personal,
    /// The address is verified.
    pub active: bool,
}

/// What somebody says about themselves. Empty where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Personal {
    pub first_name: String,
    pub last_name: String,
    pub address: String,
    pub phone_number: String,
}

/// What is to change; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct Patch {
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub address: Option<String>,
    pub phone_number: Option<String>,
}

/// What an account can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Make it.
    Open {
        /// In its one form.
        email: String,
        /// A PHC string.
        password_hash: String,
        /// What else is known.
        personal: Personal,
    },
    /// Change what is said.
    ChangePersonal(Patch),
    /// The password was right, and its hash is of an older cost.
    Rehash {
        /// What it was.
        from: String,
        /// What it is now.
        to: String,
    },
    /// What a login is checked against.
    Credentials,
}

/// What an account says to a command that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It stands like this.
    Account(View),
    /// A PHC string. Not for readers.
    Credentials {
        /// A PHC string.
        password_hash: String,
        /// The account.
        view: View,
    },
}

/// Why an account does not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// There is none.
    NotFound,
    /// It was made before.
    Exists,
}

/// What happened to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Opened(Opened),
    /// What is said has changed.
    PersonalChanged(Patch),
    /// The same password under a newer cost.
    Rehashed {
        /// A PHC string.
        password_hash: String,
    },
}

/// What readers see of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// In its one form.
    pub email: String,
    /// What else is known.
    #[serde(flatten)]
    pub personal: Personal,
    /// The address is verified.
    pub active: bool,
}

impl Personal {
    fn change(&mut self, patch: &Patch) {
        let Patch { first_name, last_name, address, phone_number } = patch;
        for (field, value) in [
            (&mut self.first_name, first_name),
            (&mut self.last_name, last_name),
            (&mut self.address, address),
            (&mut self.phone_number, phone_number),
        ] {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
    }
}

impl Opened {
    fn view(&self) -> View {
        View { email: self.email.clone(), personal: self.personal.clone(), active: self.active }
    }
}

impl Aggregate for Account {
    const KIND: Kind = Kind::Account;
    const SNAPSHOT_EVERY: u32 = 1;
    const RESIDENCE: Residence = Residence::WhileUsed;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Rejection;
    type Event = Event;
    type Effect = std::convert::Infallible;
    type View = Option<View>;

    fn decide(&self, _at: Timestamp, command: &Command) -> Decision<Self> {
        match (command, &self.opened) {
            (Command::Open { email, password_hash, personal }, None) => {
                let opened = Opened {
                    email: email.clone(),
                    password_hash: password_hash.clone(),
                    personal: personal.clone(),
                    active: false,
                };
                let view = opened.view();
                Decision::event(Event::Opened(opened), Answer::Account(view))
            }
            (Command::Open { .. }, Some(_)) => Decision::reject(Rejection::Exists),
            (Command::ChangePersonal(_) | Command::Rehash { .. } | Command::Credentials, None) => {
                Decision::reject(Rejection::NotFound)
            }
            (Command::ChangePersonal(patch), Some(opened)) => {
                let mut changed = opened.clone();
                changed.personal.change(patch);
                let answer = Answer::Account(changed.view());
                match changed == *opened {
                    true => Decision::answer(answer),
                    false => Decision::event(Event::PersonalChanged(patch.clone()), answer),
                }
            }
            (Command::Rehash { from, to }, Some(opened)) if opened.password_hash == *from => {
                let event = Event::Rehashed { password_hash: to.clone() };
                Decision::event(event, Answer::Account(opened.view()))
            }
            (Command::Rehash { .. }, Some(opened)) => Decision::answer(Answer::Account(opened.view())),
            (Command::Credentials, Some(opened)) => Decision::answer(Answer::Credentials {
                password_hash: opened.password_hash.clone(),
                view: opened.view(),
            }),
        }
    }

    fn may_repeat(command: &Command) -> bool {
        match command {
            // The second time there is one already, or something else was said since.
            Command::Open { .. } | Command::ChangePersonal(_) => false,
            Command::Rehash { .. } | Command::Credentials => true,
        }
    }

    fn apply(&mut self, _at: Timestamp, event: &Event) {
        match (event, &mut self.opened) {
            (Event::Opened(opened), _) => self.opened = Some(opened.clone()),
            (Event::PersonalChanged(patch), Some(opened)) => opened.personal.change(patch),
            (Event::Rehashed { password_hash }, Some(opened)) => {
                opened.password_hash.clone_from(password_hash);
            }
            (Event::PersonalChanged(_) | Event::Rehashed { .. }, None) => {}
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Self::Effect)> {
        Vec::new()
    }

    fn effect_name(effect: &Self::Effect) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> Option<View> {
        self.opened.as_ref().map(Opened::view)
    }

    fn owner(&self) -> Option<Uuid> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::given::{given, then, when};

    fn opened() -> Event {
        Event::Opened(Opened {
            email: "a@b".to_owned(),
            password_hash: "one".to_owned(),
            personal: Personal { first_name: "An".to_owned(), ..Personal::default() },
            active: false,
        })
    }

    fn open() -> Command {
        let personal = Personal { first_name: "An".to_owned(), ..Personal::default() };
        Command::Open { email: "a@b".to_owned(), password_hash: "one".to_owned(), personal }
    }

    #[test]
    fn an_account_is_opened_once() {
        let (events, _) = when(&Account::default(), 1, open());
        assert_eq!(events, vec![opened()]);
        let account: Account = given(&[(1, opened())]);
        assert_eq!(when(&account, 2, open()), (vec![], Err(Rejection::Exists)));
    }

    #[test]
    fn nothing_is_known_of_an_account_that_nobody_opened() {
        for command in [Command::Credentials, Command::ChangePersonal(Patch::default())] {
            assert_eq!(when(&Account::default(), 1, command), (vec![], Err(Rejection::NotFound)));
        }
        assert_eq!(Account::default().view(), None);
    }

    #[test]
    fn only_what_changes_is_written() {
        let mut account: Account = given(&[(1, opened())]);
        let patch = Patch { last_name: Some("Binh".to_owned()), ..Patch::default() };
        let (events, _) = when(&account, 2, Command::ChangePersonal(patch.clone()));
        assert_eq!(events, vec![Event::PersonalChanged(patch.clone())]);
        then(&mut account, 2, Command::ChangePersonal(patch.clone())).expect("changed");
        let (events, answer) = when(&account, 3, Command::ChangePersonal(patch));
        assert_eq!(events, vec![]);
        let Ok(Answer::Account(view)) = answer else { panic!("{answer:?}") };
        assert_eq!((view.personal.first_name.as_str(), view.personal.last_name.as_str()), ("An", "Binh"));
    }

    #[test]
    fn a_hash_is_renewed_only_from_the_one_that_was_checked() {
        let mut account: Account = given(&[(1, opened())]);
        let rehash = |from: &str, to: &str| Command::Rehash { from: from.to_owned(), to: to.to_owned() };
        assert_eq!(when(&account, 2, rehash("other", "two")).0, vec![]);
        then(&mut account, 2, rehash("one", "two")).expect("rehashed");
        let answer = then(&mut account, 3, Command::Credentials);
        assert!(matches!(answer, Ok(Answer::Credentials { password_hash, .. }) if password_hash == "two"));
    }

    #[test]
    fn a_view_holds_no_secret() {
        let account: Account = given(&[(1, opened())]);
        let view = serde_json::to_string(&account.view()).expect("serializes");
        assert!(!view.contains(r#":"one""#) && !view.contains("password"), "{view}");
    }
}
