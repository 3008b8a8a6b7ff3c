//! An error with all that led to it, for the log: as JSON a line shows of an error what it says itself, and no more.

use std::error::Error;

/// What an error says, and what each of its causes says.
pub fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        next = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Undelivered;

    #[test]
    fn every_cause_is_said() {
        let error = Undelivered("nobody listens".into());
        assert_eq!(causes(&error), "it cannot be told now: nobody listens");
    }
}
