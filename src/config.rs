//! What a set is born with.

use crate::event::Observer;
use crate::granularity::Granularity;

/// The settings of a set. A set copies them: changing a config later changes no set.
#[derive(Clone, Default)]
pub struct Config {
    required: Option<Granularity>,
    observer: Observer,
    reservation: usize,
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

    /// See [`set_reservation`](Self::set_reservation).
    pub fn reservation(&self) -> usize {
        self.reservation
    }
}
