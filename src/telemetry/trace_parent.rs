//! Which trace a piece of work belongs to, in the words of W3C Trace Context.

use std::fmt;
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A valid `traceparent` of version 00 (W3C Trace Context §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: TraceId,
    span_id: SpanId,
    flags: TraceFlags,
}

/// The text is no `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent of version 00")]
pub struct InvalidTraceParent;

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads the header's value. Strict: lower-case digits, ids that are not all zeros,
    /// nothing around it.
    ///
    /// # Errors
    ///
    /// [`InvalidTraceParent`]; the header is ignored then, as §4.3 asks.
    pub fn parse(text: &str) -> Result<Self, InvalidTraceParent> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != LENGTH || !text.bytes().all(|byte| byte == b'-' || is_digit(byte)) {
            return Err(InvalidTraceParent);
        }

        let mut parts = text.split('-');
        let parts = [(); 5].map(|()| parts.next().unwrap_or_default());
        let ["00", trace_id, span_id, flags, ""] = parts else {
            return Err(InvalidTraceParent);
        };
        if (trace_id.len(), span_id.len(), flags.len()) != (32, 16, 2) {
            return Err(InvalidTraceParent);
        }

        let parent = Self {
            trace_id: TraceId::from_hex(trace_id).map_err(|_| InvalidTraceParent)?,
            span_id: SpanId::from_hex(span_id).map_err(|_| InvalidTraceParent)?,
            flags: u8::from_str_radix(flags, 16)
                .map(TraceFlags::new)
                .map_err(|_| InvalidTraceParent)?,
        };
        let is_valid = parent.trace_id != TraceId::INVALID && parent.span_id != SpanId::INVALID;
        is_valid.then_some(parent).ok_or(InvalidTraceParent)
    }

    /// 32 lower-case digits, for log lines.
    pub fn trace_id(&self) -> String {
        self.trace_id.to_string()
    }

    fn of(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self {
            trace_id: context.trace_id(),
            span_id: context.span_id(),
            flags: context.trace_flags(),
        })
    }

    fn remote(&self, state: TraceState) -> SpanContext {
        SpanContext::new(self.trace_id, self.span_id, self.flags, true, state)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.flags.to_u8();
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// Makes `span` a part of its caller's trace. Does nothing while traces aren't exported.
///
/// Call it before anything asks where the span is and before it has children: from then
/// on it keeps the parent it has. A `tracestate` that can't be read is left out.
pub fn set_parent_from(span: &Span, parent: &TraceParent, tracestate: Option<&str>) {
    let state = tracestate
        .and_then(|text| TraceState::from_str(text).ok())
        .unwrap_or_default();
    let context = Context::new().with_remote_span_context(parent.remote(state));

    // It fails where no traces are exported or the span is filtered out: nothing to join.
    let _ = span.set_parent(context);
}

/// The current span's place in its trace; `None` while traces aren't exported.
pub fn current_trace_parent() -> Option<TraceParent> {
    TraceParent::of(Span::current().context().span().span_context())
}

/// The `traceparent` to keep in an event: the current span's, so that what follows from
/// the event joins the trace of its request; without one, what the caller sent.
pub fn traceparent_for_event(incoming: Option<&TraceParent>) -> Option<String> {
    current_trace_parent()
        .or(incoming.copied())
        .map(|parent| parent.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_survives_a_round_trip() {
        let parent = TraceParent::parse(EXAMPLE).unwrap();

        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[rstest]
    #[case::version("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    #[case::forbidden_version("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    #[case::upper_case("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01")]
    #[case::trace_of_zeros("00-00000000000000000000000000000000-00f067aa0ba902b7-01")]
    #[case::span_of_zeros("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")]
    #[case::moved_dash("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01")]
    #[case::moved_dashes("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b70-1")]
    #[case::extra_dash("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-")]
    #[case::longer("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00")]
    #[case::space(" 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")]
    #[case::plus("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    #[case::not_ascii("00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01")]
    #[case::empty("")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert_eq!(TraceParent::parse(text), Err(InvalidTraceParent));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_written_the_same(text in "[0-9a-f-]{55}|\\PC{0,60}") {
            if let Ok(parent) = TraceParent::parse(&text) {
                prop_assert_eq!(parent.to_string(), text);
            }
        }

        #[test]
        fn every_well_formed_header_is_accepted(
            text in "00-[0-9a-f]{31}[1-9a-f]-[0-9a-f]{15}[1-9a-f]-[0-9a-f]{2}"
        ) {
            prop_assert!(TraceParent::parse(&text).is_ok());
        }
    }

    #[test]
    fn without_export_an_event_keeps_what_the_caller_sent() {
        let incoming = TraceParent::parse(EXAMPLE).unwrap();

        assert_eq!(
            traceparent_for_event(Some(&incoming)).as_deref(),
            Some(EXAMPLE)
        );
        assert_eq!(traceparent_for_event(None), None);
    }
}
