use super::*;
use crate::error::Error;

const VM: &str = "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata:\n  name: web-1\nspec:\n  memory: 512Mi\n";

fn names(text: &str) -> Vec<String> {
    parse("in.yaml", text.as_bytes()).unwrap().iter().map(|d| d.name().to_owned()).collect()
}

fn told(bytes: &[u8]) -> String {
    let faults = parse("in.yaml", bytes).unwrap_err();
    Error::Manifest(faults).report().unwrap().render(None, false)
}

#[test]
fn documents_come_from_yaml_json_and_lists() {
    assert_eq!(names(VM), ["web-1"]);
    assert_eq!(names(&format!("---\n{VM}---\n---\n# nothing\n---\n{}", VM.replace("web-1", "web-2"))), ["web-1", "web-2"]);
    let json = |n: &str| format!("{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n \"metadata\": {{\"name\": \"{n}\"}}}}");
    assert_eq!(names(&json("a")), ["a"]);
    assert_eq!(names(&format!("{}\n{}{}", json("a"), json("b"), json("c"))), ["a", "b", "c"]);
    assert_eq!(names(&format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}, {}]}}", json("a"), json("b"))), ["a", "b"]);
}

#[test]
fn a_field_is_found_in_the_second_of_two_json_values() {
    let text = "{\"apiVersion\":\"v1\",\"kind\":\"A\",\"metadata\":{\"name\":\"a\"}}\n{\"apiVersion\":\"v1\",\"kind\":\"A\",\n\"metadata\":{\"name\":\"b\"}}";
    let documents = parse("in.json", text.as_bytes()).unwrap();
    assert_eq!(documents[1].place_of("metadata.name"), "in.json:3:13");
}

#[test]
fn a_parse_error_has_line_column_and_the_line_itself() {
    insta::assert_snapshot!(told(VM.replace("512Mi", "[512Mi").as_bytes()));
    insta::assert_snapshot!(told(VM.replace("kind:", " kind:").as_bytes()));
    insta::assert_snapshot!(told(format!("{VM}  memory: 1Gi\n").as_bytes()));
}

#[test]
fn bad_bytes_empty_files_and_missing_fields_are_told_with_their_place() {
    insta::assert_snapshot!(told(b"kind: A\nname: \xff\xfe\n"));
    insta::assert_snapshot!(told(b"# nothing here\n"));
    insta::assert_snapshot!(told(b"- a\n- b\n"));
    insta::assert_snapshot!(told(format!("{VM}---\nkind: Host\nmetadata: {{}}\n").as_bytes()));
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(5_000),
        "a:\n".to_owned() + &(1..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(),
    ] {
        assert!(parse("in.yaml", text.as_bytes()).is_err());
    }
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    assert!(parse("in.yaml", bomb.as_bytes()).is_err());
}

#[test]
fn a_snippet_shows_no_secret() {
    let text = told(b"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData:\n  one: hunter2\n  two: [hunter3\n  three: hunter4\n");
    assert!(!text.contains("hunter"), "{text}");
    let text = told(b"kind: A\nspec:\n  password: hunter2\n  x: [\n  y: 1\n");
    assert!(!text.contains("hunter"), "{text}");
}

#[test]
fn files_of_a_directory_come_in_the_order_of_their_names_and_all_faults_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("b.yml", &VM.replace("web-1", "b"));
    write("a.yaml", &VM.replace("web-1", "a"));
    write("below/c.json", "{\"apiVersion\": \"v1\", \"kind\": \"A\", \"metadata\": {\"name\": \"c\"}}");
    write("notes.txt", "not a manifest");
    let sources = [directory.path().to_owned()];
    let got = |recursive| read(&sources, recursive).unwrap().iter().map(|d| d.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(got(false), ["a", "b"]);
    assert_eq!(got(true), ["a", "b", "c"]);

    write("d.yaml", "kind: [");
    write("e.yaml", &VM.replace("web-1", "a"));
    write("f.yaml", "");
    let Err(Error::Manifest(faults)) = read(&sources, false) else { panic!("accepted") };
    assert_eq!(faults.len(), 3, "{faults:?}");
}

#[test]
fn a_missing_file_and_a_web_address_are_told() {
    let one = |source: &str| {
        let Err(error) = read(&[source.into()], false) else { panic!("accepted") };
        error.report().unwrap().render(None, false)
    };
    assert!(one("/nowhere/x.yaml").contains("/nowhere/x.yaml cannot be read"));
    assert!(one("https://example.com/x.yaml").contains("curl"));
}
