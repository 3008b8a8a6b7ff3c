//! A moment, as the shop writes it down: microseconds since 1970-01-01T00:00:00Z, the resolution of
//! PostgreSQL's `timestamptz`, so that what is stored and what is loaded are equal.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Microseconds since the Unix epoch, UTC. On the wire: RFC 3339 with six decimals and `Z`; stored
/// documents may hold the bare number instead, which is read as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// What remains until `later`; zero if it has passed.
    pub fn until(self, later: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// The same moment for the database driver.
    ///
    /// What lies outside the calendar becomes the last moment that it has, or 1970.
    pub fn to_offset(self) -> OffsetDateTime {
        let last = PrimitiveDateTime::MAX.assume_utc();
        let furthest = if self.0 < 0 { OffsetDateTime::UNIX_EPOCH } else { last };
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).unwrap_or(furthest)
    }

    /// From the database driver's form; what is finer than a microsecond is cut off.
    pub fn from_offset(moment: OffsetDateTime) -> Self {
        let micros = moment.unix_timestamp_nanos().div_euclid(1_000);
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Parses RFC 3339. `None` if `text` is not a moment.
    pub fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(Self::from_offset)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = self.to_offset();
        let Ok(year) = u32::try_from(moment.year()) else { return write!(f, "{moment}") };
        // By hand: a purchase writes a dozen of them, and the general way costs ten times as much.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let parts = [
            (0..4, year),
            (5..7, u32::from(u8::from(moment.month()))),
            (8..10, u32::from(moment.day())),
            (11..13, u32::from(moment.hour())),
            (14..16, u32::from(moment.minute())),
            (17..19, u32::from(moment.second())),
            (20..26, moment.microsecond()),
        ];
        for (place, mut number) in parts {
            for digit in text[place].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment in RFC 3339, or in microseconds")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).ok_or_else(|| E::custom("not a moment in RFC 3339"))
            }

            fn visit_i64<E>(self, micros: i64) -> Result<Timestamp, E> {
                Ok(Timestamp::from_micros(micros))
            }

            fn visit_u64<E: serde::de::Error>(self, micros: u64) -> Result<Timestamp, E> {
                i64::try_from(micros).map(Timestamp::from_micros).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_to_the_microsecond() {
        let moment = Timestamp::from_micros(1_764_000_000_123_456);
        assert_eq!(moment.to_string(), "2025-11-24T16:00:00.123456Z");
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        assert_eq!(Timestamp::from_offset(moment.to_offset()), moment);
        let [past, future] = [i64::MIN, i64::MAX].map(|micros| Timestamp(micros).to_offset());
        assert_eq!((past.year(), future.year()), (1970, 9999));
    }

    #[test]
    fn waiting_for_the_past_takes_no_time() {
        let moment = Timestamp::from_micros(10);
        assert_eq!(moment.until(moment - Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(moment.until(moment + Duration::from_secs(1)), Duration::from_secs(1));
    }
}
