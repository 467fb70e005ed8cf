//! What breaks on the way.

use std::fs;
use std::sync::{Arc, Mutex};

use dropcap_model::hub::{HubError, HubEvent, HubOptions, HubProgress};

use crate::Setting;
use crate::server::{FIRST, Fault, Hub, one_file_model, sha256, weights};

const WEIGHTS: &str = "model.safetensors";

fn incomplete(setting: &Setting) -> std::path::PathBuf {
    setting.repo().join("blobs").join(format!("{}.incomplete", sha256(&weights(1))))
}

/// Nothing of the weights may be visible, and the revision may not be referred to.
fn assert_unpublished(setting: &Setting) {
    let snapshot = setting.repo().join("snapshots").join(FIRST);
    assert!(fs::symlink_metadata(snapshot.join(WEIGHTS)).is_err(), "{:?}", setting.files());
    assert!(!setting.repo().join("refs/main").exists());
}

#[test]
fn a_connection_that_drops_is_resumed_where_it_broke() {
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, [Fault::DropAfter(100_000), Fault::DropAfter(50_000)]);
    setting.hub.fault("tokenizer.json", [Fault::DropAfter(7)]);
    let model = setting.resolve();
    assert_eq!(fs::read(model.directory.join(WEIGHTS)).unwrap(), weights(1));
    assert_eq!(fs::read(model.directory.join("tokenizer.json")).unwrap(), one_file_model()["tokenizer.json"]);
    let seen = setting.hub.seen();
    let ranges = |start: &str| {
        let asked = seen.iter().filter(|seen| seen.content_network);
        asked.filter_map(|seen| seen.headers.get("range").cloned()).any(|range| range == start)
    };
    assert!(ranges("bytes=100000-") && ranges("bytes=150000-"), "{seen:?}");
    assert!(!setting.files().iter().any(|file| file.ends_with(".incomplete")));
}

#[test]
fn a_connection_that_always_drops_is_an_error_with_both_sizes_and_the_next_run_goes_on() {
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, vec![Fault::DropAfter(10_000); 3]);
    let (error, text) = setting.fails(&setting.options());
    assert!(
        matches!(error, HubError::Interrupted { expected: 300_000, got: 30_000, attempts: 3, .. }),
        "{text}"
    );
    assert!(text.contains(WEIGHTS) && text.contains("300000") && text.contains("30000"), "{text}");
    assert_unpublished(&setting);
    setting.hub.seen();
    let model = setting.resolve();
    assert_eq!(fs::read(model.directory.join(WEIGHTS)).unwrap(), weights(1));
    let seen = setting.hub.seen();
    assert!(seen.iter().any(|seen| seen.headers.get("range").is_some_and(|range| range == "bytes=30000-")));
}

#[test]
fn a_server_without_ranges_starts_the_file_again() {
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, [Fault::DropAfter(100_000), Fault::WholeFile]);
    let model = setting.resolve();
    assert_eq!(fs::read(model.directory.join(WEIGHTS)).unwrap(), weights(1));
}

#[test]
fn leftovers_that_do_not_fit_are_thrown_away() {
    for left in
        [vec![0; 1000], vec![0; 300_000], vec![0; 400_000], weights(1)[..299_999].to_vec(), weights(1)]
    {
        let setting = Setting::new();
        fs::create_dir_all(setting.repo().join("blobs")).unwrap();
        fs::write(incomplete(&setting), &left).unwrap();
        let model = setting.resolve();
        assert!(
            fs::read(model.directory.join(WEIGHTS)).unwrap() == weights(1),
            "{} bytes were left",
            left.len()
        );
        assert!(!incomplete(&setting).exists());
    }
}

#[test]
fn bytes_with_the_wrong_hash_are_not_published() {
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, vec![Fault::Serve(weights(77)); 3]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::WrongHash { .. }), "{text}");
    assert!(text.contains(&sha256(&weights(1))) && text.contains(&sha256(&weights(77))), "{text}");
    assert_unpublished(&setting);
    assert!(!incomplete(&setting).exists(), "bad bytes are not resumed");
}

#[test]
fn a_size_that_is_not_the_listed_one_is_an_error_with_both() {
    let longer = [weights(1), vec![1]].concat();
    for (fault, wrong) in [
        (Fault::Serve(weights(1)[..200_000].to_vec()), 200_000),
        (Fault::Serve(longer.clone()), 300_001),
        (Fault::ServeUntilClose(longer), 300_001),
    ] {
        let setting = Setting::new();
        setting.hub.fault(WEIGHTS, [fault.clone()]);
        let (error, text) = setting.fails(&setting.options());
        assert!(
            matches!(error, HubError::WrongSize { expected: 300_000, got, .. } if got == wrong),
            "{text}"
        );
        assert!(text.contains(WEIGHTS) && text.contains(&wrong.to_string()), "{text}");
        assert_unpublished(&setting);
        assert!(!incomplete(&setting).exists());
    }
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, vec![Fault::ServeUntilClose(weights(1)[..200_000].to_vec()); 3]);
    let (error, text) = setting.fails(&setting.options());
    assert!(
        matches!(
            error,
            HubError::Interrupted { expected: 300_000, got: 200_000, .. } | HubError::WrongSize { .. }
        ),
        "{text}"
    );
    assert_unpublished(&setting);
}

#[test]
fn the_body_of_an_error_never_becomes_the_file() {
    for status in [400, 410, 418, 451] {
        let setting = Setting::new();
        setting.hub.fault(WEIGHTS, vec![Fault::Status(status, "X-Y: z"); 3]);
        let (error, text) = setting.fails(&setting.options());
        assert!(matches!(error, HubError::UnexpectedStatus { .. }), "{text}");
        assert_unpublished(&setting);
    }
}

#[test]
fn a_signed_address_that_has_run_out_is_asked_for_again() {
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, [Fault::DropAfter(100_000), Fault::Status(403, "X-Y: z")]);
    let model = setting.resolve();
    assert_eq!(fs::read(model.directory.join(WEIGHTS)).unwrap(), weights(1));
    assert_eq!(Hub::requests_for(&setting.hub.seen(), WEIGHTS), 3);
}

#[test]
fn too_many_requests_and_a_sick_server_are_retried_a_bounded_number_of_times() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let pauses = Arc::clone(&told);
    let progress = HubProgress::new(move |event| {
        if let HubEvent::Retrying { file, pause, .. } = event {
            pauses.lock().unwrap().push((file.map(str::to_owned), *pause));
        }
    });
    let setting = Setting::new();
    setting.hub.fault("listing", [Fault::Status(429, "Retry-After: 3600"), Fault::Status(503, "X-Y: z")]);
    setting.hub.fault(WEIGHTS, [Fault::Status(500, "X-Y: z"), Fault::Status(504, "X-Y: z")]);
    let options = HubOptions { progress, ..setting.options() };
    dropcap_model::hub::resolve(crate::server::MODEL, &options).unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.iter().filter(|(file, _)| file.is_none()).count(), 2);
    assert_eq!(told.iter().filter(|(file, _)| file.as_deref() == Some(WEIGHTS)).count(), 2);
    assert!(told.iter().all(|(_, pause)| *pause <= options.patience.longest_pause), "Retry-After is bounded");

    let setting = Setting::new();
    setting.hub.fault("listing", vec![Fault::Status(429, "X-Y: z"); 9]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::Busy { status: 429, attempts: 3, .. }), "{text}");
    assert_eq!(setting.hub.seen().len(), 3);
}

#[test]
fn a_hub_that_is_down_is_an_error_that_names_it() {
    let setting = Setting::new();
    setting.hub.stop();
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::Unreachable { attempts: 3, .. }), "{text}");
    assert!(text.contains(&setting.hub.endpoint) && text.contains("--offline"), "{text}");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let setting = Setting::new();
    fs::write(setting.cache(), "a file where the cache should be").unwrap();
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::Cache { .. }), "{text}");
    assert!(text.contains(setting.cache().to_str().unwrap()) && text.contains("HF_HUB_CACHE"), "{text}");
}

#[test]
fn progress_ends_at_each_files_size() {
    let ends = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let seen = Arc::clone(&ends);
    let progress = HubProgress::new(move |event| {
        if let HubEvent::Received { file, bytes, of } = event {
            seen.lock().unwrap().insert((*file).to_owned(), (*bytes, *of));
        }
    });
    let setting = Setting::new();
    setting.hub.fault(WEIGHTS, [Fault::DropAfter(100_000)]);
    dropcap_model::hub::resolve(crate::server::MODEL, &HubOptions { progress, ..setting.options() }).unwrap();
    let ends = ends.lock().unwrap();
    assert_eq!(ends.len(), 4);
    assert!(ends.values().all(|(bytes, of)| bytes == of), "{ends:?}");
    assert_eq!(Hub::requests_for(&setting.hub.seen(), WEIGHTS), 2);
}
