//! The time of day, where somebody lives.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A zone of the IANA database: of the system's, else of the one that is built in.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of this name, `Europe/Berlin`; `None` where there is none. Reads the database: not for the way of a call.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().filter(|zone| !zone.is_unknown()).map(Self)
    }

    /// The hour of the day, 0 to 23, so many seconds after 1970 began; `None` beyond the year 9999.
    #[must_use]
    pub fn hour(&self, unix_s: u64) -> Option<u8> {
        u8::try_from(self.at(unix_s)?.hour()).ok()
    }

    /// The day of the week, 1 (Monday) to 7.
    #[must_use]
    pub fn weekday(&self, unix_s: u64) -> Option<u8> {
        u8::try_from(self.at(unix_s)?.weekday().to_monday_one_offset()).ok()
    }

    fn at(&self, unix_s: u64) -> Option<DateTime> {
        Some(self.0.to_datetime(Timestamp::from_second(i64::try_from(unix_s).ok()?).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &str, unix_s: u64, want: Option<(u8, u8)>) {
        let zone = Zone::parse(zone).unwrap_or_else(|| panic!("no {zone}"));
        assert_eq!(zone.hour(unix_s).zip(zone.weekday(unix_s)), want, "{unix_s}");
    }

    #[test]
    fn clocks_go_by_their_zone() {
        check("UTC", 0, Some((0, 4)));
        check("America/New_York", 0, Some((19, 3)));
        check("Asia/Kolkata", 0, Some((5, 4)));
        check("Pacific/Kiritimati", 1_700_000_000, Some((12, 3)));
        // 2024-03-31: at 01:00 UTC the clocks of Berlin go from 1:59 to 3:00, on a Sunday.
        check("Europe/Berlin", 1_711_846_799, Some((1, 7)));
        check("Europe/Berlin", 1_711_846_800, Some((3, 7)));
        // 2024-10-27: at 01:00 UTC from 2:59 back to 2:00.
        check("Europe/Berlin", 1_729_987_199, Some((1, 7)));
        check("Europe/Berlin", 1_729_990_799, Some((2, 7)));
        check("Europe/Berlin", 1_729_990_800, Some((2, 7)));
        check("Europe/Berlin", 1_729_994_400, Some((3, 7)));
        // The last summer time is not the end: rules go on.
        check("Europe/Berlin", 4_087_022_400, Some((14, 1)));
        check("UTC", u64::MAX, None);
        check("UTC", i64::MAX as u64, None);
    }

    #[test]
    fn what_is_no_zone_is_none() {
        for name in
            ["", "Berlin", "Europe/Nowhere", "../../etc/passwd", "CET-1CEST", "/etc/localtime", "local", "Etc/Unknown"]
        {
            assert!(Zone::parse(name).is_none(), "{name}");
        }
    }
}
