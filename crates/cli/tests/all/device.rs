//! What a user meets who names a device.

use assert_cmd::Command;

fn dropcap() -> Command {
    Command::cargo_bin("dropcap").unwrap()
}

#[test]
fn doctor_names_the_processor_every_library_and_a_verdict() {
    let output = dropcap().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for word in
        ["processor", "libcuda.so", "libnvrtc.so", "libcublasLt.so", "kernel cache", "--device auto runs on"]
    {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    let output = dropcap().args(["doctor", "--json"]).output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["usable"].is_boolean()));
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_what_to_do() {
    let run = |device: &str| {
        let output = dropcap().args(["generate", "--device", device, "-n", "1", "a"]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (done, error) = run("cuda:77");
    assert!(!done);
    assert!(error.contains("--device cpu") || error.contains("LD_LIBRARY_PATH"), "{error}");
    let (done, error) = run("gpu");
    assert!(!done);
    assert!(error.contains("write auto, cpu or cuda:N"), "{error}");
    let (done, error) = run("cpu");
    assert!(done, "{error}");
}
