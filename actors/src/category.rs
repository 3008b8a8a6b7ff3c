//! A category: a name under which products stand.

use serde::{Deserialize, Serialize};
use souk_persistence::Timestamp;
use uuid::Uuid;

use crate::account::Account;
use crate::aggregate::{Aggregate, Decision, Kind, Residence};
use crate::ids::Id;

/// A category.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Category {
    facts: Option<Facts>,
    removed: bool,
}

/// What is said about a category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Who made it.
    pub maker: Id<Account>,
    /// What it is called.
    pub name: String,
    /// What stands in it.
    pub description: String,
    /// Hash of the request that made it, where an idempotency key names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// What a category can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Make it.
    Create(Facts),
    /// Rename or describe it anew; `None` leaves it.
    Change {
        /// Who says so.
        by: Id<Account>,
        /// What it is called.
        name: Option<String>,
        /// What stands in it.
        description: Option<String>,
    },
    /// Remove it. Its products stay.
    Remove {
        /// Who says so.
        by: Id<Account>,
    },
}

/// What a category says to a command that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It stands like this.
    Category {
        /// As readers see it.
        view: View,
        /// It was made before.
        replayed: bool,
    },
    /// It is removed.
    Removed,
}

/// Why a category does not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// Unknown or removed.
    NotFound,
    /// Somebody else made it.
    NotTheMaker,
    /// The idempotency key names a category of another body.
    KeyReused,
}

/// What happened to a category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// It exists.
    Created(Facts),
    /// It changed.
    Changed {
        /// What it is called now.
        name: String,
        /// What stands in it now.
        description: String,
    },
    /// It is gone.
    Removed,
}

/// What readers see of a category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// What it is called.
    pub name: String,
    /// What stands in it.
    pub description: String,
    /// Removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl Facts {
    fn view(&self, gone: bool) -> View {
        View { name: self.name.clone(), description: self.description.clone(), gone }
    }
}

impl Category {
    fn makers(&self, by: Id<Account>) -> Result<&Facts, Rejection> {
        let facts = self.facts.as_ref().filter(|_| !self.removed).ok_or(Rejection::NotFound)?;
        if facts.maker != by { Err(Rejection::NotTheMaker) } else { Ok(facts) }
    }
}

impl Aggregate for Category {
    const KIND: Kind = Kind::Category;
    const SNAPSHOT_EVERY: u32 = 0;
    const RESIDENCE: Residence = Residence::WhileBusy;

    type Command = Command;
    type Answer = Answer;
    type Rejection = Rejection;
    type Event = Event;
    type Effect = std::convert::Infallible;
    type View = Option<View>;

    fn decide(&self, _at: Timestamp, command: &Command) -> Decision<Self> {
        match command {
            Command::Create(facts) => match &self.facts {
                None => {
                    let answer = Answer::Category { view: facts.view(false), replayed: false };
                    Decision::event(Event::Created(facts.clone()), answer)
                }
                Some(made) if (&made.fingerprint, made.maker) == (&facts.fingerprint, facts.maker) => {
                    Decision::answer(Answer::Category { view: made.view(self.removed), replayed: true })
                }
                Some(_) => Decision::reject(Rejection::KeyReused),
            },
            Command::Change { by, name, description } => match self.makers(*by) {
                Ok(facts) => {
                    let name = name.as_ref().unwrap_or(&facts.name).clone();
                    let description = description.as_ref().unwrap_or(&facts.description).clone();
                    let view = View { name: name.clone(), description: description.clone(), gone: false };
                    let answer = Answer::Category { replayed: false, view: view.clone() };
                    match view == facts.view(false) {
                        true => Decision::answer(answer),
                        false => Decision::event(Event::Changed { name, description }, answer),
                    }
                }
                Err(rejection) => Decision::reject(rejection),
            },
            Command::Remove { by } => match self.makers(*by) {
                Ok(_) => Decision::event(Event::Removed, Answer::Removed),
                Err(rejection) => Decision::reject(rejection),
            },
        }
    }

    fn may_repeat(command: &Command) -> bool {
        match command {
            Command::Create(_) => true,
            // The second time there is none any more, or somebody else has changed it.
            Command::Change { .. } | Command::Remove { .. } => false,
        }
    }

    fn apply(&mut self, _at: Timestamp, event: &Event) {
        match event {
            Event::Created(facts) => self.facts = Some(facts.clone()),
            Event::Changed { name, description } => {
                if let Some(facts) = &mut self.facts {
                    facts.name.clone_from(name);
                    facts.description.clone_from(description);
                }
            }
            Event::Removed => self.removed = true,
        }
    }

    fn effects(&self) -> Vec<(Timestamp, Self::Effect)> {
        Vec::new()
    }

    fn effect_name(effect: &Self::Effect) -> &'static str {
        match *effect {}
    }

    fn view(&self) -> Option<View> {
        self.facts.as_ref().map(|facts| facts.view(self.removed))
    }

    fn owner(&self) -> Option<Uuid> {
        self.facts.as_ref().map(|facts| facts.maker.uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::given::{given, when};

    fn facts(maker: u128, fingerprint: &str) -> Facts {
        Facts {
            maker: Id::from(Uuid::from_u128(maker)),
            name: "Phone".to_owned(),
            description: "Smartphone".to_owned(),
            fingerprint: Some(fingerprint.to_owned()),
        }
    }

    fn rename(by: u128, name: &str) -> Command {
        let by = Id::from(Uuid::from_u128(by));
        Command::Change { by, name: Some(name.to_owned()), description: None }
    }

    #[test]
    fn the_same_request_is_the_same_category_and_another_body_is_refused() {
        let (events, _) = when(&Category::default(), 1, Command::Create(facts(1, "a")));
        assert_eq!(events, vec![Event::Created(facts(1, "a"))]);
        let category: Category = given(&[(1, Event::Created(facts(1, "a")))]);
        let (events, answer) = when(&category, 2, Command::Create(facts(1, "a")));
        assert!(events.is_empty() && matches!(answer, Ok(Answer::Category { replayed: true, .. })));
        assert_eq!(when(&category, 2, Command::Create(facts(1, "b"))).1, Err(Rejection::KeyReused));
    }

    #[test]
    fn only_its_maker_changes_or_removes_it() {
        let category: Category = given(&[(1, Event::Created(facts(1, "a")))]);
        assert_eq!(when(&category, 2, rename(2, "Toys")), (vec![], Err(Rejection::NotTheMaker)));
        assert_eq!(when(&category, 2, rename(1, "Phone")).0, vec![]);
        let changed = Event::Changed { name: "Toys".to_owned(), description: "Smartphone".to_owned() };
        assert_eq!(when(&category, 2, rename(1, "Toys")).0, vec![changed]);
    }

    #[test]
    fn what_is_removed_is_not_found() {
        let category: Category = given(&[(1, Event::Created(facts(1, "a"))), (2, Event::Removed)]);
        let by = Id::from(Uuid::from_u128(1));
        assert_eq!(when(&category, 3, Command::Remove { by }), (vec![], Err(Rejection::NotFound)));
        assert_eq!(when(&category, 3, rename(1, "Toys")), (vec![], Err(Rejection::NotFound)));
        assert_eq!(category.view().map(|view| view.gone), Some(true));
    }
}
