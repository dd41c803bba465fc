//! Wrong use: everything that is wrong is said, and nothing is started.

use crate::place::Place;

#[test]
fn every_wrong_setting_is_named_on_a_line_of_its_own() {
    let place = Place::sqlite()
        .with("LEDGER_LISTNE", "127.0.0.1:0")
        .with("LEDGER_PARTITIONS", "many")
        .with("LEDGER_MASTER_KEY", "short");

    let ran = place.run(&["serve", "--queue-commands-max", "0"]);

    assert_eq!(ran.code(), 2, "{ran:?}");
    assert_eq!(ran.stdout, "");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert_eq!(lines[0], "error: 4 settings need attention:");
    for (name, said) in [
        ("LEDGER_LISTNE", "did you mean LEDGER_LISTEN?"),
        ("LEDGER_PARTITIONS", "`many` is not valid"),
        ("LEDGER_MASTER_KEY", "base64"),
        ("--queue-commands-max", "`0` is not valid"),
    ] {
        let line = lines.iter().find(|line| line.contains(name));
        assert!(
            line.is_some_and(|line| line.contains(said)),
            "{name}: {lines:#?}"
        );
    }
    assert!(!ran.stderr.contains("short"), "a secret is shown");
    assert!(!place.path("data").exists());
}

#[test]
fn a_master_key_is_asked_for_with_postgresql_but_not_to_verify() {
    // Nothing listens on port 1.
    let place = Place::sqlite().with("LEDGER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");

    let serve = place.run(&["serve"]);
    assert_eq!(serve.code(), 2, "{serve:?}");
    assert!(serve.stderr.contains("LEDGER_MASTER_KEY"), "{serve:?}");

    let verify = place.run(&["verify"]);
    assert_eq!(verify.code(), 1, "{verify:?}");
    assert!(verify.stderr.contains("can't be reached"), "{verify:?}");
    assert!(verify.stderr.contains("LEDGER_DATABASE_URL"), "{verify:?}");
}

#[test]
fn arguments_that_cannot_be_meant_are_wrong_use() {
    let place = Place::sqlite();

    for arguments in [
        &["frobnicate"][..],
        &["serve", "--frobnicate"],
        &["tenants"],
        &["tenants", "create"],
        &["tenants", "create", "Not A Slug"],
        &["tenants", "create", "acme", "--name", ""],
        &["keys", "create"],
        &["keys", "create", "--tenant", "acme", "--operator"],
        &[
            "keys",
            "create",
            "--tenant",
            "acme",
            "--scope",
            "read,everything",
        ],
        &["keys", "create", "--operator", "--scope", "read"],
        &["keys", "revoke", "nl_secret"],
        &["verify", "--from", "the-beginning"],
        &["verify", "--from", "7"],
        &["verify", "--partition", "1", "--from", "2-7"],
        &["import", "file.ndjson"],
        &["demo", "--rate", "0"],
    ] {
        let ran = place.run(arguments);

        assert_eq!(ran.code(), 2, "{arguments:?}: {ran:?}");
        assert_ne!(ran.stderr, "", "{arguments:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn every_subcommand_explains_itself_with_an_example() {
    let place = Place::sqlite();

    for arguments in [
        &["serve"][..],
        &["migrate"],
        &["tenants", "create"],
        &["tenants", "list"],
        &["keys", "create"],
        &["keys", "list"],
        &["keys", "revoke"],
        &["verify"],
        &["import"],
        &["demo"],
    ] {
        let ran = place.run(&[arguments, &["--help"]].concat());

        assert_eq!(ran.code(), 0, "{arguments:?}");
        let example = format!("  notification-ledger {}", arguments.join(" "));
        assert!(
            ran.stdout.contains(&example),
            "{arguments:?}: {}",
            ran.stdout
        );
    }
}

#[test]
fn without_a_ledger_a_command_beside_the_server_says_what_to_do() {
    let place = Place::sqlite();

    for arguments in [
        &["tenants", "list"][..],
        &["keys", "list"],
        &["verify"],
        &["migrate", "--restored"],
    ] {
        let ran = place.run(arguments);

        assert_eq!(ran.code(), 1, "{arguments:?}: {ran:?}");
        assert!(
            ran.stderr.contains("there is no ledger here yet"),
            "{ran:?}"
        );
        assert!(!place.path("data").exists(), "{arguments:?}");
    }
}

#[test]
fn an_answer_that_nobody_reads_is_a_failure() {
    let place = Place::sqlite().with_tenant();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = place.command(&["keys", "create", "--tenant", "acme"]);
    command.stdout(full);

    let ran = crate::place::Ran::from(command.spawn().unwrap().wait_with_output().unwrap());

    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("revoke it"), "{ran:?}");
}
