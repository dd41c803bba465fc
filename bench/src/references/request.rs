//! The request as the references read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Requested {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    pub workflow_id: String,
    pub external_id: String,
    pub channels: Vec<String>,
    pub subscriber: Subscriber,
    pub payload: Value,
    pub category: String,
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Subscriber {
    pub id: String,
    pub email: String,
    pub locale: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Queued {
    pub queue: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Reported {
    pub message: Message,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Message {
    pub channel: String,
    pub provider_id: String,
    pub provider_message_id: String,
}

/// What is answered.
#[derive(Debug, Serialize)]
pub struct Recorded {
    pub id: Uuid,
}
