//! Who is sent the same of a channel, and the bases that they share.

use std::sync::Arc;

use super::event_frames::EventFrames;
use super::form::Form;
use super::holds::Holds;
use super::run::{Piece, Run};
use super::shared::Shared;
use crate::delta::chain::Chains;
use crate::filter::Filter;
use crate::metrics::metrics;

/// The audiences of one channel: one for each form that somebody here has.
#[derive(Debug, Default)]
pub struct Audiences {
    audiences: Shared<Form, Audience>,
    /// Each is asked once per event, however many audiences it has.
    filters: Shared<Arc<Filter>, ()>,
}

/// Those who are sent the same.
#[derive(Debug, Default)]
struct Audience {
    /// The place of its filter.
    filter: Option<u32>,
    /// Of events that all of it was sent, but for those who were excepted.
    chains: Chains,
    /// The channel has moved on without an event for it, or for some of it.
    is_behind: bool,
}

impl Audiences {
    /// One more subscriber with this form, who holds the bases of `held` and will
    /// be sent what comes from the number `next` on. Returns its place and what it
    /// holds.
    pub fn enter(&mut self, form: &Form, held: &Chains, next: u64) -> (u32, Holds) {
        let filters = &mut self.filters;
        let mut is_first = false;
        let place = self.audiences.enter(form.clone(), |form| {
            is_first = true;
            let filter = form.filter.clone().map(|filter| filters.enter(filter, |_| ()));
            Audience { filter, chains: held.clone(), is_behind: false }
        });
        let mut all = || {
            let audience = self.audiences.get_mut(place);
            Holds::all_but(audience.chains.differing(held).map(|key| key.as_ref()))
        };
        let holds = match held.is_empty() && !is_first {
            true => None,
            false => all(),
        };
        (place, holds.unwrap_or(Holds::from(next)))
    }

    pub fn leave(&mut self, place: u32) {
        if let Some((_, Audience { filter: Some(filter), .. })) = self.audiences.leave(place) {
            self.filters.leave(filter);
        }
    }

    pub fn form(&self, place: u32) -> &Form {
        self.audiences.key(place)
    }

    /// Something for each audience, or nothing, by place.
    pub fn each<T>(&self, make: impl Fn(u32, &Form) -> Option<T>) -> Vec<Option<T>> {
        let mut made = Vec::new();
        made.resize_with(self.audiences.places(), || None);
        for (place, form, _) in self.audiences.iter() {
            made[place] = make(place as u32, form);
        }
        made
    }

    /// Nothing is known of what came before.
    pub fn restart(&mut self) {
        for (_, _, audience, _) in self.audiences.iter_mut() {
            audience.chains.restart();
        }
    }

    /// The channel has moved on without an event for anyone.
    pub fn fall_behind(&mut self) {
        for (_, _, audience, _) in self.audiences.iter_mut() {
            audience.is_behind = true;
        }
    }

    /// It has moved on without an event for somebody of this audience.
    pub fn leave_behind(&mut self, place: u32) {
        self.audiences.get_mut(place).is_behind = true;
    }

    /// Whether somebody who wants to know does not know how far the channel is.
    pub fn is_behind(&self) -> bool {
        self.audiences.iter().any(|(_, form, audience)| form.positions && audience.is_behind)
    }

    /// The places of those, who are told now.
    pub fn catch_up(&mut self) -> Vec<u32> {
        let behind = self.audiences.iter_mut().filter(|(_, form, it, _)| form.positions && it.is_behind);
        let told = behind.map(|(place, _, audience, _)| {
            audience.is_behind = false;
            place as u32
        });
        told.collect()
    }

    /// The bases of who is alone here.
    pub(super) fn into_chains(mut self) -> Chains {
        let alone = self.audiences.iter_mut().next();
        alone.map(|(_, _, audience, _)| std::mem::take(&mut audience.chains)).unwrap_or_default()
    }

    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        runs.resize_with(self.audiences.places(), Run::default);
        runs
    }

    /// Adds an event to the run of each audience that it is for.
    pub(super) fn take(&mut self, event: usize, frames: &mut EventFrames<'_, '_>, runs: &mut [Run]) {
        let passes = self.ask_filters(frames);
        for (place, form, audience, _) in self.audiences.iter_mut() {
            if audience.filter.is_some_and(|filter| !passes[filter as usize]) {
                audience.is_behind = true;
                continue;
            }
            runs[place].push(audience.take(form, event, frames));
            audience.is_behind = false;
        }
    }

    /// Which filters the event passes, by place.
    fn ask_filters(&self, frames: &EventFrames<'_, '_>) -> Vec<bool> {
        let mut passes = vec![false; self.filters.places()];
        if passes.is_empty() {
            return passes;
        }
        let tags = frames.tags();
        let mut asked = 0;
        for (place, filter, ()) in self.filters.iter() {
            passes[place] = filter.passes(&frames.event.name, &tags);
            asked += 1;
        }
        metrics().filter_evaluations.increment(asked);
        passes
    }

    /// How often each event of these runs is sent.
    pub(super) fn deliveries(&mut self, runs: &[Run]) -> usize {
        self.audiences.iter_mut().map(|(place, _, _, users)| runs[place].len() * users).sum()
    }
}

impl Audience {
    fn take(&mut self, form: &Form, event: usize, frames: &mut EventFrames<'_, '_>) -> Piece {
        let seq = frames.seq;
        let in_chain = form.algorithm.and_then(|algorithm| Some((algorithm, frames.chain()?)));
        let Some((algorithm, chain)) = in_chain else {
            return Piece { event, seq, full: frames.unmarked(form), delta: None, chain: None };
        };
        let base = self.chains.base_at(&chain, frames.time_ms(), frames.config());
        let delta =
            base.and_then(|base| frames.delta(algorithm, form.dialect, base).map(|delta| (delta, base.seq)));
        if delta.is_none() {
            metrics().deltas_skipped.increment(1);
        }
        self.chains.advance(&chain, frames.base(), frames.keys_max());
        Piece { event, seq, full: frames.full(), delta, chain: Some(chain) }
    }
}
