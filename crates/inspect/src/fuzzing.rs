//! Body of the fuzz target: it takes any bytes and must not panic.

/// Takes bytes as a trace and makes its page.
///
/// Panics if the trace brings markup into the page.
pub fn page(bytes: &[u8]) {
    let mut page = Vec::new();
    if crate::inspect(bytes, &mut page).is_ok() {
        let ends = page.windows(9).filter(|window| window.eq_ignore_ascii_case(b"</script>"));
        assert_eq!(ends.count(), 2);
    }
}
