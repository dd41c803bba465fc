//! Points in time, as the record keeps them: whole microseconds, UTC.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::text::Text;

/// 1970-01-01T00:00:00Z. Nothing was notified earlier: such a clock was never set.
const EARLIEST_MICROS: i64 = 0;
/// 9999-12-31T23:59:59.999999Z, the last moment RFC 3339 can write.
const LATEST_MICROS: i64 = 253_402_300_799_999_999;

/// Microseconds since 1970-01-01T00:00:00Z, between then and the end of the year 9999.
///
/// Written as RFC 3339 in UTC with six decimals (`2026-03-14T09:30:00.412000Z`), so that
/// the text sorts like the time. Reads any RFC 3339 offset and drops what is finer than
/// a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Why a text or number is no [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    #[error("is not an RFC 3339 time such as `2026-03-14T09:30:00Z`")]
    Malformed,
    #[error("lies outside the years 1970 to 9999")]
    OutOfRange,
}

impl Timestamp {
    /// The earliest time there is.
    pub const MIN: Self = Self(EARLIEST_MICROS);
    /// The latest time there is.
    pub const MAX: Self = Self(LATEST_MICROS);

    /// # Errors
    ///
    /// [`TimestampError::OutOfRange`] before 1970 or after 9999.
    pub fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        if (EARLIEST_MICROS..=LATEST_MICROS).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(TimestampError::OutOfRange)
        }
    }

    /// The nearest representable time; for clocks, which must not fail.
    pub fn from_micros_clamped(micros: i64) -> Self {
        Self(micros.clamp(EARLIEST_MICROS, LATEST_MICROS))
    }

    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, as `UUIDv7` counts them (RFC 9562 §5.7).
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.0 / 1000).unwrap_or_default()
    }

    /// Reads RFC 3339.
    ///
    /// # Errors
    ///
    /// [`TimestampError`] for text in another form, or a time the record can't hold.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError::Malformed)?;
        Self::from_micros(time.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        Self::parse(&text.0).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_is_written_as_utc_microseconds() {
        let time = Timestamp::parse("2026-03-14T10:30:00.4125678+01:00").unwrap();

        assert_eq!(time.to_string(), "2026-03-14T09:30:00.412567Z");
    }

    #[test]
    fn the_year_0_and_the_year_10000_are_refused() {
        for text in [
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(
                Timestamp::parse(text),
                Err(TimestampError::OutOfRange),
                "{text}"
            );
        }
        assert_eq!(
            Timestamp::parse("9999-12-31T23:59:59.999999Z"),
            Ok(Timestamp::MAX)
        );
    }

    #[test]
    fn text_sorts_like_time() {
        let early = Timestamp::parse("2026-03-14T09:30:00Z").unwrap();
        let late = Timestamp::parse("2026-03-14T09:30:00.000001Z").unwrap();

        assert!(early < late && early.to_string() < late.to_string());
    }
}
