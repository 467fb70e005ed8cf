//! What is written can be read, and answers for every (layer, head, position).

#![cfg(test)]

use std::io::{self, Write};

use dropcap_trace::{
    Deaths, End, Event, Fate, Granularity, MAX_LINE_BYTES, Sequence, Timeline, Tokens, TraceError,
    TraceHeader, TraceReader, TraceWriter, VERSION,
};

fn header(granularity: Granularity) -> TraceHeader {
    TraceHeader {
        version: VERSION,
        model: "tiny \"model\"\n".to_owned(),
        method: "dcp(gates=run7.safetensors)".to_owned(),
        layers: 3,
        kv_heads: 2,
        granularity,
        vocabulary: 100,
    }
}

fn tokens(id: u64, first_position: u32, ids: Vec<u32>) -> Event {
    Event::Tokens(Tokens { id, first_position, ids, texts: None })
}

/// Two interleaved sequences; the second says its texts, has deaths in several steps, and ends first.
fn events() -> Vec<Event> {
    let texts = ["a", "\u{0}\u{fffd}", "<script>", "\n", "é"].map(str::to_owned).to_vec();
    vec![
        Event::Sequence(Sequence { id: 7, prompt_tokens: 4 }),
        Event::Sequence(Sequence { id: u64::MAX, prompt_tokens: 5 }),
        tokens(7, 0, vec![1, 2]),
        Event::Tokens(Tokens {
            id: u64::MAX,
            first_position: 0,
            ids: vec![5, 6, 7, 8, 99],
            texts: Some(texts),
        }),
        Event::Deaths(Deaths::collect(u64::MAX, 0, Some(1), [(3, 5, 4), (0, 2, 2), (1, 4, 3)])),
        Event::Deaths(Deaths::collect(u64::MAX, 0, Some(0), [(0, 1, 0)])),
        Event::Deaths(Deaths::collect(7, 2, Some(1), [(0, 2, 1)])),
        tokens(7, 2, vec![3, 4, 5]),
        tokens(u64::MAX, 5, vec![0]),
        Event::Deaths(Deaths::collect(u64::MAX, 0, Some(1), [(2, 6, 6), (4, 6, 5)])),
        Event::End(End { id: u64::MAX, finish_reason: "length".to_owned(), live: vec![6, 12, 12] }),
        tokens(7, 5, vec![]),
        Event::End(End { id: 7, finish_reason: "stop".to_owned(), live: vec![10, 10, 9] }),
    ]
}

fn fate(expires_at: u32, killer: u32) -> Fate {
    Fate { expires_at, killer, score: None }
}

fn written(header: &TraceHeader, events: &[Event]) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), header).unwrap();
    for event in events {
        writer.write(event).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let header = header(Granularity::KvHead);
    let bytes = written(&header, &events());
    assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), events().len() + 1);
    let mut reader = TraceReader::new(bytes.as_slice()).unwrap();
    assert_eq!(reader.header(), &header);
    let read: Vec<Event> = reader.by_ref().map(Result::unwrap).collect();
    assert_eq!(read, events());
    assert_eq!(reader.line(), events().len() as u64 + 1);
}

#[test]
fn a_trace_survives_the_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = TraceWriter::new(file.reopen().unwrap(), &header(Granularity::KvHead)).unwrap();
    events().iter().for_each(|event| writer.write(event).unwrap());
    writer.finish().unwrap();
    let source = io::BufReader::with_capacity(3, file.reopen().unwrap());
    let read: Vec<Event> = TraceReader::new(source).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, events());
}

#[test]
fn a_timeline_knows_when_every_entry_died_and_who_killed_it() {
    let bytes = written(&header(Granularity::KvHead), &events());
    let timeline = Timeline::read(bytes.as_slice()).unwrap();
    let sequence = &timeline.sequences[&u64::MAX];
    let expected = [
        (0, Some(fate(2, 2))),
        (1, Some(fate(4, 3))),
        (2, Some(fate(6, 6))),
        (3, Some(fate(5, 4))),
        (4, Some(fate(6, 5))),
        (5, None),
    ];
    for (position, fate) in expected {
        assert_eq!(sequence.fate(0, 1, position), fate);
        assert_eq!(sequence.fate(1, 1, position), None);
        for query in 0..7 {
            let seen = position <= query && query < fate.map_or(u32::MAX, |fate| fate.expires_at);
            assert_eq!(sequence.visible(0, 1, position, query), seen);
        }
    }
    assert_eq!(sequence.fates(0, 0).collect::<Vec<_>>(), [(0, fate(1, 0))]);
    assert_eq!(sequence.fates(0, 1).count(), 5);
    assert_eq!(sequence.ids, [5, 6, 7, 8, 99, 0]);
    assert_eq!(sequence.texts[2].as_deref(), Some("<script>"));
    assert_eq!(sequence.texts[5], None);
    assert_eq!(sequence.end.as_ref().unwrap().live, [6, 12, 12]);
    assert_eq!(timeline.sequences[&7].ids, [1, 2, 3, 4, 5]);
}

#[test]
fn a_death_of_a_whole_layer_is_every_heads_death() {
    let events = [
        Event::Sequence(Sequence { id: 0, prompt_tokens: 2 }),
        tokens(0, 0, vec![1, 2]),
        Event::Deaths(Deaths::collect(0, 1, None, [(0, 1, 1)])),
    ];
    let timeline = Timeline::read(written(&header(Granularity::Layer), &events).as_slice()).unwrap();
    let sequence = &timeline.sequences[&0];
    assert_eq!(sequence.fate(1, 0, 0), sequence.fate(1, 1, 0));
    assert!(sequence.fate(1, 1, 0).is_some());
    assert_eq!(sequence.end, None, "a trace that stops early still says what it knows");
}

#[test]
fn a_timeline_of_a_torn_trace_holds_its_whole_lines() {
    let bytes = written(&header(Granularity::KvHead), &events());
    let whole = Timeline::read(bytes.as_slice()).unwrap();
    let torn = &bytes[..bytes.len() - 3];
    assert!(matches!(Timeline::read(torn), Err(TraceError::CutOff { line: 14 })));
    let (timeline, said) = Timeline::read_whole_lines(torn).unwrap();
    assert!(matches!(said, Some(TraceError::CutOff { line: 14 })));
    assert_eq!(timeline.sequences[&u64::MAX], whole.sequences[&u64::MAX]);
    assert_eq!((timeline.sequences[&7].ids.len(), &timeline.sequences[&7].end), (5, &None));
    assert!(Timeline::read_whole_lines(&b"{}\n"[..]).is_err());
}

#[test]
fn a_score_stays_with_its_death() {
    let mut deaths = Deaths::collect(0, 1, None, [(0, 2, 2), (1, 3, 3)]);
    deaths.scores = Some(vec![Some(-0.1), None]);
    let events = [
        Event::Sequence(Sequence { id: 0, prompt_tokens: 3 }),
        tokens(0, 0, vec![1, 2, 3]),
        Event::Deaths(deaths),
    ];
    let timeline = Timeline::read(written(&header(Granularity::Layer), &events).as_slice()).unwrap();
    let scores = timeline.sequences[&0].fates(1, 0).map(|(_, fate)| fate.score);
    assert_eq!(scores.collect::<Vec<_>>(), [Some(-0.1), None]);
}

#[test]
fn an_entry_that_dies_twice_is_refused_by_the_timeline() {
    let mut events = events();
    events.insert(6, Event::Deaths(Deaths::collect(u64::MAX, 0, Some(0), [(0, 2, 2)])));
    events.truncate(8);
    let bytes = written(&header(Granularity::KvHead), &events);
    assert!(matches!(
        Timeline::read(bytes.as_slice()),
        Err(TraceError::Invalid { line: 8, field: "positions", .. })
    ));
}

#[test]
fn a_refused_event_leaves_no_mark() {
    let mut writer = TraceWriter::new(Vec::new(), &header(Granularity::KvHead)).unwrap();
    for event in events() {
        assert!(writer.write(&Event::Deaths(Deaths::collect(7, 9, Some(0), []))).is_err());
        assert!(writer.write(&tokens(7, 50, vec![1])).is_err());
        assert!(writer.write(&tokens(7, 0, vec![100])).is_err());
        writer.write(&event).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), written(&header(Granularity::KvHead), &events()));
}

#[test]
fn a_line_too_long_is_refused_before_it_is_written() {
    let mut writer = TraceWriter::new(Vec::new(), &header(Granularity::Layer)).unwrap();
    writer.write(&Event::Sequence(Sequence { id: 0, prompt_tokens: 1 })).unwrap();
    let texts = Some(vec!["x".repeat(MAX_LINE_BYTES)]);
    let long = Event::Tokens(Tokens { id: 0, first_position: 0, ids: vec![1], texts });
    assert!(matches!(writer.write(&long), Err(TraceError::LineTooLong { line: 3, .. })));
    writer.write(&tokens(0, 0, vec![1])).unwrap();
    assert_eq!(Timeline::read(writer.finish().unwrap().as_slice()).unwrap().sequences[&0].ids, [1]);
}

/// A disk with room for so many bytes.
struct SmallDisk(usize);

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.0);
        self.0 -= fits;
        if fits == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(fits) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_later_events_are_counted() {
    let mut writer = TraceWriter::new(SmallDisk(100_000), &header(Granularity::Layer)).unwrap();
    writer.write(&Event::Sequence(Sequence { id: 0, prompt_tokens: 1 })).unwrap();
    let mut position = 0;
    let failed = loop {
        match writer.write(&tokens(0, position, vec![9; 1000])) {
            Ok(()) => position += 1000,
            Err(error) => break error,
        }
        assert!(position < 1_000_000, "the disk must fill");
    };
    assert!(matches!(failed, TraceError::Write { .. }), "{failed}");
    for dropped in 1..4 {
        let error = writer.write(&tokens(0, position, vec![1])).unwrap_err();
        assert!(matches!(error, TraceError::Stopped { dropped: count } if count == dropped), "{error}");
    }
    assert_eq!(writer.dropped(), 3);
    assert!(writer.flush().is_err());
    assert!(writer.finish().is_err());
}

#[test]
fn a_disk_that_fills_at_the_last_flush_is_an_error() {
    let mut writer = TraceWriter::new(SmallDisk(10), &header(Granularity::Layer)).unwrap();
    writer.write(&Event::Sequence(Sequence { id: 0, prompt_tokens: 1 })).unwrap();
    assert!(matches!(writer.finish(), Err(TraceError::Write { .. })));
}
