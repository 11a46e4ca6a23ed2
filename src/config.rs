//! What a set is born with.

use crate::error::{Error, Result};
use crate::event::Observer;
use crate::granularity::Granularity;
use crate::source::sds::State;

/// The settings of a set. A set copies them: changing a config later changes no set.
#[derive(Clone, Default)]
pub struct Config {
    required: Option<Granularity>,
    observer: Observer,
    reservation: usize,
    /// Bits of [`State`].
    acceptable: Acceptable,
}

#[derive(Clone, Copy)]
struct Acceptable(u64);

impl Default for Acceptable {
    fn default() -> Self {
        Acceptable(State::Ok as u64 | State::OkButAlreadyOpen as u64)
    }
}

impl Config {
    /// A config with nothing set. The required granularity is mandatory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The coarsest store granularity that the program can work with.
    pub fn set_required_granularity(&mut self, granularity: Granularity) -> &mut Self {
        self.required = Some(granularity);
        self
    }

    /// See [`set_required_granularity`](Self::set_required_granularity).
    pub fn required_granularity(&self) -> Option<Granularity> {
        self.required
    }

    /// Who is told what happens on the set.
    pub fn set_observer(&mut self, observer: Observer) -> &mut Self {
        self.observer = observer;
        self
    }

    /// See [`set_observer`](Self::set_observer).
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The `struct pmem2_vm_reservation` of libpmem2 in which parts are placed, as an address; 0 for none.
    ///
    /// # Safety
    /// The reservation must stay valid for as long as a set made with this config exists.
    pub unsafe fn set_reservation(&mut self, reservation: usize) -> &mut Self {
        self.reservation = reservation;
        self
    }

    /// The states, as a union of [`State`]s, in which a source that has a shutdown state may be mapped. At first `Ok` and
    /// `OkButAlreadyOpen`.
    pub fn set_acceptable_states(&mut self, states: u64) -> Result<&mut Self> {
        if states & !State::ALL != 0 {
            return Err(Error::InvalidPartStates(states));
        }
        self.acceptable = Acceptable(states);
        Ok(self)
    }

    /// See [`set_acceptable_states`](Self::set_acceptable_states).
    pub fn acceptable_states(&self) -> u64 {
        self.acceptable.0
    }

    /// See [`set_reservation`](Self::set_reservation).
    pub fn reservation(&self) -> usize {
        self.reservation
    }
}
