//! The task that keeps a connection to one member: dial, serve, pause, again.

use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::PeerEvent;
use super::backoff::BackOff;
use super::dial::{Dial, Dialled, Failures};
use super::greeting::{Hello, Purpose, Refusal};
use super::inner::{Inner, Remote, Side};
use super::wire::{self, Wire};
use crate::rt;

/// A connection that ends sooner counts as a failed try.
const LASTING: Duration = Duration::from_secs(5);

/// Runs until the member is gone or the transport stops.
pub(super) async fn keep(inner: Rc<Inner>, remote: Rc<Remote>) {
    let link = Link {
        back_off: BackOff::new(
            inner.limits.back_off_min,
            inner.limits.back_off_max,
            inner.identity.incarnation ^ remote.member.rotate_left(32),
        ),
        inner,
        remote,
        rounds: 0,
        complaint: None,
    };
    link.run().await;
}

struct Link {
    inner: Rc<Inner>,
    remote: Rc<Remote>,
    back_off: BackOff,
    rounds: usize,
    /// What was said last about not reaching the member.
    complaint: Option<String>,
}

impl Link {
    async fn run(mut self) {
        loop {
            let dial = self.dial();
            let Some(dialled) = self.unless_over(dial).await else {
                return;
            };
            let over = match dialled {
                // Not given up half-way: it may have something to be told before its end.
                Ok(dialled) => {
                    let pause = self.serve(dialled).await;
                    self.unless_over(rt::sleep(pause)).await.is_none()
                }
                Err(failures) => {
                    let pause = self.complain(&failures);
                    // Whoever comes to us meanwhile can be reached again. Not so after a connection
                    // that has ended: two that drop each other would do so without a pause.
                    let remote = Rc::clone(&self.remote);
                    remote.hurry.hush();
                    let hurry = rt::timeout(pause, remote.hurry.wait());
                    self.unless_over(hurry).await.is_none()
                }
            };
            if over {
                return;
            }
        }
    }

    /// `None` once the member is gone or the transport stops.
    async fn unless_over<F: Future>(&self, future: F) -> Option<F::Output> {
        let until_gone = rt::unless(&self.remote.gone, future);
        let done = rt::unless(&self.inner.stop, until_gone).await.flatten();
        let over = self.remote.gone.is_fired() || self.inner.stop.is_fired();
        done.filter(|_| !over)
    }

    fn dial(&mut self) -> impl Future<Output = Result<Dialled, Failures>> + use<> {
        let first = self.rounds;
        self.rounds = self.rounds.wrapping_add(1);
        let dial = Dial {
            urls: self.remote.urls.borrow().clone(),
            first,
            hello: Hello::new(&self.inner.identity, self.remote.member, Purpose::Messages),
            limits: self.inner.limits.clone(),
            tls: self.inner.tls.clone(),
        };
        dial.run_beside()
    }

    /// Returns how long to pause after the connection's end.
    async fn serve(&mut self, dialled: Dialled) -> Duration {
        let (inner, remote) = (&self.inner, &self.remote);
        let member = remote.member;
        log::info!("connected to member {member:x} at {}", dialled.url);
        self.complaint = None;
        let begin = Instant::now();
        let wire = Wire::new(dialled.incarnation, &inner.limits);
        inner.attach(remote, Side::Dialled, &wire);
        let end = wire::serve(inner, member, &wire, dialled.stream.into_executor()).await;
        inner.detach(remote, Side::Dialled, &wire);
        log::info!("connection to member {member:x} has ended: {end}");
        if begin.elapsed() >= LASTING {
            self.back_off.reset();
        }
        self.back_off.pause()
    }

    fn complain(&mut self, failures: &Failures) -> Duration {
        let (inner, member) = (&self.inner, self.remote.member);
        let text = failures.to_string();
        if self.complaint.as_ref() != Some(&text) {
            log::warn!("cannot connect to member {member:x}: {text}");
            self.complaint = Some(text);
        }
        match failures.refusal() {
            Some(Refusal::Removed { called, .. }) => {
                inner.emit(vec![PeerEvent::Removed { by: called }]);
                self.back_off.long_pause()
            }
            Some(_) => self.back_off.long_pause(),
            None => self.back_off.pause(),
        }
    }
}
