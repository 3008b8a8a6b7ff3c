//! `google.protobuf.Timestamp`, in ProtoJSON as its canonical form is: RFC 3339 in UTC with `Z`, and 0, 3, 6 or 9 decimals.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Behind them, never before them: 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// `None`: it is no moment, or before the year 1 or behind 9999.
    fn to_json(self) -> Option<String> {
        let nanos = u32::try_from(self.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        let second = OffsetDateTime::from_unix_timestamp(self.seconds).ok()?;
        let year = u32::try_from(second.year()).ok().filter(|year| (1..=9_999).contains(year))?;
        let (month, day) = (u8::from(second.month()), second.day());
        let (hour, minute, second) = second.to_hms();
        let fraction = match nanos {
            0 => String::new(),
            nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
            nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
            nanos => format!(".{nanos:09}"),
        };
        Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_json().ok_or_else(|| ser::Error::custom("no moment of the years 1 to 9999"))?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment as RFC 3339 has it")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(E::custom)?;
                let nanos = i32::try_from(moment.nanosecond()).map_err(E::custom)?;
                Ok(Timestamp { seconds: moment.unix_timestamp(), nanos })
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seconds: i64, nanos: i32) -> Option<String> {
        serde_json::to_value(Timestamp { seconds, nanos }).ok()?.as_str().map(str::to_owned)
    }

    fn read(text: &str) -> Option<(i64, i32)> {
        let timestamp: Timestamp = serde_json::from_value(text.into()).ok()?;
        Some((timestamp.seconds, timestamp.nanos))
    }

    #[test]
    fn a_moment_is_written_with_as_many_threes_of_decimals_as_it_needs_and_read_again() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_764_000_000, 120_000_000, "2025-11-24T16:00:00.120Z"),
            (1_764_000_000, 123_456_000, "2025-11-24T16:00:00.123456Z"),
            (1_764_000_000, 1, "2025-11-24T16:00:00.000000001Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (253_402_300_799, 999_000_000, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(written(seconds, nanos).as_deref(), Some(text));
            assert_eq!(read(text), Some((seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn other_offsets_and_decimals_are_read() {
        assert_eq!(read("2025-11-24T23:00:00.5+07:00"), Some((1_764_000_000, 500_000_000)));
        assert_eq!(read("2025-11-24T16:00:00-00:00"), Some((1_764_000_000, 0)));
    }

    #[test]
    fn what_is_no_moment_is_neither_read_nor_written() {
        for text in ["", "yesterday", "2025-11-24", "2025-11-24T16:00:00", "2025-02-30T16:00:00Z"] {
            assert_eq!(read(text), None, "{text}");
        }
        for (seconds, nanos) in
            [(0, -1), (0, 1_000_000_000), (i64::MAX, 0), (-62_135_596_801, 0), (253_402_300_800, 0)]
        {
            assert_eq!(written(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
