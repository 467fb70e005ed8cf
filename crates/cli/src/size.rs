//! Sizes as people write them: `32K`, `4GiB`, `1.5M`.

use dropcap_methods::{parse_count, parse_scaled};

/// A count of tokens: a whole number, or one with `k` (1000), `K` (1024), `m`, `M`, `g`, `G` alike.
///
/// # Errors
/// What is not such a number, or does not fit.
pub fn count(text: &str) -> Result<usize, String> {
    whole(parse_count(text.trim())).ok_or_else(|| {
        format!("'{text}' is not a count: write a number, or one like 32K (32768) or 32k (32000)")
    })
}

/// A count of at least one.
///
/// # Errors
/// As [`count`]; zero.
pub fn positive(text: &str) -> Result<usize, String> {
    match count(text)? {
        0 => Err("it must be at least 1".to_owned()),
        some => Ok(some),
    }
}

/// A number of bytes: plain, or with `KB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024).
///
/// # Errors
/// What is not such a number, or does not fit.
pub fn bytes(text: &str) -> Result<usize, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    whole(parse_scaled(text.trim(), &units))
        .ok_or_else(|| format!("'{text}' is not a size: write bytes, or a number with MiB, GiB, MB or GB"))
}

/// What this machine can address.
fn whole(number: Option<u64>) -> Option<usize> {
    number.and_then(|number| usize::try_from(number).ok())
}

/// Bytes for a reader: three digits and a binary unit.
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes_read_as_people_mean_them() {
        assert_eq!(count("512"), Ok(512));
        assert_eq!(count("32K"), Ok(32768));
        assert_eq!(count("1k"), Ok(1000));
        assert_eq!(count("25.6k"), Ok(25600));
        assert_eq!(positive("1K"), Ok(1024));
        assert!(positive("0").is_err_and(|error| error.contains("at least 1")));
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("500 MB"), Ok(500_000_000));
        assert_eq!(bytes("12"), Ok(12));
    }

    #[test]
    fn nonsense_is_refused_and_quoted() {
        for text in
            ["", "K", "-1K", "1e9G", "nan", "0.3", "1.0001K", "99999999999999999999", "4 GiBs", "infK"]
        {
            assert!(count(text).is_err_and(|error| error.contains(text)), "{text}");
            assert!(bytes(text).is_err(), "{text}");
            assert!(positive(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_show_three_digits() {
        assert_eq!(
            [human(0), human(1023), human(1536), human(12 << 20), human(300 << 20)].join(" "),
            "0 B 1023 B 1.50 KiB 12.0 MiB 300 MiB"
        );
    }
}
