//! Randomness that a seed decides, the same on every machine and in every order of tasks.
//!
//! A run has one seed. Everybody who needs chance forks a stream of its own by a name, so that one more draw in one
//! place moves nothing in another.

/// `SplitMix64` (Steele, Lea, Flood 2014): one word of state, every seed is good.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

/// Its increment, the golden ratio in 64 bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// A stream by its seed.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// A stream of its own, by name; does not move this one.
    pub fn fork(&self, name: &str) -> Rng {
        // FNV-1a of the name, mixed with the state.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Rng::new(mix(self.state ^ mix(hash)))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// From 0 to `end`, without it; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(end);
        // The upper half is below `end`, so it fits.
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// From `low` to `high`, both included.
    ///
    /// # Panics
    /// When there is nothing between them.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "nothing is between {low} and {high}");
        low + self.below((high - low).saturating_add(1))
    }

    /// True in so many of a thousand cases.
    pub fn per_mille(&mut self, cases: u64) -> bool {
        self.below(1_000) < cases
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).ok()?)
    }

    /// Puts them in any order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            let other = usize::try_from(self.below(end as u64 + 1)).unwrap_or(0);
            list.swap(end, other);
        }
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // First words of SplitMix64 with seed 1234567, as in the reference implementation's test.
        let mut rng = Rng::new(1_234_567);
        let words: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(words, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_fork_depends_on_seed_and_name_only() {
        let one = Rng::new(7);
        let mut moved = one.clone();
        assert_eq!(one.fork("client 1").next_u64(), Rng::new(7).fork("client 1").next_u64());
        assert_ne!(one.fork("client 1").next_u64(), one.fork("client 2").next_u64());
        moved.next_u64();
        assert_ne!(one.fork("client 1").next_u64(), moved.fork("client 1").next_u64());
    }

    #[test]
    fn draws_stay_within_their_bounds_and_reach_them() {
        let mut rng = Rng::new(3);
        let mut seen = [0u32; 4];
        for _ in 0..4_000 {
            seen[usize::try_from(rng.between(2, 5) - 2).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        assert!(rng.pick::<u8>(&[]).is_none());
        let hits = (0..10_000).filter(|_| rng.per_mille(100)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
    }
}
