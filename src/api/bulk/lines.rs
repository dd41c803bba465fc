//! Cuts a body into lines, without keeping more of it in memory than a line and what is read
//! ahead.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::COMMANDS_MAX;
use crate::problem::Problem;

/// Most bytes that are read while the lines before are still being worked on. About as many as
/// a window of usual lines.
const AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// A line of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, empty lines included.
    pub(super) number: usize,
    pub(super) content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text(Bytes),
    TooLong { bytes_max: usize },
}

/// What has arrived.
#[derive(Debug)]
pub(super) enum Window {
    /// 1 to 1,000 lines.
    Lines(Vec<Line>),
    /// Nothing more will come, and something is missing.
    Broken(Problem),
    End,
}

/// How a body ended.
enum End {
    Complete,
    CutOff,
    Paused,
}

pub(super) struct Lines {
    body: Body,
    line_bytes_max: usize,
    /// Longest wait for the next piece; `None` to wait as long as it takes.
    pause_max: Option<Duration>,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end: it is looked at only once.
    searched: usize,
    /// Of the last line that was complete, counted from 1.
    number: usize,
    /// The current line was too long: what follows is thrown away up to its end.
    skipping: bool,
    ended: Option<End>,
}

impl Lines {
    pub(super) fn new(body: Body, line_bytes_max: usize, pause_max: Option<Duration>) -> Self {
        Self {
            body,
            line_bytes_max,
            pause_max,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            skipping: false,
            ended: None,
        }
    }

    /// The number of the line that comes next.
    pub(super) fn next_number(&self) -> usize {
        self.number + 1
    }

    /// The lines that are complete; waits for at least one. Empty lines are none.
    pub(super) async fn window(&mut self) -> Window {
        loop {
            let mut lines = Vec::new();
            while lines.len() < COMMANDS_MAX {
                let Some(line) = self.next_line() else { break };
                lines.push(line);
            }
            if !lines.is_empty() {
                return Window::Lines(lines);
            }
            match self.ended {
                None => self.read_on().await,
                Some(End::Complete) => return Window::End,
                Some(End::CutOff) => {
                    let detail = "the body ended before it was complete".to_owned();
                    return Window::Broken(Problem::MalformedJson(detail));
                }
                Some(End::Paused) => return Window::Broken(Problem::RequestTimeout),
            }
        }
    }

    /// Reads ahead while `work` is under way, so that the next window has whatever came in
    /// meanwhile, as a group commit takes whatever queued up.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            output = work => output,
            never = self.read_ahead() => match never {},
        }
    }

    async fn read_ahead(&mut self) -> Infallible {
        while self.ended.is_none() && self.buffer.len() < AHEAD_BYTES_MAX {
            self.read_on().await;
        }
        std::future::pending().await
    }

    /// Waits for the next piece. What it has read is not lost when it is dropped.
    async fn read_on(&mut self) {
        let next = self.body.frame();
        let frame = match self.pause_max {
            None => Ok(next.await),
            Some(pause_max) => tokio::time::timeout(pause_max, next).await,
        };
        match frame {
            Err(_) => self.ended = Some(End::Paused),
            Ok(None) => self.ended = Some(End::Complete),
            Ok(Some(Err(_))) => self.ended = Some(End::CutOff),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
    }

    /// The next line that is complete and not empty, or known to be too long.
    fn next_line(&mut self) -> Option<Line> {
        let bytes_max = self.line_bytes_max;
        loop {
            let Some(text) = self.next_text() else {
                return self.overflow();
            };
            self.number += 1;
            if std::mem::take(&mut self.skipping) {
                // The rest of a line that has had its answer.
                continue;
            }
            let content = if text.len() > bytes_max {
                Content::TooLong { bytes_max }
            } else if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            } else {
                Content::Text(text)
            };
            return Some(Line {
                number: self.number,
                content,
            });
        }
    }

    /// Cuts off what comes before the next line end. The last line needs none.
    fn next_text(&mut self) -> Option<Bytes> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        if let Some(found) = found {
            let end = self.searched + found;
            self.searched = 0;
            let mut text = self.buffer.split_to(end + 1);
            text.truncate(end);
            return Some(text.freeze());
        }
        self.searched = self.buffer.len();
        if matches!(self.ended, Some(End::Complete)) && !self.buffer.is_empty() {
            self.searched = 0;
            return Some(self.buffer.split().freeze());
        }
        None
    }

    /// Throws away the beginning of a line that is too long already, and says so once.
    fn overflow(&mut self) -> Option<Line> {
        let bytes_max = self.line_bytes_max;
        if self.buffer.len() <= bytes_max {
            return None;
        }
        self.buffer.clear();
        self.searched = 0;
        let known = std::mem::replace(&mut self.skipping, true);
        (!known).then_some(Line {
            number: self.number + 1,
            content: Content::TooLong { bytes_max },
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const BYTES_MAX: usize = 10;

    fn pieces(pieces: &[&'static str]) -> Lines {
        let pieces = pieces.iter().map(|piece| Ok::<_, Infallible>(*piece));
        let body = Body::from_stream(stream::iter(pieces.collect::<Vec<_>>()));
        Lines::new(body, BYTES_MAX, None)
    }

    async fn all(mut lines: Lines) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        while let Window::Lines(window) = lines.window().await {
            all.extend(window.into_iter().map(|line| {
                let text = match line.content {
                    Content::Text(text) => String::from_utf8(text.into()).unwrap(),
                    Content::TooLong { .. } => "too long".to_owned(),
                };
                (line.number, text)
            }));
        }
        all
    }

    fn expected(lines: &[(usize, &str)]) -> Vec<(usize, String)> {
        lines
            .iter()
            .map(|(number, text)| (*number, (*text).to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn lines_are_the_same_however_they_are_cut_into_pieces() {
        let text = "one\n\n  \r\ntwo\r\nthree";
        let same = expected(&[(1, "one"), (4, "two\r"), (5, "three")]);

        assert_eq!(all(pieces(&[text])).await, same);
        let bytes: Vec<&str> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(all(pieces(&bytes)).await, same);
        assert_eq!(
            all(pieces(&["one\n\n  \r\ntwo\r", "\nthree", "\n"])).await,
            same
        );
        assert_eq!(all(pieces(&[])).await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_answered_once_and_skipped() {
        let long = "0123456789A\nnext\n0123456789\n";
        let found = expected(&[(1, "too long"), (2, "next"), (3, "0123456789")]);

        assert_eq!(all(pieces(&[long])).await, found);
        let cut = [
            "01234",
            "567890123",
            "456789",
            "0123456789",
            "01\nnext",
            "\n0123456789",
        ];
        assert_eq!(all(pieces(&cut)).await, found);
        assert_eq!(
            all(pieces(&["01234567890"])).await,
            expected(&[(1, "too long")])
        );
    }

    #[tokio::test]
    async fn what_was_complete_counts_even_if_the_body_is_cut_off() {
        let body = stream::iter([Ok("one\ntw"), Err("gone")]);
        let mut lines = Lines::new(Body::from_stream(body), BYTES_MAX, None);

        let Window::Lines(window) = lines.window().await else {
            panic!("the complete line is lost");
        };
        assert_eq!(window[0].content, Content::Text(Bytes::from_static(b"one")));
        assert!(matches!(
            lines.window().await,
            Window::Broken(Problem::MalformedJson(_))
        ));
    }

    #[tokio::test]
    async fn lines_are_read_while_others_are_worked_on() {
        let mut lines = pieces(&["1\n", "2\n", "3\n", "4"]);

        let Window::Lines(first) = lines.window().await else {
            panic!()
        };
        lines
            .meanwhile(async { tokio::task::yield_now().await })
            .await;
        let Window::Lines(then) = lines.window().await else {
            panic!()
        };

        assert_eq!((first.len(), then.len()), (1, 3));
    }
}
