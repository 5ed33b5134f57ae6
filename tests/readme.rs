//! What the README claims, where it can be checked by reading.

use std::fs;
use std::path::Path;

/// Links lead to the published files, so that they work on a registry page.
#[test]
fn every_file_that_is_linked_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let links: Vec<_> = readme.split("/latest/source/").skip(1).collect();
    assert!(!links.is_empty());
    for link in links {
        let file = link.split(')').next().unwrap();
        assert!(root.join(file).is_file(), "there is no {file}");
    }
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let mut guarantees = 0;
    for line in readme.lines().filter(|line| line.contains("| `tests/")) {
        let quoted: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        let [.., file, test] = quoted[..] else { panic!("no file and test: {line}") };
        let source = fs::read_to_string(root.join(file)).unwrap();
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "{file} has no test {test}");
        guarantees += 1;
    }
    assert!(guarantees > 0);
}
