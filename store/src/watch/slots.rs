//! A table whose places are used again, with handles that notice.

/// Handle of an entry. A handle of an entry that is gone finds nothing, even if its place holds
/// another one by now (a place would have to be reused 2^32 times to fool it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot {
    pub index: u32,
    pub generation: u32,
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub fn insert(&mut self, value: T) -> Slot {
        if let Some(index) = self.free.pop() {
            let (generation, place) = &mut self.places[index as usize];
            *place = Some(value);
            return Slot {
                index,
                generation: *generation,
            };
        }
        let index =
            u32::try_from(self.places.len()).expect("fewer than 2^32 entries fit in memory");
        self.places.push((0, Some(value)));
        Slot {
            index,
            generation: 0,
        }
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        match self.places.get(slot.index as usize) {
            Some((generation, value)) if *generation == slot.generation => value.as_ref(),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        match self.places.get_mut(slot.index as usize) {
            Some((generation, value)) if *generation == slot.generation => value.as_mut(),
            _ => None,
        }
    }

    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let (generation, place) = self.places.get_mut(slot.index as usize)?;
        if *generation != slot.generation {
            return None;
        }
        let value = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.places
            .iter()
            .zip(0u32..)
            .filter_map(|((generation, value), index)| {
                value.as_ref().map(|value| {
                    (
                        Slot {
                            index,
                            generation: *generation,
                        },
                        value,
                    )
                })
            })
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
