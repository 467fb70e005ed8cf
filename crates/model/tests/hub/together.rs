//! Several downloads of one model at once.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use dropcap_model::hub::resolve;

use crate::server::{Fault, Hub, MODEL, weights};
use crate::{Setting, options};

const ENDPOINT: &str = "DROPCAP_HUB_TEST_ENDPOINT";
const CACHE: &str = "DROPCAP_HUB_TEST_CACHE";

fn assert_each_file_came_once(setting: &Setting) {
    let seen = setting.hub.seen();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        assert_eq!(Hub::requests_for(&seen, file), 1, "{file}");
    }
    assert!(!setting.files().iter().any(|file| file.ends_with(".incomplete")));
}

#[test]
fn threads_that_want_the_same_file_all_get_it_and_fetch_it_once() {
    let setting = Setting::new();
    setting.hub.fault("model.safetensors", [Fault::Slow(Duration::from_millis(200))]);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| setting.resolve())).collect();
        for call in calls {
            let model = call.join().unwrap();
            assert_eq!(fs::read(model.directory.join("model.safetensors")).unwrap(), weights(1));
        }
    });
    assert_each_file_came_once(&setting);
}

#[test]
fn processes_that_want_the_same_file_all_get_it_and_fetch_it_once() {
    let setting = Setting::new();
    setting.hub.fault("model.safetensors", [Fault::Slow(Duration::from_millis(300))]);
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "together::this_process_is_one_of_several", "--nocapture"]);
        command.env(ENDPOINT, &setting.hub.endpoint).env(CACHE, setting.cache());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let children = [child(), child(), child()];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_each_file_came_once(&setting);
}

/// The body of a child of the test above; alone it does nothing.
#[test]
fn this_process_is_one_of_several() {
    let (Ok(endpoint), Ok(cache)) = (std::env::var(ENDPOINT), std::env::var(CACHE)) else { return };
    let model = resolve(MODEL, &options(&endpoint, Path::new(&cache))).unwrap();
    assert_eq!(fs::read(model.directory.join("model.safetensors")).unwrap(), weights(1));
}
