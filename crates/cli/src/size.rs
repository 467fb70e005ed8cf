//! Sizes as people write them: `32K`, `4GiB`, `1.5M`.

/// A count of tokens: a whole number, or one with `k` (1000), `K` (1024), `m`, `M`, `g`, `G` alike.
///
/// # Errors
/// What is not such a number, or does not fit.
pub fn count(text: &str) -> Result<usize, String> {
    parse(
        text,
        &[("k", 1e3), ("K", 1024.0), ("m", 1e6), ("M", 1_048_576.0), ("g", 1e9), ("G", 1_073_741_824.0)],
    )
    .ok_or_else(|| format!("'{text}' is not a count: write a number, or one like 32K (32768) or 32k (32000)"))
}

/// A number of bytes: plain, or with `KB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024).
///
/// # Errors
/// What is not such a number, or does not fit.
pub fn bytes(text: &str) -> Result<usize, String> {
    let units = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    parse(text, &units)
        .ok_or_else(|| format!("'{text}' is not a size: write bytes, or a number with MiB, GiB, MB or GB"))
}

fn parse(text: &str, units: &[(&str, f64)]) -> Option<usize> {
    let text = text.trim();
    if let Ok(plain) = text.parse::<usize>() {
        return Some(plain);
    }
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let digits = number.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let value = digits.parse::<f64>().ok()? * factor;
    // Above 2^53 a float no longer counts in ones, and no machine has that much.
    (value.fract() == 0.0 && value < 9e15).then_some(value as usize)
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
