//! Lists of numbers as llama-bench writes them: `512`, `1,8,64`, `0-4096+1024`, `1-64*4`.

use std::str::FromStr;

use crate::size;

/// Most values that one list may name: enough for any table, too few to run for a week by accident.
const MOST: usize = 1000;

/// A list of counts, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep(pub Vec<usize>);

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut values = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => values.push(size::count(part)?),
                Some((first, rest)) => range(part, size::count(first)?, rest, &mut values)?,
            }
            if values.len() > MOST {
                return Err(format!("'{text}' names more than {MOST} values"));
            }
        }
        Ok(Sweep(values))
    }
}

/// `last+step` or `last*factor` after `first-`.
fn range(part: &str, first: usize, rest: &str, values: &mut Vec<usize>) -> Result<(), String> {
    let (last, next): (_, Box<dyn Fn(usize) -> Option<usize>>) =
        if let Some((last, step)) = rest.split_once('+') {
            let step = size::count(step)?;
            (size::count(last)?, Box::new(move |value| value.checked_add(step)))
        } else if let Some((last, factor)) = rest.split_once('*') {
            let factor = size::count(factor)?;
            (size::count(last)?, Box::new(move |value| value.checked_mul(factor)))
        } else {
            return Err(format!("'{part}' is no range: write first-last+step or first-last*factor"));
        };
    let mut value = first;
    if first > last {
        return Err(format!("'{part}' is empty: it ends before it begins"));
    }
    while value <= last && values.len() <= MOST {
        values.push(value);
        match next(value) {
            Some(following) if following > value => value = following,
            Some(_) => return Err(format!("'{part}' never ends: its step does not grow")),
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_spell_out() {
        assert_eq!("512".parse(), Ok(Sweep(vec![512])));
        assert_eq!("1,8,1K".parse(), Ok(Sweep(vec![1, 8, 1024])));
        assert_eq!("0-40+16".parse(), Ok(Sweep(vec![0, 16, 32])));
        assert_eq!("1-64*4".parse(), Ok(Sweep(vec![1, 4, 16, 64])));
    }

    #[test]
    fn ranges_without_end_or_values_are_refused() {
        for text in
            ["8-4+2", "2-1*2", "", "1-", "1-5", "1-9+0", "0-9*2", "1-9*1", "a", "1,,2", "0-9999999+1", "-1"]
        {
            assert!(text.parse::<Sweep>().is_err(), "{text}");
        }
    }
}
