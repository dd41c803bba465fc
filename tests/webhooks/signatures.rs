//! What is believed: signed by one of the source's secrets, over exactly these bytes, not long
//! ago. Everything else leaves no trace but a count.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::fixture::{BODY_BYTES_MAX, Fixture, START};
use crate::novu::{FAMILIES, Signed, body, secret, sign, signature_vectors};
use crate::on_both_databases;

on_both_databases!(
    every_recorded_webhook_is_believed_at_its_time,
    a_request_is_believed_for_five_minutes_either_way,
    a_request_that_was_altered_is_refused,
    a_request_without_all_three_headers_is_refused,
    both_secrets_of_a_rotation_are_good_until_one_goes,
    any_matching_signature_of_a_list_will_do,
    a_source_that_is_not_there_is_not_found,
    another_sources_secret_is_no_good,
    a_body_that_is_too_large_is_refused_unread,
    a_paused_source_sends_novu_away_until_later,
    without_its_database_the_service_sends_novu_away_until_soon,
    what_came_of_webhooks_is_counted,
);

/// Another key of 32 bytes.
const OTHER_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn a_sample() -> Signed {
    sign(&secret(), "msg_1", START, &body("message.sent.sms"))
}

async fn refused(f: &Fixture, signed: &Signed) {
    let reply = f.deliver(&f.source, signed).await;

    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(reply.expect(401)["code"], "unauthenticated");
    assert_eq!(f.events(&f.acme).await, Vec::<Value>::new());
    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());
}

async fn every_recorded_webhook_is_believed_at_its_time(f: &Fixture) {
    for vector in signature_vectors().vectors {
        f.clock.set_seconds(vector.seconds());
        let is_ours = vector.name() != "email.received";

        let first = f.deliver(&f.source, &vector.signed()).await;
        let again = Signed {
            family: FAMILIES[1],
            ..vector.signed()
        };
        let again = f.deliver(&f.source, &again).await;

        let (outcome, repeated) = if is_ours {
            ("appended", "duplicate")
        } else {
            ("ignored", "ignored")
        };
        assert_eq!(first.outcome(), outcome, "{}", vector.file);
        assert_eq!(again.outcome(), repeated, "{}", vector.file);
        assert_eq!(first.header("ledger-position").is_some(), is_ours);
        assert_eq!(
            first.header("ledger-position"),
            again.header("ledger-position")
        );
        let is_message = vector.name().starts_with("message.");
        assert_eq!(first.body.get("notification_id").is_some(), is_message);
        assert_eq!(
            first.body.get("notification_id"),
            again.body.get("notification_id")
        );

        f.clock.set_seconds(vector.seconds() + 301);
        f.deliver(&f.source, &vector.signed()).await.expect(401);
    }
    // 19 facts about the messages of three transactions, and six changes at Novu.
    assert_eq!(f.events(&f.acme).await.len(), 19 + 3 + 6);
    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());
}

async fn a_request_is_believed_for_five_minutes_either_way(f: &Fixture) {
    for off in [-301, 301, -100_000_000, 100_000_000] {
        refused(
            f,
            &sign(&secret(), "msg_1", START + off, &body("message.sent.sms")),
        )
        .await;
    }
    for (off, outcome) in [(-300, "appended"), (300, "duplicate")] {
        let signed = sign(&secret(), "msg_1", START + off, &body("message.sent.sms"));
        assert_eq!(f.deliver(&f.source, &signed).await.outcome(), outcome);
    }
}

async fn a_request_that_was_altered_is_refused(f: &Fixture) {
    let good = a_sample();
    let altered = |change: fn(&mut Signed)| {
        let mut signed = good.clone();
        change(&mut signed);
        signed
    };

    for bad in [
        altered(|signed| signed.body[10] ^= 1),
        altered(|signed| signed.body.push(b' ')),
        altered(|signed| signed.body.truncate(100)),
        altered(|signed| signed.body.clear()),
        altered(|signed| signed.id = "msg_2".into()),
        altered(|signed| signed.timestamp = (START + 1).to_string()),
        altered(|signed| signed.timestamp = format!(" {START}")),
        altered(|signed| signed.timestamp = "soon".into()),
        altered(|signed| signed.signature = signed.signature.replacen("v1,", "v2,", 1)),
        altered(|signed| signed.signature = "v1,AAAA".into()),
        altered(|signed| signed.signature.clear()),
        altered(|signed| signed.id.clear()),
        sign(OTHER_SECRET, "msg_1", START, &good.body),
    ] {
        refused(f, &bad).await;
    }
    assert_eq!(f.deliver(&f.source, &good).await.outcome(), "appended");
}

async fn a_request_without_all_three_headers_is_refused(f: &Fixture) {
    for family in FAMILIES {
        for missing in ["id", "timestamp", "signature"] {
            let signed = Signed {
                family,
                ..a_sample()
            };
            let mut request = signed.request(&f.source);
            request.headers_mut().remove(format!("{family}-{missing}"));
            let problem = f.send(request).await.expect(401);
            assert!(
                problem["detail"].as_str().unwrap().contains("svix-id"),
                "{problem}"
            );
        }
    }
    let bare = Request::post(format!("/webhooks/novu/{}", f.source));
    f.send(bare.body(Body::empty()).unwrap()).await.expect(401);
    // One family in full is enough, whatever there is of the other.
    let mut request = Signed {
        family: "webhook",
        ..a_sample()
    }
    .request(&f.source);
    request
        .headers_mut()
        .insert("svix-id", "msg_other".parse().unwrap());
    assert_eq!(f.send(request).await.outcome(), "appended");
}

async fn both_secrets_of_a_rotation_are_good_until_one_goes(f: &Fixture) {
    let path = format!("/v1/webhook-sources/{}", f.source);
    let deliver = async |secret: &str, id: &str| {
        let signed = sign(secret, id, START, &body("message.sent.sms"));
        f.deliver(&f.source, &signed).await.status.as_u16()
    };

    assert_eq!(deliver(OTHER_SECRET, "msg_1").await, 401);
    let both = json!({ "secrets": [secret(), OTHER_SECRET] });
    f.patch(&f.acme, &path, &both).await.expect(200);
    assert_eq!(deliver(OTHER_SECRET, "msg_2").await, 200);
    assert_eq!(deliver(&secret(), "msg_3").await, 200);
    let new = json!({ "secrets": [OTHER_SECRET] });
    f.patch(&f.acme, &path, &new).await.expect(200);
    assert_eq!(deliver(OTHER_SECRET, "msg_4").await, 200);
    assert_eq!(deliver(&secret(), "msg_5").await, 401);
}

async fn any_matching_signature_of_a_list_will_do(f: &Fixture) {
    let good = a_sample();
    let other = sign(OTHER_SECRET, "msg_1", START, &good.body).signature;
    let ours = &good.signature;

    for list in [
        format!("{other} {ours}"),
        format!("{ours} {other}"),
        format!("v1a,AAAA v2,xyz {ours}"),
    ] {
        let signed = Signed {
            signature: list,
            ..good.clone()
        };
        f.deliver(&f.source, &signed).await.expect(200);
    }
}

async fn a_source_that_is_not_there_is_not_found(f: &Fixture) {
    for source in [
        "0195954e-7bb8-7000-8000-00000000002a",
        "novu",
        "%00",
        "..%2f..%2f",
    ] {
        let problem = f.deliver(source, &a_sample()).await.expect(404);
        assert_eq!(problem["code"], "not_found");
    }
    let path = format!("/v1/webhook-sources/{}", f.source);
    f.delete(&f.acme, &path).await.expect(204);
    f.deliver(&f.source, &a_sample()).await.expect(404);
    // Reading is not what it is for.
    f.get(&f.acme, &format!("/webhooks/novu/{}", f.source))
        .await
        .expect(405);
}

async fn another_sources_secret_is_no_good(f: &Fixture) {
    let beta = f.tenant("beta").await;
    let new = json!({ "provider": "novu", "name": "beta", "secrets": [OTHER_SECRET] });
    let source = f.post(&beta, "/v1/webhook-sources", &new).await.expect(201)["id"].clone();

    f.deliver(source.as_str().unwrap(), &a_sample())
        .await
        .expect(401);

    assert_eq!(f.events(&beta).await, Vec::<Value>::new());
}

async fn a_body_that_is_too_large_is_refused_unread(f: &Fixture) {
    let large = vec![b' '; BODY_BYTES_MAX + 1];
    let signed = sign(&secret(), "msg_1", START, &large);

    let problem = f.deliver(&f.source, &signed).await.expect(413);
    assert_eq!(problem["code"], "too_large");
    assert!(
        problem["detail"].as_str().unwrap().contains("65536"),
        "{problem}"
    );

    // One that does not say how long it is.
    let mut request = signed.request(&f.source);
    let pieces = large
        .chunks(1000)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()));
    let pieces: Vec<_> = pieces.collect();
    *request.body_mut() = Body::from_stream(futures_util::stream::iter(pieces));
    f.send(request).await.expect(413);

    let largest = sign(&secret(), "msg_1", START, &large[1..]);
    assert_eq!(
        f.deliver(&f.source, &largest).await.outcome(),
        "quarantined"
    );
}

async fn a_paused_source_sends_novu_away_until_later(f: &Fixture) {
    let path = format!("/v1/webhook-sources/{}", f.source);
    f.patch(&f.acme, &path, &json!({ "paused": true }))
        .await
        .expect(200);

    let reply = f.deliver(&f.source, &a_sample()).await;
    assert_eq!(reply.header("retry-after"), Some("300"));
    assert_eq!(reply.expect(503)["code"], "paused");
    assert_eq!(f.events(&f.acme).await, Vec::<Value>::new());
    // Strangers do not learn that it is.
    refused(f, &sign(OTHER_SECRET, "msg_1", START, &a_sample().body)).await;

    f.patch(&f.acme, &path, &json!({ "paused": false }))
        .await
        .expect(200);
    assert_eq!(
        f.deliver(&f.source, &a_sample()).await.outcome(),
        "appended"
    );
}

async fn without_its_database_the_service_sends_novu_away_until_soon(f: &Fixture) {
    f.deliver(&f.source, &a_sample()).await.expect(200);
    f.database.close().await;

    for signed in [a_sample(), sign(&secret(), "msg_2", START, b"not JSON")] {
        let reply = f.deliver(&f.source, &signed).await;
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.expect(503)["code"], "unavailable");
    }
    assert_eq!(f.counted("unavailable").await, 2);
}

async fn what_came_of_webhooks_is_counted(f: &Fixture) {
    let good = a_sample();
    f.deliver(&f.source, &good).await.expect(200);
    f.deliver(&f.source, &good).await.expect(200);
    f.novu("msg_2", b"not JSON").await.expect(200);
    f.novu("msg_3", &body("email.received")).await.expect(200);
    let other = sign(OTHER_SECRET, "msg_4", START, &good.body);
    f.deliver(&f.source, &other).await.expect(401);
    let stale = sign(&secret(), "msg_5", START - 301, &good.body);
    f.deliver(&f.source, &stale).await.expect(401);
    f.novu("msg_6", &vec![b' '; BODY_BYTES_MAX + 1])
        .await
        .expect(413);
    f.deliver("nowhere", &good).await.expect(404);

    for outcome in [
        "appended",
        "duplicate",
        "quarantined",
        "ignored",
        "rejected_signature",
        "rejected_stale",
        "rejected_too_large",
        "rejected_source",
    ] {
        assert_eq!(f.counted(outcome).await, 1, "{outcome}");
    }
}
