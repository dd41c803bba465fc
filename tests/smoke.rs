use notification_ledger::clock::Surroundings;
use notification_ledger::domain::event::*;
use notification_ledger::domain::ids::*;
use notification_ledger::domain::notification::*;
use notification_ledger::ledger::database::*;
use notification_ledger::ledger::record::*;
use notification_ledger::ledger::sealing::MasterKey;
use notification_ledger::ledger::*;
use notification_ledger::tasks::Tasks;
use notification_ledger::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn smoke() {
    let s = Surroundings::system();
    for pg in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let db = if pg {
            let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { continue };
            Database::postgres(&url, 5, Duration::from_secs(5)).await.unwrap()
        } else {
            Database::sqlite(&dir.path().join("x.db"), true, 5, Duration::from_secs(5)).await.unwrap()
        };
        db.migrate().await.unwrap();
        db.migrate().await.unwrap();
        let row = LedgerRow { ledger_id: s.ids.random(), partitions: 8, key_check: "x".into(), created_at: s.now() };
        db.create_ledger(&row, s.ids.random()).await.unwrap();
        let tasks = Tasks::new();
        let ledger = Ledger::start(db.storage(), Arc::new(MasterKey::new(&[1; 32]).unwrap()), Options::default(), s.clone(), &Metrics::new().unwrap(), &tasks);
        let order = Order {
            tenant: TenantPlace { tenant_id: TenantId::new("acme").unwrap(), partition: Partition(3) },
            provenance: Arc::new(Provenance { actor: Actor { kind: ActorKind::Key, id: "k".into() }, source: Source::Api, correlation_id: None, causation_id: None, traceparent: None }),
            idempotency: None,
            expected_version: None,
        };
        let id = StreamId(s.ids.time_ordered());
        let cmd = NotificationCommand {
            event_id: EventId(s.ids.time_ordered()),
            occurred_at: s.now(),
            private: Some("{\"a\":1}".into()),
            action: Action::Request(Box::new(Requested {
                workflow_id: WorkflowId::new("w").unwrap(),
                workflow_version: None,
                subscriber_id: SubscriberId::new("s").unwrap(),
                external_id: None, channels: vec![], category: Category::Transactional, priority: Priority::Normal,
                classification: Classification::default(), scheduled_at: None, expires_at: None, metadata: Default::default(),
            })),
        };
        let done = ledger.execute::<Notification>(&order, id, true, cmd).await.unwrap();
        assert_eq!(done.tip.sequence, Sequence(1));
        let mut set = tokio::task::JoinSet::new();
        for i in 0..50 {
            let (ledger, order, s) = (ledger.clone(), order.clone(), s.clone());
            set.spawn(async move {
                let cmd = NotificationCommand { event_id: EventId(s.ids.time_ordered()), occurred_at: s.now(), private: None,
                    action: Action::Report { adoption: None, report: Box::new(Report { message: MessageRef { provider_message_id: Some(format!("p{i}")), ..Default::default() }, untimed: true, delivery_id: None, context: Context::default(), fact: Fact::Sent }) } };
                ledger.execute::<Notification>(&order, id, false, cmd).await.unwrap().appended
            });
        }
        let n: usize = set.join_all().await.iter().sum();
        assert_eq!(n, 50);
        let loaded = ledger.load::<Notification>(&done.stream, Until::Now).await.unwrap().unwrap();
        assert_eq!(loaded.tip.sequence, Sequence(51));
        let req = loaded.aggregate.request().unwrap();
        let open = ledger.open(&done.stream, req.event_id, req.sealed.as_ref().unwrap()).await.unwrap().unwrap();
        assert_eq!(open.as_str(), "{\"a\":1}");
        for head in ledger.heads().await.unwrap() {
            println!("{:?}", verify::verify(ledger.storage().as_ref(), &head, Position(1), |_| {}).await.unwrap());
        }
    }
}
