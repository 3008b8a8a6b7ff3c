//! What is told of an account: that there is one now, who is to be welcomed.

use souk_proto::shop::SendRegisterEmail;
use souk_proto::topic::Topic;
use uuid::Uuid;

use super::Told;
use crate::account::{Account, Event};

pub(super) fn tell(stream: Uuid, _before: (), event: &Event, _after: &Account) -> Vec<Told> {
    match event {
        Event::Opened(opened) => {
            let body = SendRegisterEmail {
                account_id: stream.to_string(),
                email: opened.email.clone(),
                first_name: opened.personal.first_name.clone(),
                last_name: opened.personal.last_name.clone(),
            };
            vec![Told::new(Topic::SendRegisterEmail, &body)]
        }
        Event::PersonalChanged(_) | Event::Rehashed { .. } => Vec::new(),
    }
}
