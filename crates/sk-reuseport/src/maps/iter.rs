//! Iterating over a map.

use std::marker::PhantomData;
use std::os::fd::AsFd as _;

use super::data::MapData;
use crate::error::MapError;
use crate::sys::{self, Operation, Pod, SyscallError};

/// A map whose elements can be iterated over.
pub trait IterableMap<K: Pod, V> {
    /// The map.
    fn map(&self) -> &MapData;

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`MapError::KeyNotFound`] if the map has no such key.
    fn get(&self, key: &K) -> Result<V, MapError>;
}

/// The keys of a map. If the map changes meanwhile, a key may come twice or not at all.
#[derive(Debug)]
pub struct MapKeys<'coll, K: Pod> {
    map: &'coll MapData,
    last: Option<K>,
    ended: bool,
}

impl<'coll, K: Pod> MapKeys<'coll, K> {
    pub(super) fn new(map: &'coll MapData) -> Self {
        Self { map, last: None, ended: false }
    }
}

impl<K: Pod> Iterator for MapKeys<'_, K> {
    type Item = Result<K, MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match sys::bpf_map_get_next_key(self.map.fd().as_fd(), self.last.as_ref()) {
            Ok(Some(key)) => {
                self.last = Some(key);
                Some(Ok(key))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(SyscallError::of(Operation::NextKey)(error).into()))
            }
        }
    }
}

/// The keys and values of a map. Keys that are removed meanwhile are skipped.
#[derive(Debug)]
pub struct MapIter<'coll, K: Pod, V, I: IterableMap<K, V>> {
    keys: MapKeys<'coll, K>,
    map: &'coll I,
    values: PhantomData<V>,
}

impl<'coll, K: Pod, V, I: IterableMap<K, V>> MapIter<'coll, K, V, I> {
    pub(super) fn new(map: &'coll I) -> Self {
        Self { keys: MapKeys::new(map.map()), map, values: PhantomData }
    }
}

impl<K: Pod, V, I: IterableMap<K, V>> Iterator for MapIter<'_, K, V, I> {
    type Item = Result<(K, V), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = match self.keys.next()? {
                Ok(key) => key,
                Err(error) => return Some(Err(error)),
            };
            match self.map.get(&key) {
                Ok(value) => return Some(Ok((key, value))),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
