//! The functions of `bpf/shim/model.h`, and all unsafe code of this crate.

#![allow(unsafe_code, reason = "this module calls C")]

use std::ptr::NonNull;

/// `struct model_config`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) stale_after: u64,
    pub(crate) policy: u32,
    pub(crate) protocol: u32,
    pub(crate) load: u32,
    pub(crate) cpus: u32,
    pub(crate) payload_offset: u32,
    pub(crate) payload_length: u32,
    pub(crate) sample: u32,
    pub(crate) window: u32,
    pub(crate) slow_start: u32,
    pub(crate) half_open_bound: u32,
    pub(crate) uncounted: u32,
    pub(crate) uncounted_blind: u32,
}

/// `struct model_packet`.
#[repr(C)]
struct RawPacket {
    hash: u32,
    arrival: u32,
    v6: u32,
    payload_length: u32,
    source: [u8; 16],
    payload: *const u8,
    extensions: *const u8,
    extensions_length: u32,
    first_extension: u32,
    sequence: u32,
    source_port: u16,
    port: u16,
    early: u32,
    truesize: u32,
    train: u32,
}

/// What `struct model_packet` says.
pub(crate) struct Packet<'a> {
    pub(crate) hash: u32,
    pub(crate) arrival: u32,
    pub(crate) v6: bool,
    pub(crate) source: [u8; 16],
    pub(crate) payload: &'a [u8],
    pub(crate) ports: (u16, u16),
    pub(crate) sequence: u32,
    pub(crate) extensions: &'a [u8],
    pub(crate) first_extension: u8,
    pub(crate) early: bool,
    pub(crate) truesize: u32,
    pub(crate) train: u16,
}

/// `struct model_queue`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Queue {
    pub(crate) waiting: u32,
    pub(crate) half_open: u32,
    pub(crate) limit: u32,
}

/// `struct model`.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn model_new(config: *const Config, slots: u32, words: u32) -> *mut Opaque;
    fn model_free(model: *mut Opaque);
    fn model_set_word(model: *mut Opaque, index: u32, word: u64);
    fn model_set_socket(model: *mut Opaque, slot: u32, error: i32);
    fn model_set_queue(model: *mut Opaque, slot: u32, queue: *const Queue);
    fn model_count(model: *mut Opaque, host: u32, opened: u32, closed: u32);
    fn model_set_address(model: *mut Opaque, slot: u32, known: u32);
    fn model_set_report(model: *mut Opaque, slot: u32, epoch: u64, busy: u64, in_flight: u64);
    fn model_set_start(model: *mut Opaque, slot: u32, start: u32);
    fn model_set_clock(model: *mut Opaque, now: u64);
    fn model_set_cpu(model: *mut Opaque, cpu: u32);
    fn model_run(model: *mut Opaque, packet: *const RawPacket) -> i32;
    fn model_counter(model: *const Opaque, reason: u32) -> u64;
    fn model_picks(model: *const Opaque, slot: u32) -> u64;
}

/// An owned `struct model`.
#[derive(Debug)]
pub(crate) struct Handle(NonNull<Opaque>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: model_new returned the pointer, and this is the only call that frees it.
        unsafe { model_free(self.0.as_ptr()) }
    }
}

// In what follows the model's pointer is valid, because it is freed in drop alone, and no other call uses it
// meanwhile, because a Handle is neither Sync nor Send. The C code checks indexes and keeps no pointer.
impl Handle {
    pub(crate) fn new(config: &Config, slots: u32, words: u32) -> Option<Self> {
        // SAFETY: the reference is valid for the call.
        NonNull::new(unsafe { model_new(config, slots, words) }).map(Self)
    }

    pub(crate) fn set_word(&mut self, index: u32, word: u64) {
        // SAFETY: see above.
        unsafe { model_set_word(self.0.as_ptr(), index, word) }
    }

    pub(crate) fn set_socket(&mut self, slot: u32, error: i32) {
        // SAFETY: see above.
        unsafe { model_set_socket(self.0.as_ptr(), slot, error) }
    }

    pub(crate) fn set_queue(&mut self, slot: u32, queue: &Queue) {
        // SAFETY: see above; the reference is valid for the call.
        unsafe { model_set_queue(self.0.as_ptr(), slot, queue) }
    }

    pub(crate) fn count(&mut self, host: u32, opened: u32, closed: u32) {
        // SAFETY: see above.
        unsafe { model_count(self.0.as_ptr(), host, opened, closed) }
    }

    pub(crate) fn set_address(&mut self, slot: u32, known: bool) {
        // SAFETY: see above.
        unsafe { model_set_address(self.0.as_ptr(), slot, known.into()) }
    }

    pub(crate) fn set_report(&mut self, slot: u32, [epoch, busy, in_flight]: [u64; 3]) {
        // SAFETY: see above.
        unsafe { model_set_report(self.0.as_ptr(), slot, epoch, busy, in_flight) }
    }

    pub(crate) fn set_start(&mut self, slot: u32, start: u32) {
        // SAFETY: see above.
        unsafe { model_set_start(self.0.as_ptr(), slot, start) }
    }

    pub(crate) fn set_clock(&mut self, now: u64) {
        // SAFETY: see above.
        unsafe { model_set_clock(self.0.as_ptr(), now) }
    }

    pub(crate) fn set_cpu(&mut self, cpu: u32) {
        // SAFETY: see above.
        unsafe { model_set_cpu(self.0.as_ptr(), cpu) }
    }

    pub(crate) fn run(&mut self, packet: &Packet<'_>) -> i32 {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let packet = RawPacket {
            hash: packet.hash,
            arrival: packet.arrival,
            v6: packet.v6.into(),
            payload_length: length(packet.payload),
            source: packet.source,
            payload: packet.payload.as_ptr(),
            extensions: packet.extensions.as_ptr(),
            extensions_length: length(packet.extensions),
            first_extension: packet.first_extension.into(),
            sequence: packet.sequence,
            source_port: packet.ports.0,
            port: packet.ports.1,
            early: packet.early.into(),
            truesize: packet.truesize,
            train: packet.train.into(),
        };
        // SAFETY: see above; the packet, its extensions and its payload, of that many bytes at least, are valid
        // for the call.
        unsafe { model_run(self.0.as_ptr(), &packet) }
    }

    pub(crate) fn counter(&self, reason: u32) -> u64 {
        // SAFETY: see above.
        unsafe { model_counter(self.0.as_ptr(), reason) }
    }

    pub(crate) fn picks(&self, slot: u32) -> u64 {
        // SAFETY: see above.
        unsafe { model_picks(self.0.as_ptr(), slot) }
    }
}
