//! W3C Trace Context: `traceparent` in and out.

use rand::Rng;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: u128,
    /// This part of it.
    pub span: u64,
    /// Whether the caller records it.
    pub flags: u8,
}

impl TraceParent {
    /// The caller's trace, continued by a span of our own; without a valid header a trace of our own.
    /// Source: W3C Trace Context, 3.2 and 4.
    pub fn follow(header: Option<&str>) -> Self {
        let span = rand::rng().random_range(1..=u64::MAX);
        match header.and_then(parse) {
            Some(caller) => Self { span, ..caller },
            None => Self { trace: rand::rng().random_range(1..=u128::MAX), span, flags: 0 },
        }
    }

    /// As a header.
    pub fn header(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// What a valid header says.
pub fn parse(header: &str) -> Option<TraceParent> {
    let mut parts = header.trim().split('-');
    let version = hex(parts.next()?, 2)?;
    let (trace, span) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
    let flags = hex(parts.next()?, 2)?;
    // A later version may say more; this one may not.
    let is_valid = trace != 0 && span != 0 && version != 0xff && (version > 0 || parts.next().is_none());
    is_valid.then_some(TraceParent {
        trace,
        span: u64::try_from(span).ok()?,
        flags: u8::try_from(flags).ok()?,
    })
}

fn hex(text: &str, length: usize) -> Option<u128> {
    let is_hex = text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_is_continued_and_any_other_begins_anew() {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let ours = TraceParent::follow(Some(caller));
        assert!(ours.header().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(ours.header().ends_with("-01") && !ours.header().contains("00f067aa0ba902b7"));
        for invalid in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
    }
}
