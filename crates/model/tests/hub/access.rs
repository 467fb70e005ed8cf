//! Tokens and the answers to those who lack one.

use dropcap_model::hub::{HubError, HubOptions, HubToken, resolve};

use crate::server::{Fault, MODEL};
use crate::{Setting, TOKEN, fails};

fn anonymous(setting: &Setting) -> HubOptions {
    HubOptions { token: None, ..setting.options() }
}

#[test]
fn a_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let setting = Setting::new();
    setting.resolve();
    let seen = setting.hub.seen();
    assert!(seen.iter().any(|seen| seen.content_network));
    for seen in seen {
        let sent = seen.headers.get("authorization").map(String::as_str);
        let expected = format!("Bearer {TOKEN}");
        assert_eq!(sent, if seen.content_network { None } else { Some(&*expected) }, "{seen:?}");
    }
}

#[test]
fn without_a_token_none_is_sent() {
    let setting = Setting::new();
    resolve(MODEL, &anonymous(&setting)).unwrap();
    assert!(setting.hub.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[test]
fn a_401_tells_about_hf_token_and_is_not_repeated() {
    let setting = Setting::new();
    setting.hub.fault("listing", [Fault::Status(401, "X-Error-Code: RepoNotFound")]);
    let (error, text) = setting.fails(&anonymous(&setting));
    assert!(matches!(error, HubError::Unauthorized { token_sent: false, .. }), "{error:?}");
    assert!(text.contains("set HF_TOKEN") && text.contains("spelling"), "{text}");
    setting.hub.fault("listing", [Fault::Status(401, "X-Y: z")]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::Unauthorized { token_sent: true, .. }), "{error:?}");
    assert!(text.contains("check HF_TOKEN"), "{text}");
    assert_eq!(setting.hub.seen().len(), 2);
}

#[test]
fn a_gated_model_says_where_to_accept_its_terms() {
    let setting = Setting::new();
    setting.hub.fault("config.json", [Fault::Status(403, "X-Error-Code: GatedRepo")]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::Forbidden { .. }), "{error:?}");
    assert!(text.contains("gated") && text.contains(&format!("{}/{MODEL}", setting.hub.endpoint)), "{text}");
    assert!(!setting.repo().join("refs/main").exists());
}

#[test]
fn a_404_says_what_is_not_there() {
    let setting = Setting::new();
    let (error, text) = fails("tiny-org/other", &setting.options());
    assert!(matches!(error, HubError::RepoNotFound { .. }) && text.contains("tiny-org/other"), "{text}");
    let options = HubOptions { revision: Some("v9".to_owned()), ..setting.options() };
    let (error, text) = setting.fails(&options);
    assert!(matches!(error, HubError::RevisionNotFound { .. }) && text.contains("v9"), "{text}");
    setting.hub.fault("listing", [Fault::Status(404, "X-Y: z")]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::RepoOrRevisionNotFound { .. }) && text.contains("main"), "{text}");
    setting.hub.fault("tokenizer.json", [Fault::Status(404, "X-Error-Code: EntryNotFound")]);
    let (error, text) = setting.fails(&setting.options());
    assert!(matches!(error, HubError::FileNotFound { .. }) && text.contains("tokenizer.json"), "{text}");
}

#[test]
fn a_token_that_no_header_can_hold_is_refused_and_not_shown() {
    let setting = Setting::new();
    let token = HubToken::new("hf_oddly\r\nX-Evil: 1");
    let options = HubOptions { token: Some(token), ..setting.options() };
    let (error, text) = setting.fails(&options);
    assert!(matches!(error, HubError::BadToken) && !text.contains("oddly"), "{text}");
    assert_eq!(setting.hub.seen().len(), 0);
}
