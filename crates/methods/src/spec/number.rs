//! Whole numbers as people write them: `2048`, `2K`, `1.5M`.

/// K, M, G are powers of 1024 and k, m, g powers of 1000.
const COUNTS: [(&str, u64); 6] =
    [("k", 1000), ("m", 1_000_000), ("g", 1_000_000_000), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)];

/// Reads a count: a whole number, or one with K, M, G (powers of 1024) or k, m, g (powers of 1000).
///
/// `None` as for [`parse_scaled`].
#[must_use]
pub fn parse_count(text: &str) -> Option<u64> {
    parse_scaled(text, &COUNTS)
}

/// Reads a whole number, alone or with one of `units` behind it: its name and what it multiplies with. In front of a
/// unit a point is allowed where the product is whole: `1.5K` is 1536. Where one name ends with another, the longer
/// stands first.
///
/// `None` for a sign, an exponent, other characters, a product that is not whole or does not fit.
#[must_use]
pub fn parse_scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let stripped = units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?, Some(unit))));
    let (number, unit) = stripped.unwrap_or((text, None));
    let (whole, fraction) = match (number.trim_end().split_once('.'), unit) {
        (Some(parts), Some(_)) => parts,
        // `parse` below refuses a point without a unit, and an empty text.
        _ => (number.trim_end(), ""),
    };
    let digits = format!("{whole}{fraction}");
    // `parse` alone would also take a leading plus sign.
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let places = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.parse::<u64>().ok()?.checked_mul(unit.unwrap_or(1))?;
    product.is_multiple_of(places).then(|| product / places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn capitals_are_binary_and_small_letters_decimal() {
        let read = ["2048", "2K", "2k", "1M", "3g", "1G", "1.5K", "25.6k", "0"].map(parse_count);
        let numbers = [2048, 2048, 2000, 1 << 20, 3_000_000_000, 1 << 30, 1536, 25_600, 0];
        assert_eq!(read, numbers.map(Some));
        let units = [("KiB", 1024), ("B", 1)];
        let read = ["1.5KiB", "7 B", "9"].map(|text| parse_scaled(text, &units));
        assert_eq!(read, [1536, 7, 9].map(Some));
    }

    #[test]
    fn what_is_no_whole_number_is_refused() {
        for text in [
            "",
            "K",
            ".",
            ".5K",
            "1.0",
            "-1",
            "+5",
            "1e3",
            "1e9G",
            "nan",
            "infK",
            "0.3K",
            "1.0001K",
            "1..5K",
            "0x10",
            "1_000",
            "٣",
            "2KK",
            "1.K.5",
            "99999999999999999999",
            "18446744073709551615G",
            "18446744073709551616",
        ] {
            assert_eq!(parse_count(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), number in "[0-9]{0,22}[.]?[0-9]{0,22}[kKmMgG]?") {
            let _ = (parse_count(&text), parse_count(&number));
        }

        #[test]
        fn every_number_reads_as_itself(number: u64) {
            prop_assert_eq!(parse_count(&number.to_string()), Some(number));
        }
    }
}
