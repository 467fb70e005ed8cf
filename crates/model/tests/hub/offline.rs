//! Without a network.

use std::fs;

use dropcap_model::hub::{Freshness, HubError, HubOptions, OfflineCause, Origin, resolve};

use crate::server::{FIRST, MODEL, sharded_model};
use crate::{Setting, fails};

fn offline(setting: &Setting) -> HubOptions {
    HubOptions { offline: Some(OfflineCause::Variable("HF_HUB_OFFLINE")), ..setting.options() }
}

#[test]
fn offline_uses_what_an_earlier_download_left() {
    let setting = Setting::new();
    let online = setting.resolve();
    setting.hub.seen();
    let model = resolve(MODEL, &offline(&setting)).unwrap();
    assert_eq!(model.directory, online.directory);
    assert!(matches!(model.origin, Origin::Hub { freshness: Freshness::Offline, .. }));
    let pinned = HubOptions { revision: Some(FIRST.to_owned()), ..offline(&setting) };
    assert_eq!(resolve(MODEL, &pinned).unwrap().directory, online.directory);
    assert_eq!(setting.hub.seen().len(), 0);
}

#[test]
fn offline_with_an_empty_cache_says_where_it_looked_and_what_turned_the_network_off() {
    let setting = Setting::new();
    let (error, text) = setting.fails(&offline(&setting));
    assert!(matches!(error, HubError::Offline { .. }));
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains(setting.repo().to_str().unwrap()), "{text}");
    let flag = HubOptions { offline: Some(OfflineCause::Flag), ..setting.options() };
    assert!(setting.fails(&flag).1.contains("--offline"));
    assert_eq!(setting.hub.seen().len(), 0);
    assert!(!setting.cache().exists(), "looking changes nothing");
}

#[test]
fn offline_names_the_file_that_is_missing() {
    let setting = Setting::new();
    let second = "model-00002-of-00002.safetensors";
    setting.hub.publish("main", FIRST, sharded_model(["model-00001-of-00002.safetensors", second]));
    let model = setting.resolve();
    fs::remove_file(fs::canonicalize(model.directory.join(second)).unwrap()).unwrap();
    let (error, text) = setting.fails(&offline(&setting));
    assert!(matches!(&error, HubError::Offline { missing, .. } if missing == second), "{text}");
    assert!(text.contains(model.directory.to_str().unwrap()), "{text}");
    let other = HubOptions { revision: Some("v2".to_owned()), ..offline(&setting) };
    assert!(matches!(fails(MODEL, &other).0, HubError::Offline { .. }));
}
