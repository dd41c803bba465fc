//! Which notification a webhook's fact lands in.

use futures_util::future::join_all;
use notification_ledger::domain::integration::Change;
use notification_ledger::webhooks::correlate::object_stream;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Tenant};
use crate::novu::{body, body_with, of_transaction};
use crate::on_both_databases;

on_both_databases!(
    a_transaction_that_is_a_notification_is_that_notification,
    a_request_completes_the_stream_that_its_webhooks_began,
    the_id_of_an_adopted_stream_follows_from_tenant_and_transaction,
    a_message_is_found_by_the_providers_id_somebody_reported,
    a_message_with_a_known_provider_id_is_found_although_its_transaction_was_adopted,
    a_providers_id_that_is_not_unique_brings_no_strangers_together,
    another_tenants_notification_is_out_of_reach,
    webhooks_that_arrive_at_once_begin_one_stream,
    a_crowd_that_arrives_before_its_stream_is_there_is_recorded,
    a_message_without_a_transaction_has_a_stream_of_its_own,
    a_source_may_keep_what_nobody_knows_for_a_person,
    a_stream_of_another_kind_is_left_alone,
);

const ID: &str = "0195954e-7bb8-7000-8000-00000000002a";
/// As `message.sent.email` has it.
const PROVIDER_ID: &str = "sg-7Kd2mQxTTu6n0Yp1";

async fn request(f: &Fixture, tenant: &Tenant, id: &str) -> String {
    let wanted = json!({
        "id": id,
        "workflow_id": "parcel-dispatched",
        "subscriber": { "id": "cust-20417", "email": "lena@customer.example" },
    });
    let made = f
        .post(tenant, "/v1/notifications", &wanted)
        .await
        .expect(201);
    made["id"].as_str().unwrap().to_owned()
}

async fn report_sent(f: &Fixture, id: &str, provider_message_id: &str) {
    let fact =
        json!({ "message": { "channel": "email", "provider_message_id": provider_message_id } });
    let path = format!("/v1/notifications/{id}/sent");
    f.post(&f.acme, &path, &fact).await.expect(200);
}

async fn a_transaction_that_is_a_notification_is_that_notification(f: &Fixture) {
    request(f, &f.acme, ID).await;

    for (name, transaction) in [
        ("message.sent.email", ID.to_owned()),
        ("message.delivered.email", ID.to_uppercase()),
    ] {
        let reply = f.novu(name, &of_transaction(name, &transaction)).await;
        assert_eq!(reply.outcome(), "appended");
        assert_eq!(reply.notification_id(), ID);
    }

    let notification = f.notification(&f.acme, ID).await;
    assert_eq!(notification["status"], "delivered");
    assert_eq!(notification["adopted"], false);
    assert_eq!(notification["subscriber"]["email"], "lena@customer.example");
}

async fn a_request_completes_the_stream_that_its_webhooks_began(f: &Fixture) {
    let early = f
        .novu("msg_1", &of_transaction("message.sent.email", ID))
        .await;
    assert_eq!(early.notification_id(), ID);
    assert_eq!(
        f.notification(&f.acme, ID).await["requested_at"],
        Value::Null
    );

    request(f, &f.acme, ID).await;
    let late = f
        .novu("msg_2", &of_transaction("message.delivered.email", ID))
        .await;

    assert_eq!(late.notification_id(), ID);
    let notification = f.notification(&f.acme, ID).await;
    assert_eq!(notification["adopted"], true);
    assert_eq!(notification["status"], "delivered");
    assert_eq!(notification["subscriber"]["email"], "lena@customer.example");
    assert_eq!(notification["version"], 4);
    let again = json!({ "id": ID, "workflow_id": "w", "subscriber": { "id": "s" } });
    f.post(&f.acme, "/v1/notifications", &again)
        .await
        .expect(409);
}

async fn the_id_of_an_adopted_stream_follows_from_tenant_and_transaction(f: &Fixture) {
    let other_source = f.new_source(&f.acme, "adopt").await;
    let beta = f.tenant("beta").await;
    let beta_source = f.new_source(&beta, "adopt").await;

    let email = f
        .novu("msg_1", &body("message.sent.email"))
        .await
        .notification_id();
    let sms = f
        .novu_to(&other_source, "msg_2", &body("message.sent.sms"))
        .await;
    let elsewhere = f
        .novu_to(&beta_source, "msg_1", &body("message.sent.email"))
        .await;

    // Never changes: this is how repeats find their stream for ever.
    assert_eq!(email, "eaec576f-2127-5550-9912-00cd93e2f40d");
    assert_eq!(sms.notification_id(), email);
    assert_eq!(elsewhere.outcome(), "appended");
    assert_ne!(elsewhere.notification_id(), email);
}

async fn a_message_is_found_by_the_providers_id_somebody_reported(f: &Fixture) {
    let id = request(f, &f.acme, ID).await;
    report_sent(f, &id, PROVIDER_ID).await;

    // The second has the provider's id no more, the third is another message of the transaction.
    let delivered = f.novu("msg_1", &body("message.delivered.email")).await;
    let seen = body_with("message.seen.email", |body| {
        body["data"]["object"]
            .as_object_mut()
            .unwrap()
            .remove("providerResponseId");
    });
    let seen = f.novu("msg_2", &seen).await;
    let sms = f.novu("msg_3", &body("message.sent.sms")).await;

    for reply in [&delivered, &seen, &sms] {
        assert_eq!(reply.outcome(), "appended");
        assert_eq!(reply.notification_id(), id);
    }
    let notification = f.notification(&f.acme, &id).await;
    assert_eq!(notification["status"], "delivered");
    assert_eq!(notification["adopted"], false);
    // The API's and Novu's report are about one message.
    assert_eq!(notification["messages"].as_array().unwrap().len(), 2);
}

async fn a_message_with_a_known_provider_id_is_found_although_its_transaction_was_adopted(
    f: &Fixture,
) {
    let id = request(f, &f.acme, ID).await;
    report_sent(f, &id, PROVIDER_ID).await;
    let adopted = f
        .novu("msg_1", &body("message.sent.in_app"))
        .await
        .notification_id();
    assert_ne!(adopted, id);

    let email = f.novu("msg_2", &body("message.delivered.email")).await;
    let seen = f.novu("msg_3", &body("message.seen.in_app")).await;

    assert_eq!(email.notification_id(), id);
    // A message's facts stay together.
    assert_eq!(seen.notification_id(), adopted);
}

async fn a_providers_id_that_is_not_unique_brings_no_strangers_together(f: &Fixture) {
    let sent = |transaction: &str, message: &str| {
        body_with("message.sent.sms", |body| {
            let object = &mut body["data"]["object"];
            object["transactionId"] = json!(transaction);
            object["_id"] = json!(message);
            object["providerResponseId"] = json!("OK");
        })
    };
    let one = f
        .novu("msg_1", &sent("txn_1", "m1"))
        .await
        .notification_id();
    let two = f
        .novu("msg_2", &sent("txn_2", "m2"))
        .await
        .notification_id();
    assert_ne!(one, two);

    let id = request(f, &f.acme, ID).await;
    report_sent(f, &id, "OK").await;
    let three = f
        .novu("msg_3", &sent("txn_3", "m3"))
        .await
        .notification_id();
    assert!(![&one, &two, &id].contains(&&three));
}

async fn another_tenants_notification_is_out_of_reach(f: &Fixture) {
    let beta = f.tenant("beta").await;
    let theirs = request(f, &beta, ID).await;
    let fact = json!({ "message": { "provider_message_id": PROVIDER_ID } });
    f.post(&beta, &format!("/v1/notifications/{theirs}/sent"), &fact)
        .await
        .expect(200);
    let before = f.events(&beta).await;

    let by_id = f
        .novu("msg_1", &of_transaction("message.sent.email", ID))
        .await;
    let by_provider = f.novu("msg_2", &body("message.delivered.email")).await;

    // The same id, in one's own tenant.
    assert_eq!(by_id.notification_id(), ID);
    assert_eq!(f.notification(&f.acme, ID).await["adopted"], true);
    assert_ne!(by_provider.notification_id(), ID);
    assert_eq!(f.events(&beta).await, before);
    assert_eq!(f.notification(&beta, ID).await["adopted"], false);
}

async fn webhooks_that_arrive_at_once_begin_one_stream(f: &Fixture) {
    let processes = [f.clone(), f.other_process().await];
    for transaction in ["txn_at_once", ID] {
        let names = [
            "message.sent.in_app",
            "message.delivered.in_app",
            "message.sent.email",
            "message.delivered.email",
            "message.sent.sms",
            "message.sent.push",
        ];
        let arriving = names.iter().flat_map(|name| {
            let delivery_id = format!("{transaction}_{name}");
            let body = of_transaction(name, transaction);
            // Novu's impatient second attempt is among them.
            [(delivery_id.clone(), body.clone()), (delivery_id, body)]
        });
        let arriving = arriving.zip(processes.iter().cycle());
        let replies = join_all(arriving.map(|((delivery_id, body), process)| async move {
            process.novu(&delivery_id, &body).await
        }))
        .await;

        let appended = replies
            .iter()
            .filter(|reply| reply.outcome() == "appended")
            .count();
        assert_eq!(appended, names.len());
        let id = replies[0].notification_id();
        assert!(replies.iter().all(|reply| reply.notification_id() == id));
        let path = format!("/v1/notifications/{id}/events");
        let history = f.get(&f.acme, &path).await.expect(200);
        let types: Vec<_> = history["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(types.len(), 1 + names.len());
        assert_eq!(
            types
                .iter()
                .filter(|name| **name == "notification.adopted")
                .count(),
            1
        );
        assert_eq!(types[0], "notification.adopted");
    }
}

/// All of them have looked for the stream before one of them has begun it.
async fn a_crowd_that_arrives_before_its_stream_is_there_is_recorded(f: &Fixture) {
    const MESSAGES: usize = 200;
    let arriving = (0..MESSAGES).map(|number| async move {
        let body = body_with("message.sent.email", |body| {
            let object = &mut body["data"]["object"];
            object["_id"] = format!("crowd-{number}").into();
            object["providerResponseId"] = format!("crowd-{number}").into();
            object["transactionId"] = "txn_crowd".into();
        });
        f.novu(&format!("msg_crowd_{number}"), &body).await
    });

    let replies = join_all(arriving).await;

    let id = replies[0].notification_id();
    for reply in &replies {
        assert_eq!(reply.outcome(), "appended");
        assert_eq!(reply.notification_id(), id);
    }
}

async fn a_message_without_a_transaction_has_a_stream_of_its_own(f: &Fixture) {
    let alone = |name| {
        body_with(name, |body| {
            body["data"]["object"]
                .as_object_mut()
                .unwrap()
                .remove("transactionId");
        })
    };
    let sent = f.novu("msg_1", &alone("message.sent.email")).await;
    let delivered = f.novu("msg_2", &alone("message.delivered.email")).await;
    let sms = f.novu("msg_3", &alone("message.sent.sms")).await;

    assert_eq!(sent.notification_id(), delivered.notification_id());
    assert_ne!(sent.notification_id(), sms.notification_id());
    let events = f.events(&f.acme).await;
    assert_eq!(events[0]["data"], json!({ "provider": "novu" }));
    // Once the transaction is said, the rest of it follows the message.
    let seen = f.novu("msg_4", &body("message.seen.email")).await;
    let push = f.novu("msg_5", &body("message.sent.push")).await;
    assert_eq!(seen.notification_id(), sent.notification_id());
    assert_eq!(push.notification_id(), sent.notification_id());
}

async fn a_source_may_keep_what_nobody_knows_for_a_person(f: &Fixture) {
    let careful = f.new_source(&f.acme, "quarantine").await;
    let body = of_transaction("message.sent.email", ID);

    let reply = f.novu_to(&careful, "msg_1", &body).await;
    assert_eq!(reply.outcome(), "quarantined");
    assert_eq!(reply.header("ledger-position"), None);
    let entry = f.quarantine(&f.acme).await.remove(0);
    assert!(
        entry["reason"]
            .as_str()
            .unwrap()
            .contains("no notification is known")
    );
    let path = format!(
        "/v1/webhook-quarantine/{}/retry",
        entry["id"].as_str().unwrap()
    );
    assert_eq!(
        f.post(&f.acme, &path, &json!({})).await.outcome(),
        "quarantined"
    );

    // Changes at Novu are about no message, and what is known needs no adopting.
    let changed = f
        .novu_to(&careful, "msg_2", &crate::novu::body("workflow.created"))
        .await;
    assert_eq!(changed.outcome(), "appended");
    request(f, &f.acme, ID).await;
    let known = f
        .novu_to(
            &careful,
            "msg_3",
            &of_transaction("message.delivered.email", ID),
        )
        .await;
    assert_eq!(known.notification_id(), ID);
    let again = f.post(&f.acme, &path, &json!({})).await;
    assert_eq!(again.outcome(), "appended");
    assert_eq!(again.notification_id(), ID);
    assert_eq!(f.quarantine(&f.acme).await, Vec::<Value>::new());

    // A stream another source began is known as well.
    let adopted = f
        .novu("msg_4", &of_transaction("message.sent.sms", "txn_1"))
        .await;
    let followed = f
        .novu_to(
            &careful,
            "msg_5",
            &of_transaction("message.sent.push", "txn_1"),
        )
        .await;
    assert_eq!(adopted.notification_id(), followed.notification_id());
}

async fn a_stream_of_another_kind_is_left_alone(f: &Fixture) {
    f.novu("msg_1", &body("workflow.created")).await.expect(200);
    let object = f.events(&f.acme).await[0]["notification_id"]
        .as_str()
        .unwrap()
        .to_owned();

    let named_like_it = f
        .novu("msg_2", &of_transaction("message.sent.sms", &object))
        .await;

    assert_eq!(named_like_it.outcome(), "appended");
    assert_ne!(named_like_it.notification_id(), object);

    // And the other way round: somebody requested a notification where the object's stream
    // will be.
    let change = Change {
        provider: "novu".to_owned(),
        change: "preference.updated".to_owned(),
        object_id: "cust-20417/global".to_owned(),
        name: None,
        subscriber_id: None,
        delivery_id: None,
        fact_key: String::new(),
    };
    let taken = object_stream(&f.acme.id, &change).to_string();
    request(f, &f.acme, &taken).await;
    let changed = f.novu("msg_3", &body("preference.updated.global")).await;
    assert_eq!(changed.outcome(), "quarantined");
    assert_eq!(f.notification(&f.acme, &taken).await["version"], 1);
}
