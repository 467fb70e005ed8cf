//! Body of the fuzz target: it takes any bytes, must not panic, and must not take memory from claims.

use crate::{Event, Timeline, TraceReader, TraceWriter};

/// Takes bytes as a trace.
///
/// Panics if the writer refuses an event that the reader gave, if what it writes is read as something else, or if an
/// entry is believed to have died before anybody could see it.
pub fn trace(bytes: &[u8]) {
    let Ok(mut reader) = TraceReader::new(bytes) else { return };
    let events: Vec<Event> = reader.by_ref().map_while(Result::ok).collect();
    let mut writer = TraceWriter::new(Vec::new(), reader.header());
    if let Ok(writer) = &mut writer {
        events.iter().for_each(|event| assert!(writer.write(event).is_ok()));
    }
    let written = writer.and_then(TraceWriter::finish).unwrap_or_default();
    let again = TraceReader::new(&*written).and_then(Iterator::collect::<Result<Vec<Event>, _>>);
    assert_eq!(again.ok(), Some(events));
    if let Ok(timeline) = Timeline::read(bytes) {
        for sequence in timeline.sequences.values() {
            for lane in 0..timeline.header.layers.min(64) {
                for (position, fate) in sequence.fates(lane, 0) {
                    assert!(position < fate.expires_at && fate.killer <= fate.expires_at);
                }
            }
        }
    }
}
