//! Maglev's table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4), with
//! weights as Envoy has them.

use super::table::Part;
use crate::hashing::xxhash;

/// For each place the position of its host. Few hosts need little room.
#[derive(Debug)]
pub(super) enum Maglev {
    Narrow(Box<[u8]>),
    Wide(Box<[u32]>),
}

struct Build {
    position: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
}

const FREE: u32 = u32::MAX;

impl Maglev {
    /// `size` must be prime; 65537 is Envoy's default.
    pub(super) fn new(parts: &[Part], size: u32) -> Self {
        if parts.is_empty() || size < 2 {
            return Self::Narrow(Box::default());
        }
        let size = u64::from(size);
        // The order of the hosts must not count.
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by(|a, b| parts[*a].key.cmp(&parts[*b].key).then(a.cmp(b)));
        let mut builds: Vec<Build> = order
            .into_iter()
            .map(|position| {
                let key = parts[position].key.as_bytes();
                Build {
                    position: position as u32,
                    offset: xxhash(key, 0) % size,
                    skip: xxhash(key, 1) % (size - 1) + 1,
                    next: 0,
                    weight: parts[position].weight,
                    target: 0.0,
                }
            })
            .collect();
        let most = parts.iter().map(|part| part.weight).fold(0.0, f64::max);
        let mut places = vec![FREE; size as usize];
        let mut free = size;
        let mut round = 0.0;
        while free > 0 {
            round += 1.0;
            for build in &mut builds {
                if free == 0 {
                    break;
                }
                // The heaviest host takes a place each round, one of a third of its weight every third.
                if round * build.weight < build.target {
                    continue;
                }
                build.target += most;
                let place = loop {
                    let place = ((build.offset + build.skip * build.next) % size) as usize;
                    build.next += 1;
                    if places[place] == FREE {
                        break place;
                    }
                };
                places[place] = build.position;
                free -= 1;
            }
        }
        if parts.len() <= usize::from(u8::MAX) + 1 {
            Self::Narrow(places.into_iter().map(|position| position as u8).collect())
        } else {
            Self::Wide(places.into())
        }
    }

    /// The positions at all places.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        let (narrow, wide): (&[u8], &[u32]) = match self {
            Self::Narrow(places) => (places, &[]),
            Self::Wide(places) => (&[], places),
        };
        narrow.iter().map(|position| usize::from(*position)).chain(wide.iter().map(|position| *position as usize))
    }

    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        // Another attempt looks far away from the first.
        let hash = if attempt == 0 { hash } else { hash ^ 0u64.wrapping_sub(u64::from(attempt)) };
        match self {
            Self::Narrow(places) => places.get(place(hash, places.len())?).map(|position| usize::from(*position)),
            Self::Wide(places) => places.get(place(hash, places.len())?).map(|position| *position as usize),
        }
    }
}

fn place(hash: u64, size: usize) -> Option<usize> {
    hash.checked_rem(size as u64).map(|place| place as usize)
}
