//! Somebody who sends commands, and the checks that any record must pass.

use std::collections::HashMap;
use std::sync::Arc;

use notification_ledger::clock::Surroundings;
use notification_ledger::domain::event::{
    Category, Classification, Context, Fact, MessageRef, Priority, Report, Requested,
};
use notification_ledger::domain::ids::{
    EventId, Sequence, StreamId, SubscriberId, TenantId, WorkflowId,
};
use notification_ledger::domain::notification::{
    Action, Notification, NotificationCommand, Refusal,
};
use notification_ledger::ledger::record::{
    Actor, ActorKind, Partition, Position, Provenance, RecordedEvent, Source, StreamKey,
    TenantPlace,
};
use notification_ledger::ledger::storage::Storage;
use notification_ledger::ledger::verify::verify;
use notification_ledger::ledger::{
    Beginning, CommandError, Done, Idempotency, Ledger, Loaded, Options, Order, Until,
};

use crate::support::Place;

/// More than any test here appends to one partition.
pub(crate) const EVERYTHING: i64 = 100_000;

pub(crate) type Told = Result<Done<Notification>, CommandError<Refusal>>;

/// A caller of one process, on behalf of one tenant.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) ledger: Ledger,
    pub(crate) order: Order,
    pub(crate) surroundings: Surroundings,
}

impl Client {
    /// A caller of a new process.
    pub(crate) fn of(place: &Place) -> Self {
        Self::on(place, place.process(Options::default()))
    }

    pub(crate) fn on(place: &Place, ledger: Ledger) -> Self {
        let provenance = Provenance {
            actor: Actor {
                kind: ActorKind::Key,
                id: "key-1".into(),
            },
            source: Source::Api,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
        };
        Self {
            ledger,
            order: Order {
                tenant: TenantPlace {
                    tenant_id: TenantId::new("acme").unwrap(),
                    partition: Partition(0),
                },
                provenance: Arc::new(provenance),
                idempotency: None,
                expected_version: None,
            },
            surroundings: place.surroundings(),
        }
    }

    pub(crate) fn for_tenant(mut self, tenant_id: &str, partition: i16) -> Self {
        self.order.tenant = TenantPlace {
            tenant_id: TenantId::new(tenant_id).unwrap(),
            partition: Partition(partition),
        };
        self
    }

    /// The same caller, with an idempotency key for what `request` stands for.
    pub(crate) fn with_key(&self, key: &str, request: u8) -> Self {
        let mut client = self.clone();
        client.order.idempotency = Some(idempotency(key, request));
        client
    }

    pub(crate) fn expecting(&self, version: i64) -> Self {
        let mut client = self.clone();
        client.order.expected_version = Some(Sequence(version));
        client
    }

    pub(crate) fn correlating(&self, correlation_id: &str) -> Self {
        let mut client = self.clone();
        let provenance = Arc::make_mut(&mut client.order.provenance);
        provenance.correlation_id = Some(correlation_id.into());
        client
    }

    pub(crate) fn new_stream(&self) -> StreamId {
        StreamId(self.surroundings.ids.time_ordered())
    }

    pub(crate) fn key(&self, stream: StreamId) -> StreamKey {
        self.order.tenant.stream(stream)
    }

    /// A command on a stream whose id was just made.
    pub(crate) async fn begin(&self, stream: StreamId, action: Action) -> Told {
        let command = self.command(action, None);
        self.ledger
            .execute(&self.order, stream, Beginning::JustMade, command)
            .await
    }

    /// The same on a stream whose id is the caller's own.
    pub(crate) async fn begin_own(&self, stream: StreamId, action: Action) -> Told {
        let command = self.command(action, None);
        self.ledger
            .execute(&self.order, stream, Beginning::Absent, command)
            .await
    }

    pub(crate) async fn tell(&self, stream: StreamId, action: Action) -> Told {
        let command = self.command(action, None);
        self.ledger
            .execute(&self.order, stream, Beginning::Unknown, command)
            .await
    }

    pub(crate) async fn confide(&self, stream: StreamId, action: Action, secret: &str) -> Told {
        let command = self.command(action, Some(secret));
        self.ledger
            .execute(&self.order, stream, Beginning::Unknown, command)
            .await
    }

    /// A new notification.
    pub(crate) async fn requested(&self) -> StreamId {
        let stream = self.new_stream();
        self.begin(stream, request()).await.unwrap();
        stream
    }

    pub(crate) async fn load(&self, stream: StreamId) -> Loaded<Notification> {
        let loaded = self
            .ledger
            .load(&self.key(stream), Until::Now)
            .await
            .unwrap();
        loaded.unwrap()
    }

    pub(crate) async fn events(&self, stream: StreamId) -> Arc<Vec<RecordedEvent>> {
        self.ledger.stream(&self.key(stream)).await.unwrap()
    }

    pub(crate) fn command(&self, action: Action, private: Option<&str>) -> NotificationCommand {
        NotificationCommand {
            event_id: EventId(self.surroundings.ids.time_ordered()),
            occurred_at: self.surroundings.now(),
            private: private.map(Arc::from),
            action,
        }
    }
}

pub(crate) fn idempotency(key: &str, request: u8) -> Idempotency {
    Idempotency {
        key: key.to_owned(),
        fingerprint: [request; 32],
    }
}

pub(crate) fn request() -> Action {
    request_for("cust-20417")
}

pub(crate) fn request_for(subscriber_id: &str) -> Action {
    Action::Request(Arc::new(Requested {
        workflow_id: WorkflowId::new("parcel-dispatched").unwrap(),
        workflow_version: None,
        subscriber_id: SubscriberId::new(subscriber_id).unwrap(),
        external_id: None,
        channels: vec![],
        category: Category::Transactional,
        priority: Priority::Normal,
        classification: Classification::default(),
        scheduled_at: None,
        expires_at: None,
        metadata: [].into(),
    }))
}

pub(crate) fn queue() -> Action {
    Action::Queue {
        queue: None,
        available_at: None,
    }
}

/// A message of its own was handed over: another fact for every other id.
pub(crate) fn sent(provider_message_id: &str) -> Action {
    said(Fact::Sent, provider_message_id, None)
}

pub(crate) fn said(fact: Fact, provider_message_id: &str, delivery_id: Option<&str>) -> Action {
    Action::Report {
        report: Arc::new(Report {
            fact,
            message: MessageRef {
                provider_message_id: Some(provider_message_id.to_owned()),
                ..MessageRef::default()
            },
            untimed: false,
            context: Context::default(),
            delivery_id: delivery_id.map(str::to_owned),
        }),
        adoption: None,
    }
}

/// One partition's events, page after page.
pub(crate) async fn whole_log(storage: &dyn Storage, partition: Partition) -> Vec<RecordedEvent> {
    let mut log: Vec<RecordedEvent> = Vec::new();
    loop {
        let after = log.last().map_or(Position(0), |event| event.position);
        let page = storage.log(partition, after, EVERYTHING).await.unwrap();
        if page.is_empty() {
            return log;
        }
        log.extend(page);
    }
}

/// The whole record, partition by partition, after the checks that any record must pass.
pub(crate) async fn checked_record(place: &Place) -> Vec<RecordedEvent> {
    let mut record = Vec::new();
    for head in place.storage.heads().await.unwrap() {
        let log = whole_log(place.storage.as_ref(), head.partition).await;
        for (event, position) in log.iter().zip(1..) {
            assert_eq!(event.position, Position(position), "positions have no gaps");
        }
        assert!(
            log.is_sorted_by_key(|event| event.recorded_at),
            "times run with positions"
        );
        let mut ends: HashMap<_, Sequence> = HashMap::new();
        for event in &log {
            let end = ends.entry((&event.tenant_id, event.stream_id)).or_default();
            assert_eq!(event.sequence, end.next(), "sequences have no gaps");
            *end = event.sequence;
        }
        let verdict = verify(place.storage.as_ref(), &head, Position(1), |_| {})
            .await
            .unwrap();
        let intact = verdict.unwrap_or_else(|broken| panic!("{broken:?}"));
        assert_eq!(intact.events, log.len() as u64);
        record.extend(log);
    }
    record
}
